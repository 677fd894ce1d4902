"""`python -m tests.chart.regenerate`: after a change of the chart or of a component's settings.

Writes the golden files, and the names of settings into values.schema.json. Read the difference before you commit it.
"""

from __future__ import annotations

from tests.chart.rendering import EXAMPLES, GOLDEN, SCHEMA, allowed_settings, golden, schema_with


def main() -> None:
    names = allowed_settings()
    SCHEMA.write_text(schema_with(names))
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.glob("*.yaml"):
        old.unlink()
    for name in EXAMPLES:
        (GOLDEN / f"{name}.yaml").write_text(golden(name))


if __name__ == "__main__":
    main()
