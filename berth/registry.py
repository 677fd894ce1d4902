"""Where the replicas of a machine announce themselves: one JSON file each in a shared folder.

The laptop's stand-in for a cluster's API. A file is written whole by rename and belongs to the process that wrote it. A
killed worker leaves its file behind: an entry is a hint where to look, never proof of life.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

import structlog

from berth.model import ReplicaAddress

log = structlog.get_logger(__name__)


class LocalRegistry:
    """The folder at `path`, created with access for its owner only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def announce(self, address: ReplicaAddress) -> None:
        """Write or replace the entry of `address.replica`."""
        target = self._entry(address.replica)
        draft = target.with_suffix(f".{address.incarnation}.tmp")
        draft.write_text(json.dumps(asdict(address)))
        draft.replace(target)

    def withdraw(self, address: ReplicaAddress) -> None:
        """Remove the entry, unless a newer incarnation of the same replica has replaced it."""
        current = self._read_entry(self._entry(address.replica))
        if current is not None and current.incarnation == address.incarnation:
            with contextlib.suppress(FileNotFoundError):
                self._entry(address.replica).unlink()

    def read(self) -> dict[str, ReplicaAddress]:
        """Every entry by replica name; unreadable ones are logged and left out. Raises OSError without the folder."""
        # Not by `glob`: it takes a missing folder for an empty one.
        entries = (self._read_entry(path) for path in sorted(self._path.iterdir()) if path.suffix == ".json")
        return {entry.replica: entry for entry in entries if entry is not None}

    def _entry(self, replica: str) -> Path:
        return self._path / f"{replica}.json"

    def _read_entry(self, path: Path) -> ReplicaAddress | None:
        try:
            return ReplicaAddress(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            log.warning("unreadable registry entry", path=str(path), error=str(error))
            return None
