"""slq/_quadrature.py: Gauss rules from recurrence coefficients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slq
from slq._quadrature import gauss_rules, run_lengths, singular_rules, singular_run_lengths
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


# Any coefficients


@st.composite
def coefficients(draw):
    """One run of 1 to 30 steps: any signs and sizes, zeros, ties, and a common scale."""
    m = draw(st.integers(1, 30))
    entries = st.one_of(
        st.sampled_from([0.0, 1.0, 1e-8, 1e-16, 1e-300]), st.floats(-1, 1), st.floats(-1, 1).map(lambda x: x**9)
    )
    rows = np.array([draw(st.lists(entries, min_size=m, max_size=m)) for _ in range(2)])
    return np.ldexp(rows, draw(st.integers(-900, 900)))


@settings(max_examples=300, derandomize=True, deadline=None)
@given(coefficients(), st.sampled_from([gauss_rules, singular_rules]))
def test_any_coefficients_give_a_probability(rows, rules):
    alpha, beta = rows[:1] if rules is gauss_rules else np.abs(rows[:1]), np.abs(rows[1:])
    nodes, weights, residuals = rules(alpha, beta)
    m = alpha.size
    assert (weights >= 0).all()
    # Rows of an orthogonal matrix as LAPACK returns it: measured up to 2·m·eps.
    assert abs(weights.sum() - 1) <= 8 * m * 2.0**-52
    assert np.isfinite(nodes).all()
    assert (np.diff(nodes) >= 0).all()
    assert (residuals >= 0).all()
    assert rules is gauss_rules or nodes.min() >= 0
    # The mean of the nodes, or of their squares, is the first entry.
    size = np.abs(nodes).max()
    if 1e-150 < size < 1e150:  # squares stay in range
        mean = (weights * nodes).sum() if rules is gauss_rules else np.sqrt((weights * nodes**2).sum())
        assert mean == pytest.approx(alpha[0, 0], abs=64 * m * 2.0**-52 * size)


# Singular values


def golub_kahan(A, v, m):
    """m steps with full reorthogonalisation from v: alpha, beta (m,), and the vectors U, V as columns."""
    alpha, beta, U, V = np.zeros(m), np.zeros(m), [], [v / np.linalg.norm(v)]
    small = 1e-13 * np.linalg.norm(A, 2)
    for j in range(m):
        u = A @ V[j] - (beta[j - 1] * U[j - 1] if j else 0)
        for w in U:
            u = u - (w.conj() @ u) * w
        alpha[j] = np.linalg.norm(u)
        if alpha[j] <= small:
            alpha[j] = 0
            break
        U.append(u / alpha[j])
        v = A.conj().T @ U[j] - alpha[j] * V[j]
        for _ in range(2):
            for w in V:
                v = v - (w.conj() @ v) * w
        beta[j] = np.linalg.norm(v)
        if beta[j] <= small:
            beta[j] = 0
            break
        V.append(v / beta[j])
    return alpha, beta, np.array(U).T, np.array(V).T


def rectangular(rows, columns, values, seed=0):
    """A matrix with these singular values."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (rows, columns))
    return (left[:, : len(values)] * values) @ right[:, : len(values)].T


@pytest.mark.parametrize(("rows", "columns"), [(30, 20), (20, 20), (15, 25)])
def test_golub_kahan_runs_integrate_even_polynomials_of_the_singular_values(rows, columns):
    A = rectangular(rows, columns, np.linspace(0.5, 2.0, min(rows, columns)))
    v = np.random.default_rng(1).normal(size=columns)
    alpha, beta, _, _ = golub_kahan(A, v, 6)
    nodes, weights, _ = singular_rules(alpha[None], beta[None])
    squares, vectors = np.linalg.eigh(A.T @ A)
    masses = (vectors.T @ v) ** 2 / (v @ v)
    for q in range(12):  # (AᴴA)^q: exact up to q = 2m − 1
        assert (weights * nodes ** (2 * q)).sum() == pytest.approx((masses * np.abs(squares) ** q).sum(), rel=1e-11)
    # Of degree q = 2m the error is that of a Gauss rule, positive and known: (α₀β₀ … αₘ₋₁βₘ₋₁)².
    error = (masses * np.abs(squares) ** 12).sum() - (weights * nodes**24).sum()
    assert error == pytest.approx(np.prod(alpha * beta) ** 2, rel=1e-4)


def test_residuals_of_singular_values_are_those_of_their_vectors():
    A = rectangular(30, 20, np.linspace(0.5, 2.0, 20))
    alpha, beta, U, V = golub_kahan(A, np.random.default_rng(2).normal(size=20), 6)
    nodes, _, residuals = singular_rules(alpha[None], beta[None])
    left, _, right = np.linalg.svd(np.diag(alpha) + np.diag(beta[:-1], 1))
    x, y = U @ left[:, ::-1], V[:, :6] @ right[::-1].T
    np.testing.assert_allclose(A @ y, x * nodes[0], atol=1e-13)
    np.testing.assert_allclose(np.linalg.norm(A.T @ x - y * nodes[0], axis=0), residuals[0], atol=1e-13)
    distance = np.abs(nodes[0][:, None] - np.linspace(0.5, 2.0, 20)).min(axis=1)
    assert (distance <= residuals[0] + 1e-13).all()


def test_complete_runs_find_all_singular_values():
    values = np.geomspace(1e-3, 1.0, 8)
    alpha, beta, _, _ = golub_kahan(rectangular(12, 8, values), np.random.default_rng(3).normal(size=8), 8)
    beta[-1] = 0.0
    nodes, _, residuals = singular_rules(alpha[None], beta[None])
    np.testing.assert_allclose(nodes[0], values, rtol=1e-11)
    np.testing.assert_array_equal(residuals, 0)


def test_a_null_vector_ends_a_run_with_a_node_zero():
    # Two rows, three columns: after two steps nothing of A is left, and the third right vector is in its null space.
    A = rectangular(2, 3, [1.0, 2.0])
    v = np.random.default_rng(4).normal(size=3)
    alpha, beta, _, _ = golub_kahan(A, v, 3)
    assert alpha[2] == 0
    padded = [np.append(x, [[7.0, 7.0]])[None] for x in (alpha, np.append(beta[:2], 5.0))]
    assert singular_run_lengths(*padded).tolist() == [3]
    nodes, weights, residuals = singular_rules(*padded)
    np.testing.assert_allclose(nodes[0], [0, 1, 2, 2, 2], atol=1e-14)
    right = np.linalg.svd(A)[2]
    np.testing.assert_allclose(weights[0], [*((right[::-1] @ v) ** 2 / (v @ v)), 0, 0], atol=1e-14)
    np.testing.assert_array_equal(residuals, 0)


@pytest.mark.parametrize("zeros", ["alpha", "beta"])
def test_a_zero_at_the_first_step_ends_a_run(zeros):
    alpha, beta = np.array([[3.0, 1.0]]), np.array([[1.0, 1.0]])
    (alpha if zeros == "alpha" else beta)[0, 0] = 0
    nodes, weights, residuals = singular_rules(alpha, beta)
    np.testing.assert_array_equal(nodes, [[0, 0] if zeros == "alpha" else [3, 3]])
    np.testing.assert_array_equal(weights, [[1, 0]])
    np.testing.assert_array_equal(residuals, 0)


@pytest.mark.parametrize("seed", range(10))
def test_small_singular_values_keep_their_digits(seed):
    # Graded in both directions and up and down, with condition 1e12 and more.
    rng = np.random.default_rng(seed)
    m = 20
    alpha = 10.0 ** rng.permutation(np.linspace(-12, 0, m)) * rng.uniform(0.5, 2, m)
    beta = 10.0 ** rng.uniform(-12, 0, m)
    nodes = singular_rules(alpha[None], beta[None])[0][0]
    assert nodes[-1] / nodes[0] > 1e11
    # The entries of the inverse of a bidiagonal matrix are products: no digit is lost, so its largest singular value
    # is precise to the last digits, and so is the determinant.
    inverse = np.zeros((m, m))
    for i in range(m):
        inverse[i, i:] = np.cumprod(np.append(1 / alpha[i], -beta[i : m - 1] / alpha[i + 1 :]))
    # Demmel and Kahan 1990: a few m·eps of each; measured 3e-15.
    assert nodes[0] == pytest.approx(1 / np.linalg.norm(inverse, 2), rel=8 * m * 2.0**-52)
    assert np.log(nodes).sum() == pytest.approx(np.log(alpha).sum(), abs=8 * m * m * 2.0**-52)


@pytest.mark.parametrize("exponent", [-1000, -300, 300, 1000])
def test_powers_of_two_scale_singular_values_exactly(exponent):
    alpha, beta = np.random.default_rng(2).random((1, 7)), np.random.default_rng(3).random((1, 7))
    nodes, weights, residuals = singular_rules(alpha, beta)
    scaled = singular_rules(np.ldexp(alpha, exponent), np.ldexp(beta, exponent))
    np.testing.assert_array_equal(scaled[0], np.ldexp(nodes, exponent))
    np.testing.assert_array_equal(scaled[1], weights)
    np.testing.assert_array_equal(scaled[2], np.ldexp(residuals, exponent))


def test_coefficients_of_golub_kahan_runs_must_be_finite():
    with pytest.raises(RequestError, match="coefficients contain NaN or infinity"):
        singular_rules(np.array([[1.0, np.nan]]), np.ones((1, 2)))
