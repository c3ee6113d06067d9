"""Floor 2: which Ritz values are asked for, and the search that ends when these have converged and none is missed."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from slq._arrays import Array
from slq._thick_restart import Process, Ritz

__all__ = ["Request", "search"]

_MISSED = 1e-4  # the probability that an eigenvector is missed
_LOOKS = 8  # how often the small matrix is looked at while the number of vectors doubles


class Request(NamedTuple):
    """The first k eigenvalues in the order of `which`."""

    k: int
    which: str

    def order(self, values: np.ndarray) -> np.ndarray:
        """How to sort k values for the user."""
        keys = {"LA": -values, "SA": values, "LM": -np.abs(values), "BE": values}
        return np.argsort(keys[self.which], kind="stable")

    def ranking(self, values: np.ndarray, handicap: np.ndarray | float = 0.0) -> np.ndarray:
        """All values, those first that are wanted most; each is taken for less extreme by its handicap."""
        if self.which == "LM":
            return np.argsort(handicap - np.abs(values), kind="stable")
        high, low = (np.argsort(handicap - sign * values, kind="stable").tolist() for sign in (1, -1))
        if self.which != "BE":
            return np.array(high if self.which == "LA" else low, dtype=int)
        taken: dict[int, None] = {}
        for pair in zip(high, low, strict=True):
            for i in pair:
                taken.setdefault(i)
        return np.array(list(taken), dtype=int)

    def ends(self, values: np.ndarray, margin: float) -> list[float]:
        """Where an eigenvalue would belong among k such values, by more than the margin."""
        if self.which == "LM":
            least = np.abs(values).min() + margin
            return [least, -least]
        values = np.sort(values)
        low = {"LA": 0, "SA": self.k, "BE": self.k // 2}[self.which]
        ends = []
        if low:
            ends.append(float(values[low - 1]) - margin)
        if low < self.k:
            ends.append(float(values[low]) + margin)
        return ends


class _Look(NamedTuple):
    """What is known at some point of a run.

    Attributes
    ----------
    ritz : Ritz
    old : (r,) array of int
        The locked values among the first k.
    new : (k - r,) array of int
        The Ritz values among them, or fewer if there are not so many.
    others : array of int
        The Ritz values that are not, those first that are wanted most.
    converged : int
        How many of the first k have converged.
    slack : float
        What a residual must not exceed.
    """

    ritz: Ritz
    old: np.ndarray
    new: np.ndarray
    others: np.ndarray
    converged: int
    slack: float


def search(
    process: Process,
    request: Request,
    *,
    draw: Callable[[int], Array],
    limit: Callable[[], float],
    budget: int,
    verify: bool,
    progress: Callable[[int, int], None] | None,
) -> bool:
    """Lock the k wanted pairs; whether they have converged and it is certain enough that none is missed.

    `draw(i)` makes the start vector of run i; `limit()` is what a residual must not exceed, by the norm seen so far.
    """
    for run in itertools.count():
        process.begin(draw(run))
        look, spent = _run(process, request, limit, budget, verify, progress)
        found = (process.ended and process.whole) or _none_missed(process, request, look)
        done = look.converged == request.k and not verify
        process.lock(look.old, look.ritz, look.new)
        if found or done or spent:
            return found
    raise AssertionError  # for mypy, which does not know that the loop goes on


def _run(
    process: Process,
    request: Request,
    limit: Callable[[], float],
    budget: int,
    verify: bool,
    progress: Callable[[int, int], None] | None,
) -> tuple[_Look, bool]:
    """A run, until it ends, or all is found that it was for, or the budget is spent."""
    next_look, converged = 1, 0
    while True:
        process.step()
        spent = process.num_products >= budget
        if process.ended or process.full or spent or process.size >= next_look:
            look = _look(process, request, limit())
            converged = look.converged
            if spent or process.ended:
                break
            if converged == request.k and (not verify or look.new.size or _none_missed(process, request, look)):
                break
            if process.full:
                _restart(process, look)
            next_look = process.size + max(1, process.size // _LOOKS)
        if progress is not None:
            progress(process.num_products, converged)
    if progress is not None:
        progress(process.num_products, converged)
    return look, spent


def _look(process: Process, request: Request, slack: float) -> _Look:
    ritz, first = process.ritz(), len(process.locked)
    values = np.append(process.locked, ritz.values)
    # A Ritz value replaces a locked one if it is beyond it by more than the errors of both.
    ranked = request.ranking(values, slack * (np.arange(values.size) >= first))
    chosen, others = ranked[: request.k], ranked[request.k :]
    old, new = chosen[chosen < first], chosen[chosen >= first] - first
    # Half of what is allowed, as components along locked vectors come on top.
    converged = old.size + int((ritz.residuals[new] <= slack / 2).sum())
    return _Look(ritz, old, new, others[others >= first] - first, converged, slack)


def _none_missed(process: Process, request: Request, look: _Look) -> bool:
    """Whether the k were known before the run, which would have met what belongs among them, but for bad luck."""
    if look.old.size < request.k:
        return False
    share = process.log_share(look.ritz, request.ends(process.locked[look.old], look.slack))
    # A coordinate of a random unit vector of r dimensions is below x with a probability of at most x √(2r/π).
    return share + 0.5 * np.log(2 * process.room / np.pi) <= np.log(_MISSED)


def _restart(process: Process, look: _Look) -> None:
    """Keep what is wanted, and half of the others."""
    others = min((look.others.size + 1) // 2, process.size - 1 - look.new.size)
    process.restart(look.ritz, np.append(look.new, look.others[:others]))
