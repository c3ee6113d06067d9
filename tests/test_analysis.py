"""slq/analysis.py: the quantities of Ghorbani, Krishnan and Xiao (2019)."""

import numpy as np
import pytest

import slq
from slq import analysis
from slq.errors import RequestError
from tests.problems import indefinite, measure_of, problem, uniform


def test_the_outlier_ratio_is_that_of_the_first_to_the_kth_largest():
    values = [1.0, 10.0, -20.0, 4.0, 2.0]
    assert analysis.outlier_ratio(values, 1) == 1.0
    assert analysis.outlier_ratio(values, 2) == 2.5
    assert analysis.outlier_ratio(np.array(values), 5) == -0.5
    assert type(analysis.outlier_ratio(values, 3)) is float


@pytest.mark.parametrize("K", [0, 4, -1])
def test_the_outlier_ratio_needs_k_values(K):
    with pytest.raises(RequestError, match="outlier_ratio expects 1 <= K <= 3 eigenvalues, got K="):
        analysis.outlier_ratio([1.0, 2.0, 3.0], K)


def test_the_outlier_ratio_needs_a_denominator():
    with pytest.raises(RequestError, match="the eigenvalue number 2 is zero, so the ratio does not exist"):
        analysis.outlier_ratio([1.0, 0.0], 2)


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_the_gradient_concentration_is_a_share_of_the_squared_norm(xp, dtype):
    vectors = problem(uniform(24), dtype=complex if "complex" in dtype else float).vectors
    g = 3 * vectors[0] + 4 * vectors[1] + 12 * vectors[5]
    # To rounding of 24 products, whatever the length of the gradient.
    tolerance = 100 * float(np.finfo(dtype).eps)
    for scale in (1.0, 1e-12):
        arrays = xp.asarray(vectors, dtype), xp.asarray(scale * g, dtype)
        for K, share in ((1, 9), (2, 25), (5, 25), (6, 169)):
            assert analysis.gradient_concentration(*arrays, K) == pytest.approx(share / 169, abs=tolerance)
    assert analysis.gradient_concentration(vectors.tolist(), g.tolist(), 6) == pytest.approx(1)


def test_a_random_gradient_concentrates_by_chance_only():
    vectors = problem(uniform(100)).vectors
    rng = np.random.default_rng(0)
    shares = [analysis.gradient_concentration(vectors, rng.normal(size=100), 10) for _ in range(400)]
    # Beta(5, 45): mean K/n, standard deviation .042; the mean of 400 is within 5 of its own.
    assert np.mean(shares) == pytest.approx(0.1, abs=5 * 0.042 / 20)


@pytest.mark.parametrize(("vectors", "g"), [(np.eye(3), np.ones(4)), (np.ones(3), np.ones(3)), (np.eye(3), np.eye(3))])
def test_shapes_are_checked(vectors, g):
    with pytest.raises(RequestError, match=r"expected vectors \(r, n\) and g \(n,\), got shapes"):
        analysis.gradient_concentration(vectors, g, 1)


@pytest.mark.parametrize("K", [0, 3])
def test_the_number_of_vectors_is_checked(K):
    with pytest.raises(RequestError, match="gradient_concentration expects 1 <= K <= 2 eigenvectors, got K="):
        analysis.gradient_concentration(np.eye(3)[:2], np.ones(3), K)


def test_a_zero_gradient_has_no_share():
    with pytest.raises(RequestError, match="the gradient is zero: its share in a subspace does not exist"):
        analysis.gradient_concentration(np.eye(3), np.zeros(3), 1)


@pytest.mark.parametrize("p", [1, 2, 0.5])
def test_the_negative_energy_is_a_share_of_the_moments(p):
    eigenvalues = indefinite(60)
    measure = measure_of(eigenvalues, num_probes=8)
    x = slq.sphere(0, range(8), None, 60, np.empty(0))
    exact = problem(eigenvalues)
    negative, whole = (
        exact.forms(x, f).mean() for f in (lambda t: np.where(t < 0, np.abs(t) ** p, 0), lambda t: np.abs(t) ** p)
    )
    estimate = analysis.negative_energy(measure, p)
    assert estimate.value == pytest.approx(negative / whole, rel=1e-10)
    assert estimate.truncation == 0
    assert 0 < estimate.stderr < estimate.value
    assert estimate.bounds == (0.0, 1.0)


def test_the_error_of_the_negative_energy_is_that_of_a_ratio():
    eigenvalues = indefinite(60)
    truth = np.abs(eigenvalues[eigenvalues < 0]).sum() / np.abs(eigenvalues).sum()
    runs = measure_of(eigenvalues, num_probes=4 * 300, num_steps=30)
    fields = ("alpha", "beta", "seeds", "probe_ids", "squared_norms")
    parts = [runs.changed(**{name: getattr(runs, name)[4 * i : 4 * i + 4] for name in fields}) for i in range(300)]
    estimates = [analysis.negative_energy(part) for part in parts]
    z = np.array([(e.value - truth) / e.stderr for e in estimates])
    # The standard deviation of 300 normal deviates is within .2 of 1, their mean within .29 of 0, but once in 10⁶.
    assert 0.8 < z.std() < 1.2
    assert abs(z.mean()) < 0.29


def test_definite_operators_have_no_negative_energy_or_nothing_else():
    assert analysis.negative_energy(measure_of(uniform(20))).value == 0
    assert analysis.negative_energy(measure_of(-uniform(20))).value == 1
    assert analysis.negative_energy(measure_of(-uniform(20))).stderr < 1e-14


@pytest.mark.parametrize("p", [0, -1, np.nan])
def test_the_power_is_positive(p):
    with pytest.raises(RequestError, match="negative_energy expects p > 0, got"):
        analysis.negative_energy(measure_of(uniform(20), num_steps=5), p)


def test_a_zero_operator_has_no_energy():
    with pytest.raises(RequestError, match="the operator is zero: its negative energy does not exist"):
        analysis.negative_energy(slq.spectral_measure(np.zeros((5, 5)), num_steps=2))


def test_given_vectors_have_no_energy():
    measure = slq.spectral_measure(problem(uniform(20)).matrix, probes=np.eye(20)[:2], num_steps=5)
    with pytest.raises(RequestError, match="needs random probes"):
        analysis.negative_energy(measure)
