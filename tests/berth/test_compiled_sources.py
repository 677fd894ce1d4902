"""What mypyc understands and mypy does not check: the sources stay fit to be compiled, without being compiled."""

import ast
import importlib
from collections import defaultdict
from pathlib import Path

import pytest

import build_compiled

SOURCES = [str(path.relative_to(build_compiled.ROOT)) for path in build_compiled.sources()]


@pytest.mark.parametrize("name", SOURCES)
def test_a_name_is_caught_as_one_kind_in_a_function(name: str) -> None:
    """Compiled, a variable has the type of its first assignment; a second kind of exception would be a TypeError."""
    for function in ast.walk(ast.parse(Path(build_compiled.ROOT / name).read_text())):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        kinds: dict[str, set[str]] = defaultdict(set)
        for node in ast.walk(function):
            if isinstance(node, ast.ExceptHandler) and node.name and node.type:
                kinds[node.name].add(ast.unparse(node.type))
        assert all(len(found) == 1 for found in kinds.values()), f"{name}:{function.lineno} {dict(kinds)}"


def test_what_is_left_out_is_there_and_has_a_reason() -> None:
    assert SOURCES
    assert all(reason for reason in build_compiled.LEFT_OUT.values())
    assert not set(SOURCES) & build_compiled.LEFT_OUT.keys()


def test_all_or_nothing_of_it_is_compiled_here() -> None:
    """A module that is compiled beside one that is not would be slow, and is a sign of half an installation."""
    modules = [importlib.import_module(name.removesuffix(".py").replace("/", ".")) for name in SOURCES]
    compiled = [str(module.__file__).endswith((".so", ".pyd")) for module in modules]
    assert all(compiled) or not any(compiled)


@pytest.mark.parametrize("name", SOURCES)
def test_a_constant_tuple_of_floats_says_its_type(name: str) -> None:
    """Compiled, one whose type is inferred has a struct of doubles, and reading it may say that it was never set."""
    for node in ast.parse(Path(build_compiled.ROOT / name).read_text()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Tuple):
            floats = any(isinstance(item, ast.Constant) and isinstance(item.value, float) for item in node.value.elts)
            assert not floats or ast.unparse(node.annotation) != "Final", f"{name}:{node.lineno}"
