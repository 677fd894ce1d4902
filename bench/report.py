"""`python -m bench.report`: the latest rows of every benchmark as one table."""

from __future__ import annotations

from bench.results import read_all, show


def main() -> None:
    rows = [row for rows in read_all().values() for row in rows]
    if rows:
        show("Berth", rows)
    else:
        print("nothing measured yet: run one of the bench-* targets of the Makefile")


if __name__ == "__main__":
    main()
