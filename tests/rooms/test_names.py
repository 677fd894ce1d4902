"""A name means one thing: whoever reads it in another component need not ask which of two it is."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHIPPED = ("berth", "controller", "synchronizer", "router", "worker")


def sources() -> Iterator[Path]:
    """Modules that people wrote."""
    for package in SHIPPED:
        found = sorted((ROOT / package).rglob("*.py"))
        assert found, package
        yield from (path for path in found if not path.stem.endswith(("_pb2", "_pb2_grpc")))


def test_no_two_modules_define_a_class_of_one_name() -> None:
    where: dict[str, list[str]] = defaultdict(list)
    for path in sources():
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(str(path.relative_to(ROOT)))
    assert len(where) > 500
    shared = {name: modules for name, modules in where.items() if len(modules) > 1}
    assert shared == {}
