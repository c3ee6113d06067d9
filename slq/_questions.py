"""Floor 2: what can be asked of quadrature rules. Functions of a measure; `SpectralMeasure` documents them."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from slq._coefficients import Coefficients
from slq._density import Kernel, adaptive_grid, default_width, moved_mass, smooth
from slq._estimate import Density, Estimate
from slq.errors import RequestError, ResolutionWarning, WidthError

__all__ = ["cdf", "count", "density", "quadratic_forms", "quantile", "spectral_mean"]

_UNRESOLVED = 0.05  # a density whose last fifth of the steps moves more of its mass than this is warned about


def _values_at_nodes(measure: Coefficients, f: Callable[[np.ndarray], Any]) -> np.ndarray:
    """`f` at the nodes of positive weight, zero elsewhere: (k, m)."""
    used = measure.weights > 0
    nodes = measure.nodes[used]
    with np.errstate(all="ignore"):
        returned = np.asarray(f(nodes))
    if returned.shape != nodes.shape or returned.dtype.kind not in "fiub":
        raise RequestError(
            f"f returned an array of shape {returned.shape} and dtype {returned.dtype} for {nodes.size} Ritz values; "
            "it must act element by element on NumPy arrays and return real numbers"
        )
    bad = ~np.isfinite(returned)
    if bad.any():
        raise RequestError(
            f"f is {returned[bad][0]} at the Ritz value {nodes[bad][0]:.6g} "
            f"(weight {measure.weights[used][bad][0]:.3g}); it must be finite on the whole spectrum"
        )
    values = np.zeros(measure.nodes.shape)
    values[used] = returned
    return values


def quadratic_forms(measure: Coefficients, f: Callable[[np.ndarray], Any]) -> np.ndarray:
    """xᵢᴴ f(A) xᵢ of each unscaled probe: (k,)."""
    return measure.squared_norms * (measure.weights * _values_at_nodes(measure, f)).sum(axis=1)


def spectral_mean(measure: Coefficients, f: Callable[[np.ndarray], Any], factor: float) -> Estimate:
    """`factor` times the mean of f over the spectrum."""
    values = _values_at_nodes(measure, f)
    unit = 2.0 ** np.frexp(np.abs(values).max())[1]  # squares of extreme values stay finite
    values, factor = values / unit, factor * unit
    # Given vectors define a measure of mass one, whatever their length.
    masses = 1.0 if measure.sampler == "fixed" else measure.squared_norms / measure.n
    forms = masses * (measure.weights * values).sum(axis=1)
    centred = np.where(measure.weights > 0, values - forms.mean(), 0.0)
    stderr, dof = measure.sampling.error(forms, (measure.weights * centred**2).sum(axis=1).mean())
    value = factor * forms.mean()
    return Estimate(
        value=float(value),
        stderr=None if stderr is None else float(factor * stderr),
        truncation=_nested_difference(
            measure, lambda m: factor * (masses * (m.weights * _values_at_nodes(m, f) / unit).sum(axis=1)).mean(), value
        ),
        rounding=float(4 * measure.eps * factor * (measure.weights * np.abs(values)).sum(axis=1).mean()),
        dof=float(dof),
        products=measure.products,
    )


def _nested_difference(measure: Coefficients, question: Callable[[Coefficients], Any], value: Any) -> Any:
    """The change of an answer when a fifth of the steps is dropped: an estimate of its quadrature error."""
    if measure.exact.all():
        return np.zeros(np.shape(value))[()]
    if measure.shorter is None:
        return np.full(np.shape(value), np.inf)[()]
    return np.abs(value - question(measure.shorter))


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
    )


def _mass_below(measure: Coefficients, x: np.ndarray, *, strictly: bool = False) -> np.ndarray:
    """The mass of each probe's measure at or below x: (k, *x.shape)."""
    masses = []
    edge = x - _rounding(measure) if strictly else x + _rounding(measure)
    for theta, weight in zip(measure.nodes, measure.weights, strict=True):
        sums = np.concatenate([[0.0], weight.cumsum()]) / weight.sum()
        masses.append(sums[np.searchsorted(theta, edge, side="left" if strictly else "right")])
    return np.stack(masses)


def _rounding(measure: Coefficients) -> float:
    """How far rounding may move a node: end points nearer than this are taken to meet it."""
    return 16 * measure.eps * measure.scale


def _interlacing_bounds(measure: Coefficients, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over the probes of the bounds that interlacing sets to each probe's own distribution function."""
    lower, upper = [], []
    for theta, weight, exact in zip(measure.nodes, measure.weights, measure.exact, strict=True):
        sums = np.concatenate([[0.0], weight.cumsum()]) / weight.sum()
        below = np.searchsorted(theta, x + _rounding(measure), side="right")
        lower.append(sums[below if exact else np.maximum(below - 1, 0)])
        upper.append(sums[below if exact else np.minimum(below + 1, theta.size)])
    return np.mean(lower, axis=0), np.mean(upper, axis=0)


def count(measure: Coefficients, low: float, high: float) -> Estimate:
    """The number of eigenvalues in [low, high]."""
    if not low <= high:
        raise RequestError(f"count(low, high) expects low <= high, got {low!r} and {high!r}")
    ends = np.array([low, high], dtype=np.float64)
    forms = _mass_below(measure, ends[1:])[:, 0] - _mass_below(measure, ends[:1], strictly=True)[:, 0]
    value = forms.mean()
    stderr, dof = measure.sampling.error(forms, value * (1 - value))
    lower, upper = _interlacing_bounds(measure, ends)
    lower[np.isinf(ends)] = upper[np.isinf(ends)] = (ends[np.isinf(ends)] > 0).astype(float)
    slack = 0.0 if measure.exact.all() else max(upper[1] - lower[0] - value, value - (lower[1] - upper[0]))
    n = measure.n
    return Estimate(
        value=float(n * value),
        stderr=None if stderr is None else float(n * stderr),
        truncation=float(n * max(slack, 0.0)),
        rounding=4 * measure.eps * n,
        dof=float(dof),
        products=measure.products,
        bounds=(0.0, float(n)),
    )


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
    return Estimate(value[()], stderr, truncation, 4 * measure.eps * measure.scale, at.dof, measure.products)


def _inverse_cdf(measure: Coefficients, q: np.ndarray) -> np.ndarray:
    used = measure.weights > 0
    order = np.argsort(measure.nodes[used])
    nodes, sums = measure.nodes[used][order], measure.weights[used][order].cumsum()
    # A sum that falls short of q by rounding alone has reached it.
    position = np.searchsorted(sums / sums[-1] + 1e-14, np.clip(q, 0.0, 1.0))
    return nodes[np.minimum(position, nodes.size - 1)]


def density(measure: Coefficients, x: Any, width: float | None, kernel: Kernel) -> Density:
    """The spectral density smoothed by `kernel`."""
    rule, shorter = (measure.nodes, measure.weights), measure.shorter or measure
    short_rule = (shorter.nodes, shorter.weights)
    if width is None:
        width = default_width(rule, short_rule, measure.scale)
    fine = adaptive_grid(np.concatenate([rule[0].ravel(), short_rule[0].ravel()]), width)
    x = fine if x is None else _checked_grid(x)
    _warn_if_unresolved(measure, moved_mass(fine, rule, short_rule, width), width)
    forms, squares = smooth(x, *rule, width, kernel)
    mean = forms.mean(axis=0)
    stderr, dof = measure.sampling.error(forms, np.maximum(squares.mean(axis=0) - mean**2, 0.0))
    truncation = _nested_difference(
        measure, lambda m: smooth(x, m.nodes, m.weights, width, kernel)[0].mean(axis=0), mean
    )
    return Density(
        value=mean / width,
        stderr=None if stderr is None else stderr / width,
        truncation=truncation / width,
        rounding=4 * measure.eps * mean / width,
        dof=dof,
        products=measure.products,
        bounds=(0.0, np.inf),
        x=x,
        width=float(width),
    )


def _checked_grid(x: Any) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or not np.isfinite(x).all() or (np.diff(x) <= 0).any():
        raise WidthError(
            f"x= expects a one-dimensional, finite, increasing grid, got an array of shape {x.shape}; "
            "sort it and remove repeats and NaN, or leave it out for a grid that fits"
        )
    return x


def _warn_if_unresolved(measure: Coefficients, moved: float, width: float) -> None:
    if moved > _UNRESOLVED and not measure.exact.all():
        warnings.warn(
            f"a width of {width:.3g} is not resolved by {measure.num_steps} steps: the last fifth of them moves "
            f"{moved:.0%} of the mass; use more steps or a larger width",
            ResolutionWarning,
            stacklevel=4,
        )
