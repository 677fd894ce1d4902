"""`python -m synchronizer.replay FILE`: plays a history again, and shows the first step that is answered otherwise.

Exit status 0: all the same; 1: a step differs, or raised when it was recorded; 64: no history.
"""

from __future__ import annotations

import sys
from pathlib import Path

from synchronizer.replay.playing import BadHistory, play


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__)
        return 64
    steps = 0
    try:
        with Path(arguments[0]).open(encoding="ascii") as lines:
            for step in play(lines):
                steps = step.number
                if step.recorded is None:
                    print(f"step {step.number} at {step.now} raised when it was recorded, and does not now")
                elif step.is_the_same:
                    continue
                else:
                    print(f"step {step.number} at {step.now} is answered otherwise")
                print("events:", *step.events, sep="\n  ")
                print("differences:", *step.differences(), sep="\n  ")
                print(step.cell)
                return 1
    except (OSError, BadHistory) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 64
    print(f"{steps} steps, all answered as they were")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
