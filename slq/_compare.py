"""Floor 2: what changed between two spectra, with the sampling error of the difference."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from slq import _questions, _smoothed
from slq._answers import Answers
from slq._density import smooth
from slq._estimate import Density, Estimate
from slq._functions import Function
from slq._kernels import Kernel
from slq.errors import PrecisionWarning, QuadratureWarning, RequestError

__all__ = ["Difference", "difference"]

# Where two answers converge slowly, their difference can look settled: of log-determinants of condition numbers 1e5 and
# 1e6 (5 to 80 steps, 40 seeds), the nested difference was a twentieth to a third of the error, and 1.7 to 4.3 times the
# standard error. So it is spoken of earlier than that of a single answer.
_DOMINANT = 1.0


def difference(p: Any, q: Any) -> "Difference":
    """Ask what changed between two spectra: answers of `p` minus answers of `q`.

    Where both measures hold the same probes (one sampler, seed and numbering, as two calls of `spectral_measure` have
    by default), the error is that of the differences probe by probe: what the probes have in common cancels.

    Parameters
    ----------
    p, q : SpectralMeasure
        Such as those of two checkpoints of a network.

    Returns
    -------
    Difference

    Raises
    ------
    RequestError
        If one of them is not a measure.

    Examples
    --------
    >>> import numpy as np
    >>> import slq
    >>> before = np.linspace(1.0, 2.0, 1000)
    >>> p, q = (slq.spectral_measure(np.diag(x), num_probes=5, num_steps=20) for x in (1.01 * before, before))
    >>> print(f"{slq.difference(p, q).logdet().value:.4f}")  # exactly 1000 log 1.01
    9.9503
    """
    for measure in (p, q):
        if not isinstance(measure, Answers):
            raise RequestError(
                f"difference(p, q) expects two SpectralMeasures, got {type(measure).__name__}; "
                "slq.metrics has distances from exact eigenvalues"
            )
    return Difference(p, q)


@dataclass(frozen=True, eq=False)
class Difference:
    """The questions about a difference of spectra, p minus q: those of `SpectralMeasure`, with the same arguments.

    Notes
    -----
    With k common probes the standard error is that of their k differences, with Student's t of k − 1 degrees of
    freedom. It is valid however the operators differ, and small if most of f(A) and f(B) is the same. Probes that only
    one measure has are then left out. A single common probe of the sphere has the sum of both standard errors, which
    bounds that of the difference; of another sampler, none. Without common probes the errors are independent: their
    squares add up, and so do their degrees of freedom (Welch and Satterthwaite).

    The quadrature error is the change of the difference when a fifth of the steps is dropped, or the sum of both errors
    if that is smaller; of distribution functions, whose errors are bounds, the sum. `trace`, `logdet` and the others
    raise what the measures raise, and warn where the quadrature error exceeds the sampling error.

    Attributes
    ----------
    p, q : SpectralMeasure
    """

    p: Answers
    q: Answers

    @cached_property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Which probes of p and of q are the same: two (k,) arrays of int, empty where none are."""
        kinds = [(m.sampler, m.n, m.is_complex) for m in (self.p, self.q)]
        if kinds[0] != kinds[1] or self.p.sampler == "fixed":
            return np.empty(0, int), np.empty(0, int)
        of_q = {probe: row for row, probe in enumerate(zip(self.q.seeds, self.q.probe_ids, strict=True))}
        of_p = enumerate(zip(self.p.seeds, self.p.probe_ids, strict=True))
        pairs = [(row, of_q[probe]) for row, probe in of_p if probe in of_q]
        found = np.array(pairs, dtype=int).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    @property
    def common_probes(self) -> int:
        """How many probes both measures hold: 0 if the errors are independent."""
        return self.rows[0].size

    def trace(self, f: Function | None = None) -> Estimate:
        """Estimate tr f(A) − tr f(B)."""
        return self._answer(lambda m: m.trace(f), lambda m: _questions.shares(m, (lambda t: t) if f is None else f))

    def logdet(self, *, lower: float | None = None) -> Estimate:
        """Estimate log det A − log det B."""
        return self._answer(
            lambda m: m.logdet(lower=lower),
            lambda m: _questions.shares(m, lambda t: np.log(t if lower is None else np.maximum(t, lower))),
        )

    def moment(self, p: int) -> Estimate:
        """Estimate the difference of the p-th moments."""
        return self._answer(lambda m: m.moment(p), lambda m: _questions.shares(m, lambda t: t ** int(p)) / _mass(m))

    def cdf(self, x: Any) -> Estimate:
        """Estimate the difference of the fractions of eigenvalues ≤ x."""
        return self._answer(lambda m: m.cdf(x), lambda m: _below(m, np.asarray(x, dtype=np.float64)), bound=True)

    def count(self, low: float = -np.inf, high: float = np.inf) -> Estimate:
        """Estimate how many more eigenvalues A has in [low, high] than B."""
        ends = np.array([low, high], dtype=np.float64)
        return self._answer(lambda m: m.count(low, high), lambda m: m.n * _between(m, ends)[:, 0], bound=True)

    def histogram(self, edges: Any) -> Estimate:
        """Estimate the differences of the fractions of eigenvalues in each bin."""
        return self._answer(
            lambda m: m.histogram(edges), lambda m: _between(m, np.asarray(edges, dtype=np.float64)), bound=True
        )

    def density(
        self, x: Any = None, *, width: float | None = None, kernel: Kernel = "gaussian", num: int | None = None
    ) -> Density:
        """Estimate the difference of the densities, both smoothed by one kernel of one width (and interval).

        Without `width`, the larger of both defaults; without `x`, a grid that is fine where either has mass. Attributes
        of the result are those of a density; its ``outside`` is the difference of both.
        """
        both = [self.p, self.q]
        x, shape, used, said = _smoothed.common(both, x, width, kernel, num)
        for reservation in said:
            warnings.warn(reservation, stacklevel=2)
        made = {id(m): _smoothed.evaluated(m, x, used, shape) for m in both}
        answer = self._answer(
            lambda m: made[id(m)], lambda m: smooth(x, m.nodes, m.weights, used, shape)[0] / used, warn=False
        )
        outside = made[id(self.p)].outside - made[id(self.q)].outside
        return Density(**vars(answer), x=x, width=used, kernel=shape.name, outside=outside)

    def _answer(
        self,
        ask: Callable[[Any], Estimate],
        forms: Callable[[Any], np.ndarray],
        *,
        bound: bool = False,
        warn: bool = True,
    ) -> Estimate:
        """The difference of two answers; `forms` gives what each probe contributes to the mean, (k, ...)."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            of_p, of_q = ask(self.p), ask(self.q)
        value, stderr, dof = self._sampled(of_p, of_q, forms)
        truncation = of_p.truncation + of_q.truncation
        if not bound:
            truncation = np.minimum(truncation, self._nested(value, forms))[()]
        answer = Estimate(
            value=value,
            stderr=stderr,
            truncation=truncation,
            rounding=of_p.rounding + of_q.rounding,
            dof=dof,
            products=self.p.products + self.q.products,
            bounds=(of_p.bounds[0] - of_q.bounds[1], of_p.bounds[1] - of_q.bounds[0]) if bound else (-np.inf, np.inf),
        )
        if warn and not bound:
            _relay(caught, answer)
        return answer

    def _sampled(self, of_p: Estimate, of_q: Estimate, forms: Callable[[Any], np.ndarray]) -> tuple[Any, Any, Any]:
        """Value, standard error and degrees of freedom."""
        here, there = self.rows
        known = of_p.stderr is not None and of_q.stderr is not None
        if not here.size:
            value = of_p.value - of_q.value
            return (value, *_independent(of_p, of_q)) if known else (value, None, np.inf)
        changes = forms(self.p)[here] - forms(self.q)[there]
        value = changes.mean(axis=0)[()]
        if here.size > 1:
            if not known:  # probes that depend on each other
                return value, None, np.inf
            unit = 2.0 ** np.frexp(np.abs(changes).max())[1]  # squares of extreme values stay finite
            return value, (unit * (changes / unit).std(axis=0, ddof=1) / np.sqrt(here.size))[()], float(here.size - 1)
        if not known or self.p.sampler != "sphere":
            return value, None, np.inf
        one_p, one_q = np.sqrt(self.p.num_probes), np.sqrt(self.q.num_probes)
        return value, one_p * of_p.stderr + one_q * of_q.stderr, np.minimum(of_p.dof, of_q.dof)

    def _nested(self, value: Any, forms: Callable[[Any], np.ndarray]) -> Any:
        """The change of the difference when a fifth of the steps of each measure is dropped."""
        if self.p.deflated or self.q.deflated:  # fewer steps know fewer masses: only the parts tell
            return np.inf
        shorter = [m if m.exact.all() else m.shorter for m in (self.p, self.q)]
        if shorter[0] is None or shorter[1] is None:
            return np.inf
        of_p, of_q = forms(shorter[0]), forms(shorter[1])
        if self.common_probes:
            of_p, of_q = of_p[self.rows[0]], of_q[self.rows[1]]
        return np.abs(of_p.mean(axis=0) - of_q.mean(axis=0) - value)


def _independent(of_p: Estimate, of_q: Estimate) -> tuple[Any, Any]:
    """Standard error of a difference of independent estimates, and Welch's and Satterthwaite's degrees of freedom."""
    largest = np.maximum(np.maximum(of_p.stderr, of_q.stderr), np.finfo(float).tiny)
    a, b = (of_p.stderr / largest) ** 2, (of_q.stderr / largest) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        dof = np.divide((a + b) ** 2, a * a / of_p.dof + b * b / of_q.dof)
    return (largest * np.sqrt(a + b))[()], np.where(np.isfinite(dof), dof, np.inf)[()]


def _relay(caught: list[warnings.WarningMessage], answer: Estimate) -> None:
    """Warn of what is left of the reservations about both answers, at the line that asked for the difference."""
    for said in caught:
        if issubclass(said.category, PrecisionWarning):
            warnings.warn(said.message, stacklevel=4)
    sampling = 0.0 if answer.stderr is None else answer.stderr
    if answer.stderr is not None and answer.truncation > max(_DOMINANT * sampling, 10 * answer.rounding):
        warnings.warn(
            QuadratureWarning(
                f"the quadrature error of the difference, about {answer.truncation:.2g}, exceeds its sampling error "
                f"{sampling:.2g}: too few steps for this f; use more steps rather than more probes"
            ),
            stacklevel=4,
        )


def _mass(measure: Answers) -> Any:
    """What the forms of f = 1 are: given vectors define a measure of mass one, whatever their length."""
    return measure.squared_norms if measure.sampler == "fixed" else float(measure.n)


def _below(measure: Answers, x: np.ndarray, *, strictly: bool = False) -> np.ndarray:
    """The mass of each probe at or below x, (k, *x.shape); what is within rounding of x is equal to it."""
    nodes = measure.nodes.reshape(*measure.nodes.shape, *[1] * x.ndim)
    inside = nodes < x - measure.rounding if strictly else nodes <= x + measure.rounding
    return np.einsum("km,km...->k...", measure.weights, inside)


def _between(measure: Answers, edges: np.ndarray) -> np.ndarray:
    """The mass of each probe in each bin, (k, bins): bins hold their lower edge, the last one both."""
    below = _below(measure, edges, strictly=True)
    below[:, -1] = _below(measure, edges[-1:])[:, 0]
    return np.diff(below)
