"""slq/_logdet.py: logarithms of what is positive, zero, or neither within rounding."""

import pickle
import warnings

import numpy as np
import pytest

import slq
from slq.errors import NotPositiveDefiniteError, PrecisionWarning, RequestError, SingularError
from tests.problems import indefinite, measure_of, problem, uniform

SINGULAR = np.append(uniform(23), 0.0)


def ritz(nodes, weights, *, eps=2.0**-52, n=1000):
    """A measure of one probe with these nodes and weights, by the Lanczos process on a diagonal matrix."""
    A = np.diag(np.asarray(nodes, dtype=float))
    run = slq.lanczos(A, np.sqrt(np.asarray(weights, dtype=float))[None], len(nodes))
    beta = np.append(run.beta[:, :-1], [[1e-3]], axis=1)  # not ended: as if of a larger operator
    return slq.SpectralMeasure(run.alpha, beta, n, sampler="sphere", eps=eps)


def test_errors_carry_the_ritz_value_through_a_pickle():
    with pytest.raises(NotPositiveDefiniteError) as found:
        measure_of(indefinite(24)).logdet()
    again = pickle.loads(pickle.dumps(found.value))
    assert (again.value, again.weight, again.bound) == (found.value.value, found.value.weight, found.value.bound)
    assert again.value == pytest.approx(-1.0)
    assert str(again) == str(found.value)


def test_log_zero_may_be_wanted():
    with pytest.raises(SingularError, match=r"pass lower= .* or allow_singular=True for log 0 = -inf") as found:
        measure_of(SINGULAR).logdet()
    assert abs(found.value.value) <= found.value.bound
    estimate = measure_of(SINGULAR).logdet(allow_singular=True)
    assert estimate.value == -np.inf
    assert estimate.interval() == (-np.inf, -np.inf)
    assert estimate.converged
    assert str(estimate) == "-inf"
    assert float(measure_of(np.zeros(5)).logdet(allow_singular=True)) == -np.inf
    one = slq.spectral_measure(problem(SINGULAR).matrix, num_probes=1, num_steps=24, probes=slq.rademacher)
    assert one.logdet(allow_singular=True).interval() == (-np.inf, -np.inf)


def test_allowing_zero_changes_nothing_else():
    measure = measure_of(uniform(24), num_steps=9)
    assert measure.logdet(allow_singular=True) == measure.logdet()
    with pytest.raises(NotPositiveDefiniteError, match="a Ritz value is -"):
        measure_of(indefinite(24)).logdet(allow_singular=True)


# Lower bounds


@pytest.mark.parametrize("lower", [1e-9, 0.5, 1.0])
def test_a_bound_that_no_ritz_value_meets_changes_nothing(lower):
    measure = measure_of(uniform(24), num_steps=9)
    assert measure.logdet(lower=lower).value == pytest.approx(measure.logdet().value, rel=1e-14)


def test_rounding_below_the_bound_is_moved_to_it_in_silence():
    # Ritz values of the bound itself come out a rounding below it: nobody needs to hear of that.
    estimate = slq.spectral_measure(problem(np.ones(24)).matrix, num_probes=4, num_steps=4).logdet(lower=1.0)
    assert estimate.value == pytest.approx(0, abs=1e-12)
    assert estimate.rounding >= abs(estimate.value)


def test_single_precision_loses_small_eigenvalues_and_the_bound_mends_it():
    exact = problem(np.append(np.full(150, 1e-7), np.linspace(0.01, 1.0, 150)))  # rounding in float32: 1.2e-7
    measure = slq.spectral_measure(exact.matrix.astype(np.float32), num_probes=10, num_steps=80)
    with pytest.raises(NotPositiveDefiniteError):  # Singular, or negative
        measure.logdet()
    with pytest.warns(PrecisionWarning, match=r"\d+ Ritz values, down to \S+, were moved to lower=1e-07"):
        estimate = measure.logdet(lower=1e-7)
    low, high = estimate.interval()
    assert low <= np.log(exact.eigenvalues).sum() <= high
    # A precise run of the same probes knows what the moved nodes stand for.
    precise = slq.spectral_measure(exact.matrix, num_probes=10, num_steps=80).logdet()
    assert abs(estimate.value - precise.value) <= estimate.rounding + estimate.truncation + precise.truncation


def test_negative_ritz_values_are_moved_and_never_reflected():
    measure = ritz([-1e-7, 0.5, 1.0], [0.25, 0.5, 0.25], eps=2.0**-23)
    with pytest.warns(PrecisionWarning, match=r"1 Ritz values, down to -1e-07, were moved to lower=1e-06"):
        estimate = measure.logdet(lower=1e-6)
    assert estimate.value == pytest.approx(1000 * (0.25 * np.log(1e-6) + 0.5 * np.log(0.5)), rel=1e-6)
    # What stands behind it lies between the bound and what rounding may have moved down to it.
    assert estimate.rounding >= 1000 * 0.25 * np.log(measure.rounding / 1e-6) > 0


def test_a_mass_that_the_weights_do_not_know_is_moved_too():
    # 8·m·eps = 5e-15 of three weights in float64: 1e-16 below the bound may be anything.
    measure = ritz([-0.1, 0.5, 1.0], [1e-16, 0.5, 0.5])
    assert measure.nodes.min() < -0.09
    with pytest.warns(PrecisionWarning, match="down to -0.1, were moved"):
        estimate = measure.logdet(lower=0.4)
    assert estimate.value == pytest.approx(500 * np.log(0.5), rel=1e-9)


def test_more_than_rounding_below_the_bound_is_an_error():
    measure = ritz([-0.01, 0.5, 1.0], [0.25, 0.5, 0.25])
    with pytest.raises(
        NotPositiveDefiniteError, match=r"lower=0\.1 is said to be below all .* Ritz value -0\.01 \(weight 0\.25"
    ) as found:
        measure.logdet(lower=0.1)
    assert found.value.value == pytest.approx(-0.01)
    assert found.value.weight == pytest.approx(0.25)
    with pytest.raises(NotPositiveDefiniteError):  # an eigenvalue zero contradicts a positive bound as well
        measure_of(SINGULAR).logdet(lower=0.1)


def test_a_bound_above_positive_ritz_values_is_no_bound():
    with pytest.raises(RequestError, match=r"lower=1\.5 is said to be below .*, but the Ritz value 1.*use a smaller b"):
        measure_of(uniform(24), num_steps=9).logdet(lower=1.5)


@pytest.mark.parametrize("lower", [0, -1.0, np.nan, np.inf, "1", True, np.ones(2)])
def test_bounds_are_checked(lower):
    with pytest.raises(RequestError, match="lower= expects a positive number below all eigenvalues, got"):
        measure_of(uniform(24), num_steps=9).logdet(lower=lower)


def test_no_logarithm_is_ever_nan():
    rng = np.random.default_rng(0)
    for _ in range(100):
        nodes = np.sort(rng.normal(size=3)) * 10.0 ** rng.integers(-9, 1)
        measure = ritz(nodes, rng.dirichlet(np.ones(3)), eps=float(10.0 ** rng.integers(-16, -3)))
        for options in ({}, {"lower": 10.0 ** rng.integers(-9, 1)}, {"allow_singular": True}):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    estimate = measure.logdet(**options)
                except (NotPositiveDefiniteError, RequestError):
                    continue
            assert not np.isnan([estimate.value, *estimate.interval()]).any()
