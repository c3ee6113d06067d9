"""Derivatives of functions of the spectrum: the known ones, and differences."""

import numpy as np
import pytest

from slq._derivatives import _KNOWN, difference, slopes
from slq.errors import PrecisionWarning, RequestError

POINTS = np.logspace(-10, 2, 60)
AROUND_ZERO = np.concatenate([-POINTS[::-1], [0.0], POINTS])
CASES = {
    "log": (np.log, lambda t: 1 / t, POINTS),
    "square root": (np.sqrt, lambda t: 0.5 / np.sqrt(t), POINTS),
    "exponential": (lambda t: np.exp(-t / 20), lambda t: -np.exp(-t / 20) / 20, AROUND_ZERO),
    "pole": (lambda t: 1 / (t + 0.1), lambda t: -1 / (t + 0.1) ** 2, POINTS),
    "cube": (lambda t: t**3, lambda t: 3 * t**2, AROUND_ZERO),
    "kink": (np.abs, np.sign, AROUND_ZERO[AROUND_ZERO != 0]),
    "waves": (lambda t: np.sin(t / 5), lambda t: np.cos(t / 5) / 5, AROUND_ZERO),
}


@pytest.mark.parametrize("case", CASES)
def test_differences_have_eleven_digits_and_say_so(case):
    f, derivative, points = CASES[case]
    found, error = difference(f, points)
    exact = derivative(points)
    # Measured over twelve decades: at most 1.8e-12 of each value, and estimates within 20 times that.
    assert (np.abs(found - exact) <= 1e-11 * np.abs(exact).max()).all()
    assert np.mean(np.abs(found - exact) / np.maximum(np.abs(exact), 1e-12)) < 1e-11
    assert (np.abs(found - exact) <= error + 4e-16 * np.abs(exact)).all()


@pytest.mark.parametrize("f", _KNOWN, ids=lambda f: f.__name__)
def test_known_derivatives_are_those_of_differences(f):
    points = np.linspace(0.3, 2.0, 9)
    found, _ = difference(f, points)
    np.testing.assert_allclose(slopes(f, None)(points, np.ones(9)), found, rtol=1e-10, atol=1e-12)  # as above


def test_a_function_that_raises_outside_its_domain_is_asked_inside():
    def picky(t):
        if (t <= 0).any():
            raise ValueError("no logarithm")
        return np.log(t)

    points = np.array([1e-3, 1.0])
    np.testing.assert_allclose(slopes(picky, None)(points, np.ones(2)), 1 / points, rtol=1e-11)  # as above


def test_a_function_that_is_finite_at_a_point_only_cannot_be_differentiated():
    def isolated(t):
        return np.where(t == 1.0, 0.0, np.nan)

    with pytest.raises(RequestError, match=r"Ritz value 1: it is not finite around it; pass derivative="):
        slopes(isolated, None)(np.array([1.0]), np.ones(1))


def test_a_rough_function_warns():
    rough = np.random.default_rng(0)
    with pytest.warns(PrecisionWarning, match="pass derivative="):
        slopes(lambda t: t + 1e-3 * rough.normal(size=t.shape), None)(np.array([1.0, 2.0]), np.ones(2))


def test_a_given_derivative_is_looked_at_as_f_is():
    with pytest.raises(RequestError, match="derivative of f cannot be used: f returned an array of shape"):
        slopes(np.log, lambda t: t.sum())
    with pytest.raises(RequestError, match="derivative of f cannot be used: f is inf at the Ritz value 0"):
        slopes(np.sqrt, None)(np.array([0.0, 1.0]), np.ones(2))
