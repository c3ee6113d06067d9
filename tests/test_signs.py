"""slq/_signs.py: the signs of derivatives, known or declared."""

import numpy as np
import pytest
from scipy import special

from slq._signs import declared, known
from slq.errors import RequestError

KNOWN = [
    np.log, np.log2, np.log10, np.log1p, np.sqrt, np.cbrt, np.reciprocal, np.exp, np.exp2, np.expm1, special.entr,
]  # fmt: skip


@pytest.mark.parametrize("f", KNOWN, ids=lambda f: f.__name__)
def test_known_signs_are_those_of_differences(f):
    signs = known(f)
    assert declared(f, signs[:2], 0.5, 4.0)[:2] == signs[:2]
    for even, odd in ((-signs.even, signs.odd), (signs.even, -signs.odd)):
        with pytest.raises(RequestError, match="differences of f"):
            declared(f, (even, odd), 0.5, 4.0)


def test_functions_that_only_look_alike_are_not_known():
    assert known(lambda t: np.log(t)) is None
    assert known(np.abs) is None
    assert known(np.sin) is None


@pytest.mark.parametrize(
    ("f", "signs"),
    [
        (lambda t: t**-0.5, (1, -1)),
        (lambda t: t**0.3, (-1, 1)),
        (lambda t: t * np.log(t), (1, -1)),
        (lambda t: np.exp(-t), (1, -1)),
        (lambda t: -np.exp(t), (-1, -1)),
        (lambda t: np.log(t + 7.0), [-1, 1]),
        (lambda t: t**1.5, (1, -1)),
        (lambda t: 3 * t + 1, (1, 1)),  # zero has either sign
        (lambda t: 0 * t + 1e9, (-1, 1)),
    ],
)
def test_right_signs_pass(f, signs):
    for low, high in ((1e-3, 1.0), (1e-6, 1e3), (0.5, 0.5001), (2.0, 2.0)):
        assert declared(f, signs, low, high)[:2] == tuple(signs)


@pytest.mark.parametrize(
    ("f", "signs", "order"),
    [
        (np.abs, (-1, 1), 2),
        (np.sin, (-1, 1), 2),
        (lambda t: t**3, (-1, 1), 2),
        (lambda t: t**3, (1, 1), 2),
        (np.exp, (1, -1), 3),
        (lambda t: t**2, (-1, 1), 2),
    ],
)
def test_wrong_signs_are_found(f, signs, order):
    with pytest.raises(
        RequestError, match=rf"says that derivative {order} of f has the sign .*differences of f around .*leave signs"
    ):
        declared(f, signs, -2.0, 3.0)


@pytest.mark.parametrize(
    "derivatives", ["-+", (1,), (1, 0), (1.0, -1.0), (1, -1, 1), 1, (True, None), np.array([1, 1])]
)
def test_declarations_are_checked(derivatives):
    with pytest.raises(RequestError, match=r"signs= expects the signs .*\(1, -1\) as of 1/t.*got"):
        declared(np.exp, derivatives, 0.0, 1.0)
