"""Floor 2: the log-determinant, and the Ritz values that have no logarithm. `SpectralMeasure` documents it."""

from typing import Any

import numpy as np

from slq._brackets import Ends, checked_ends
from slq._coefficients import Coefficients
from slq._estimate import Estimate
from slq._questions import spectral_sum
from slq._signs import LOG
from slq._truncation import EXACT, Prior
from slq.errors import NotPositiveDefiniteError, PrecisionWarning, RequestError, SingularError, SlqWarning

__all__ = ["logdet"]

# A Ritz value that is off by more than this part of the lower bound had no two correct digits of its logarithm.
_VISIBLE = 1e-2


def logdet(
    measure: Coefficients, lower: float | None, allow_singular: bool, upper: float | None = None
) -> tuple[Estimate, list[SlqWarning]]:
    """Log-determinant, and the reservations about it."""
    upper = checked_ends(measure, None, upper).upper
    if lower is not None:
        return _above(measure, _positive(lower), upper)
    low, about = _smallest(measure)
    if low < -measure.rounding:
        raise NotPositiveDefiniteError(
            f"logdet expects positive eigenvalues, but a Ritz value is {_described(about)}; add a shift, "
            "or use trace(lambda t: np.log(np.abs(t))) if you mean log|det A|",
            **about,
        )
    if low > measure.rounding:
        return spectral_sum(measure, np.log, float(measure.n))
    if allow_singular:
        # One eigenvalue zero is enough, whatever the others: no probe and no step more would change that.
        return Estimate(-np.inf, 0.0, 0.0, 0.0, np.inf, measure.products, truncation_kind=EXACT), []
    raise SingularError(
        f"logdet met the Ritz value {_described(about)}, which rounding ({measure.rounding:.3g} for this precision and "
        "norm) cannot tell from zero; add a shift, use products of higher precision, pass lower= if you know a "
        "positive lower bound of the spectrum, or allow_singular=True for log 0 = -inf",
        **about,
    )


def _positive(lower: Any) -> float:
    if not isinstance(lower, int | float | np.integer | np.floating) or isinstance(lower, bool):
        raise RequestError(f"lower= expects a positive number below all eigenvalues, got {lower!r}")
    if not 0 < lower < np.inf:
        raise RequestError(f"lower= expects a positive number below all eigenvalues, got {lower!r}")
    return float(lower)


def _above(measure: Coefficients, lower: float, upper: float | None) -> tuple[Estimate, list[SlqWarning]]:
    """The log-determinant of an operator whose eigenvalues are known to be >= `lower`."""
    _require_above(measure, lower)
    bracketed = Prior(Ends(lower, upper), LOG)
    estimate, reservations = spectral_sum(
        measure, lambda t: np.log(np.maximum(t, lower)), float(measure.n), prior=bracketed
    )
    below = (measure.nodes < lower) & (measure.weights > 0)
    if not below.any():
        return estimate, reservations
    # The eigenvalues behind these nodes lie between the bound and where rounding may have moved them from; those within
    # rounding of zero are in the sum's own error already.
    apart = measure.weights.sum(axis=1, where=below & (np.abs(measure.nodes) > measure.rounding))
    part = (measure.squared_norms * apart).mean() * np.log1p(measure.rounding / lower)
    estimate = Estimate(**vars(estimate) | {"rounding": estimate.rounding + float(part)})
    least = measure.nodes[below].min()
    if lower - least <= _VISIBLE * lower:
        return estimate, reservations
    moved = PrecisionWarning(
        f"{below.sum()} Ritz values, down to {least:.3g}, were moved to lower={lower:.6g}: rounding "
        f"({measure.rounding:.3g} for this precision and norm) hides the smallest eigenvalues. What they may add is in "
        f"`rounding`, {estimate.rounding:.2g}; use products of higher precision for less"
    )
    return estimate, [moved, *(r for r in reservations if not isinstance(r, PrecisionWarning))]


def _require_above(measure: Coefficients, lower: float) -> None:
    """Raise if more Ritz values lie below the bound than rounding explains.

    Rounding moves a node by `measure.rounding`, and it makes masses: a row of weights sums to one only within 8·m·eps.
    """
    beyond = (measure.nodes < lower - measure.rounding) & (measure.weights > 0)
    mass = measure.weights.sum(axis=1, where=beyond).max()
    if mass <= 8 * measure.num_steps * measure.eps:
        return
    low, about = _smallest(measure)
    found = f"the Ritz value {_described(about)}, a mass of {mass:.3g} lies below it"
    if low <= 0:
        raise NotPositiveDefiniteError(
            f"lower={lower:.6g} is said to be below all eigenvalues, but {found}; that is more than rounding "
            f"({measure.rounding:.3g}) explains: the operator is not positive definite, or its products are less "
            "precise than their dtype; add a shift",
            **about,
        )
    raise RequestError(f"lower={lower:.6g} is said to be below all eigenvalues, but {found}; use a smaller bound")


def _smallest(measure: Coefficients) -> tuple[float, dict[str, float]]:
    """The smallest Ritz value, and the attributes of an error about it."""
    nodes = np.where(measure.weights > 0, measure.nodes, np.inf)
    at = np.unravel_index(nodes.argmin(), nodes.shape)
    bound = max(float(measure.residuals[at]), measure.rounding)
    return float(nodes[at]), {"value": float(nodes[at]), "weight": float(measure.weights[at]), "bound": bound}


def _described(about: dict[str, float]) -> str:
    return f"{about['value']:.6g} (weight {about['weight']:.3g}, an eigenvalue within {about['bound']:.2g})"
