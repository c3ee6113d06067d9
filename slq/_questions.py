"""Floor 2: sums over the spectrum that quadrature rules give. `SpectralMeasure` documents them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from slq import _reliability
from slq._coefficients import Coefficients
from slq._deflation import SEPARATION
from slq._estimate import Estimate
from slq._functions import Function, evaluate, tolerant
from slq._truncation import EXACT, NOTHING, Prior, Truncation, truncation
from slq.errors import SlqWarning

__all__ = ["nested_difference", "quadratic_forms", "shares", "spectral_mean", "spectral_sum"]


def _values_at_nodes(measure: Coefficients, f: Function) -> np.ndarray:
    """`f` at the nodes of positive weight, zero elsewhere: (k, m)."""
    used = measure.weights > 0
    values = np.zeros(measure.nodes.shape)
    values[used] = evaluate(f, measure.nodes[used], measure.weights[used])
    return values


def quadratic_forms(measure: Coefficients, f: Function) -> np.ndarray:
    """xᵢᴴ f(A) xᵢ of each unscaled probe: (k,)."""
    return shares(measure.undeflated, f)


def shares(measure: Coefficients, f: Function) -> np.ndarray:
    """What each probe makes of the answer: its form, or, of a deflated measure, that with exact masses: (k,)."""
    norms = float(measure.n) if measure.deflated else measure.squared_norms
    return norms * (measure.weights * _values_at_nodes(measure, f)).sum(axis=1)


def spectral_mean(measure: Coefficients, f: Function, factor: float, degree: int | None = None) -> Estimate:
    """`factor` times the mean of f over the spectrum; `degree` if f is a polynomial. Warns of nothing."""
    return spectral_sum(measure, f, factor, degree)[0]


def spectral_sum(
    measure: Coefficients, f: Function, factor: float, degree: int | None = None, prior: Prior = NOTHING
) -> tuple[Estimate, list[SlqWarning]]:
    """`spectral_mean`, and the reservations about it; `prior` may bring a bracket of its quadrature error."""
    values = _values_at_nodes(measure, f)
    unit = 2.0 ** np.frexp(np.abs(values).max())[1]  # squares of extreme values stay finite
    values, factor = values / unit, factor * unit
    # Given vectors define a measure of mass one, whatever their length; deflated ones have it by construction.
    masses = 1.0 if measure.sampler == "fixed" or measure.deflated else measure.squared_norms / measure.n
    forms = masses * (measure.weights * values).sum(axis=1)
    loose = measure.random_weights
    total = loose.sum(axis=1).mean()
    centre = (loose * values).sum() / loose.sum() if measure.deflated and total > 0 else forms.mean()
    centred = np.where(loose > 0, values - centre, 0.0)
    variance = measure.sampling.variance(total, 0.0, (loose * centred**2).sum(axis=1).mean())
    stderr, dof = measure.sampling.error(forms, variance)
    # Fewer steps know fewer exact masses, which would change the answer more than the quadrature does.
    seen = measure.undeflated
    scales = 1.0 if measure.sampler == "fixed" else measure.squared_norms / measure.n

    def forms_of(part: Coefficients) -> np.ndarray:
        return scales * (part.weights * _values_at_nodes(part, f) / unit).sum(axis=1)

    if degree is not None and _integrates(measure, degree):
        quadrature = Truncation(0.0, EXACT)
    else:
        quadrature = truncation(seen, lambda t: np.asarray(f(t)) / unit, forms_of(seen), forms_of, scales, prior)
    noise = float(factor * np.mean(masses * _variation_within_rounding(measure, f, values, unit)))
    rounding = 4 * measure.eps * (measure.weights * np.abs(values)).sum(axis=1).mean()
    estimate = Estimate(
        value=float(factor * forms.mean()),
        stderr=None if stderr is None else float(factor * stderr),
        truncation=float(factor * (quadrature.error + _variation_of_exact(measure, f, values, unit))),
        rounding=float(factor * max(rounding, quadrature.rounding) + noise),
        dof=float(dof),
        products=measure.products,
        truncation_kind=quadrature.kind,
    )
    # A function that varies no faster near zero than over the spectrum makes nothing worse of rounding.
    ordinary = factor * 2 * 16 * measure.eps * np.abs(values).max()
    return estimate, _reliability.reservations(measure, centred, estimate, noise if noise > ordinary else 0.0)


def _variation_of_exact(measure: Coefficients, f: Function, values: np.ndarray, unit: float) -> float:
    """How far f may be off at nodes of exact mass, in the mean: an eigenvalue lies within residual²/gap of each."""
    exact = measure.exact_nodes
    if not exact.any():
        return 0.0
    nodes = measure.nodes[exact]
    inwards = np.sign(np.mean(measure.support) - nodes)  # where f is defined
    moved = np.asarray(f(nodes + inwards * SEPARATION * measure.residuals[exact]), dtype=np.float64) / unit
    return float(np.abs(moved - values[exact]).sum() / (measure.n * measure.num_probes))


def _integrates(measure: Coefficients, degree: int) -> bool:
    """Whether m steps are exact for tᵖ: p ≤ 2m − 1, in the squares of the singular values for Golub-Kahan runs."""
    if measure.singular:
        return degree % 2 == 0 and degree // 2 <= 2 * measure.num_steps - 1
    return degree <= 2 * measure.num_steps - 1


def _variation_within_rounding(measure: Coefficients, f: Function, values: np.ndarray, unit: float) -> Any:
    """How far f may be off, in each probe's sum, because rounding cannot tell some nodes from zero: (k,).

    f is asked for more than the Ritz values only where there are such nodes.
    """
    near = (np.abs(measure.nodes) <= measure.rounding) & (measure.weights > 0)
    if not near.any() or measure.scale == 0:
        return 0.0
    points = measure.rounding * np.array([0.0, 1.0, -1.0][: 2 if measure.singular else 3])
    around = tolerant(f, points) / unit
    if np.isinf(around).any():
        return np.where(near.any(axis=1), np.inf, 0.0)
    spread = np.abs(values[..., None] - around[~np.isnan(around)]).max(axis=-1, initial=0.0)
    return (measure.weights * spread).sum(axis=1, where=near)


def nested_difference(measure: Coefficients, question: Callable[[Coefficients], Any], value: Any) -> Any:
    """The change of an answer when a fifth of the steps is dropped: an estimate of its quadrature error."""
    if measure.exact.all():
        return np.zeros(np.shape(value))[()]
    if measure.deflated:  # fewer steps know fewer masses, which changes the answer more than the quadrature
        measure = measure.undeflated
        value = question(measure)
    if measure.shorter is None:
        return np.full(np.shape(value), np.inf)[()]
    return np.abs(value - question(measure.shorter))
