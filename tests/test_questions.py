"""slq/_questions.py: sums over the spectrum of a measure."""

import numpy as np
import pytest

import slq
from slq._questions import spectral_mean
from slq.errors import RequestError
from tests.problems import indefinite, measure_of, problem

EIGENVALUES = indefinite(24)
SHORT = measure_of(EIGENVALUES, num_steps=9)
FULL = measure_of(EIGENVALUES)  # of full order: its only error is that of sampling
PROBES = slq.sphere(0, range(4), None, 24, np.empty(0))
MASSES = np.abs(PROBES @ problem(EIGENVALUES).vectors.T) ** 2 / 24  # of each eigenvalue, as each probe sees it


# Sums


def test_the_trace_of_f_is_the_mean_of_the_quadratic_forms():
    for f in (np.exp, np.abs, lambda t: t**3):
        estimate = spectral_mean(FULL, f, 24.0)  # `trace` without its warnings
        np.testing.assert_allclose(FULL.quadratic_forms(f), 24 * MASSES @ f(EIGENVALUES), rtol=1e-11)
        assert estimate.value == pytest.approx(FULL.quadratic_forms(f).mean(), rel=1e-14)
        variance = (MASSES @ (f(EIGENVALUES) - estimate.value / 24) ** 2).mean()
        assert estimate.stderr == pytest.approx(24 * np.sqrt(2 / 26 * variance / 4), rel=1e-9)
        assert estimate.rounding == pytest.approx(
            4 * 2.0**-52 * 24 * (MASSES @ np.abs(f(EIGENVALUES))).mean(), rel=1e-9
        )
        assert estimate.products == FULL.products
        assert type(estimate.value) is float
    assert FULL.trace().value == pytest.approx(FULL.trace(lambda t: t).value)


def test_the_quadrature_error_is_at_least_the_change_against_four_fifths_of_the_steps():
    estimate, shorter = (spectral_mean(m, np.abs, 24.0) for m in (SHORT, SHORT.truncate(8)))
    assert estimate.truncation >= abs(estimate.value - shorter.value) > 0


def test_gaussian_probes_weigh_with_their_lengths():
    measure = measure_of(EIGENVALUES, probes=slq.gaussian)
    x = slq.gaussian(0, range(4), None, 24, np.empty(0))
    np.testing.assert_allclose(measure.quadratic_forms(np.exp), problem(EIGENVALUES).forms(x, np.exp), rtol=1e-11)
    assert measure.trace(np.ones_like).value == pytest.approx((x**2).sum() / 4)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda _: 1.0, r"f returned an array of shape \(\) and dtype float64 for 36 values; it must act element"),
        (lambda t: t[:-1], r"f returned an array of shape \(35,\)"),
        (lambda t: t[:, None], r"f returned an array of shape \(36, 1\)"),
        (lambda t: t + 0j, r"f returned an array of shape \(36,\) and dtype complex128"),
        (lambda t: np.full(t.shape, "a"), "dtype <U1"),
        (lambda t: t.astype(object), "dtype object"),
        (lambda t: np.log(t), r"f is nan at the Ritz value -\d\.\d+ \(weight 0\.\d+\); it must be finite"),
        (lambda t: t * np.inf, "f is -?inf at the Ritz value"),
    ],
)
def test_functions_are_checked(f, message):
    for question in (SHORT.quadratic_forms, SHORT.trace):
        with pytest.raises(RequestError, match=message):
            question(f)


def test_polynomials_that_the_steps_integrate_have_no_quadrature_error():
    for p in range(18):
        assert SHORT.moment(p).truncation == 0
    assert SHORT.moment(18).truncation > 0
    assert SHORT.trace().truncation == 0
    assert SHORT.truncate(1).trace().truncation == 0


@pytest.mark.parametrize("f", [np.ones_like, lambda t: 0.5 + 0 * t])
def test_where_nothing_varies_the_error_is_rounding(f):
    estimate = FULL.trace(f)
    assert 0 < estimate.rounding < 1e-12
    low, high = estimate.interval()
    assert low < f(EIGENVALUES).sum() < high
    error = float(str(estimate).split(" ± ")[1])
    assert error == pytest.approx(max(estimate.rounding, estimate.stderr), rel=0.1)


def test_functions_may_return_integers_and_booleans():
    assert FULL.trace(lambda t: t > 0).value == pytest.approx(FULL.count(low=1e-9).value, rel=1e-12)
    assert FULL.trace(lambda t: np.sign(t).astype(int)).value == pytest.approx(FULL.trace(np.sign).value)


def test_moments_of_given_vectors_are_those_of_their_measure():
    x = np.random.default_rng(0).normal(size=(3, 24))
    x /= np.linalg.norm(x, axis=1)[:, None]
    measure = slq.spectral_measure(problem(EIGENVALUES).matrix, probes=x, num_steps=9)
    assert measure.moment(0).value == pytest.approx(1)
    assert measure.moment(1).value == pytest.approx(problem(EIGENVALUES).forms(x, lambda t: t).mean())
