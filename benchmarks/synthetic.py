"""Statistics of a spectrum of dimension 45,000 with outliers and an atom at zero: `python -m benchmarks.synthetic`.

The recipe is that of a notebook removed from google/spectral-density in 2019; its published numbers stand beside ours.
All statistics come from nodes and weights, none from a smoothed curve. The mean absolute value and the median are asked
of the measure (`trace`, `quantile`); the range is that of the Ritz values.
"""

import argparse
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

import slq


class Statistics(NamedTuple):
    mean: float
    median: float
    sd: float
    mean_abs: float
    range: float


PUBLISHED = Statistics(-1.564578, -1.703848, 1.392025, 1.592517, 26.0)  # 10 Gaussian probes of 70 steps


@cache
def eigenvalues() -> np.ndarray:
    """A shifted normal bulk with ten planted outliers, and 15,000 zeros: increasing, (45000,)."""
    r = np.random.RandomState(2019)  # the notebook's generator
    shift = r.exponential(scale=1.0)
    bulk = np.sort(r.normal(size=30_000) - shift)
    bulk[:5], bulk[-5:] = -7 - np.arange(5), 11 + np.arange(5)
    return np.sort(np.concatenate([bulk, np.zeros(15_000)]))


def true() -> Statistics:
    values = eigenvalues()
    median = np.median(values)
    return Statistics(values.mean(), median, values.std(), np.abs(values).mean(), np.ptp(values))


def estimated(measure: slq.SpectralMeasure) -> Statistics:
    with warnings.catch_warnings(action="ignore", category=slq.SlqWarning):
        mean, square = measure.moment(1).value, measure.moment(2).value
        mean_abs = measure.trace(np.abs).value / measure.n
        low, high = measure.support
        return Statistics(
            mean=mean,
            median=float(measure.quantile(0.5).value),
            sd=float(np.sqrt(square - mean**2)),
            mean_abs=mean_abs,
            range=high - low,
        )


def _run(num_probes: int, num_steps: int, **options: Any) -> Callable[[slq.LinearOperator, int], slq.SpectralMeasure]:
    return lambda A, seed: slq.spectral_measure(
        A, num_probes=num_probes, num_steps=num_steps, rng=seed, check=False, **options
    )


SINGLE, BLOCK, WIDE = _run(10, 70), _run(10, 70, block=True), _run(20, 35, block=True)
METHODS: dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]] = {
    "plain 10 × 70": (SINGLE, lambda m: m),
    "plain 10 × 70, deflated": (SINGLE, lambda m: m.deflate()),
    "three-term 10 × 70": (_run(10, 70, reorthogonalize=False), lambda m: m),
    "block 10 × 70": (BLOCK, lambda m: m),
    "block 10 × 70, deflated": (BLOCK, lambda m: m.deflate()),
    "block 20 × 35": (WIDE, lambda m: m),
    "block 20 × 35, deflated": (WIDE, lambda m: m.deflate()),
}


def collect(seeds: Iterable[int], names: Iterable[str] = tuple(METHODS)) -> dict[str, list[Statistics]]:
    """The statistics of each method for each seed; methods of one run share it."""
    values = eigenvalues()
    A = slq.aslinearoperator(lambda x: x * values, like=values, batched=True)
    chosen = {name: METHODS[name] for name in names}
    found: dict[str, list[Statistics]] = {name: [] for name in chosen}
    for seed in seeds:
        for run in dict.fromkeys(run for run, _ in chosen.values()):
            measure = run(A, seed)
            for name, (made_by, finish) in chosen.items():
                if made_by is run:
                    found[name].append(estimated(finish(measure)))
    return found


def table(found: dict[str, list[Statistics]]) -> str:
    """Medians over the seeds; for the median and the mean absolute value also the median error."""
    header = "| method | mean | median | its error | sd | mean abs | its error | range |"
    exact = true()
    lines = [header, "|-" * 8 + "|", _line("exact", [exact]), _line("google, published", [PUBLISHED])]
    return "\n".join(lines + [_line(name, rows) for name, rows in found.items()])


def _line(name: str, rows: list[Statistics]) -> str:
    values, exact = np.array(rows), true()
    shown = Statistics(*np.median(values, axis=0))
    off = Statistics(*np.median(np.abs(values - np.array(exact)), axis=0))
    share = 100 * off.mean_abs / exact.mean_abs
    return (
        f"| {name} | {shown.mean:.6f} | {shown.median:.6f} | {off.median:.4f} "
        f"| {shown.sd:.6f} | {shown.mean_abs:.6f} | {share:.3f} % "
        f"| {shown.range:.6f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS), metavar="NAME")
    chosen = parser.parse_args()
    print(f"{chosen.seeds} seeds\n\n{table(collect(range(chosen.seeds), chosen.methods))}")


if __name__ == "__main__":
    main()
