"""Floor 2: the distribution of the eigenvalues, from the masses of the nodes. `SpectralMeasure` documents it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from slq._coefficients import Coefficients
from slq._deflation import clusters
from slq._estimate import Estimate
from slq._questions import nested_difference
from slq._truncation import EXACT, INTERLACING, NESTED
from slq.errors import RequestError

__all__ = ["cdf", "count", "histogram", "interlacing_bounds", "quantile"]


def cdf(measure: Coefficients, x: Any) -> Estimate:
    """The fraction of eigenvalues <= x."""
    x = np.asarray(x, dtype=np.float64)
    if np.isnan(x).any():
        raise RequestError("cdf(x) met NaN in x; remove it")
    forms = _mass_below(measure, x)
    value = forms.mean(axis=0)
    stderr, dof = measure.sampling.error(forms, _variance(measure, _mass_below(measure, x, loose=True)))
    lower, upper = _bounds(measure, x)
    return Estimate(
        value=value[()],
        stderr=None if stderr is None else stderr[()],
        truncation=np.maximum(value - lower, upper - value)[()],
        rounding=4 * measure.eps,
        dof=dof,
        products=measure.products,
        bounds=(0.0, 1.0),
        truncation_kind=_kind(measure),
    )


def count(measure: Coefficients, low: float, high: float) -> Estimate:
    """The number of eigenvalues in [low, high]."""
    if not low <= high:
        raise RequestError(f"count(low, high) expects low <= high, got {low!r} and {high!r}")
    ends = np.array([low, high], dtype=np.float64)

    def masses(*, loose: bool) -> np.ndarray:
        return _mass_below(measure, ends[1:], loose=loose) - _mass_below(measure, ends[:1], strictly=True, loose=loose)

    return _masses(measure, masses, ends, float(measure.n), lambda x: float(x[0]))


def histogram(measure: Coefficients, edges: Any) -> Estimate:
    """The fraction of eigenvalues in each bin."""
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all():
        raise RequestError(
            f"histogram(edges) expects a one-dimensional, increasing array of two or more, got shape {edges.shape}; "
            "sort it and remove repeats and NaN (the ends may be infinite)"
        )

    def masses(*, loose: bool) -> np.ndarray:
        below = _mass_below(measure, edges, strictly=True, loose=loose)
        below[:, -1] = _mass_below(measure, edges[-1:], loose=loose)[:, 0]
        return np.diff(below)

    return _masses(measure, masses, edges, 1.0, lambda x: x)


def _masses(
    measure: Coefficients, masses: Callable[..., np.ndarray], edges: np.ndarray, factor: float, give: Any
) -> Estimate:
    """The masses (k, bins) between edges in each probe, with what interlacing leaves open about them."""
    forms = masses(loose=False)
    value = forms.mean(axis=0)
    stderr, dof = measure.sampling.error(forms, _variance(measure, masses(loose=True)))
    lower, upper = _bounds(measure, edges)
    lower[np.isinf(edges)] = upper[np.isinf(edges)] = (edges[np.isinf(edges)] > 0).astype(float)
    slack = np.maximum(upper[1:] - lower[:-1] - value, value - (lower[1:] - upper[:-1]))
    truncation = np.zeros_like(value) if measure.exact.all() else np.maximum(slack, 0.0)
    return Estimate(
        value=give(factor * value),
        stderr=None if stderr is None else give(factor * stderr),
        truncation=give(factor * truncation),
        rounding=give(4 * measure.eps * factor * ((value > 0) & (value < 1))),  # no node, or all: nothing to round
        dof=give(np.broadcast_to(dof, value.shape)),
        products=measure.products,
        bounds=(0.0, factor),
        truncation_kind=_kind(measure),
    )


def _variance(measure: Coefficients, loose: np.ndarray) -> Any:
    """What the sampling error rests on: that of an indicator function, over the weights that are random."""
    part = loose.mean(axis=0)
    return measure.sampling.variance(measure.random_weights.sum(axis=1).mean(), part, part)


def _kind(measure: Coefficients) -> str:
    if measure.exact.all():
        return EXACT
    return NESTED if measure.is_block or measure.deflated else INTERLACING


def _mass_below(measure: Coefficients, x: np.ndarray, *, strictly: bool = False, loose: bool = False) -> np.ndarray:
    """The mass of each probe's measure at or below x, or that of its `loose` nodes only: (k, *x.shape)."""
    masses = []
    edge = x - measure.rounding if strictly else x + measure.rounding
    weights = measure.random_weights if loose else measure.weights
    for theta, weight in zip(measure.nodes, weights, strict=True):
        sums = _sums(weight, weight.sum() if loose else 1.0)
        masses.append(sums[np.searchsorted(theta, edge, side="left" if strictly else "right")])
    return np.stack(masses)


def _sums(weight: np.ndarray, total: float = 1.0) -> np.ndarray:
    """Sums of the first 0 … m weights, scaled so that they go from 0 to the total, to the bit."""
    sums = np.concatenate([[0.0], weight.cumsum()])
    return sums * (total / sums[-1]) if sums[-1] > 0 else sums


def _bounds(measure: Coefficients, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Between what the mean distribution function of the probes lies, as far as quadrature goes.

    Interlacing is a theorem for independent runs. Where probes share nodes, or nodes have their exact mass, it is none,
    and wide: there, the loose nodes within whose residuals x lies, and what a fifth of the steps changes, are doubtful.
    Measured on six spectra at 100 points, for the same probes: the sum is above the error in all cases.
    """
    lower, upper = interlacing_bounds(measure, x)
    if not (measure.is_block or measure.deflated):
        return lower, upper
    value = _mass_below(measure, x).mean(axis=0)
    doubt = nested_difference(measure, lambda m: _mass_below(m, x).mean(axis=0), value) + _mass_around(measure, x)
    return np.maximum(lower, value - doubt), np.minimum(upper, value + doubt)


def _mass_around(measure: Coefficients, x: np.ndarray) -> np.ndarray:
    """The mean mass of the nodes within whose residual x lies, of those whose mass is random."""
    mass = np.zeros(x.shape)
    for theta, weight, residual in zip(measure.nodes, measure.random_weights, measure.residuals, strict=True):
        mass += (weight * (np.abs(x[..., None] - theta) < residual)).sum(axis=-1)
    return mass / measure.num_probes


def interlacing_bounds(measure: Coefficients, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over the probes of the bounds that interlacing sets to each probe's own distribution function.

    Nodes of exact mass are sure; of b probes that share their nodes, b nodes together separate the mass.
    """
    lower, upper = [], []
    rows = zip(measure.nodes, measure.weights, measure.exact_nodes, measure.exact, strict=True)
    for theta, weight, sure, ended in rows:
        loose = _sums(weight[~sure], 1.0 - weight[sure].sum())
        place = np.searchsorted(theta[sure], x + measure.rounding, side="right")
        known = np.concatenate([[0.0], weight[sure].cumsum()])[place]
        below = np.searchsorted(theta[~sure], x + measure.rounding, side="right")
        apart = 0 if ended else measure.shared_by
        lower.append(known + loose[np.maximum(below - apart, 0)])
        upper.append(known + loose[np.minimum(below + apart, loose.size - 1)])
    return np.mean(lower, axis=0), np.mean(upper, axis=0)


def quantile(measure: Coefficients, q: Any) -> Estimate:
    """The value below which a fraction q of the spectrum lies."""
    q = np.asarray(q, dtype=np.float64)
    if not ((q >= 0) & (q <= 1)).all():
        raise RequestError(f"quantile(q) expects numbers between 0 and 1, got {q}")
    value = _inverse_cdf(measure, q)
    at = cdf(measure, value)
    stderr, truncation = (
        None if error is None else ((_inverse_cdf(measure, q + error) - _inverse_cdf(measure, q - error)) / 2)[()]
        for error in (at.stderr, at.truncation)
    )
    rounding = 4 * measure.eps * measure.scale
    return Estimate(
        value[()], stderr, truncation, rounding, at.dof, measure.products, truncation_kind=at.truncation_kind
    )


def _inverse_cdf(measure: Coefficients, q: np.ndarray) -> np.ndarray:
    """Where the mean of the probes' distribution functions reaches q, each as `_rise` draws it."""
    x = np.unique(measure.nodes[measure.weights > 0])
    sides = np.mean([_rise(measure, row, x) for row in range(measure.num_probes)], axis=0)
    points, heights = np.repeat(x, 2), np.maximum.accumulate(sides.T.ravel())
    # A sum that falls short of q by rounding alone has reached it.
    above = np.minimum(np.searchsorted(heights + 1e-14, np.clip(q, 0.0, 1.0)), points.size - 1)
    below = np.maximum(above - 1, 0)
    rise = heights[above] - heights[below]
    part = np.clip((q - heights[below]) / np.where(rise > 0, rise, 1.0), 0.0, 1.0)
    return points[below] + part * (points[above] - points[below])


def _rise(measure: Coefficients, row: int, x: np.ndarray) -> np.ndarray:
    """The distribution function of a probe just below and at the points x: (2, g).

    It leaps at nodes that are eigenvalues, or hold twice what both neighbours do, and is linear between the middles of
    the leaps at others: what a Gauss rule stands for passes through each of its leaps (they interlace), near the middle
    where the spectrum is smooth.
    """
    used = measure.weights[row] > 0
    nodes, weights = measure.nodes[row, used], measure.weights[row, used]
    beside = np.convolve(weights, [1.0, 0.0, 1.0])[1:-1]
    leaps = clusters(nodes, measure.residuals[row, used], measure.rounding).converged | (weights > 2 * beside)
    sums = _sums(weights)
    middles = (sums[:-1] + sums[1:]) / 2
    below, upto = np.where(leaps, sums[:-1], middles), np.where(leaps, sums[1:], middles)
    below[0], upto[-1] = 0.0, 1.0
    at = np.searchsorted(nodes, x)
    left, right = np.maximum(at - 1, 0), np.minimum(at, nodes.size - 1)
    gap = nodes[right] - nodes[left]
    part = np.clip((x - nodes[left]) / np.where(gap > 0, gap, 1.0), 0.0, 1.0)
    between = upto[left] + part * (below[right] - upto[left])
    between = np.where(x < nodes[0], 0.0, np.where(x > nodes[-1], 1.0, between))
    here = nodes[right] == x
    return np.stack([np.where(here, below[right], between), np.where(here, upto[right], between)])
