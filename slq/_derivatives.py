"""Floor 1: derivatives of functions of the spectrum: known, given, or by differences."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from slq._functions import Function, evaluate, try_function
from slq.errors import PrecisionWarning, RequestError

__all__ = ["Derivative", "difference", "slopes"]

_KNOWN: dict[object, Function] = {
    np.log: lambda t: 1 / t,
    np.log2: lambda t: 1 / (t * np.log(2)),
    np.log10: lambda t: 1 / (t * np.log(10)),
    np.log1p: lambda t: 1 / (1 + t),
    np.exp: np.exp,
    np.expm1: np.exp,
    np.sqrt: lambda t: 0.5 / np.sqrt(t),
    np.cbrt: lambda t: 1 / (3 * np.cbrt(t) ** 2),
    np.square: lambda t: 2 * t,
    np.reciprocal: lambda t: -1 / t**2,
    np.abs: np.sign,
    np.sin: np.cos,
    np.cos: lambda t: -np.sin(t),
    np.sinh: np.cosh,
    np.cosh: np.sinh,
    np.tanh: lambda t: 1 / np.cosh(t) ** 2,
}

# Steps of differences, from a quarter of the spectrum's size down to where rounding takes over everywhere.
_HALVINGS = 48
_POOR = 1e-6  # relative error of a sum over the nodes that is worth a warning: a thousandth of usual sampling errors

Derivative = Callable[[np.ndarray, np.ndarray], np.ndarray]


def slopes(f: Function, derivative: Function | None) -> Derivative:
    """f′ as a function of nodes and weights, both (j,): `derivative` if given, else known, else by differences.

    Raises
    ------
    RequestError
        If `derivative` is not an elementwise real function; when called, if f′ is not finite on the spectrum.
    """
    known = _KNOWN.get(f) if derivative is None and isinstance(f, np.ufunc) else derivative
    if known is None:
        return lambda nodes, weights: _differences(f, nodes, weights)
    if derivative is not None:
        _of_derivative(lambda: try_function(derivative))

    def values(nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return _of_derivative(lambda: evaluate(known, nodes, weights))

    return values


def _of_derivative(act: Callable[[], Any]) -> Any:
    """What `act` returns; its complaints name the derivative, where they say f."""
    try:
        return act()
    except RequestError as error:
        raise RequestError(f"the derivative of f cannot be used: {error}") from error


def _differences(f: Function, nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    values, errors = difference(f, nodes)
    bad = np.flatnonzero(~np.isfinite(errors))
    if bad.size:
        raise RequestError(
            f"f cannot be differentiated by differences at the Ritz value {nodes[bad[0]]:.6g}: it is not finite around "
            "it; pass derivative=, a function that returns f′"
        )
    error, size = (float((weights * np.abs(x)).sum()) for x in (errors, values))
    if error > _POOR * size:
        warnings.warn(
            f"differences of f give its derivative to {error:.2g} only, where it is {size:.2g} in the mean; pass "
            "derivative=, a function that returns f′",
            PrecisionWarning,
            stacklevel=2,
        )
    return values


def difference(f: Function, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f′ at points (j,), and how far it may be off; infinitely where f is not finite on both sides.

    Central differences of every step of a sequence of halves, twice extrapolated (Richardson). Of each point the step
    is taken whose error, the change by the last extrapolation and the rounding of f, is smallest; steps that leave the
    domain of f count as none. No fixed step would do for log near zero and exp around zero at once.
    """
    size = np.abs(points).max(initial=0.0) or 1.0
    steps = 0.25 * size * 0.5 ** np.arange(_HALVINGS)
    above, below = points + steps[:, None], points - steps[:, None]
    high, low = _values(f, above), _values(f, below)
    with np.errstate(all="ignore"):
        plain = (high - low) / (above - below)
        once = (4 * plain[1:] - plain[:-1]) / 3
        twice = (16 * once[1:] - once[:-1]) / 15
        rounding = np.finfo(np.float64).eps * np.maximum(np.abs(high), np.abs(low)) / steps[:, None]
        error = np.abs(twice - once[1:]) + 2 * rounding[2:]
    error = np.where(np.isfinite(error), error, np.inf)
    best = error.argmin(axis=0)
    at = best, np.arange(points.size)
    return np.where(np.isfinite(error[at]), twice[at], np.nan), error[at]


def _values(f: Function, points: np.ndarray) -> np.ndarray:
    """F of points of any shape; NaN where it raises, or returns what is no real number."""
    found = _attempt(f, points.ravel())
    if found is None:
        single = [_attempt(f, np.array([x])) for x in points.ravel()]
        found = np.array([np.nan if x is None else x[0] for x in single])
    return found.reshape(points.shape)


def _attempt(f: Function, points: np.ndarray) -> np.ndarray | None:
    try:
        with np.errstate(all="ignore"):
            found = np.asarray(f(points.copy()))
    except Exception:  # whatever f raises outside its domain
        return None
    if found.shape != points.shape or found.dtype.kind not in "fiub":
        return None
    return found.astype(np.float64)
