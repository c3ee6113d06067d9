"""Floor 3: sums over the spectrum to a tolerance: probes and steps are added until the stated error is within it."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from slq._arrays import is_array
from slq._estimate import Estimate
from slq._exact import exact_measure, is_feasible
from slq._ghosts import ghost_warning
from slq._growth import Growth, Progress
from slq._measure import SpectralMeasure
from slq._operators import aslinearoperator
from slq._probes import Sampler, sphere
from slq._source import count
from slq._tolerance import FEW, Tolerance
from slq.errors import HeavyTailWarning, QuadratureWarning, RequestError, SlqWarning, ToleranceWarning

Question = Callable[[SpectralMeasure], tuple[Estimate, list[SlqWarning]]]

__all__ = ["DEFAULT_LIMIT", "estimate_to_tolerance"]

# Of products, where the user sets none: a search whose forecast is beyond ends at once, instead of spending them.
DEFAULT_LIMIT = 100_000

_MOST_STEPS = 2000  # the eigenvectors of their tridiagonal matrix take 32 MB

# Of the tolerance that the quadrature error may take. Probes then cost 1/(1 − s)² = 1.23 of the least; an eighth more
# steps, up to the next look, 1.13.
_SHARE = 0.1

# The most of it with which an estimate passes: where the first steps go into outliers, changes are small by chance.
_TRUSTED = 0.25

_MORE_STEPS = 1.25  # by which a run is longer where the one before was too short


def estimate_to_tolerance(
    A: Any,
    question: Question,
    tolerance: Tolerance,
    *,
    max_products: int | None = None,
    num_probes: int = 1,
    num_steps: int | None = None,
    rng: Any = 0,
    probes: Sampler = sphere,
    first_probe: int = 0,
    reorthogonalize: bool | int = True,
    basis_dtype: Any = None,
    batch_size: int | None = None,
    check: bool | Mapping[str, str] = True,
    progress: Progress = None,
) -> Estimate:
    """The answer to a question within a tolerance; `spectral_sum` documents the options."""
    if is_array(probes):
        raise RequestError(
            "rtol= and atol= need random probes that can be added to, but probes= is an array; pass a sampler such as "
            "slq.sphere, or drop the tolerance"
        )
    A = aslinearoperator(A)
    growth = Growth(
        A,
        probes=probes,
        rng=rng,
        first_probe=count("first_probe", first_probe, least=0),
        reorthogonalize=reorthogonalize,
        basis_dtype=basis_dtype,
        batch_size=batch_size,
        check=check,
    )
    n = int(A.shape[0])
    if num_steps is None:
        num_steps = growth.most_steps(min(n if reorthogonalize is True else 2 * n, _MOST_STEPS))
    else:
        num_steps = count("num_steps", num_steps)
        num_steps = min(num_steps, n) if reorthogonalize is True else num_steps
    limit = DEFAULT_LIMIT if max_products is None else count("max_products", max_products)
    search = _Search(growth, question, tolerance, count("num_probes", num_probes), num_steps, limit, progress)
    search.spend_all = max_products is not None
    search.batch_size = batch_size
    estimate, said = search.run()
    for warning in said:
        warnings.warn(warning, stacklevel=3)
    return estimate


class _Search:
    """Which probes and steps to add next, until nothing need or can be added.

    All decisions come from the coefficients on the host: the same on every library, device and batch size, but where
    rounding turns one.
    """

    spend_all = False
    batch_size: int | None = None

    def __init__(
        self,
        growth: Growth,
        question: Question,
        tolerance: Tolerance,
        least: int,
        most_steps: int,
        limit: int,
        progress: Progress,
    ) -> None:
        self._growth, self._question, self._tolerance = growth, question, tolerance
        self._least, self._limit = least, limit
        self._most_steps, self._least_steps = min(most_steps, limit), 1
        self._progress = progress
        self._forecast = 0
        self._exact_allowed = is_feasible(growth.plain_products())

    def run(self) -> tuple[Estimate, list[SlqWarning]]:
        """The estimate, and what to warn about it."""
        measure = self._begin()
        while True:
            estimate, said = self._question(measure)
            if self._is_met(estimate, said, measure):
                return self._finish(measure, estimate, said, "")
            wanted = self._probes_wanted(estimate, measure, said)
            cost = (wanted - measure.num_probes) * measure.num_steps
            if self._exact_is_cheaper(cost):
                return self._exact()
            longer = self._steps_wanted(estimate, measure, cost)
            if longer:
                self._least_steps = longer
                measure = self._begin()
                continue
            rows, reason = self._rows_allowed(estimate, measure, wanted)
            if not rows:
                return self._finish(measure, estimate, said, reason)
            self._forecast = self._growth.spent + int(cost)
            measure = measure | self._add(measure.num_probes, rows, measure.num_steps)

    # Running

    def _begin(self) -> SpectralMeasure:
        """The first probe, which finds the number of steps."""
        first = self._add(0, 1, self._most_steps, self._are_enough)
        steps = int(first.lengths.max())
        if steps >= self._least_steps:
            return first.truncate(steps)
        # It met an invariant subspace where others of these runs did not: it ends in zeros, they go on.
        more = ((0, 0), (0, self._least_steps - steps))
        return first.changed(alpha=np.pad(first.alpha[:, :steps], more), beta=np.pad(first.beta[:, :steps], more))

    def _add(self, first: int, num_probes: int, num_steps: int, until: Any = None) -> SpectralMeasure:
        before = self._growth.spent

        def report(done: int, total: int) -> None:
            del total  # of this part
            self._tell(before + done)

        part = self._growth.add(first, num_probes, num_steps, self._progress and report, until)
        if part.sampler == "dependent":
            raise RequestError(
                "a tolerance needs probes that are independent, but those of this sampler repeat each other or are not "
                "of mean square one: nothing is known of their error; pass slq.sphere"
            )
        return part

    def _tell(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done, max(done, self._forecast))

    def _exact(self) -> tuple[Estimate, list[SlqWarning]]:
        before, n = self._growth.spent, int(self._growth.operator.shape[0])
        self._forecast = before + n
        products = self._growth.plain_products()
        measure = exact_measure(products, self.batch_size, lambda done: self._tell(before + done))
        self._growth.spent += n
        estimate, said = self._question(measure)
        met = self._tolerance.error(estimate) <= self._tolerance.allowed(estimate)
        return self._finish(measure, estimate, said, "" if met else self._rounding_reason(estimate))

    # Deciding

    def _are_enough(self, alpha: np.ndarray, beta: np.ndarray) -> bool:
        """Whether the first probe has made enough steps."""
        A, steps = self._growth.products.operator, alpha.shape[1]
        # Judged as a sphere probe, whose error one probe tells: the others' is not larger by more than a little.
        probe = SpectralMeasure(
            alpha[:1],
            beta[:1],
            int(A.shape[0]),
            sampler="sphere",
            is_complex=self._growth.is_complex,
            eps=self._growth.products.eps,
        )
        if probe.exact.all():
            return True
        if steps < self._least_steps:  # that the probes before showed to be too few, whatever this one would say
            return False
        estimate, _ = self._question(probe)
        if np.isinf(estimate.value):
            return True
        probes = max(self._least, self._tolerance.probes_needed(estimate, 1, truncation=0.0))
        self._forecast = int(min(probes * steps, self._limit))
        if self._exact_is_cheaper(probes * steps):
            return True
        return bool(estimate.truncation <= _SHARE * self._tolerance.allowed(estimate))

    def _is_met(self, estimate: Estimate, said: list[SlqWarning], measure: SpectralMeasure) -> bool:
        if np.isinf(estimate.value):  # log 0, whatever the other eigenvalues
            return True
        if measure.num_probes < self._least or (np.isfinite(estimate.dof) and measure.num_probes < FEW):
            return False
        allowed = self._tolerance.allowed(estimate)
        error = self._tolerance.error(estimate, doubled=_is_heavy(said))
        return error <= allowed and estimate.truncation <= _TRUSTED * allowed

    def _probes_wanted(self, estimate: Estimate, measure: SpectralMeasure, said: list[SlqWarning]) -> float:
        k = measure.num_probes
        if estimate.stderr is None:
            return max(FEW, self._least)
        least = FEW if np.isfinite(estimate.dof) else 1
        heavy = _is_heavy(said)
        needed = self._tolerance.probes_needed(estimate, k)
        return max(needed, self._least, least, k + 1 + k // 4 if heavy else k + 1)

    def _exact_is_cheaper(self, cost: float) -> bool:
        n = int(self._growth.operator.shape[0])
        return self._exact_allowed and n < cost and self._growth.spent + n <= self._limit

    def _steps_wanted(self, estimate: Estimate, measure: SpectralMeasure, cost: float) -> int | None:
        """The steps of longer runs where these, from the first probe on, cost less than more probes of the same."""
        steps = min(int(np.ceil(_MORE_STEPS * measure.num_steps)), self._most_steps)
        if steps <= measure.num_steps or estimate.stderr is None or measure.exact.all():
            return None
        allowed = self._tolerance.allowed(estimate)
        share = _SHARE * allowed
        if estimate.truncation <= share or self._growth.spent + steps > self._limit:
            return None
        probes = max(self._least, self._tolerance.probes_needed(estimate, measure.num_probes, truncation=share))
        cheaper = probes * steps < cost
        return steps if cheaper or estimate.truncation > _TRUSTED * allowed else None

    def _rows_allowed(self, estimate: Estimate, measure: SpectralMeasure, wanted: float) -> tuple[int, str]:
        """How many probes to add, or 0 and why none."""
        k, m, spent = measure.num_probes, measure.num_steps, self._growth.spent
        allowed = self._tolerance.allowed(estimate)
        if estimate.rounding >= allowed:
            return 0, self._rounding_reason(estimate)
        if np.isinf(wanted) or (estimate.stderr is not None and estimate.truncation > _TRUSTED * allowed):
            return 0, (
                f"{m} steps leave a quadrature error of {estimate.truncation:.2g}; allow more by num_steps=, "
                "max_products= or with less memory (reorthogonalize=)"
            )
        cost = (wanted - k) * m
        if not self.spend_all and k >= FEW and spent + cost > self._limit:
            return 0, (
                f"about {spent + cost:.2g} products would be needed, more than the {self._limit} that are spent "
                "unasked; pass max_products= to allow them"
            )
        rows = min(wanted, max(FEW, 2 * k)) - k
        rows = min(int(rows), (self._limit - spent) // m)
        return max(rows, 0), (
            f"{self._limit} products are spent; about {spent + cost:.2g} would be needed: raise max_products="
        )

    def _rounding_reason(self, estimate: Estimate) -> str:
        return f"rounding alone is {estimate.rounding:.2g}; use products of higher precision"

    def _finish(
        self, measure: SpectralMeasure, estimate: Estimate, said: list[SlqWarning], reason: str
    ) -> tuple[Estimate, list[SlqWarning]]:
        spent = self._growth.spent
        self._forecast = spent
        self._tell(spent)
        ghosts = None if measure.sampler == "fixed" else ghost_warning(measure)
        if ghosts is not None:
            said = [*said, ghosts]
        estimate = dataclasses.replace(estimate, products=spent, tolerance_met=not reason)
        if not reason:  # what is left of these errors is within the tolerance
            return estimate, [w for w in said if not isinstance(w, QuadratureWarning | HeavyTailWarning)]
        return estimate, [ToleranceWarning(self._tolerance.unmet(estimate, reason)), *said]


def _is_heavy(said: list[SlqWarning]) -> bool:
    return any(isinstance(w, HeavyTailWarning) for w in said)
