"""What a benchmark found: rows against targets, written to `bench/out/NAME.json` and shown as a table."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

OUT = Path(__file__).parent / "out"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `target` None: no target, the figure is only reported."""

    what: str
    value: float
    unit: str
    target: float | None = None
    better: Literal["higher", "lower"] = "lower"
    sides: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "higher" else self.value <= self.target


def write(
    bench: str, rounds: int, rows: list[Row], notes: Sequence[str] = (), detail: Mapping[str, Any] | None = None
) -> Path:
    """Keep the rows of one run, and return the file. `notes` say what was missing or odd; `detail` is anything else
    that was seen."""
    OUT.mkdir(parents=True, exist_ok=True)
    document = {
        "bench": bench,
        "commit": _commit(),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "rounds": rounds,
        "rows": [{**asdict(row), "ok": row.ok} for row in rows],
        "notes": list(notes),
        "detail": detail or {},
    }
    path = OUT / f"{bench}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def show(title: str, rows: list[Row]) -> None:
    """Print rows as a table, those that fall short first."""
    table = Table("what", "value", "target", "", title=title, title_justify="left")
    for row in sorted(rows, key=lambda row: {False: 0, True: 1, None: 2}[row.ok]):
        target = "" if row.target is None else f"{'≥' if row.better == 'higher' else '≤'} {row.target:g} {row.unit}"
        verdict = {True: "met", False: "MISSED", None: ""}[row.ok]
        table.add_row(row.what, f"{row.value:.4g} {row.unit}", target, verdict)
    Console().print(table)


def read_documents() -> list[dict[str, Any]]:
    """What the latest run of every benchmark left on disk."""
    return [json.loads(path.read_text()) for path in sorted(OUT.glob("*.json"))]


def rows_in(document: Mapping[str, Any]) -> list[Row]:
    return [Row(**{name: value for name, value in row.items() if name != "ok"}) for row in document["rows"]]


def read_all() -> dict[str, list[Row]]:
    """The rows of the latest run of every benchmark."""
    return {document["bench"]: rows_in(document) for document in read_documents()}


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
