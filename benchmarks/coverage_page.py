"""The page docs/coverage.md, from what `benchmarks.coverage` counted."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from .coverage import KINDS, PROBES, Cell, Counts, Results
from .coverage_cases import CASES, N, effective_ranks

PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"

LOW, HIGH = 0.925, 0.98
FEW = 20.0  # below this effective rank no interval from ten probes can hold its level, and the estimate has to say so
EXACT = 1e-3  # of the width of plain probes: what is left is no sampling error

TEXT = """# Coverage

How often a nominal 95 % interval holds the true value, counted. Made by

```sh
{command}
```

with {versions}; {runs}.

Diagonal matrices of dimension {n} and sphere probes, whose distribution no rotation changes: the numbers are those of
any matrix of these eigenvalues. Three numbers of probes, k = {probes}, share a column. `r` is the effective rank, the
number of equal eigenvalues whose sum over random probes is as skewed: (Σg²)³/(Σg³)² with g = f(λ) − mean; beside it
(Σ|f|)²/Σf². `m` is the number of steps: one of the two is too small for f wherever a small one can be.

* **covered**: the interval of all errors held the true value, in %.
* **or said so**: covered, or the estimate warned (`HeavyTailWarning`, `QuadratureWarning`), was not `converged`, or was
  refused with an error.
* **warned**: `HeavyTailWarning`. **unconverged**: `converged` was false, or `QuadratureWarning`.
* **width**: median half-width over 1.96 exact standard deviations of as many plain probes.

The standard error of a share near 95 % is {error}. {bold} is a cell below 92.5 % which no word accompanied, or above
98 % with r ≥ 20 and enough steps.

{tables}

{verdicts}
"""


def rank(cell: Cell) -> float:
    return effective_ranks(CASES[cell.case].values(cell.function))[1]


def verdict(cell: Cell, counts: Counts) -> str:
    """What a cell is worth: good, wide, exact, said so, too wide, or silently short."""
    covered = counts.covered / counts.runs
    if covered < LOW:
        return "said so" if counts.covered_or_said / counts.runs >= LOW else "silently short"
    if covered <= HIGH:
        return "good"
    if np.median(counts.widths) < EXACT:
        return "exact"
    enough = cell.num_steps != CASES[cell.case].few and counts.unconverged < counts.runs / 2
    return "too wide" if enough and rank(cell) >= FEW else "wide"


def verdicts(found: Results) -> str:
    """How many cells are worth what."""
    tally = Counter(verdict(cell, counts) for cell, counts in found.items())
    return f"{len(found)} cells: " + ", ".join(f"{number} {name}" for name, number in tally.most_common())


def page(found: Results, options: Iterable[str] = ()) -> str:
    """The text of the page; `options` are those of the command."""
    kinds = [kind for kind in KINDS if any(cell.kind == kind for cell in found)]
    runs = {kind: max(c.runs for cell, c in found.items() if cell.kind == kind) for kind in kinds}
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy"))
    most, least = max(runs.values()), min(runs.values())
    errors = " to ".join(f"{100 * (0.95 * 0.05 / r) ** 0.5:.2f}" for r in dict.fromkeys((most, least)))
    return TEXT.format(
        command=" ".join(["python -m benchmarks.coverage", *options]),
        versions=f"Python {sys.version.split()[0]}, {packages}",
        runs=", ".join(f"{kind}: {number} seeds" for kind, number in runs.items()),
        n=N,
        probes=", ".join(map(str, PROBES)),
        error=f"{errors} points",
        bold="**Bold**",
        tables="\n\n".join(f"## {kind.capitalize()}\n\n{_table(found, kind)}" for kind in kinds),
        verdicts=f"{verdicts(found)}.",
    )


def _table(found: Results, kind: str) -> str:
    header = ["spectrum", "f", "r", "(Σ\\|f\\|)²/Σf²", "m", "covered", "or said so", "warned", "unconverged", "width"]
    lines = [header, ["-"] * len(header)]
    for case, function, steps in dict.fromkeys((c.case, c.function, c.num_steps) for c in found if c.kind == kind):
        cells = [Cell(case, function, kind, k, steps) for k in PROBES]
        rows = [(cell, found[cell]) for cell in cells]
        plain, skewed = effective_ranks(CASES[case].values(function))
        lines.append(
            [case, function, f"{skewed:.3g}", f"{plain:.3g}", str(steps), _marked(rows)]
            + [_shares(rows, take) for take in _SHARES]
            + [" ".join(f"{np.median(counts.widths):.2g}" for _, counts in rows)]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


_SHARES: tuple[Callable[[Counts], int], ...] = (
    lambda counts: counts.covered_or_said,
    lambda counts: counts.heavy,
    lambda counts: counts.unconverged + counts.refused,
)


def _shares(rows: Iterable[tuple[Cell, Counts]], take: Callable[[Counts], int]) -> str:
    return " ".join(f"{100 * take(counts) / counts.runs:.3g}" for _, counts in rows)


def _marked(rows: Iterable[tuple[Cell, Counts]]) -> str:
    shown = []
    for cell, counts in rows:
        text = f"{100 * counts.covered / counts.runs:.3g}"
        shown.append(f"**{text}**" if verdict(cell, counts) in ("silently short", "too wide") else text)
    return " ".join(shown)
