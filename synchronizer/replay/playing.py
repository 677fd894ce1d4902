"""Plays a history again: the same events at the same times to a fresh cell, which must answer the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from synchronizer.core.cell import Cell, Timings
from synchronizer.replay.encoding import Json, event_from_json, instructions_to_json
from synchronizer.replay.recording import FORMAT


class BadHistory(ValueError):
    """What was given is no history, or one of another format."""


class Played(NamedTuple):
    """One step, played again. `recorded` is None if the step raised when it was recorded."""

    number: int
    now: float
    events: list[Json]
    recorded: Json | None
    answered: Json
    cell: Cell

    @property
    def is_the_same(self) -> bool:
        return self.recorded is None or self.recorded == self.answered

    def differences(self) -> list[str]:
        """One line for each instruction that differs."""
        recorded = self.recorded or {}
        return [
            f"{name}: recorded {recorded.get(name)!r}, now {said!r}"
            for name, said in self.answered.items()
            if recorded.get(name) != said
        ]


def play(lines: Iterable[str]) -> Iterator[Played]:
    """The steps of a history, one after the other. Raises `BadHistory`, and AssertionError where the cell contradicts
    itself after a step."""
    entries = iter(lines)
    try:
        head = json.loads(next(entries))
        if head["format"] != FORMAT:
            raise BadHistory(f"a history of format {head['format']!r}, not {FORMAT}")
        cell = Cell(head["cell"], Timings(**head["timings"]))
    except (StopIteration, ValueError, KeyError, TypeError) as error:
        raise error if isinstance(error, BadHistory) else BadHistory(f"no head: {error!r}") from None
    for number, line in enumerate(entries, 1):
        try:
            entry = json.loads(line)
            now, told, recorded = float(entry["now"]), entry["events"], entry["instructions"]
            events = [event_from_json(event) for event in told]
        except (ValueError, KeyError, TypeError) as error:
            raise BadHistory(f"step {number}: {error}") from None
        answered = json.loads(json.dumps(instructions_to_json(cell.step(events, now))))
        yield Played(number, now, told, recorded, answered, cell)
        cell.validate()
