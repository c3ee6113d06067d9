"""Floor 2: the distribution of the eigenvalues, from the masses of the nodes. `SpectralMeasure` documents it."""

from typing import Any

import numpy as np

from slq._coefficients import Coefficients
from slq._estimate import Estimate
from slq.errors import RequestError

__all__ = ["cdf", "count", "histogram", "quantile"]


def cdf(measure: Coefficients, x: Any) -> Estimate:
    """The fraction of eigenvalues <= x."""
    x = np.asarray(x, dtype=np.float64)
    if np.isnan(x).any():
        raise RequestError("cdf(x) met NaN in x; remove it")
    forms = _mass_below(measure, x)
    value = forms.mean(axis=0)
    stderr, dof = measure.sampling.error(forms, value * (1 - value))
    lower, upper = _interlacing_bounds(measure, x)
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
    forms = _mass_below(measure, ends[1:]) - _mass_below(measure, ends[:1], strictly=True)
    return _masses(measure, forms, ends, float(measure.n), lambda x: float(x[0]))


def histogram(measure: Coefficients, edges: Any) -> Estimate:
    """The fraction of eigenvalues in each bin."""
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all():
        raise RequestError(
            f"histogram(edges) expects a one-dimensional, increasing array of two or more, got shape {edges.shape}; "
            "sort it and remove repeats and NaN (the ends may be infinite)"
        )
    below = _mass_below(measure, edges, strictly=True)
    below[:, -1] = _mass_below(measure, edges[-1:])[:, 0]
    return _masses(measure, np.diff(below), edges, 1.0, lambda x: x)


def _masses(measure: Coefficients, forms: np.ndarray, edges: np.ndarray, factor: float, give: Any) -> Estimate:
    """The masses between edges, `forms` (k, bins) in each probe, with what interlacing leaves open about them."""
    value = forms.mean(axis=0)
    stderr, dof = measure.sampling.error(forms, value * (1 - value))
    lower, upper = _interlacing_bounds(measure, edges)
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


def _kind(measure: Coefficients) -> str:
    return "exact" if measure.exact.all() else "interlacing"


def _mass_below(measure: Coefficients, x: np.ndarray, *, strictly: bool = False) -> np.ndarray:
    """The mass of each probe's measure at or below x: (k, *x.shape)."""
    masses = []
    edge = x - measure.rounding if strictly else x + measure.rounding
    for theta, weight in zip(measure.nodes, measure.weights, strict=True):
        sums = _sums(weight)
        masses.append(sums[np.searchsorted(theta, edge, side="left" if strictly else "right")])
    return np.stack(masses)


def _sums(weight: np.ndarray) -> np.ndarray:
    """Sums of the first 0 … m weights as parts of all: from 0 to 1, to the bit."""
    sums = np.concatenate([[0.0], weight.cumsum()])
    return sums / sums[-1]


def _interlacing_bounds(measure: Coefficients, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over the probes of the bounds that interlacing sets to each probe's own distribution function."""
    lower, upper = [], []
    for theta, weight, exact in zip(measure.nodes, measure.weights, measure.exact, strict=True):
        sums = _sums(weight)
        below = np.searchsorted(theta, x + measure.rounding, side="right")
        lower.append(sums[below if exact else np.maximum(below - 1, 0)])
        upper.append(sums[below if exact else np.minimum(below + 1, theta.size)])
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
    used = measure.weights > 0
    order = np.argsort(measure.nodes[used])
    nodes, sums = measure.nodes[used][order], measure.weights[used][order].cumsum()
    # A sum that falls short of q by rounding alone has reached it.
    position = np.searchsorted(sums / sums[-1] + 1e-14, np.clip(q, 0.0, 1.0))
    return nodes[np.minimum(position, nodes.size - 1)]
