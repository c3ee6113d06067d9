"""slq/_adaptive.py and slq/_sums.py: sums to a tolerance."""

import warnings

import numpy as np
import pytest

import slq
from slq import _adaptive
from slq.errors import (
    NotPositiveDefiniteError,
    PrecisionWarning,
    RequestError,
    SingularError,
    SlqError,
    ToleranceWarning,
)
from tests.problems import hessian_like, problem, uniform


def diagonal(values, **options):
    """An operator of these eigenvalues; sphere probes do not see its basis."""
    values = np.asarray(values, dtype=float)
    return slq.aslinearoperator(lambda x: x * values, like=np.zeros(len(values)), batched=True, **options)


def no_exact(monkeypatch):
    monkeypatch.setattr(_adaptive, "is_feasible", lambda _: False)


CASES = {
    "uniform": (uniform(1000), np.log, 1e-2),
    "Hessian-like": (hessian_like(1000), np.log, 2e-2),
    "two points": (np.where(np.arange(1000) % 2, 1.0, 5.0), np.log, 1e-2),
    "one outlier": (np.append(np.linspace(2.0, 2.1, 999), 2e13), np.log, 4e-2),
    "of both signs": (np.linspace(-1.0, 2.0, 1000), np.exp, 1e-2),
}


@pytest.mark.parametrize(
    ("name", "sampler"),
    [*((name, slq.sphere) for name in CASES), ("uniform", slq.gaussian)],
    ids=[*CASES, "uniform, gaussian"],
)
def test_the_error_is_within_the_tolerance_as_often_as_asked(monkeypatch, name, sampler):
    no_exact(monkeypatch)
    spectrum, f, rtol = CASES[name]
    rtol = rtol if sampler is slq.sphere else 3 * rtol  # Gaussian probes vary more, and tens of them are enough here
    A, exact = diagonal(spectrum), f(spectrum).sum()
    seeds = range(100)
    found = [slq.spectral_sum(A, f, rtol=rtol, rng=s, probes=sampler, check=False) for s in seeds]
    assert all(e.converged for e in found)
    hits = np.mean([abs(e.value - exact) <= rtol * abs(exact) for e in found])
    # Of 100 runs with the nominal 95 %, 89 or more in 99.6 of 100 (binomial).
    assert hits >= 0.89


def test_estimates_are_those_of_their_probes_and_count_the_products(monkeypatch):
    no_exact(monkeypatch)
    A = diagonal(uniform(1000))
    estimate = slq.logdet(A, rtol=3e-3, rng=5, check=False)
    # The first probe found that six steps are enough.
    measure = slq.spectral_measure(A, num_probes=estimate.products // 6, num_steps=6, rng=5, check=False)
    assert measure.products == estimate.products
    assert measure.logdet().value == pytest.approx(estimate.value, rel=1e-13)
    low, high = estimate.interval(0.95)
    assert (high - low) / 2 <= 3e-3 * abs(estimate.value)


def test_identity_and_zero_need_one_product():
    for value in (1.0, 4.0):
        estimate = slq.spectral_sum(value * np.eye(30), np.sqrt, rtol=1e-6)
        assert estimate.value == pytest.approx(30 * np.sqrt(value), rel=1e-14)
        assert (estimate.products, estimate.converged) == (1, True)
    zero = slq.spectral_sum(np.zeros((30, 30)), lambda t: t, atol=1e-6)
    assert (zero.value, zero.products, zero.converged) == (0.0, 1, True)


def test_where_products_with_all_unit_vectors_are_cheaper_they_are_made(xp):
    A = problem(hessian_like(40))
    estimate = slq.logdet(xp.asarray(A.matrix), rtol=1e-6, check=False)
    # The eigenvalues' error is a few roundings of the norm, 100, relative to the smallest, 1e-3.
    assert estimate.value == pytest.approx(np.log(A.eigenvalues).sum(), rel=1e-9)
    assert estimate.stderr == estimate.truncation == 0.0
    assert 40 < estimate.products < 60
    assert estimate.converged


def test_libraries_and_batch_sizes_agree(monkeypatch, xp):
    no_exact(monkeypatch)
    A = problem(uniform(48))
    expected = slq.spectral_sum(A.matrix, np.sqrt, rtol=1e-2, rng=1, check=False)
    for batch_size in (None, 2):
        found = slq.spectral_sum(xp.asarray(A.matrix), np.sqrt, rtol=1e-2, rng=1, check=False, batch_size=batch_size)
        assert found.value == pytest.approx(expected.value, rel=1e-12)
        assert found.products == expected.products


def test_diagonals_under_rademacher_probes_have_no_variance_and_rounding_does_not_matter(monkeypatch):
    no_exact(monkeypatch)
    estimate = slq.spectral_sum(diagonal(uniform(100)), lambda t: t, rtol=1e-9, probes=slq.rademacher, check=False)
    assert estimate.value == pytest.approx(uniform(100).sum(), rel=1e-12)
    assert estimate.converged


def test_negative_sums_have_a_relative_tolerance(monkeypatch):
    no_exact(monkeypatch)
    estimate = slq.spectral_sum(diagonal(-uniform(1000)), lambda t: t, rtol=2e-2, check=False)
    assert estimate.converged
    assert estimate.value == pytest.approx(-uniform(1000).sum(), rel=5e-2)


def test_a_sum_near_zero_is_told_to_take_atol(monkeypatch):
    no_exact(monkeypatch)
    A = diagonal(np.linspace(-1.0, 1.0, 1000))
    with pytest.warns(ToleranceWarning, match="give an atol=, as the value may be zero"):
        estimate = slq.spectral_sum(A, lambda t: t, rtol=1e-2, check=False)
    assert not estimate.converged
    assert estimate.products < 1000  # the forecast was enough
    assert slq.spectral_sum(A, lambda t: t, atol=20.0, check=False).converged


def test_a_budget_is_spent_and_not_more(monkeypatch):
    no_exact(monkeypatch)
    A = diagonal(hessian_like(1000))
    with pytest.warns(
        ToleranceWarning, match=r"2000 products are spent; about .* would be needed: raise max_products="
    ):
        estimate = slq.logdet(A, rtol=1e-4, max_products=2000, check=False)
    assert not estimate.converged
    assert 1900 < estimate.products <= 2000
    assert "tolerance not met" in str(estimate)
    low, high = estimate.interval(0.95)
    assert low < np.log(hessian_like(1000)).sum() < high


def test_without_a_budget_a_hopeless_search_ends_at_its_forecast(monkeypatch):
    no_exact(monkeypatch)
    with pytest.warns(ToleranceWarning, match="more than the 100000 that are spent unasked; pass max_products="):
        estimate = slq.logdet(diagonal(hessian_like(1000)), rtol=1e-6, check=False)
    assert estimate.products < 1000


@pytest.mark.filterwarnings("ignore::slq.errors.QuadratureWarning", "ignore::slq.errors.HeavyTailWarning")
def test_too_few_steps_are_told(monkeypatch):
    no_exact(monkeypatch)
    with pytest.warns(ToleranceWarning, match=r"10 steps leave a quadrature error of .*; allow more by num_steps="):
        estimate = slq.logdet(diagonal(hessian_like(1000)), rtol=1e-2, num_steps=10, check=False)
    assert not estimate.converged


def test_rounding_is_told():
    with pytest.warns(ToleranceWarning, match="Rounding alone is .*; use products of higher precision"):
        estimate = slq.spectral_sum(problem(uniform(24)).matrix, np.sqrt, rtol=1e-17)
    assert not estimate.converged


def test_num_probes_is_the_least_number(monkeypatch):
    no_exact(monkeypatch)
    A = diagonal(uniform(1000))
    few = slq.logdet(A, rtol=0.1, check=False)
    many = slq.logdet(A, rtol=0.1, num_probes=6, check=False)
    assert many.products == 6 * few.products


def test_log_determinants_keep_their_options_and_errors():
    A = np.diag([1.0, 2.0, 0.0])
    with pytest.raises(SingularError):
        slq.logdet(A, rtol=1e-2)
    assert slq.logdet(A, rtol=1e-2, allow_singular=True).value == -np.inf
    assert slq.logdet(np.diag([1.0, 2.0, 3.0]), rtol=1e-6, lower=0.5).value == pytest.approx(np.log(6), rel=1e-12)
    with pytest.raises(NotPositiveDefiniteError):
        slq.logdet(-np.eye(3), rtol=1e-2)


def test_progress_tells_products_and_forecast(monkeypatch):
    no_exact(monkeypatch)
    told = []
    A = diagonal(uniform(1000))
    estimate = slq.logdet(A, rtol=3e-3, progress=lambda *pair: told.append(pair), check=False)
    done = [d for d, _ in told]
    assert done == sorted(done)
    assert all(d <= total for d, total in told)
    assert told[-1] == (estimate.products, estimate.products)
    # Half way the forecast rests on tens of thousands of coordinates.
    assert told[len(told) // 2][1] == pytest.approx(estimate.products, rel=0.5)


def test_given_vectors_and_dependent_probes_are_refused():
    with pytest.raises(RequestError, match="rtol= and atol= need random probes that can be added to"):
        slq.spectral_sum(np.eye(8), np.exp, rtol=1e-2, probes=np.ones((2, 8)))

    def same(seed, probe_ids, index, n, like):
        return np.ones((len(probe_ids), n)) * np.where(np.arange(n) % 3, 1.0, -1.0)

    A = diagonal(uniform(200))
    with (
        pytest.warns(slq.errors.DependentProbesWarning),
        pytest.raises(RequestError, match="a tolerance needs probes that are independent"),
    ):
        slq.spectral_sum(A, np.exp, rtol=1e-6, probes=same, max_products=150)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": -1.0}, "rtol= expects"),
        ({"rtol": 0.1, "confidence": 2}, "confidence= expects"),
        ({"rtol": 0.1, "max_products": 0}, "max_products= expects an integer >= 1"),
        ({"rtol": 0.1, "num_probes": 0}, "num_probes= expects an integer >= 1"),
        ({"rtol": 0.1, "num_steps": 0}, "num_steps= expects an integer >= 1"),
        ({"rtol": 0.1, "first_probe": -1}, "first_probe= expects an integer >= 0"),
        ({"rtol": 0.1, "batch_size": 0}, "batch_size= expects an integer >= 1"),
        ({"max_products": 0}, "max_products= expects an integer >= 1"),
        ({"max_products": 9, "probes": np.eye(8)}, "max_products= would drop some of the vectors"),
    ],
)
def test_what_is_out_of_range_is_refused(options, message):
    with pytest.raises(SlqError, match=message):
        slq.logdet(np.eye(8), **options)


def test_without_a_tolerance_a_budget_cuts_probes_and_then_steps():
    A = diagonal(uniform(1000))
    for limit, products in ((1000, 40), (35, 32), (5, 5)):
        assert slq.spectral_sum(A, np.exp, num_probes=5, num_steps=8, max_products=limit).products == products


def test_float32_meets_what_it_can(xp):
    A = xp.asarray(problem(uniform(48)).matrix, "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        estimate = slq.logdet(A, rtol=1e-3, check=False)
    assert estimate.converged
    assert estimate.value == pytest.approx(np.log(uniform(48)).sum(), rel=1e-3)
