"""slq/_functions.py: functions that users give, and what is said when they are not what a spectrum needs."""

import math
import warnings

import numpy as np
import pytest

from slq._functions import evaluate, tolerant, try_function
from slq.errors import RequestError
from tests.problems import indefinite, measure_of, uniform

NODES = np.array([-0.5, 0.25, 2.0])
WEIGHTS = np.array([0.125, 0.5, 0.375])


def refuse_small(t):
    """Raises where an element is below zero, as a function with a domain may."""
    if (t < 0).any():
        raise ValueError("outside the domain")
    return np.sqrt(t)


def test_values_are_those_of_the_function():
    for f in (np.exp, np.sign, lambda t: t > 0, lambda t: t.astype(np.float32)):
        values = evaluate(f, NODES, WEIGHTS)
        np.testing.assert_array_equal(values, f(NODES))
        assert values.dtype == np.float64


def test_a_function_may_work_in_place():
    def shift(t):
        t += 1.0
        return t

    nodes = NODES.copy()
    np.testing.assert_array_equal(evaluate(shift, nodes, WEIGHTS), NODES + 1)
    np.testing.assert_array_equal(nodes, NODES)


@pytest.mark.parametrize(
    ("f", "message", "cause"),
    [
        (
            math.exp,
            r"f raised TypeError: .* for an array of 3 values, but not for one number; .*np\.vectorize",
            TypeError,
        ),
        (lambda t: t if t > 0 else -t, r"f raised ValueError: The truth value .* for an array of 3 values", ValueError),
        (
            refuse_small,
            r"f raised ValueError: outside the domain at the Ritz value -0\.5 \(weight 0\.125\)",
            ValueError,
        ),
        (lambda _: 1 / 0, r"f raised ZeroDivisionError: .* at the Ritz value -0\.5", ZeroDivisionError),
        (lambda t: t.logarithm(), r"f raised AttributeError: .* at the Ritz value -0\.5", AttributeError),
        (np.log, r"f is nan at the Ritz value -0\.5 \(weight 0\.125\); it must be finite on the whole spectrum", None),
        (lambda t: 1 / (t - 2), r"f is -?inf at the Ritz value 2 \(weight 0\.375\); .* spectrum$", None),
        (np.emath.sqrt, r"shape \(3,\) and dtype complex128 for 3 values, 0\+0\.707107j at the Ritz value -0\.5", None),
        (lambda t: t + 0j, r"dtype complex128 for 3 values; it must act element by element", None),
        (lambda t: t.sum(), r"shape \(\) and dtype float64 for 3 values; it must act element by element", None),
        (lambda _: None, r"shape \(\) and dtype object", None),
    ],
)
def test_errors_name_the_node_and_chain_the_cause(f, message, cause):
    with pytest.raises(RequestError, match=message) as found:
        evaluate(f, NODES, WEIGHTS)
    assert (cause is None) == (found.value.__cause__ is None)
    assert cause is None or isinstance(found.value.__cause__, cause)


def test_where_a_function_needs_positive_eigenvalues_the_mend_is_named():
    measure = measure_of(indefinite(24), num_steps=9)
    for f in (np.log, np.sqrt, lambda t: t**0.5):
        with pytest.raises(RequestError, match=r"f is nan at the Ritz value -.*add a shift to A, or ask logdet\(\)"):
            measure.trace(f)
    measure_of(indefinite(24) + 1.5, num_steps=9).trace(np.log)  # the mend
    with pytest.raises(RequestError, match=r"f raised TypeError: .*np\.log, not math\.log"):
        measure_of(uniform(24), num_steps=9).trace(math.log)
    with pytest.raises(RequestError, match=r"f raised TypeError: .*np\.log, not math\.log"):
        measure.trace(math.log)  # has no value at some points besides
    np.testing.assert_allclose(
        measure_of(uniform(24), num_steps=9).trace(np.vectorize(math.log)).value,  # that mend too
        measure_of(uniform(24), num_steps=9).trace(np.log).value,
    )


@pytest.mark.parametrize(
    "f",
    [
        np.log,
        lambda t: t**-0.5,
        lambda t: np.full(t.shape, np.nan),
        lambda t: np.where(t > 1, np.inf, t),
        lambda t: refuse_small(t - 3),  # the three points are not those of the spectrum
        lambda t: t > 0,
        np.vectorize(math.exp),
    ],
)
def test_a_trial_does_not_judge_values(f):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try_function(f)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (math.log, "f raised TypeError: .* for an array of 3 values, but not for one number"),
        (lambda t: t if t > 0 else 0, "f raised ValueError: The truth value .* for an array of 3 values"),
        (lambda t: t.logarithm(), "f raised AttributeError: .* at the point 0.5; it must be defined"),
        (lambda _: undefined, "f raised NameError: .* at the point 0.5"),  # noqa: F821
        (lambda _: 1.0, r"shape \(\) and dtype float64 for 3 values"),
        (lambda t: t[:-1], r"shape \(2,\)"),
        (lambda t: t * 1j, r"dtype complex128 for 3 values, 0\+0.5j at the point 0.5"),
        ("log", "f expects a function of an array of eigenvalues, got str"),
        (None, "f expects a function of an array of eigenvalues, got NoneType"),
    ],
)
def test_a_trial_finds_what_would_fail_on_any_spectrum(f, message):
    with pytest.raises(RequestError, match=message):
        try_function(f)


def test_outside_the_spectrum_a_function_may_do_anything():
    points = np.array([0.0, 1.0, -1.0])
    np.testing.assert_array_equal(tolerant(np.log, points), [-np.inf, 0, np.nan])
    np.testing.assert_array_equal(tolerant(refuse_small, points), [0, 1, np.nan])
    for f in (lambda _: 1 / 0, lambda t: t * 1j, lambda _: 3.0, lambda _: None):
        assert np.isnan(tolerant(f, points)).all()
