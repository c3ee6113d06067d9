"""The page docs/hostile.md, which `python -m tests.hostile.table` writes: what each input gives on each library."""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from tests.conftest import load
from tests.hostile.catalogue import ROWS
from tests.hostile.row import KINDS, LIBRARIES, Row

__all__ = ["NONE", "PAGE", "cells", "page", "versions"]

PAGE = Path(__file__).parents[2] / "docs" / "hostile.md"
NONE = "—"
FAILED = "**failed**"
MADE_WITH = "Made with "

TEXT = """# Hostile inputs

What goes wrong in practice, and what you get: a right number, an error or a warning, never a silent wrong number and
never NaN. Each row is a test, on each array library: `correct` means that the number was compared with an exact one,
without a warning; `error` that a class of `slq.errors` was raised, whose message names the cause and what to do;
`warning` that one of its warnings was issued, likewise, and the number compared. A row with several inputs can have
several outcomes. {none} means that there is no such input there. `strict-device1` is a second device of
array-api-strict, which refuses implicit copies like a GPU.

Made by

```sh
python -m tests.hostile.table
```

{made_with}{versions}.

{table}

In how many rows there is each outcome:

{totals}
"""


def versions() -> str:
    """Everything whose behaviour the table shows."""
    packages = ("numpy", "scipy", "array-api-strict", "torch", "jax")
    return f"Python {sys.version.split()[0]}, " + ", ".join(f"{name} {version(name)}" for name in packages)


def page(outcomes: Mapping[tuple[str, str], str], made_with: str) -> str:
    """The text of the page, from the outcome of each id and library."""
    header = ["id", "input", "what you get", *LIBRARIES]
    rows = [[r.id, r.input, r.expected, *(outcomes.get((r.id, name), NONE) for name in LIBRARIES)] for r in ROWS]
    counts = [
        [kind, *(str(sum(kind in outcomes.get((r.id, name), NONE) for r in ROWS)) for name in LIBRARIES)]
        for kind in (*KINDS, NONE)
    ]
    return TEXT.format(
        none=NONE,
        made_with=MADE_WITH,
        versions=made_with,
        table=_table(header, rows),
        totals=_table(["outcome", *LIBRARIES], counts),
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["-"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def cells(text: str) -> tuple[dict[tuple[str, str], str], str]:
    """The outcomes that a page shows, and what it was made with."""
    outcomes = {}
    for line in text.splitlines():
        if line.startswith("| H"):
            parts = line.removeprefix("| ").removesuffix(" |").replace(r"\|", "").split(" | ")
            outcomes |= {(parts[0], name): cell for name, cell in zip(LIBRARIES, parts[3:], strict=True)}
    made_with = next(line for line in text.splitlines() if line.startswith(MADE_WITH))
    return {key: cell for key, cell in outcomes.items() if cell != NONE}, made_with[len(MADE_WITH) : -1]


def _outcome(row: Row, name: str) -> str:
    try:
        return row.run(load(*LIBRARIES[name]))
    except Exception as error:  # the table shows it, and the exit status tells
        print(f"{row.id}-{name}: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILED


def main() -> int:
    """Run all rows on all libraries and write the page."""
    outcomes = {(row.id, name): _outcome(row, name) for row in ROWS for name in row.libraries}
    PAGE.write_text(page(outcomes, versions()), encoding="utf-8")
    return int(FAILED in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
