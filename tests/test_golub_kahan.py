"""slq/_golub_kahan.py and `singular_measure`: singular values without squaring."""

import numpy as np
import pytest
import scipy.sparse

import slq
from slq._arrays import to_host
from slq.errors import (
    ClippedStepsWarning,
    NonFiniteError,
    OperatorError,
    PlacementError,
    ProductError,
    RequestError,
    ShapeError,
)
from tests.problems import mix

P, N, K, M = 30, 18, 3, 8
RNG = np.random.default_rng(0)
V = RNG.normal(size=(K, N))


def matrix(values, p=P, n=N, dtype=float):
    """A (p, n) matrix with these singular values and spread singular vectors."""
    left, right = mix(np.eye(p, dtype=dtype), 1), mix(np.eye(n, dtype=dtype), 2)
    r = len(values)
    return (left[:r].T * values) @ right[:r].conj(), right


def bidiagonal(alpha, beta):
    return np.diag(alpha) + np.diag(beta[:-1], 1)


VALUES = np.linspace(0.5, 3.0, N)


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_the_bidiagonal_matrix_is_the_root_of_the_tridiagonal_one(xp, dtype):
    A, _ = matrix(VALUES, dtype=complex if "complex" in dtype else float)
    start = V + 1j * V[::-1] if "complex" in dtype else V
    run = slq.golub_kahan(xp.asarray(A, dtype), xp.asarray(start, dtype), M)
    gram = slq.lanczos(xp.asarray(A.conj().T @ A, dtype), xp.asarray(start, dtype), M)
    eps = float(np.finfo(dtype).eps)
    for i in range(K):
        B = bidiagonal(run.alpha[i], run.beta[i])
        T = np.diag(gram.alpha[i]) + np.diag(gram.beta[i, :-1], 1) + np.diag(gram.beta[i, :-1], -1)
        np.testing.assert_allclose(B.T @ B, T, atol=30 * N * eps * 9)  # LAPACK's test ratio; measured below 1
    assert (run.alpha > 0).all()
    assert (run.beta > 0).all()


@pytest.mark.parametrize(("p", "n"), [(P, N), (N, P), (N, N), (1, 5), (5, 1)])
def test_full_runs_find_every_singular_value(xp, p, n):
    r = min(p, n)
    values = np.linspace(0.5, 3.0, r)
    A, _ = matrix(values, p, n)
    measure = slq.singular_measure(xp.asarray(A), num_probes=K, num_steps=min(n, p + 1))
    for row in range(K):
        used = measure.weights[row] > 0
        nodes = measure.nodes[row][used]
        assert np.abs(nodes[nodes > 1e-3] - values[:, None]).min(axis=0).max() < 1e-12
    x = slq.sphere(0, range(K), None, n, np.empty(0))
    _, s, right = np.linalg.svd(A)
    s = np.concatenate([s, np.zeros(n - r)])
    truth = (x @ right.T) ** 2 @ s**2
    np.testing.assert_allclose(measure.quadratic_forms(lambda t: t**2), truth, rtol=1e-12)
    assert measure.singular
    assert measure.n == n


def test_small_singular_values_keep_their_digits():
    values = np.geomspace(1e-10, 1.0, N)
    A, _ = matrix(values)
    measure = slq.singular_measure(A, num_probes=1, num_steps=N)
    squared = slq.spectral_measure(slq.gram(A), num_probes=1, num_steps=N)
    found = np.sort(measure.nodes[0])
    # What the products round is 1e-16 of the largest: six digits of the smallest are left, none of its square.
    assert found[0] == pytest.approx(values[0], rel=1e-4)
    assert found[8] == pytest.approx(values[8], rel=1e-8)
    assert abs(np.sort(squared.nodes[0])[0] / values[0] ** 2 - 1) > 1


def test_traces_are_calibrated():
    # The nuclear norm over 400 seeds, in units of the stated standard error: |z| < 1.96 in 95 % ± 3.3 % (3 s.e.).
    A, _ = matrix(VALUES)
    z = []
    for seed in range(400):
        estimate = slq.singular_measure(A, num_probes=4, num_steps=M, rng=seed).trace()
        z.append((estimate.value - VALUES.sum()) / estimate.stderr)
    assert 0.917 < np.mean(np.abs(z) < 1.96) < 0.983
    assert abs(np.mean(z)) < 0.2


def test_questions_of_singular_values():
    A, _ = matrix(np.concatenate([np.zeros(6), np.linspace(1.0, 2.0, N - 6)]))
    measure = slq.singular_measure(A, num_probes=40, num_steps=N)
    low, high = measure.count(0.5, np.inf).interval(0.9999)
    assert low <= N - 6 <= high  # the numerical rank
    assert measure.support[0] >= 0
    assert float(measure.trace(lambda t: t**2)) == pytest.approx(np.linalg.norm(A) ** 2, rel=0.2)


def test_operators_of_every_kind():
    dense, _ = matrix(VALUES)
    expected = slq.golub_kahan(dense, V, M)

    class Pair:
        shape, like = dense.shape, np.empty(0)

        def matvec(self, x):
            return x @ dense.T

        def rmatvec(self, y):
            return y @ dense

    for A in (scipy.sparse.csr_array(dense), scipy.sparse.linalg.aslinearoperator(dense), Pair()):
        np.testing.assert_allclose(slq.golub_kahan(A, V, M).alpha, expected.alpha, atol=1e-12)


@pytest.mark.parametrize("exponent", [-1000, -600, 600, 1000])
def test_powers_of_two_scale_the_coefficients_to_the_bit(exponent):
    A, _ = matrix(VALUES)
    plain, scaled = slq.golub_kahan(A, V, M), slq.golub_kahan(np.ldexp(A, exponent), V, M)
    np.testing.assert_array_equal(scaled.alpha, np.ldexp(plain.alpha, exponent))
    np.testing.assert_array_equal(scaled.beta, np.ldexp(plain.beta, exponent))


@pytest.mark.parametrize(
    ("values", "steps"), [(np.zeros(N), 1), (np.ones(N), 1), ([2.0], 2), ([1.0, 2.0], 3), ([1.0] * 9 + [3.0] * 9, 2)]
)
def test_runs_end_in_an_invariant_subspace(xp, values, steps):
    A, right = matrix(np.asarray(values, dtype=float))
    measure = slq.singular_measure(xp.asarray(A), num_probes=K, num_steps=M)
    assert measure.exact.all()
    assert measure.lengths.max() <= steps + 1  # one more where a residual is just above rounding
    x = slq.sphere(0, range(K), None, N, np.empty(0))
    all_values = np.concatenate([values, np.zeros(N - len(values))])
    np.testing.assert_allclose(measure.quadratic_forms(np.cos), (x @ right.T) ** 2 @ np.cos(all_values), atol=1e-12 * N)


@pytest.mark.parametrize("kind", [True, 3, False])
def test_batches_unions_and_files(kind, tmp_path):
    A, _ = matrix(VALUES)
    whole = slq.singular_measure(A, num_probes=4, num_steps=M, reorthogonalize=kind)
    parts = slq.singular_measure(A, num_probes=4, num_steps=M, reorthogonalize=kind, batch_size=3)
    tail = slq.singular_measure(A, num_probes=2, num_steps=M, reorthogonalize=kind, first_probe=2)
    np.testing.assert_allclose(parts.alpha, whole.alpha, atol=1e-12)
    head = slq.singular_measure(A, num_probes=2, num_steps=M, reorthogonalize=kind)
    np.testing.assert_allclose((head | tail).alpha, whole.alpha, atol=1e-12)
    whole.save(tmp_path / "m.npz")
    again = slq.SpectralMeasure.load(tmp_path / "m.npz")
    assert again.singular
    np.testing.assert_array_equal(again.nodes, whole.nodes)
    with pytest.raises(RequestError, match="a measure of singular values is not extended"):
        whole.extend(A, num_probes=1)


def test_long_runs_stay_orthogonal_on_both_sides():
    values = np.concatenate([np.geomspace(1e-3, 1e-2, 50), np.geomspace(0.1, 10.0, 10)])
    A, _ = matrix(values, 80, 60)
    measure = slq.singular_measure(A, num_probes=1, num_steps=60)
    np.testing.assert_allclose(np.sort(measure.nodes[0]), np.sort(values), rtol=1e-9)


def test_progress_and_products_are_counted():
    A, _ = matrix(VALUES)
    seen = []
    measure = slq.singular_measure(
        A, num_probes=3, num_steps=M, batch_size=2, progress=lambda done, of: seen.append((done, of))
    )
    assert seen[-1] == (3 * M, 3 * M)
    assert measure.products == 2 * 3 * M
    with pytest.warns(ClippedStepsWarning, match="num_steps=40 exceeds the dimension: 18 steps are exact"):
        slq.singular_measure(A, num_probes=1, num_steps=40)


class Wrong:
    """A pair of products, one of which is spoilt."""

    shape, like = (P, N), np.empty(0)

    def __init__(self, forth=lambda y: y, back=lambda y: y):
        self._A = matrix(VALUES)[0]
        self._forth, self._back = forth, back

    def matvec(self, x):
        return self._forth(x @ self._A.T)

    def rmatvec(self, y):
        return self._back(y @ self._A)


def fail(_):
    raise OSError("gone")


def calls(at, value):
    count = iter(range(10**6))
    return lambda y: y * (value if next(count) == at else 1.0)


@pytest.mark.parametrize(
    ("operator", "error", "message"),
    [
        (
            Wrong(back=lambda y: -y),
            OperatorError,
            r"the adjoint does not fit: .* differ by 2 of ‖A v‖; rmatvec must be",
        ),
        (Wrong(back=lambda y: y + 1e-3 * y[:, ::-1]), OperatorError, "the adjoint does not fit"),
        (Wrong(back=lambda y: y[:, :5]), ShapeError, r"returned shape \(3, 5\)"),
        (Wrong(forth=lambda y: y.tolist()), PlacementError, "returned list"),
        (Wrong(forth=fail), ProductError, "product of step 0 raised OSError for a block .*: gone; correct the product"),
        (Wrong(forth=calls(0, np.nan)), NonFiniteError, r"products of step 0 contain NaN .* for probes \[0, 1, 2\]"),
        (Wrong(back=calls(3, np.inf)), NonFiniteError, "products of step 3 contain NaN or infinity"),
        (np.ones(3), ShapeError, "expected a matrix with 2 dimensions"),
        (lambda x: x, OperatorError, "adjoint"),
    ],
)
def test_what_is_wrong_is_named(operator, error, message):
    with pytest.raises(error, match=message):
        slq.golub_kahan(operator, V, M)


def test_requests_are_checked(xp):
    A = xp.asarray(matrix(VALUES)[0])
    with pytest.raises(RequestError, match="num_steps= expects an integer >= 1, got 0"):
        slq.golub_kahan(A, xp.asarray(V), 0)
    with pytest.raises(RequestError, match="reorthogonalize= expects"):
        slq.golub_kahan(A, xp.asarray(V), M, reorthogonalize="both")
    with pytest.raises(ShapeError, match=r"V expects shape \(k, 18\)"):
        slq.golub_kahan(A, xp.asarray(np.ones((2, P))), M)
    assert to_host(slq.singular_measure(A, num_steps=2, probes=xp.asarray(V)).nodes).shape == (K, 2)
