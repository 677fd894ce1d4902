"""Tests wait for what they want to see, or pass virtual time; none sleeps."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_nothing_sleeps_but_on_virtual_time() -> None:
    asleep = []
    for path in sorted(TESTS.rglob("*.py")):
        text = path.read_text()
        virtual = "looptime" in text
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            called, given = ast.unparse(node.func), [ast.unparse(argument) for argument in node.args]
            # A turn of the loop is no time.
            if called == "time.sleep" or (called == "asyncio.sleep" and not virtual and given != ["0"]):
                asleep.append(f"{path.relative_to(TESTS)}:{node.lineno}")
    assert asleep == []
