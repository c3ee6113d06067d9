"""Errors on the digits network of 15,910 parameters after exactly 800 and 400 products: `python -m benchmarks.digits`.

Medians over seeds of the L1 distance of densities at σ² = 1e-5, the Wasserstein distance and the error of the trace.
`--diagonal` replaces the Hessian by the diagonal matrix of its eigenvalues, on which sphere probes have the same
distribution: as many seeds as wanted.
"""

import argparse
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

import slq
from slq import metrics

from .digits_hessian import digits_hessian, eigenvalues

WIDTH = 1e-5**0.5
SEEDS = 20


class Run(NamedTuple):
    """What is computed; `truncate` and `deflate` then cost nothing."""

    num_probes: int
    num_steps: int
    block: bool = False

    def measure(self, A: Any, seed: int) -> slq.SpectralMeasure:
        options: dict[str, Any] = (
            {"block": True} if self.block else {}
        )  # a version without blocks still does the others
        return slq.spectral_measure(
            A, num_probes=self.num_probes, num_steps=self.num_steps, rng=seed, check=False, **options
        )


class Method(NamedTuple):
    run: Run
    finish: Callable[[Any], Any]
    products: int


SINGLE, WIDE, TALL = Run(10, 80), Run(20, 40, block=True), Run(10, 80, block=True)

METHODS = {
    "plain 10 × 80": Method(SINGLE, lambda m: m, 800),
    "deflated 10 × 80": Method(SINGLE, lambda m: m.deflate(), 800),
    "block 20 × 40": Method(WIDE, lambda m: m, 800),
    "block 20 × 40, deflated": Method(WIDE, lambda m: m.deflate(), 800),
    "block 10 × 80": Method(TALL, lambda m: m, 800),
    "block 10 × 80, deflated": Method(TALL, lambda m: m.deflate(), 800),
    "plain 10 × 40": Method(SINGLE, lambda m: m.truncate(40), 400),
    "deflated 10 × 40": Method(SINGLE, lambda m: m.truncate(40).deflate(), 400),
    "block 20 × 20, deflated": Method(WIDE, lambda m: m.truncate(20).deflate(), 400),
    "block 10 × 40, deflated": Method(TALL, lambda m: m.truncate(40).deflate(), 400),
}
PLAIN = "plain 10 × 80"


class Errors(NamedTuple):
    density_l1: float
    wasserstein: float
    trace: float  # relative


def errors(measure: slq.SpectralMeasure, exact: np.ndarray) -> Errors:
    with warnings.catch_warnings(action="ignore", category=slq.SlqWarning):
        trace = measure.trace().value
    return Errors(
        metrics.density_l1(measure, exact, width=WIDTH),
        metrics.wasserstein(measure, exact),
        abs(trace / exact.sum() - 1),
    )


def operator(diagonal: bool) -> Any:
    """The Hessian, or the diagonal matrix of its eigenvalues."""
    if not diagonal:
        return digits_hessian()
    values = eigenvalues()
    return slq.aslinearoperator(lambda x: x * values, like=values, batched=True)


def collect(A: Any, seeds: Iterable[int], names: Iterable[str] = tuple(METHODS)) -> dict[str, list[Errors]]:
    """The errors of each method for each seed; methods of one run share it."""
    chosen = {name: METHODS[name] for name in names}
    found: dict[str, list[Errors]] = {name: [] for name in chosen}
    for seed in seeds:
        for run in dict.fromkeys(method.run for method in chosen.values()):
            measure = run.measure(A, seed)
            for name, method in chosen.items():
                if method.run == run:
                    found[name].append(errors(_finished(name, measure), eigenvalues()))
    return found


def _finished(name: str, measure: slq.SpectralMeasure) -> slq.SpectralMeasure:
    part = METHODS[name].finish(measure)
    if part.products != METHODS[name].products:
        raise RuntimeError(f"{name} made {part.products} products, not {METHODS[name].products}")
    return part


def table(found: dict[str, list[Errors]]) -> str:
    """Medians, and in how many seeds a method was better than the plain one in L1 and in W1."""
    header = "| method | products | L1, σ² = 1e-5 | W1 | trace | better than plain in L1, W1 |"
    lines = [header, "|-|-|-|-|-|-|"]
    plain = np.array(found.get(PLAIN, []))
    for name, rows in found.items():
        values = np.array(rows)
        l1, w1, trace = np.median(values, axis=0)
        wins = "" if name == PLAIN or not plain.size else " and ".join(map(str, (values < plain).sum(axis=0)[:2]))
        lines.append(f"| {name} | {METHODS[name].products} | {l1:.5f} | {w1:.2e} | {100 * trace:.2f} % | {wins} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--diagonal", action="store_true", help="the diagonal matrix of the eigenvalues")
    parser.add_argument("--only", default="", help="methods whose name contains this")
    chosen = parser.parse_args()
    names = [name for name in METHODS if chosen.only in name]
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    found = collect(operator(chosen.diagonal), seeds, names)
    print(f"{chosen.seeds} seeds, {'diagonal' if chosen.diagonal else 'network'}\n\n{table(found)}")


if __name__ == "__main__":
    main()
