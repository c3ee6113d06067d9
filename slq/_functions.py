"""Floor 1: functions of the spectrum that users give, and what is wrong with them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from slq.errors import RequestError

__all__ = ["Function", "evaluate", "tolerant", "try_function"]

Function = Callable[[np.ndarray], Any]

_ELEMENTWISE = (
    "it must act element by element on NumPy arrays and return real numbers (np.log, not math.log; "
    "np.vectorize(f) makes such a function of any other)"
)


def try_function(f: Function) -> None:
    """Call f on three points, to find before any product what would make it useless after the last.

    Only the shape and the type of its answer are judged: the points are not those of the spectrum, so NaN, infinity and
    an error that depends on the values (ValueError, ArithmeticError) are no objection.

    Raises
    ------
    RequestError
        If f is not callable, does not act element by element, or returns something else than real numbers. An error of
        f itself is chained.
    """
    if not callable(f):
        raise RequestError(f"f expects a function of an array of eigenvalues, got {type(f).__name__}")
    points = np.array([0.5, 1.0, 2.0])
    places = [f"the point {point:g}" for point in points]
    try:
        returned = _call(f, points)
    except Exception as error:
        alone = any(_works(f, float(x)) or _works(f, np.array([x])) for x in points)
        if isinstance(error, ValueError | ArithmeticError) and not alone:
            return
        raise _explained(f, points, places, error) from error
    _require_real(returned, points, places)


def evaluate(f: Function, nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Values at the nodes, both (j,); real, finite and of their shape, or a RequestError that names the node."""
    places = _Places(nodes, weights)
    try:
        returned = _call(f, nodes)
    except Exception as error:
        raise _explained(f, nodes, places, error) from error
    _require_real(returned, nodes, places)
    bad = np.flatnonzero(~np.isfinite(returned))
    if bad.size:
        i = bad[0]
        raise RequestError(
            f"f is {returned[i]} at {places[i]}; it must be finite on the whole spectrum{_mend(nodes[i])}"
        )
    return returned.astype(np.float64)


def tolerant(f: Function, points: np.ndarray) -> np.ndarray:
    """Values where f need not be defined: NaN where it raises or returns nothing usable."""
    values = np.full(points.shape, np.nan)
    for i, point in enumerate(points):
        try:
            returned = _call(f, np.array([point]))
        except Exception:  # whatever f raises outside the spectrum is no fault
            continue
        if returned.shape == (1,) and returned.dtype.kind in "fiub":
            values[i] = returned[0]
    return values


class _Places:
    """The names of Ritz values in messages, made only when asked for."""

    def __init__(self, nodes: np.ndarray, weights: np.ndarray) -> None:
        self._nodes, self._weights = nodes, weights

    def __getitem__(self, i: int) -> str:
        return f"the Ritz value {self._nodes[i]:.6g} (weight {self._weights[i]:.3g})"


def _call(f: Function, points: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(f(points.copy()))  # a copy: f may work in place


def _works(f: Function, point: Any) -> bool:
    try:
        with np.errstate(all="ignore"):
            f(point)
    except Exception:
        return False
    return True


def _explained(f: Function, points: np.ndarray, places: Any, error: Exception) -> RequestError:
    """What to say about an error of f: that it is not made for arrays, or the first point at which it occurs."""
    said = f"{type(error).__name__}: {error}"
    bad = [i for i, point in enumerate(points) if not _works(f, np.array([point]))]
    if bad and not any(_works(f, float(points[i])) for i in bad):
        at = f"{places[bad[0]]}; it must be defined on the whole spectrum{_mend(points[bad[0]])}"
        return RequestError(f"f raised {said} at {at}")
    return RequestError(f"f raised {said} for an array of {points.size} values, but not for one number; {_ELEMENTWISE}")


def _require_real(returned: np.ndarray, nodes: np.ndarray, places: Any) -> None:
    if returned.shape == nodes.shape and returned.dtype.kind in "fiub":
        return
    at = ""
    if returned.shape == nodes.shape and returned.dtype.kind == "c" and returned.imag.any():
        i = int(returned.imag.astype(bool).argmax())
        at = f", {returned[i]:.6g} at {places[i]}"
    raise RequestError(
        f"f returned an array of shape {returned.shape} and dtype {returned.dtype} for {nodes.size} values{at}; "
        f"{_ELEMENTWISE}"
    )


def _mend(node: float) -> str:
    if node > 0:
        return ""
    return "; if f needs positive eigenvalues, add a shift to A, or ask logdet() for a log-determinant"
