"""Floor 1: functions whose derivatives keep their signs, which tells on which side of the truth a rule lies."""

from typing import Any, NamedTuple

import numpy as np
from scipy import special

from slq._functions import Function
from slq.errors import RequestError

__all__ = ["LOG", "Signs", "declared", "known"]


class Signs(NamedTuple):
    """Signs of the derivatives of a function, from the second on.

    Attributes
    ----------
    even, odd : int
        +1 or −1.
    above : float
        Where the function has these signs: from here on.
    """

    even: int
    odd: int
    above: float = -np.inf


LOG = Signs(-1, +1, 0.0)
_KNOWN: tuple[tuple[Function, Signs], ...] = (
    *((f, LOG) for f in (np.log, np.log2, np.log10, np.sqrt, np.cbrt, special.entr)),
    (np.log1p, Signs(-1, +1, -1.0)),
    (np.reciprocal, Signs(+1, -1, 0.0)),
    *((f, Signs(+1, +1)) for f in (np.exp, np.exp2, np.expm1)),
)


def known(f: Function) -> Signs | None:
    """The signs of NumPy's and SciPy's functions; None of any other."""
    return next((signs for function, signs in _KNOWN if f is function), None)


def declared(f: Function, pair: Any, low: float, high: float) -> Signs:
    """The signs that a user says f has, compared with second and third differences of f over [low, high]."""
    if not _is_pair(pair):
        raise RequestError(
            "signs= expects the signs of the even and of the odd derivatives of f, from the second on, as a pair "
            f"of +1 and -1: (-1, 1) as of a logarithm, (1, -1) as of 1/t, (1, 1) as of exp; got {pair!r}"
        )
    signs = Signs(int(pair[0]), int(pair[1]))
    for order, sign in ((2, signs.even), (3, signs.odd)):
        at = _contradicts(f, order, sign, low, high)
        if at is not None:
            raise RequestError(
                f"signs={tuple(signs[:2])} says that derivative {order} of f has the sign {sign:+d} on the "
                f"spectrum, but differences of f around {at:.6g} have the other sign; give the signs that all "
                "derivatives from the second on have (even, odd), or leave signs= out"
            )
    return signs


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and all(isinstance(s, int | np.integer) and s in (-1, 1) for s in pair)
    )


def _contradicts(f: Function, order: int, sign: int, low: float, high: float) -> float | None:
    """Where a divided difference of f has the other sign by more than rounding; None if nowhere."""
    x = (low + high) / 2 - (high - low) / 2 * np.cos(np.pi * (np.arange(9) + 0.5) / 9)
    with np.errstate(all="ignore"):
        values = np.asarray(f(x.copy()), dtype=np.float64)
    if high <= low or values.shape != x.shape:
        return None
    for i in range(x.size - order):
        if not np.isfinite(values[i : i + order + 1]).all():
            continue
        at = x[i : i + order + 1]
        apart = at[:, None] - at + np.eye(order + 1)
        terms = values[i : i + order + 1] / apart.prod(axis=1)
        # Rounding of f and of the products: 4 (order + 1) eps of each term is more than both.
        if sign * terms.sum() < -4 * (order + 1) * 2.0**-52 * np.abs(terms).sum():
            return float(at.mean())
    return None
