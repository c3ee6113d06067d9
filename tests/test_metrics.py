"""slq/metrics.py: distances between spectra."""

import numpy as np
import pytest
from scipy import stats

import slq
from slq import metrics
from slq.errors import RequestError, WidthError
from tests.problems import indefinite, measure_of, problem, strakos, uniform

rng = np.random.default_rng(0)
P, Q = rng.normal(size=50), rng.normal(size=30) * 2 + 1


def test_distances_of_eigenvalues_are_those_of_statistics():
    assert metrics.wasserstein(P, Q) == pytest.approx(stats.wasserstein_distance(P, Q), rel=1e-12)
    assert metrics.ks(P, Q) == pytest.approx(stats.ks_2samp(P, Q).statistic, rel=1e-12)
    same_size = rng.normal(size=50)
    assert metrics.wasserstein(P, same_size) == pytest.approx(np.abs(np.sort(P) - np.sort(same_size)).mean(), rel=1e-12)


@pytest.mark.parametrize(
    "distance", [metrics.wasserstein, metrics.ks, lambda p, q: metrics.density_l1(p, q, width=0.3)]
)
def test_distances_are_metrics(distance):
    R = rng.normal(size=20) + 3
    assert distance(P, P) == pytest.approx(0, abs=1e-15)
    assert distance(P, rng.permutation(P)) == pytest.approx(0, abs=1e-15)
    assert distance(P, Q) == pytest.approx(distance(Q, P), rel=1e-12)
    assert 0 < distance(P, Q) <= distance(P, R) + distance(R, Q) + 1e-12


def test_distances_of_shifted_spectra_are_known():
    assert metrics.wasserstein(P, P + 0.25) == pytest.approx(0.25, rel=1e-12)
    assert metrics.wasserstein([0.0], [-3.0]) == 3.0
    assert metrics.wasserstein(2 * P, 2 * Q) == pytest.approx(2 * metrics.wasserstein(P, Q), rel=1e-12)
    assert metrics.ks(P, P + 100) == pytest.approx(1, abs=1e-15)
    assert metrics.ks(2 * P + 1, 2 * Q + 1) == pytest.approx(metrics.ks(P, Q), rel=1e-12)


def test_the_density_distance_of_two_atoms_is_known():
    # Two Gaussians of width s a distance d apart: 2 (2 Φ(d/2s) − 1). The trapezoidal rule cuts the kink of the absolute
    # value with 5 points a width: measured 3.3e-3.
    for d in (0.1, 1.0, 50.0):
        expected = 2 * (2 * stats.norm.cdf(d / 2 / 0.5) - 1)
        assert metrics.density_l1([1.0], [1.0 + d], width=0.5) == pytest.approx(expected, rel=5e-3)
    assert metrics.density_l1(P, P + 1e3, width=0.1) == pytest.approx(2, abs=1e-8)


def test_full_runs_have_the_spectrum_of_their_probes():
    eigenvalues = indefinite(24)
    measure = measure_of(eigenvalues, num_probes=200)
    x = slq.sphere(0, range(200), None, 24, np.empty(0))
    masses = (np.abs(x @ problem(eigenvalues).vectors.T) ** 2 / 24).mean(axis=0)
    exact = np.sum(np.abs(masses.cumsum() - np.arange(1, 25) / 24)[:-1] * np.diff(eigenvalues))
    assert metrics.wasserstein(measure, eigenvalues) == pytest.approx(exact, abs=1e-12)
    assert metrics.wasserstein(measure, measure) == 0


def test_more_probes_and_steps_come_closer():
    exact = problem(strakos(200))
    close, far = (slq.spectral_measure(exact.matrix, num_probes=k, num_steps=m) for k, m in ((64, 40), (2, 6)))
    for distance in (metrics.wasserstein, lambda p, q: metrics.density_l1(p, q, width=0.05)):
        assert distance(close, exact.eigenvalues) < distance(far, exact.eigenvalues) / 3


@pytest.mark.parametrize("spectrum", [uniform, indefinite, strakos], ids=lambda s: s.__name__)
def test_the_wasserstein_distance_falls_as_one_over_the_steps(spectrum):
    # Same probe: m·W₁/range was measured at most .33 over ten spectra and m = 5…60.
    exact = problem(spectrum(150))
    for m in (5, 10, 20, 40):
        measure = slq.spectral_measure(exact.matrix, num_probes=1, num_steps=m)
        probe = slq.spectral_measure(exact.matrix, num_probes=1, num_steps=150)
        assert m * metrics.wasserstein(measure, probe) / np.ptp(exact.eigenvalues) < 0.5


@pytest.mark.parametrize(
    "bad",
    [[], [[1.0, 2.0]], 3.0, [np.nan], [np.inf], [1j], ["a"], None, np.array([None])],
    ids=["empty", "matrix", "number", "NaN", "inf", "complex", "text", "None", "object"],
)
@pytest.mark.parametrize(
    "distance", [metrics.wasserstein, metrics.ks, lambda p, q: metrics.density_l1(p, q, width=0.3)]
)
def test_spectra_are_checked(distance, bad):
    for pair in ((bad, P), (P, bad)):
        with pytest.raises(RequestError, match="expected a SpectralMeasure or a one-dimensional array of finite real"):
            distance(*pair)


@pytest.mark.parametrize("width", [0.0, -1.0, np.nan, 1e-18])
def test_widths_are_checked(width):
    with pytest.raises(WidthError, match="width"):
        metrics.density_l1([1.0, 2.0], [1.5, 3.0], width=width)


def test_integers_are_eigenvalues_too():
    assert metrics.wasserstein([1, 2, 3], np.array([2, 3, 4])) == pytest.approx(1.0)
