"""Converged eigenvalues at the ends of the spectrum."""

import numpy as np
import pytest

import slq


def spiked(n=300):
    return np.concatenate([[-4.0, -2.0], np.linspace(0, 1, n - 5), [3.0, 5.0, 8.0]])


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.filterwarnings("ignore::slq.errors.GhostWarning")  # they are wanted here
def test_both_ends_are_found_once(reorthogonalize):
    # without reorthogonalisation the converged ones come in copies, which must be counted once
    m = slq.spectral_measure(np.diag(spiked()), num_probes=4, num_steps=60, reorthogonalize=reorthogonalize)
    found = m.outliers()
    assert (np.diff(found.values) < 0).all()
    np.testing.assert_allclose(found.values[[0, 1, 2, -2, -1]], [8, 5, 3, -2, -4], rtol=1e-10)
    distance = np.abs(found.values[:, None] - spiked()).min(axis=1)
    assert (distance <= found.residuals + 1e-12 * 8).all()


def test_nothing_has_converged_after_two_steps():
    m = slq.spectral_measure(np.diag(spiked()), num_probes=4, num_steps=2)
    assert m.outliers().values.size == 0


def test_an_exact_run_finds_the_whole_spectrum_without_repeating():
    m = slq.spectral_measure(np.diag([1.0, 2.0, 2.0, 4.0]), num_probes=3, num_steps=4)
    np.testing.assert_allclose(m.outliers().values, [4, 2, 1], rtol=1e-13)


def test_an_eigenvalue_that_a_probe_misses_ends_the_list():
    vectors = np.ones((2, 6))
    vectors[1, 5] = 0  # orthogonal to the eigenvector of 9
    m = slq.spectral_measure(np.diag([1.0, 2, 3, 4, 5, 9]), probes=vectors, num_steps=6)
    assert m.outliers().values.max() < 9


def test_tolerance_in_units_of_the_largest_ritz_value():
    m = slq.spectral_measure(np.diag(spiked()), num_probes=2, num_steps=25)
    assert m.outliers(tol=1e-12).values.size < m.outliers(tol=1e-2).values.size
