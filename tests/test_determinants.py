"""slq/testing/_determinants.py: seven log-determinants without a rounding in them."""

import math
from fractions import Fraction

import numpy as np
import pytest

import slq
from slq.testing import determinants

ALL = determinants()
EVERY = pytest.mark.parametrize("case", ALL, ids=lambda c: c.name)


def eliminated(rows):
    """The determinant of a positive definite matrix, exactly."""
    rows = [list(row) for row in rows]
    product = Fraction(1)
    for k, pivot_row in enumerate(rows):
        product *= pivot_row[k]
        for row in rows[k + 1 :]:
            factor = row[k] / pivot_row[k]
            row[k:] = [a - factor * b for a, b in zip(row[k:], pivot_row[k:], strict=True)]
    return product


def test_there_are_seven_and_each_has_a_source():
    assert len({case.name for case in ALL}) == len(ALL) == 7
    assert all(case.formula and case.source for case in ALL)


@EVERY
def test_the_formula_is_the_determinant_exactly(case):
    rows = case.fractions()
    assert eliminated(rows) == case.determinant
    assert rows == [list(column) for column in zip(*rows, strict=True)]
    assert case.matrix().shape == (case.n, case.n)
    assert case.logdet() == pytest.approx(math.log(case.determinant), rel=1e-14, abs=1e-14)


def error_of(matrix):
    """What roundings of the norm do to the logarithms of the eigenvalues: eps ‖A‖ Σ 1/λ; 3e-6 for Hilbert's matrix.

    Measured: at most 0.8 times this for a basis, 0.3 times this per unit vector for probes.
    """
    eigenvalues = np.linalg.eigvalsh(matrix)
    return 2.0**-52 * eigenvalues[-1] * np.sum(1 / eigenvalues)


@EVERY
def test_the_measure_of_a_basis_has_the_whole_determinant(case):
    A = case.matrix()
    measure = slq.spectral_measure(A, probes=np.eye(case.n), num_steps=case.n)
    assert measure.quadratic_forms(np.log).sum() == pytest.approx(case.logdet(), abs=2 * error_of(A))


@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")  # one of them has a single outlier
@EVERY
def test_slq_finds_the_logarithm_of_the_same_probes(case):
    A = case.matrix()
    eigenvalues, vectors = np.linalg.eigh(A)
    x = slq.sphere(0, range(8), None, case.n, np.empty(0))
    truth = (x @ vectors) ** 2 @ np.log(eigenvalues)
    measure = slq.spectral_measure(A, num_probes=8, num_steps=case.n)
    np.testing.assert_allclose(measure.quadratic_forms(np.log), truth, atol=case.n * error_of(A))
    assert measure.logdet().value == pytest.approx(truth.mean(), abs=case.n * error_of(A))
