"""Writes a cell's history: a first line that says which cell it is, then one line for each step."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from berth.settings import SettingsError
from synchronizer.core.cell import Cell
from synchronizer.core.events import CellEvent, Instructions
from synchronizer.replay.encoding import event_to_json, instructions_to_json

log = structlog.get_logger(__name__)

FORMAT = 1

Write = Callable[[str], object]
"""Takes one line, without its end. Must not raise: what is recorded must not harm what is done."""


class HistoryRecorder:
    """Steps `cell`, which must be a fresh one, and writes down each step."""

    def __init__(self, cell: Cell, write: Write) -> None:
        self._cell = cell
        self._write = write
        head = {"format": FORMAT, "cell": cell.name, "timings": dataclasses.asdict(cell.timings)}
        self._write(json.dumps(head))

    def step(self, events: Iterable[CellEvent], now: float) -> Instructions:
        """The same as `Cell.step`. A step that raises is written down too, without instructions."""
        taken = list(events)
        todo = None
        try:
            todo = self._cell.step(taken, now)
        finally:
            line = {
                "now": now,
                "events": [event_to_json(event) for event in taken],
                "instructions": None if todo is None else instructions_to_json(todo),
            }
            self._write(json.dumps(line))
        return todo


@contextmanager
def history_file(folder: Path, instance: str, most_bytes: int) -> Iterator[Write]:
    """A new file in `folder`, for its owner only: a history has names of tenants and hashes of their keys.

    After `most_bytes`, or when the disk fails, nothing more is written. Raises `SettingsError` if it cannot be made.
    """
    path = folder / f"{instance.replace('/', '-')}-{time.time_ns()}.jsonl"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise SettingsError(f"BERTH_HISTORY_DIR: cannot write {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="ascii", buffering=1) as file:
        left = most_bytes

        def write(line: str) -> None:
            nonlocal left
            if left <= 0:
                return
            left -= len(line) + 1
            try:
                file.write(line + "\n")
            except OSError as error:
                left = 0
                log.error("the history ends: it could not be written", path=str(path), error=str(error))
            else:
                if left <= 0:
                    log.warning("the history ends: it is as large as it may be", path=str(path), bytes=most_bytes)

        log.info("recording the cell's history", path=str(path))
        yield write
