"""The folder of a local stack, `.berth` by default: what lies where in it, who may read it, and who holds it.

admin.key, default.key   API keys, for the person whose folder it is
postgres, artifacts      what must not be lost
cache, synchronizer-N    what can be had again
spool                    uploads under way
logs/NAME.log            what each process says
run/                     the lock, the credential, addresses and process ids of the running stack
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LOG_LIMIT = 16 << 20


class HomeInUse(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below `root`, which must be absolute."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def registry(self) -> Path:
        return self.run / "replicas"

    @property
    def credential(self) -> Path:
        return self.run / "credential"

    @property
    def processes(self) -> Path:
        return self.run / "processes.json"

    @property
    def workers(self) -> Path:
        return self.run / "workers.json"

    @property
    def admin_key(self) -> Path:
        return self.root / "admin.key"

    @property
    def default_key(self) -> Path:
        return self.root / "default.key"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres" / "data"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    def cache(self, replica: str) -> Path:
        return self.root / "cache" / replica

    def state(self, program: str) -> Path:
        return self.root / program

    def log(self, program: str) -> Path:
        return self.root / "logs" / f"{program}.log"

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Make the folders and keep other stacks out while the context is open. Raises `HomeInUse`.

        The kernel drops the lock with the process that holds it, however it ends.
        """
        for folder in (self.root, self.run, self.artifacts, self.spool, self.root / "logs", self.root / "cache"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.run / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise HomeInUse(f"{self.root} is in use by `berth up` with process id {holder}") from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            # Replicas of a former life announced themselves there; none of them lives now.
            shutil.rmtree(self.registry, ignore_errors=True)
            yield

    def secret(self, path: Path, make: Callable[[], str]) -> str:
        """The secret in the file at `path`, which is made, readable for its owner only, if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            return path.read_text().strip()
        value = make()
        write_private(path, value + "\n")
        return value

    def make_credential(self) -> None:
        self.secret(self.credential, lambda: secrets.token_hex(32))

    def rotate_log(self, program: str) -> Path:
        """The log file of a program, moved aside when it has grown large; one older one is kept."""
        path = self.log(program)
        if path.exists() and path.stat().st_size > _LOG_LIMIT:
            path.replace(path.with_suffix(".log.1"))
        return path


def write_private(path: Path, text: str) -> None:
    """Write a file whole, readable for its owner only: the old content or the new is there, never a half."""
    draft = path.with_name(f".{path.name}.tmp")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def read_json(path: Path) -> Any:
    """The JSON value in a file, None if there is none or it cannot be understood."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
