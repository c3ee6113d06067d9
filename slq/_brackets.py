"""Floor 2: Gauss-Radau and Gauss-Lobatto rules, which lie on known sides of the quadratic forms."""

from typing import Any, NamedTuple

import numpy as np

from slq._coefficients import Coefficients
from slq._functions import Function
from slq._quadrature import gauss_rules
from slq._signs import Signs
from slq.errors import RequestError

__all__ = ["Bracket", "Ends", "bracket", "checked_ends", "estimated_upper"]

_EPS = 2.0**-52  # of the arithmetic here, whatever the products'
# Measured on eight spectra (n = 400): with ten probes the estimate is below the largest eigenvalue in up to half of 150
# seeds with 2 steps, in none with 3 to 40; with one probe in up to 1.7 % of 1500 seeds with 5 steps, in none with 10.
_ENOUGH = 5  # steps for an estimated end
_SHIFT = 2.0  # times `Coefficients.rounding`; see `_moved`
_NEAR = 8 * _EPS  # of the norm: an end nearer to a Ritz value than this may be one in this arithmetic


class Ends(NamedTuple):
    """What a user knows of the ends of the spectrum; None for nothing.

    Attributes
    ----------
    lower, upper : float or None
        No eigenvalue lies below and above them.
    """

    lower: float | None = None
    upper: float | None = None


class Bracket(NamedTuple):
    """Bounds of each probe's ∫f dμ.

    Attributes
    ----------
    low, high : (k,) array
    rounding : (k,) array
        What rounding may add to either side.
    estimated : bool
        Whether an end of the spectrum had to be estimated.
    """

    low: np.ndarray
    high: np.ndarray
    rounding: np.ndarray
    estimated: bool


def checked_ends(measure: Coefficients, lower: Any, upper: Any) -> Ends:
    """Both ends as finite floats that no Ritz value contradicts by more than rounding."""
    ends = Ends(_number("lower", lower), _number("upper", upper))
    for name, end, sign in (("lower", ends.lower, 1), ("upper", ends.upper, -1)):
        if end is None:
            continue
        beyond = sign * (end - measure.nodes) > measure.rounding
        mass = float((measure.weights * beyond).sum(axis=-1).max())
        if mass > 8 * measure.num_steps * measure.eps:  # what a sum of weights does not know
            side, mend = ("below", "smaller") if sign > 0 else ("above", "larger")
            worst = measure.support[0 if sign > 0 else 1]
            raise RequestError(
                f"{name}={end:.6g} is said to be {side} all eigenvalues, but the Ritz value {worst:.6g} and a mass of "
                f"{mass:.3g} lie beyond it; use a {mend} bound"
            )
    return ends


def _number(name: str, end: Any) -> float | None:
    if end is None:
        return None
    if isinstance(end, bool) or not isinstance(end, int | float | np.integer | np.floating) or not np.isfinite(end):
        side = "below" if name == "lower" else "above"
        raise RequestError(f"{name}= expects a finite number {side} all eigenvalues, or None, got {end!r}")
    return float(end)


def estimated_upper(measure: Coefficients) -> float:
    """The largest Ritz value plus the largest residual norm: above all eigenvalues that the probes lead to, mostly."""
    return float((measure.nodes.max(axis=-1) + measure.beta[:, -1]).max())


def bracket(measure: Coefficients, f: Function, signs: Signs, ends: Ends, gauss: np.ndarray) -> Bracket | None:
    """What lies on either side of ∫f dμ for each probe; None where no two rules do.

    With m nodes, the exact value minus the rule has the sign of f⁽²ᵐ⁾ for Gauss, of f⁽²ᵐ⁺¹⁾ for Gauss-Radau with a node
    at the lower end, of −f⁽²ᵐ⁺¹⁾ at the upper end, and of −f⁽²ᵐ⁾ for Gauss-Lobatto with both, which
    keeps m − 1 free nodes.

    Parameters
    ----------
    measure : Coefficients
    f : callable
    signs : Signs
    ends : Ends
    gauss : (k,) array
        The sums of f over the Gauss rules.

    References
    ----------
    Golub and Meurant, Matrices, moments and quadrature with applications, Princeton 2010, chapters 6 and 7.
    """
    if measure.singular or measure.alpha.ndim != 2:
        return None
    lower, upper = ends
    if lower is not None and lower < signs.above:
        lower = None
    # A function that has its signs only above a point has no known ones without a bound of the spectrum there.
    if lower is None and signs.above > -np.inf:
        return None
    estimated = signs.even == signs.odd and upper is None
    if estimated and measure.num_steps >= _ENOUGH:
        upper = estimated_upper(measure)
    rules: list[tuple[float | None, float | None, int]]
    rules = [(lower, None, signs.odd)] if lower is not None else []
    rules += [(None, upper, -signs.odd)] if upper is not None else []
    rules += [(lower, upper, -signs.even)] if len(rules) == 2 else []
    sides: dict[int, list[np.ndarray]] = {1: [], -1: []}
    sides[signs.even].append(gauss)
    for low, high, side in rules:
        sums = _sums(f, *_with_ends(measure, low, high), low, high)
        if sums is not None:
            sides[side].append(sums)
    if not (sides[1] and sides[-1]):
        return None
    return Bracket(np.max(sides[1], axis=0), np.min(sides[-1], axis=0), _moved(measure, f, lower, upper), estimated)


def _with_ends(measure: Coefficients, lower: float | None, upper: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights, (k, m + 1), of the rules of each run that have nodes at these ends; Gauss of ended runs."""
    unit = 2.0 ** np.frexp(max(measure.scale, measure.beta.max()))[1]
    alpha, beta = measure.alpha / unit, measure.beta / unit  # squares of extreme values stay finite
    low = None if lower is None else np.minimum(lower, measure.nodes.min(axis=1) - _NEAR * measure.scale) / unit
    high = None if upper is None else np.maximum(upper, measure.nodes.max(axis=1) + _NEAR * measure.scale) / unit
    last, coupling = beta[:, -1].copy(), beta[:, -1]
    if low is not None and high is not None:
        # Node α̃ and coupling β̃ with α̃ − β̃²/p = end for the last pivots p of T − end at both ends.
        below, above = _last_pivot(alpha, beta, low), _last_pivot(alpha, beta, high)
        squared = (high - low) / (1 / below - 1 / above)
        diagonal, coupling = low + squared / below, np.where(last > 0, np.sqrt(squared), 0.0)
    else:
        end = low if low is not None else high
        assert end is not None
        diagonal = end + last**2 / _last_pivot(alpha, beta, end)
    nodes, weights, _ = gauss_rules(
        np.column_stack([alpha, diagonal]), np.column_stack([beta[:, :-1], coupling, np.ones_like(last)])
    )
    return nodes * unit, weights


def _last_pivot(alpha: np.ndarray, beta: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The last pivot of T − end of each run; all of them have one sign, since T has no eigenvalue beyond the end."""
    sign = np.sign(alpha[:, 0] - end)
    pivot = alpha[:, 0] - end
    for j in range(1, alpha.shape[1]):
        pivot = alpha[:, j] - end - beta[:, j - 1] ** 2 / pivot
        pivot = sign * np.maximum(sign * pivot, np.finfo(float).tiny ** 0.5)  # zero and beyond by rounding only
    return pivot


def _sums(f: Function, nodes: np.ndarray, weights: np.ndarray, low: float | None, high: float | None) -> Any:
    """The sums of f over the rules; None where f is not finite. Rounding may carry nodes beyond the ends, not f."""
    used = weights > 0
    values = np.zeros(nodes.shape)
    try:
        with np.errstate(all="ignore"):
            values[used] = f(np.clip(nodes[used], low, high) if (low, high) != (None, None) else nodes[used])
    except Exception:  # f need not be defined beyond the Ritz values
        return None
    return (weights * values).sum(axis=1) if np.isfinite(values).all() else None


def _moved(measure: Coefficients, f: Function, low: float | None, high: float | None) -> np.ndarray:
    """By how much f moves with its nodes by rounding, and 4 eps of its size: (k,).

    Measured on seven spectra of condition 3 to 1e6 (n = 400, 20 to 200 steps, float32 and float64, with and without
    reorthogonalisation): the exact forms leave the bracket by at most 0.9 of it, by 0.5 with reorthogonalisation and
    an eighth of the shift. Multiples of eps max|f| do not cover it: 5e4 of them were needed for 1/t.
    """
    used = measure.weights > 0
    shift = _SHIFT * measure.rounding
    at, up, down = (
        np.clip(measure.nodes + d, low, high) if (low, high) != (None, None) else measure.nodes + d
        for d in (0.0, shift, -shift)
    )
    with np.errstate(all="ignore"):
        values, above, below = (np.where(used, f(np.where(used, x, at)), 0.0) for x in (at, up, down))
    change = np.fmax(np.abs(above - values), np.abs(below - values))
    return (measure.weights * (np.nan_to_num(change) + 4 * measure.eps * np.abs(values))).sum(axis=1)
