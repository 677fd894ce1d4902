"""`python -m deploy.monitoring [--check]`: writes the chart's alert rules and dashboards, or says which are stale."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from deploy.monitoring.alerts import rules
from deploy.monitoring.dashboards import DASHBOARDS

CHART = Path(__file__).parents[1] / "helm" / "berth"


def rendered() -> Mapping[Path, str]:
    """The files and what is to be in them."""
    files = {
        CHART / "dashboards" / f"{dashboard.uid}.json": json.dumps(dashboard.render(), indent=2) + "\n"
        for dashboard in DASHBOARDS
    }
    files[CHART / "files" / "alerts.yaml"] = "# Written by `python -m deploy.monitoring`.\n" + yaml.safe_dump(
        rules(), sort_keys=False, width=110
    )
    return files


def stale() -> list[Path]:
    """The files that are not what they should be."""
    return [path for path, text in rendered().items() if not path.exists() or path.read_text() != text]


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        for path in stale():
            print(f"stale: {path}; run `python -m deploy.monitoring`", file=sys.stderr)
        return 1 if stale() else 0
    if arguments:
        print(__doc__)
        return 0 if arguments in (["--help"], ["-h"]) else 2
    for path, text in rendered().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path.relative_to(CHART))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
