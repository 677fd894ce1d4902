"""`python -m bench.report`: the latest rows of every benchmark as one table, those that fall short first.

With `--write` they go into docs/performance.md instead, between its markers, so that what the page says is what was
measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.results import Row, read_all, read_documents, rows_in, show

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
_BEGIN, _END = "<!-- figures: make performance -->\n", "<!-- end of figures -->\n"
_VERDICTS = {True: "met", False: "**missed**", None: ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {PAGE.name}")
    given = parser.parse_args()
    rows = [row for rows in read_all().values() for row in rows]
    if not rows:
        print("nothing measured yet: run one of the bench-* targets of the Makefile")
    elif given.write:
        PAGE.write_text(insert(PAGE.read_text(), "\n".join(markdown(document) for document in read_documents())))
    else:
        show("Berth", rows)


def insert(page: str, figures: str) -> str:
    """`page` with `figures` between its markers. Raises `ValueError` if it has none."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError("the page has no markers for figures")
    return f"{before}{begin}\n{figures}\n{end}{after}"


def markdown(document: Mapping[str, Any]) -> str:
    """One benchmark: where and when it ran, its rows, and what else was seen."""
    machine = document["machine"]
    lines = [
        f"### make bench-{document['bench']}",
        "",
        f"Commit {document['commit']}, {machine['cores']} cores, Python {machine['python']}, "
        f"{machine['system']}, rounds: {document['rounds']}.",
        "",
        *_table(("what", "figure", "target", "", "sides"), map(_cells, rows_in(document))),
    ]
    if notes := document.get("notes"):
        lines += ["", *(f"* {note}" for note in notes)]
    if detail := document.get("detail"):
        names = list(next(iter(detail.values())))
        cells = ([what, *(_number(figures[name]) for name in names)] for what, figures in detail.items())
        lines += ["", *_table(("", *names), cells)]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    target = "" if row.target is None else f"{'≥' if row.better == 'higher' else '≤'} {row.target:g}"
    sides = ", ".join(f"{side} {_number(figure)}" for side, figure in row.sides.items())
    return [row.what, f"{row.value:.4g} {row.unit}", target, _VERDICTS[row.ok], sides]


def _number(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.4g}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    columns = list(head)
    return [_line(columns), "|---" * len(columns) + "|", *map(_line, rows)]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
