"""How often a nominal 95 % interval holds the true value: `python -m benchmarks.coverage` writes docs/coverage.md.

Operators are diagonal: the distribution of a sphere probe does not change under rotations, so that on the diagonal
matrix it is the same as on a matrix with any other eigenvectors. The recurrence runs on the probes of many seeds at
once; measures of fewer probes and steps are parts of it, as they would be of single runs.
"""

import argparse
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import slq
from slq.errors import HeavyTailWarning, QuadratureWarning, SlqError

from .coverage_cases import CASES, Case, plain_deviation

PROBES = (5, 10, 30)
BLOCK_STEPS = (3, 8)  # 30 × 8 vectors are most of a space of dimension 300
BATCH = 20  # seeds per recurrence: a basis of 20 × 30 × 30 vectors


class Cell(NamedTuple):
    """One number of the table is about this."""

    case: str
    function: str
    kind: str
    num_probes: int
    num_steps: int


@dataclass
class Counts:
    """What happened in the runs of a cell."""

    runs: int = 0
    covered: int = 0
    heavy: int = 0
    unconverged: int = 0
    refused: int = 0
    silent: int = 0
    silent_covered: int = 0
    widths: list[float] = field(default_factory=list)  # half-widths over 1.96 exact deviations of plain probes

    def add(self, covered: bool, heavy: bool, unconverged: bool, refused: bool, width: float) -> None:
        silent = not (heavy or unconverged or refused)
        self.runs += 1
        self.covered += covered
        self.heavy += heavy
        self.unconverged += unconverged
        self.refused += refused
        self.silent += silent
        self.silent_covered += silent and covered
        self.widths.append(width)

    @property
    def covered_or_said(self) -> int:
        return self.silent_covered + self.runs - self.silent


Results = dict[Cell, Counts]


def operator(case: Case) -> slq.LinearOperator:
    d = case.stored
    return slq.aslinearoperator(lambda x: x * d, like=d, batched=True)


def independent(case: Case, seeds: range) -> Iterator[tuple[int, int, slq.SpectralMeasure]]:
    """(num_probes, num_steps, measure) of each seed, the same as `spectral_measure(rng=seed)` gives."""
    A, most = operator(case), max(PROBES)
    for first in range(seeds.start, seeds.stop, BATCH):
        batch = range(first, min(first + BATCH, seeds.stop))
        V = np.concatenate([slq.sphere(seed, range(most), None, case.stored.size, A.like) for seed in batch])
        T = slq.lanczos(A, V, case.many, check=False)
        alpha, beta = (x.reshape(len(batch), most, case.many) for x in (T.alpha, T.beta))
        for row, seed in enumerate(batch):
            for k in PROBES:
                for m in (case.few, case.many):
                    yield k, m, _measure(case, seed, alpha[row, :k, :m], beta[row, :k, :m])


def _measure(case: Case, seed: int, alpha: np.ndarray, beta: np.ndarray) -> slq.SpectralMeasure:
    k = len(alpha)
    return slq.SpectralMeasure(
        alpha,
        beta,
        n=case.stored.size,
        sampler="sphere",
        seeds=(seed,) * k,
        probe_ids=tuple(range(k)),
        eps=float(np.finfo(case.dtype).eps),
    )


def blocks(case: Case, seeds: range) -> Iterator[tuple[int, int, slq.SpectralMeasure]]:
    """Likewise of block runs."""
    A = operator(case)
    options: dict[str, Any] = {"block": True, "check": False}
    for seed in seeds:
        for k in PROBES:
            whole = slq.spectral_measure(A, num_probes=k, num_steps=max(BLOCK_STEPS), rng=seed, **options)
            for m in BLOCK_STEPS:
                yield k, m, whole.truncate(min(m, whole.num_steps))


KINDS: dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]] = {
    "plain": (independent, lambda m: m),
    "deflated": (independent, lambda m: m.deflate()),
    "block": (blocks, lambda m: m),
    "block, deflated": (blocks, lambda m: m.deflate()),
}


def examine(case: Case, function: str, measure: slq.SpectralMeasure, counts: Counts) -> None:
    """Ask once, and count."""
    values = case.values(function)
    truth = values.sum()
    ideal = 1.959964 * plain_deviation(values, measure.num_probes)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            estimate = case.ask(measure, function)
        except SlqError:
            counts.add(False, False, False, True, np.inf)
            return
    low, high = estimate.interval()
    kinds = {warning.category for warning in said}
    unconverged = not estimate.converged or QuadratureWarning in kinds
    counts.add(low <= truth <= high, HeavyTailWarning in kinds, unconverged, False, (high - low) / 2 / ideal)


def run(name: str, kinds: Iterable[str], seeds: int, block_seeds: int) -> Results:
    """All cells of a case."""
    case = CASES[name]
    found: Results = {}
    for source, count in ((independent, seeds), (blocks, block_seeds)):
        wanted = {kind: finish for kind, (s, finish) in KINDS.items() if s is source and kind in kinds}
        for k, m, measure in source(case, range(count)) if wanted else ():
            for kind, finish in wanted.items():
                part = finish(measure)
                for function in case.functions:
                    examine(case, function, part, found.setdefault(Cell(name, function, kind, k, m), Counts()))
    return found


def collect(names: Iterable[str], kinds: list[str], seeds: int, block_seeds: int, jobs: int) -> Results:
    """The cells of several cases, `jobs` at a time."""
    task = partial(run, kinds=kinds, seeds=seeds, block_seeds=block_seeds)
    names = list(names)
    found: Results = {}
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for i, part in enumerate(pool.imap(task, names)):
            found |= part
            print(f"{i + 1} of {len(names)} spectra", file=sys.stderr, flush=True)
    return found


def main() -> None:
    from .coverage_page import PAGE, page, verdicts

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4000)
    parser.add_argument("--block-seeds", type=int, default=1000)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), metavar="NAME")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS), metavar="KIND")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-o", "--output", default=str(PAGE), help="the page; - for standard output")
    chosen = parser.parse_args()
    began = time.perf_counter()
    found = collect(chosen.cases, chosen.kinds, chosen.seeds, chosen.block_seeds, chosen.jobs)
    text = page(found, [f"--seeds {chosen.seeds}", f"--block-seeds {chosen.block_seeds}"])
    if chosen.output == "-":
        print(text)
    else:
        with open(chosen.output, "w", encoding="utf-8") as file:
            file.write(text)
    print(f"{verdicts(found)}, {time.perf_counter() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
