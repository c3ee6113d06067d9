"""slq/_lanczos.py: the recurrence and its invariants."""

import numpy as np
import pytest

import slq
from slq import _lanczos, _products, _recurrence
from slq._arrays import to_host
from slq.errors import PlacementError, RequestError, ShapeError
from tests.problems import K, M, N, hessian_like, indefinite, mix, problem, strakos

A = problem(indefinite(N))
V = np.random.default_rng(0).normal(size=(K, N))


def tridiagonal(alpha, beta):
    """The matrix T of one run."""
    return np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_the_factorisation_holds_and_its_basis_is_orthonormal(xp, dtype):
    exact = problem(indefinite(N), dtype=complex if dtype == "complex128" else float)
    start = V + 1j * V[::-1] if dtype == "complex128" else V
    run = slq.lanczos(xp.asarray(exact.matrix, dtype), xp.asarray(start, dtype), M, return_basis=True)
    assert run.alpha.dtype == run.beta.dtype == np.float64
    assert run.alpha.shape == run.beta.shape == (K, M)
    basis = to_host(run.basis)
    assert basis.shape == (K, M, N)
    assert basis.dtype == dtype
    # LAPACK's test ratios: at most 30 roundings times n. Measured here: below 1.
    eps, norm = float(np.finfo(dtype).eps), 2.0
    for i in range(K):
        rows = basis[i].astype(np.complex128)
        np.testing.assert_allclose(rows.conj() @ rows.T, np.eye(M), atol=30 * N * eps)
        np.testing.assert_allclose(rows[0], start[i] / np.linalg.norm(start[i]), atol=30 * N * eps)
        residual = rows @ exact.matrix.T - tridiagonal(run.alpha[i], run.beta[i]) @ rows
        np.testing.assert_allclose(residual[:-1], 0, atol=30 * N * eps * norm)
        assert np.linalg.norm(residual[-1]) == pytest.approx(run.beta[i, -1], abs=30 * N * eps * norm)
        np.testing.assert_allclose(rows.conj() @ residual[-1], 0, atol=30 * N * eps * norm)


def test_coefficients_agree_between_libraries(xp):
    expected = slq.lanczos(A.matrix, V, M)
    for dtype, atol in (("float64", 1e-11), ("float32", 1e-4)):
        run = slq.lanczos(xp.asarray(A.matrix, dtype), xp.asarray(V, dtype), M)
        np.testing.assert_allclose(run.alpha, expected.alpha, atol=atol)
        np.testing.assert_allclose(run.beta, expected.beta, atol=atol)


def test_long_runs_stay_orthogonal_where_the_recurrence_alone_does_not():
    exact, start, m = problem(strakos(60)), mix(np.ones((2, 60)), seed=3), 45
    loss = {}
    for kind in (True, 10, False):
        basis = slq.lanczos(exact.matrix, start, m, reorthogonalize=kind, return_basis=True).basis
        gram = basis @ np.swapaxes(basis, 1, 2) - np.eye(m)
        loss[kind] = np.abs(gram).max()
        if kind == 10:
            assert np.abs(gram[:, :10]).max() < 1e-13  # everything against the first ten
    assert loss[True] < 30 * 60 * 2.0**-52
    assert loss[False] > 0.5  # the problem is hard enough to tell them apart


@pytest.mark.parametrize("kind", [False, 0, 5, True, np.int64(5), np.True_])
def test_returning_the_basis_changes_no_number(kind):
    exact = problem(strakos(60))
    start = mix(np.ones((2, 60)), seed=3)
    plain = slq.lanczos(exact.matrix, start, 40, reorthogonalize=kind)
    with_basis = slq.lanczos(exact.matrix, start, 40, reorthogonalize=kind, return_basis=True)
    assert plain.basis is None
    np.testing.assert_array_equal(with_basis.alpha, plain.alpha)
    np.testing.assert_array_equal(with_basis.beta, plain.beta)


@pytest.mark.parametrize("gap", [1e-6, 1e-9])
def test_vectors_stay_orthogonal_where_little_is_left_of_them(gap):
    # Three clusters: after three steps the residual is of the size of the cluster, and dividing by it lifts the
    # components along earlier vectors to eps/gap, unless these are removed once more.
    exact = problem(np.repeat([1.0, 2.0, 3.0], N // 3) + gap * indefinite(N))
    run = slq.lanczos(exact.matrix, V, 5, return_basis=True)
    assert 0 < run.beta[:, 2].max() < 10 * gap
    gram = run.basis @ np.swapaxes(run.basis, 1, 2)
    np.testing.assert_allclose(gram, np.tile(np.eye(5), (K, 1, 1)), atol=30 * N * 2.0**-52)


def test_reorthogonalisation_against_the_first_vectors_finds_the_bulk():
    exact = problem(hessian_like(300))
    start = mix(np.ones((2, 300)), seed=4)
    truth = exact.forms(start / np.linalg.norm(start, axis=1)[:, None], np.log)
    error = {}
    for kind in (True, 40, False):
        run = slq.lanczos(exact.matrix, start, 80, reorthogonalize=kind)
        nodes, weights = slq.golub_welsch(run.alpha, run.beta)
        error[kind] = np.abs(((weights * np.log(nodes)).sum(axis=1) - truth) / truth).max()
    # Measured: 8e-13, 8e-13, 2e-5.
    assert error[True] < 1e-11
    assert error[40] < 1e-11
    assert error[False] > 1e-6


def test_start_vectors_of_any_length_are_the_same(xp):
    expected = slq.lanczos(A.matrix, V, M)
    for factor in (1e-300, 1e300):
        run = slq.lanczos(xp.asarray(A.matrix), xp.asarray(factor * V), M)
        np.testing.assert_allclose(run.alpha, expected.alpha, atol=1e-12)


# Meets an overflow in the reciprocal of the largest entry.
def test_subnormal_start_vectors_have_a_direction():
    run = slq.lanczos(A.matrix, np.full((1, N), 5e-324), M)
    np.testing.assert_allclose(run.alpha, slq.lanczos(A.matrix, np.ones((1, N)), M).alpha, atol=1e-12)


def test_one_start_vector_may_be_one_dimensional():
    run = slq.lanczos(A.matrix, V[0], M)
    assert run.alpha.shape == (1, M)
    np.testing.assert_allclose(run.alpha[0], slq.lanczos(A.matrix, V, M).alpha[0], atol=1e-13)


def test_start_vectors_are_left_alone():
    before = V.copy()
    slq.lanczos(A.matrix, V, M)
    np.testing.assert_array_equal(V, before)


def test_a_run_ends_for_one_probe_and_continues_for_the_others(xp):
    start = np.stack([A.vectors[0], A.vectors[1] + A.vectors[-1], V[0]])
    run = slq.lanczos(xp.asarray(A.matrix), xp.asarray(start), M)
    assert (run.beta[0] == 0).all()
    assert run.beta[1, 0] > 0.01
    assert (run.beta[1, 1:] == 0).all()
    assert (run.beta[2] > 0).all()
    np.testing.assert_allclose(run.alpha[0, 0], A.eigenvalues[0], atol=1e-14)
    np.testing.assert_array_equal(run.alpha[0, 1:], 0.0)
    np.testing.assert_allclose(run.alpha[2], slq.lanczos(A.matrix, V[:1], M).alpha[0], atol=1e-11)


def test_what_a_product_makes_of_zero_vectors_does_not_matter():
    def normalises(x):
        length = np.linalg.norm(x, axis=-1, keepdims=True)
        with np.errstate(invalid="ignore"):
            return (x / length) @ A.matrix * length  # NaN for the zero vectors of runs that have ended

    start = np.stack([A.vectors[0], V[0]])
    run = slq.lanczos(slq.aslinearoperator(normalises, like=V[0], batched=True), start, M)
    expected = slq.lanczos(A.matrix, start, M)
    assert (run.beta[0] == 0).all()
    assert (run.alpha[0, 1:] == 0).all()
    np.testing.assert_allclose(run.alpha, expected.alpha, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_products_run_a_single_precision_recurrence(dtype):
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    seen = set()

    def product(x):
        seen.add(x.dtype)
        return (x.float() @ matrix.float()).to(kind)

    exact = problem(np.linspace(0.05, 1.0, 200))
    matrix = torch.tensor(exact.matrix).to(kind)
    operator = slq.aslinearoperator(product, like=torch.zeros(200, dtype=kind), batched=True)
    start = torch.randn(2, 200, generator=torch.Generator().manual_seed(0))
    run = slq.lanczos(operator, start, 30, return_basis=True)
    assert seen == {kind}
    assert run.basis.dtype == torch.float32
    gram = run.basis @ run.basis.mT - torch.eye(30)
    assert gram.abs().max() < 30 * 30 * 2.0**-23
    nodes, weights = slq.golub_welsch(run.alpha, run.beta)
    unit = start.double().numpy() / np.linalg.norm(start.double().numpy(), axis=1)[:, None]
    # A product rounded to precision eps is that of an operator eps·‖A‖ away; the mean over the spectrum is much closer.
    eps = torch.finfo(kind).eps
    np.testing.assert_allclose((weights * nodes).sum(axis=1), exact.forms(unit, lambda t: t), atol=eps)
    assert nodes.min() > 0.05 - 4 * eps


def test_half_precision_matrices_of_numpy():
    exact = problem(np.linspace(0.5, 1.0, 40))
    run = slq.lanczos(exact.matrix.astype(np.float16), mix(np.ones((2, 40))), 10, return_basis=True)
    assert run.basis.dtype == np.float32
    reference = slq.lanczos(exact.matrix, mix(np.ones((2, 40))), 10)
    np.testing.assert_allclose(run.alpha[:, :3], reference.alpha[:, :3], atol=2.0**-9)


@pytest.fixture
def reads(monkeypatch):
    """The number of arrays read back from the device so far, in a list that a test may clear."""
    seen = []
    for module in (_lanczos, _products, _recurrence):
        original = module.to_host
        monkeypatch.setattr(module, "to_host", lambda x, original=original: (seen.append(x), original(x))[1])
    return seen


def test_reads_from_the_device_do_not_grow_with_the_steps(xp, reads):
    counts = []
    for m in (2, M):
        reads.clear()
        slq.lanczos(xp.asarray(A.matrix), xp.asarray(V), m)
        counts.append(len(reads))
    # The lengths of the start vectors, the first product, and all coefficients at the end.
    assert counts == [3, 3]


def test_torch_is_never_asked_for_a_value_inside_the_loop(monkeypatch):
    torch = pytest.importorskip("torch")
    asked = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda x, *a, original=original, name=name, **k: (asked.append(name), original(x, *a, **k))[1],
        )
    counts = []
    for m in (2, M):
        asked.clear()
        slq.lanczos(torch.tensor(A.matrix), torch.tensor(V), m)
        counts.append(sorted(asked))
    assert counts[0] == counts[1]


def test_progress_is_reported_after_each_step():
    seen = []
    slq.lanczos(A.matrix, V, 4, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("value", [0, -1, 2.0, "3", None, True, np.nan])
def test_the_number_of_steps_is_checked(value):
    with pytest.raises(RequestError, match="num_steps= expects an integer >= 1, got"):
        slq.lanczos(A.matrix, V, value)


@pytest.mark.parametrize("value", [-1, 1.5, "all", None])
def test_reorthogonalize_is_checked(value):
    with pytest.raises(RequestError, match="reorthogonalize= expects True, False or an integer >= 0, got"):
        slq.lanczos(A.matrix, V, M, reorthogonalize=value)


def test_start_vectors_belong_to_the_operators_library(xp):
    other = V if xp.name != "numpy" else pytest.importorskip("torch").tensor(V)
    name = "numpy" if xp.name != "numpy" else "torch"
    with pytest.raises(PlacementError, match=f"multiplies arrays of {xp.name}, but V is of {name}; convert V"):
        slq.lanczos(xp.asarray(A.matrix), other, M)
    with pytest.raises(PlacementError, match="but V is of list"):
        slq.lanczos(xp.asarray(A.matrix), V.tolist(), M)


# Refused by the library instead of by slq, with an error of its own.
def test_start_vectors_belong_on_the_operators_device():
    xs = pytest.importorskip("array_api_strict")
    with pytest.raises(PlacementError, match="device"):
        slq.lanczos(xs.asarray(A.matrix, device=xs.Device("device1")), xs.asarray(V), M)


@pytest.mark.parametrize("shape", [(K, N + 1), (0, N), (2, K, N), ()])
def test_the_shape_of_start_vectors_is_checked(shape):
    with pytest.raises(ShapeError, match=r"V expects shape \(k, 24\) with k >= 1, each row a start vector, got"):
        slq.lanczos(A.matrix, np.ones(shape), M)


def test_real_and_complex_go_together(xp):
    expected = slq.lanczos(A.matrix, V, M)
    for matrix, start in ((A.matrix + 0j, V), (A.matrix, V + 0j), (A.matrix, 1j * V)):
        run = slq.lanczos(xp.asarray(matrix), xp.asarray(start), M, return_basis=True)
        np.testing.assert_allclose(run.alpha, expected.alpha, atol=1e-12)
        assert "complex128" in str(run.basis.dtype)


def test_complex_start_vectors_need_a_complex_operator_with_its_own_inner_product():
    class Metric:
        shape, like = A.matrix.shape, np.empty(0)

        def matvec(self, x):
            return x @ A.matrix

        def vecdot(self, x, y):
            return (x * y).sum(axis=-1)

    with pytest.raises(RequestError, match="complex vectors need a complex operator where it has an inner product"):
        slq.lanczos(Metric(), V + 0j, M)


# With inf this meets a RuntimeWarning of NumPy before the error of slq.
@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_start_vector_needs_a_direction(bad):
    start = V.copy()
    start[1] = 0.0
    start[1, 0] = bad
    with pytest.raises(RequestError, match=r"start vectors \[1\] are zero or not finite"):
        slq.lanczos(A.matrix, start, M)


def test_a_run_ends_where_it_is_told_with_the_coefficients_of_a_shorter_one(xp):
    matrix, seen = xp.asarray(A.matrix), []

    def until(alpha, beta):
        assert alpha.shape == beta.shape
        seen.append(alpha.shape)
        return alpha.shape[1] >= 7

    start = _lanczos.start(slq.aslinearoperator(matrix), xp.asarray(V))[0]
    products = _products.Products(slq.aslinearoperator(matrix))
    run = _lanczos.run(products, start, N, until=until)
    assert seen == [(K, 4), (K, 6), (K, 8)]
    short = slq.lanczos(matrix, xp.asarray(V), 8)
    # The same operations in the same order.
    np.testing.assert_allclose(run.alpha, short.alpha, atol=1e-14)
    np.testing.assert_allclose(run.beta, short.beta, atol=1e-14)


def test_a_run_that_is_not_told_to_end_goes_on_and_one_that_met_its_end_is_cut_there():
    A = slq.aslinearoperator(np.diag(np.arange(N) % 3.0))
    start = _lanczos.start(A, V)[0]
    run = _lanczos.run(_products.Products(A), start, N, until=lambda *_: False)
    assert run.alpha.shape == (K, 3)
    start = _lanczos.start(A, V)[0]
    other = slq.aslinearoperator(problem(indefinite(N)).matrix)
    assert _lanczos.run(_products.Products(other), start, 9, until=lambda *_: False).alpha.shape == (K, 9)


def test_nan_ends_a_run_that_would_be_asked():
    calls = []

    def product(x):
        calls.append(1)
        return x * np.arange(1.0, N + 1) if len(calls) < 4 else x * np.nan

    A = slq.aslinearoperator(product, like=np.zeros(N), batched=True)
    start = _lanczos.start(A, V)[0]
    with pytest.raises(slq.errors.NonFiniteError):
        _lanczos.run(_products.Products(A), start, N, until=lambda *_: pytest.fail("asked about NaN"))
    assert len(calls) == 4
