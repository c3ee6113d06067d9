"""Run all rows on all libraries and write the table of the documentation: `python -m tests.hostile.table`."""

import importlib.metadata
import platform
from collections import Counter
from pathlib import Path

from tests.conftest import load
from tests.hostile.catalogue import ROWS
from tests.hostile.row import LIBRARIES, Row

__all__ = ["PAGE", "write"]

PAGE = Path(__file__).parents[2] / "docs" / "hostile.md"

_HEAD = """# Hostile inputs

What products return, what operators are, and what is asked for: each of these inputs gives a right number, an error
of a class of its own, or a warning of one, on every library; a silent wrong number or a NaN is none of these. Right
numbers are compared with exact ones; errors and warnings are checked to name the cause and what to do.

The table is made by `python -m tests.hostile.table`, which runs the rows; `make test` runs them too, under their ids
(`pytest tests/hostile -k H19`). *strict* is `array_api_strict`, which has nothing beyond the standard, and *device1*
its second device, which refuses implicit copies as a GPU does.

"""


def write() -> Counter:
    """Write the page; the outcomes, counted."""
    outcomes = {row.id: {name: _outcome(row, name) for name in LIBRARIES} for row in ROWS}
    names = [name.removeprefix("strict-") for name in LIBRARIES]
    lines = [
        f"| id | input | what you get | {' | '.join(names)} |",
        "|---" * (3 + len(names)) + "|",
        *(f"| {row.id} | {row.input} | {row.expected} | {' | '.join(outcomes[row.id].values())} |" for row in ROWS),
    ]
    packages = ("numpy", "scipy", "torch", "jax", "array-api-strict", "array-api-compat")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    foot = f"\nMade with Python {platform.python_version()}, {versions}.\n"
    PAGE.write_text(_HEAD + "\n".join(lines) + "\n" + foot, encoding="utf-8")
    return Counter(outcome for row in outcomes.values() for outcome in row.values())


def _outcome(row: Row, name: str) -> str:
    return row.run(load(*LIBRARIES[name])) if name in row.libraries else "–"


if __name__ == "__main__":
    print(dict(write()))
