"""slq/_quadrature.py: Gauss rules from recurrence coefficients."""

import numpy as np
import pytest

import slq
from slq._quadrature import gauss_rules, run_lengths
from slq.errors import RequestError


def legendre(m):
    """The recurrence of the orthonormal Legendre polynomials; the unit measure on [−1, 1]."""
    j = np.arange(1, m + 1)
    return np.zeros(m), j / np.sqrt(4.0 * j**2 - 1)


@pytest.mark.parametrize("m", [1, 2, 5, 40])
def test_legendre_coefficients_give_the_gauss_legendre_rule(m):
    nodes, weights = slq.golub_welsch(*legendre(m))
    exact_nodes, exact_weights = np.polynomial.legendre.leggauss(m)
    # LAPACK's eigenvalues and first components are backward stable: a few roundings of ‖T‖ = 1.
    np.testing.assert_allclose(nodes, exact_nodes, atol=20 * m * 2.0**-52)
    np.testing.assert_allclose(weights, exact_weights / 2, atol=20 * m * 2.0**-52)


def test_the_last_beta_is_not_part_of_the_matrix():
    alpha, beta = legendre(6)
    changed = np.append(beta[:-1], 1e6)
    for one, other in zip(slq.golub_welsch(alpha, beta), slq.golub_welsch(alpha, changed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_blocks_are_rows():
    alpha = np.random.default_rng(0).normal(size=(4, 5))
    beta = np.abs(np.random.default_rng(1).normal(size=(4, 5)))
    nodes, weights = slq.golub_welsch(alpha, beta)
    assert nodes.shape == weights.shape == (4, 5)
    for i in range(4):
        one_nodes, one_weights = slq.golub_welsch(alpha[i], beta[i])
        np.testing.assert_array_equal(one_nodes, nodes[i])
        np.testing.assert_array_equal(one_weights, weights[i])


def test_a_zero_in_beta_ends_a_run():
    alpha, beta = np.array([[1.0, 2.0, 9.0, 9.0]]), np.array([[0.5, 0.0, 7.0, 7.0]])
    assert run_lengths(beta).tolist() == [2]
    nodes, weights = slq.golub_welsch(alpha, beta)
    np.testing.assert_allclose(nodes[0, :2], np.linalg.eigvalsh([[1.0, 0.5], [0.5, 2.0]]), rtol=1e-15)
    np.testing.assert_array_equal(nodes[0, 2:], nodes[0, 1])
    np.testing.assert_array_equal(weights[0, 2:], 0.0)
    assert weights.sum() == pytest.approx(1, abs=1e-15)


def test_a_run_may_end_at_its_first_step():
    nodes, weights = slq.golub_welsch(np.array([3.0, 0.0]), np.array([0.0, 0.0]))
    assert nodes.tolist() == [3.0, 3.0]
    assert weights.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("exponent", [-1000, -500, 500, 1000])
def test_powers_of_two_scale_the_nodes_exactly(exponent):
    alpha, beta = np.random.default_rng(2).normal(size=7), np.random.default_rng(3).random(7)
    nodes, weights = slq.golub_welsch(alpha, beta)
    scaled = slq.golub_welsch(np.ldexp(alpha, exponent), np.ldexp(beta, exponent))
    np.testing.assert_array_equal(scaled[0], np.ldexp(nodes, exponent))
    np.testing.assert_array_equal(scaled[1], weights)


def test_residuals_are_those_of_the_ritz_pairs():
    rng = np.random.default_rng(4)
    A = rng.normal(size=(30, 30))
    A = A + A.T
    run = slq.lanczos(A, rng.normal(size=(1, 30)), 8, return_basis=True)
    nodes, _, residuals = gauss_rules(run.alpha, run.beta)
    T = np.diag(run.alpha[0]) + np.diag(run.beta[0, :-1], 1) + np.diag(run.beta[0, :-1], -1)
    ritz_vectors = run.basis[0].T @ np.linalg.eigh(T)[1]
    np.testing.assert_allclose(
        residuals[0], np.linalg.norm(A @ ritz_vectors - ritz_vectors * nodes[0], axis=0), atol=1e-12
    )
    distance = np.abs(nodes[0][:, None] - np.linalg.eigvalsh(A)).min(axis=1)
    assert (distance <= residuals[0] + 1e-12).all()


@pytest.mark.parametrize(
    ("alpha", "beta"),
    [([1.0, 2.0], [1.0]), ([], []), (1.0, 1.0), (np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))],
    ids=["shapes differ", "no steps", "scalars", "three dimensions"],
)
def test_shapes_are_checked(alpha, beta):
    with pytest.raises(RequestError, match="alpha and beta must have one shape"):
        slq.golub_welsch(alpha, beta)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_coefficients_must_be_finite(bad):
    with pytest.raises(RequestError, match="coefficients contain NaN or infinity"):
        slq.golub_welsch([1.0, bad], [1.0, 1.0])
    with pytest.raises(RequestError, match="coefficients contain NaN or infinity"):
        slq.golub_welsch([1.0, 1.0], [bad, 1.0])
