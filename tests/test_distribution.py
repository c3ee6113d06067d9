"""slq/_distribution.py: distribution functions, counts, histograms and quantiles of a measure."""

import itertools

import numpy as np
import pytest

import slq
from slq.errors import RequestError
from tests.problems import hessian_like, indefinite, measure_of, problem, strakos

EIGENVALUES = indefinite(24)
SHORT = measure_of(EIGENVALUES, num_steps=9)
FULL = measure_of(EIGENVALUES)  # of full order: its only error is that of sampling
PROBES = slq.sphere(0, range(4), None, 24, np.empty(0))
MASSES = np.abs(PROBES @ problem(EIGENVALUES).vectors.T) ** 2 / 24  # of each eigenvalue, as each probe sees it


def test_the_distribution_function_of_a_full_run_is_that_of_its_probes():
    x = np.concatenate([EIGENVALUES - 0.01, EIGENVALUES + 0.01, [-np.inf, np.inf, -5.0, 5.0]])
    estimate = FULL.cdf(x)
    exact = (MASSES @ (EIGENVALUES[:, None] <= x)).mean(axis=0)
    np.testing.assert_allclose(estimate.value, exact, atol=1e-12)
    np.testing.assert_allclose(estimate.stderr, np.sqrt(2 / 26 * exact * (1 - exact) / 4), atol=1e-6)
    assert estimate.value[-4:].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert FULL.cdf(0.3).value == pytest.approx((MASSES @ (EIGENVALUES <= 0.3)).mean())
    assert np.ndim(FULL.cdf(0.3).value) == 0
    assert FULL.cdf([[0.3, 0.4]]).value.shape == (1, 2)


@pytest.mark.parametrize(
    "spectrum", [indefinite, strakos, lambda n: hessian_like(n, 5)], ids=["indef.", "strakos", "h."]
)
def test_interlacing_bounds_the_quadrature_error_of_the_distribution_function(spectrum):
    exact = problem(spectrum(60))
    measure = slq.spectral_measure(exact.matrix, num_probes=3, num_steps=12)
    x = slq.sphere(0, range(3), None, 60, np.empty(0))
    at = np.linspace(exact.eigenvalues.min() - 0.1, exact.eigenvalues.max() + 0.1, 400)
    masses = np.abs(x @ exact.vectors.T) ** 2 / 60
    truth = (masses @ (exact.eigenvalues[:, None] <= at)).mean(axis=0)
    estimate = measure.cdf(at)
    # Chen, Trogdon and Ubaru 2021, from the Chebyshev-Markov-Stieltjes inequalities: a theorem, so at every point.
    assert (np.abs(estimate.value - truth) <= estimate.truncation + 1e-12).all()
    low, high = at[:-100:7], at[100::7]
    for a, b in zip(low, high, strict=True):
        count = measure.count(a, b)
        inside = (exact.eigenvalues >= a) & (exact.eigenvalues <= b)
        assert abs(count.value - 60 * (masses @ inside).mean()) <= count.truncation + 1e-9


def test_a_distribution_function_is_not_asked_for_nan():
    with pytest.raises(RequestError, match=r"cdf\(x\) met NaN in x; remove it"):
        SHORT.cdf([0.0, np.nan])


def test_counts_are_of_closed_intervals():
    assert FULL.count().value == 24.0
    assert FULL.count().truncation == 0
    a, b = EIGENVALUES[4], EIGENVALUES[9]
    inside = (a <= EIGENVALUES) & (b >= EIGENVALUES)
    assert FULL.count(a - 1e-9, b + 1e-9).value == pytest.approx(24 * (MASSES @ inside).mean())
    assert FULL.count(low=0.5).value + FULL.count(high=0.5).value == pytest.approx(24.0)
    atoms = slq.spectral_measure(np.diag([1.0, 1.0, 3.0]), num_probes=3, num_steps=2)
    node = float(atoms.nodes[0, 0])
    assert atoms.count(node, node).value > 0  # both ends belong to it
    identity = slq.spectral_measure(np.eye(5), num_probes=2, num_steps=2)
    assert identity.count(1 - 1e-9, 1 + 1e-9).value == 5.0
    assert identity.count(low=1 + 1e-9).value == 0.0


def test_end_points_within_rounding_of_an_atom_meet_it():
    # The node of the identity is 1 − 2⁻⁵³: rounding must not decide where a mass of one goes.
    identity = slq.spectral_measure(np.eye(5), num_probes=2, num_steps=2)
    assert identity.count(1.0, 1.0).value == 5.0
    assert identity.count(high=1.0).value == 5.0
    assert identity.count(low=1.0).value == 5.0
    for x in (np.nextafter(1.0, 0), 1.0, np.nextafter(1.0, 2)):
        assert identity.cdf(x).value == 1.0
    assert identity.cdf(1 - 1e-13).value == 0.0


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (np.nan, 1.0), (0.0, np.nan)])
def test_counts_need_an_interval(low, high):
    with pytest.raises(RequestError, match=r"count\(low, high\) expects low <= high, got"):
        SHORT.count(low, high)


def test_quantiles_invert_the_distribution_function():
    q = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    estimate = FULL.quantile(q)
    cumulated = MASSES.mean(axis=0).cumsum()
    expected = EIGENVALUES[np.searchsorted(cumulated + 1e-12, q)]
    np.testing.assert_allclose(estimate.value, expected, atol=1e-12)
    assert (FULL.cdf(estimate.value + 1e-9).value >= q - 1e-12).all()
    assert (estimate.stderr >= 0).all()
    middle = FULL.quantile(0.5)
    error = FULL.cdf(middle.value).stderr
    spread = FULL.quantile([0.5 - error, 0.5 + error]).value
    assert middle.stderr == pytest.approx(np.diff(spread)[0] / 2)
    assert slq.spectral_measure(3 * np.eye(5), num_probes=2, num_steps=2).quantile([0, 1]).value.tolist() == [3.0, 3.0]


def test_quantiles_of_smooth_spectra_lie_between_the_nodes():
    # The nodes are 1/60 apart; where the median of a uniform spectrum lies between them is known better than that.
    eigenvalues = np.linspace(0, 1, 4001)
    A = slq.aslinearoperator(lambda x: x * eigenvalues, like=eigenvalues, batched=True)
    for q in (0.21, 0.5, 0.77):
        errors = [
            slq.spectral_measure(A, num_probes=20, num_steps=60, rng=seed, check=False).quantile(q).value - q
            for seed in range(10)
        ]
        # Standard error: √(2q(1−q)/(n k)) ≤ 0.0025 for each seed.
        assert np.abs(errors).max() < 4 * 0.0025
        assert abs(np.mean(errors)) < 4 * 0.0025 / np.sqrt(10)


def test_quantiles_keep_atoms():
    eigenvalues = np.concatenate([np.linspace(-1, 1, 600), np.zeros(400), [5.0]])
    A = slq.aslinearoperator(lambda x: x * eigenvalues, like=eigenvalues, batched=True)
    m = slq.spectral_measure(A, num_probes=6, num_steps=40, check=False)
    np.testing.assert_allclose(m.quantile([0.4, 0.5, 0.6]).value, 0.0, atol=1e-3)  # measured: 6e-4
    assert m.quantile(1.0).value == pytest.approx(5.0)


@pytest.mark.parametrize("q", [-0.1, 1.1, np.nan, [0.5, 2.0]])
def test_quantiles_are_of_fractions(q):
    with pytest.raises(RequestError, match=r"quantile\(q\) expects numbers between 0 and 1, got"):
        SHORT.quantile(q)


EDGES = [-2.0, -0.5, EIGENVALUES[12], 0.9, 2.0]


def test_histograms_hold_the_masses_of_their_bins():
    estimate = FULL.histogram(EDGES)
    bins = [
        (low <= EIGENVALUES) & ((high > EIGENVALUES) if high < 2 else (high >= EIGENVALUES))
        for low, high in itertools.pairwise(EDGES)
    ]
    exact = np.array([MASSES[:, inside].sum(axis=1) for inside in bins])
    np.testing.assert_allclose(estimate.value, exact.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(estimate.value.sum(), 1, rtol=1e-14)
    plug_in = 2 / 26 * exact.mean(axis=1) * (1 - exact.mean(axis=1)) / 4
    np.testing.assert_allclose(estimate.stderr, np.sqrt(plug_in), atol=1e-12)
    np.testing.assert_array_equal(estimate.truncation, 0)
    whole = FULL.histogram([-np.inf, 0.0, np.inf])
    assert 24 * whole.value[1] == pytest.approx(FULL.count(low=0.0).value)


def test_no_bin_is_too_narrow_for_a_histogram():
    # What falls between the points of a density's grid is in the bins.
    edges = np.linspace(-1.5, 2.5, 7)
    assert SHORT.histogram(edges).value.sum() == pytest.approx(1)
    node = SHORT.nodes[0, 3]
    assert SHORT.histogram([node - 1e-9, node + 1e-9]).value[0] == pytest.approx(SHORT.weights[0, 3] / 4)


def test_interlacing_bounds_the_quadrature_error_of_bins():
    exact = problem(strakos(60))
    measure = slq.spectral_measure(exact.matrix, num_probes=3, num_steps=12)
    masses = np.abs(slq.sphere(0, range(3), None, 60, np.empty(0)) @ exact.vectors.T) ** 2 / 60
    edges = np.linspace(-0.01, 1.01, 18)
    index = np.digitize(exact.eigenvalues, edges) - 1
    truth = np.array([masses[:, index == i].sum(axis=1).mean() for i in range(17)])
    estimate = measure.histogram(edges)
    assert (np.abs(estimate.value - truth) <= estimate.truncation + 1e-12).all()


def test_bins_without_nodes_and_bins_with_all_have_nothing_to_round():
    estimate = FULL.histogram([-9.0, -8.0, 0.0, 2.5, 3.0])
    np.testing.assert_array_equal(estimate.rounding > 0, [False, True, True, False])
    assert str(FULL.count(high=-5)) == "0 ± 0"


@pytest.mark.parametrize("edges", [[], [1.0], [0.0, 0.0], [1.0, 0.0], [0.0, np.nan], 1.0, [[0.0, 1.0]]], ids=str)
def test_edges_are_checked(edges):
    with pytest.raises(RequestError, match=r"histogram\(edges\) expects a one-dimensional, increasing array of two"):
        SHORT.histogram(edges)


def test_all_of_the_spectrum_is_counted_to_the_bit():
    # Found by hypothesis: partial sums of the weights and their sum were added up in different orders.
    measures = [measure_of(np.linspace(-1, 1, n), num_probes=3, rng=seed) for n in (7, 8, 9) for seed in range(5)]
    assert [float(m.count()) for m in measures] == [m.n for m in measures]
    assert [m.cdf(2.0).value for m in measures] == [1.0] * len(measures)
