"""Log-determinants to a relative tolerance: how often it is met, and at what cost: `python -m benchmarks.tolerances`.

Ten positive definite operators of the battery, beside imate and primate where these are installed. slq runs on the
diagonal matrix of the exact eigenvalues, on which sphere probes have the same distribution (`--operators`: on the
operators themselves); the others draw Rademacher probes, get the dense matrices, and take their own number of steps.
"""

import argparse
import multiprocessing
import warnings
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import NamedTuple

import numpy as np

import slq
from slq.testing import Problem, mixed, models, spectra, structured

from .logdet_peers import PEERS

TOLERANCES = (1e-2, 1e-3)
N = 1000


def _mixed(name: str, eigenvalues: np.ndarray) -> Problem:
    return mixed.mixed(eigenvalues, name, formula="given", hard_for="tolerances")


@cache
def problems() -> dict[str, Problem]:
    """The operators by name, of dimension 500 to 1000."""
    found = [
        structured.toeplitz(N),
        structured.kms(N),
        structured.kms(N, 0.9),
        structured.rank_one_update(N),
        models.logistic_regression(1024, 500),
        mixed.wishart(500),
        _mixed("uniform", spectra.uniform(N)),
        _mixed("Hessian-like", spectra.hessian_like(N)),
        _mixed("geometric, condition 10⁴", spectra.geometric(N, 1e-4)),
        _mixed("Strakoš", spectra.strakos(N)),
    ]
    return {problem.name: problem for problem in found}


class Outcome(NamedTuple):
    value: float
    products: float
    claimed: bool  # the tool says that the tolerance is met


class Row(NamedTuple):
    tool: str
    problem: str
    rtol: float
    outcomes: list[Outcome]


def ours(problem: Problem, rtol: float, seed: int, on_operator: bool) -> Outcome:
    values = problem.eigenvalues()
    A = problem.operator() if on_operator else slq.aslinearoperator(lambda x: x * values, like=values, batched=True)
    with warnings.catch_warnings(action="ignore", category=slq.SlqWarning):
        found = slq.logdet(A, rtol=rtol, rng=seed, check=False)
    return Outcome(float(found), found.products, found.converged)


def theirs(tool: Callable[..., tuple[float, float, bool]], problem: Problem, rtol: float, seed: int) -> Outcome:
    return Outcome(*tool(problem.matrix(), rtol, seed))


def rows_of(
    name: str, tolerances: Iterable[float], seeds: int, peer_seeds: int, on_operator: bool, tools: Iterable[str]
) -> list[Row]:
    """All tools at all tolerances on one operator."""
    problem, found = problems()[name], []
    for rtol in tolerances:
        if "slq" in tools:
            found.append(Row("slq", name, rtol, [ours(problem, rtol, seed, on_operator) for seed in range(seeds)]))
        for tool, run in PEERS.items():
            if tool in tools:
                outcomes = [theirs(run, problem, rtol, seed) for seed in range(peer_seeds)]
                found.append(Row(tool, name, rtol, outcomes))
    return found


def table(rows: Iterable[Row]) -> str:
    """The share of seeds within the tolerance, and of those that claim to be; the median of the products."""
    lines = ["| operator | rtol | tool | seeds | error ≤ tolerance | claimed | products (median) |", "|-" * 7 + "|"]
    for tool, name, rtol, outcomes in rows:
        truth = problems()[name].logdet()
        met = np.mean([abs(outcome.value - truth) <= rtol * abs(truth) for outcome in outcomes])
        claimed = np.mean([outcome.claimed for outcome in outcomes])
        products = np.median([outcome.products for outcome in outcomes])
        lines.append(
            f"| {name} | {rtol:g} | {tool} | {len(outcomes)} | {100 * met:.1f} % | {100 * claimed:.1f} % "
            f"| {products:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--peer-seeds", type=int, default=20)
    parser.add_argument("--rtol", type=float, nargs="*", default=list(TOLERANCES))
    parser.add_argument("--problems", nargs="*", default=list(problems()), choices=list(problems()), metavar="NAME")
    parser.add_argument("--tools", nargs="*", default=["slq", *PEERS], choices=["slq", *PEERS], metavar="TOOL")
    parser.add_argument("--operators", action="store_true", help="run slq on the operators themselves")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    task = partial(
        rows_of,
        tolerances=chosen.rtol,
        seeds=chosen.seeds,
        peer_seeds=chosen.peer_seeds,
        on_operator=chosen.operators,
        tools=chosen.tools,
    )
    with multiprocessing.get_context("spawn").Pool(chosen.jobs) as pool:
        print(table(row for rows in pool.imap(task, chosen.problems) for row in rows))


if __name__ == "__main__":
    main()
