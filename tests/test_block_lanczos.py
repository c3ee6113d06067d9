"""slq/_block_lanczos.py: one Krylov space for a block of start vectors."""

import numpy as np
import pytest

import slq
from slq._arrays import to_host
from slq._block_rules import block_rules, block_sizes
from slq.errors import NonFiniteError, NotSymmetricError, PlacementError, ProductError, RequestError
from tests.problems import K, N, hessian_like, indefinite, mix, problem

STEPS = 5
A = problem(indefinite(N))
V = np.random.default_rng(0).normal(size=(K, N))


def projected(run):
    """The block tridiagonal matrix T of a run."""
    sizes = block_sizes(run.start[None], run.beta[None])[0]
    ends = np.cumsum(sizes)
    T = np.zeros((ends[-1], ends[-1]), run.alpha.dtype)
    for j, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        block = slice(end - size, end)
        T[block, block] = run.alpha[j, :size, :size]
        if j + 1 < len(sizes):
            T[end : ends[j + 1], block] = run.beta[j, : sizes[j + 1], :size]
            T[block, end : ends[j + 1]] = T[end : ends[j + 1], block].conj().T
    return T


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_the_basis_is_orthonormal_and_t_its_projection(xp, dtype):
    exact = problem(indefinite(N), dtype=complex if dtype == "complex128" else float)
    start = V + 1j * V[::-1] if dtype == "complex128" else V
    run = slq.block_lanczos(xp.asarray(exact.matrix, dtype), xp.asarray(start, dtype), STEPS, return_basis=True)
    assert run.alpha.shape == run.beta.shape == (STEPS, K, K)
    rows = to_host(run.basis).astype(np.complex128)
    assert rows.shape == (STEPS * K, N)
    # LAPACK's test ratios: at most 30 roundings times n. Measured here: below 1.
    atol = 30 * N * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(rows.conj() @ rows.T, np.eye(len(rows)), atol=atol)
    np.testing.assert_allclose(rows.conj() @ exact.matrix @ rows.T, projected(run), atol=2 * atol)
    unit = start / np.linalg.norm(start, axis=1)[:, None]
    np.testing.assert_allclose(run.start.T @ rows[:K], unit, atol=atol)
    residual = rows @ exact.matrix.T - projected(run).T @ rows
    np.testing.assert_allclose(residual[:-K], 0, atol=2 * atol)
    singular = np.linalg.svd(residual[-K:], compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(run.beta[-1], compute_uv=False), singular, atol=2 * atol)


def test_quadrature_is_exact_to_twice_the_steps():
    run = slq.block_lanczos(A.matrix, V, STEPS)
    nodes, weights, _ = block_rules(run.start[None], run.alpha[None], run.beta[None])
    unit = V / np.linalg.norm(V, axis=1)[:, None]
    for degree in range(2 * STEPS):
        moments = (weights * nodes**degree).sum(axis=1)
        np.testing.assert_allclose(moments, A.forms(unit, lambda t, p=degree: t**p), atol=1e-12)
    beyond = (weights * nodes ** (2 * STEPS)).sum(axis=1) - A.forms(unit, lambda t: t ** (2 * STEPS))
    assert np.abs(beyond).max() > 1e-6


def test_a_block_of_one_is_lanczos():
    run, block = slq.lanczos(A.matrix, V[:1], 8), slq.block_lanczos(A.matrix, V[:1], 8)
    np.testing.assert_allclose(block.alpha[:, 0, 0], run.alpha[0], atol=1e-13)
    np.testing.assert_allclose(np.abs(block.beta[:, 0, 0]), run.beta[0], atol=1e-13)


def test_blocks_shrink_as_the_space_is_exhausted():
    exact = problem(np.repeat([1.0, 2.0, 3.0], [14, 2, 4]))
    run = slq.block_lanczos(exact.matrix, np.random.default_rng(1).normal(size=(6, 20)), 8, return_basis=True)
    assert block_sizes(run.start[None], run.beta[None])[0].tolist() == [6, 6, 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(np.linalg.eigvalsh(projected(run)), np.repeat([1, 2, 3], [6, 2, 4]), atol=1e-13)
    everything = slq.block_lanczos(A.matrix, V, N)
    assert block_sizes(everything.start[None], everything.beta[None]).sum() == N
    np.testing.assert_allclose(np.linalg.eigvalsh(projected(everything)), A.eigenvalues, atol=1e-13)


@pytest.mark.parametrize("near", [0.0, 1e-12, 1e-7, 1e-3])
def test_dependent_start_vectors_make_a_smaller_block(near):
    twin = V[0] + near * V[2]  # within rounding or far above it
    run = slq.block_lanczos(A.matrix, np.stack([V[0], V[1], twin, 2 * V[1]]), 4, return_basis=True)
    assert block_sizes(run.start[None], run.beta[None])[0].tolist() == [2 + (near > 0)] * 4
    rows = run.basis
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-13)
    np.testing.assert_allclose(rows @ A.matrix @ rows.T, projected(run), atol=1e-13)
    unit = twin / np.linalg.norm(twin)
    np.testing.assert_allclose(run.start[: 2 + (near > 0), 2] @ rows[: 2 + (near > 0)], unit, atol=1e-13)


@pytest.mark.parametrize("exponent", [-900, -300, 300, 900])
def test_powers_of_two_change_nothing_else(exponent):
    scaled = slq.block_lanczos(np.ldexp(A.matrix, exponent), V, STEPS)
    run = slq.block_lanczos(A.matrix, V, STEPS)
    np.testing.assert_array_equal(scaled.alpha, np.ldexp(run.alpha, exponent))
    np.testing.assert_array_equal(scaled.start, run.start)


def test_graded_spectra_stay_orthogonal():
    exact = problem(hessian_like(400))
    rows = slq.block_lanczos(exact.matrix, mix(np.ones((5, 400)), seed=3) + 1e-3, 60, return_basis=True).basis
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-13)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "host"])
def test_a_narrow_basis_gives_nearly_the_same(xp, kind):
    if xp.name == "array_api_strict" and kind == "bfloat16":
        with pytest.raises(RequestError, match="array_api_strict has no bfloat16"):
            slq.block_lanczos(xp.asarray(A.matrix), xp.asarray(V), STEPS, basis_dtype=kind)
        return
    run = slq.block_lanczos(xp.asarray(A.matrix), xp.asarray(V), STEPS, basis_dtype=kind)
    expected = slq.block_lanczos(A.matrix, V, STEPS)
    atol = {"float32": 1e-7, "bfloat16": 1e-2, "host": 1e-12}[kind]  # measured: 1.4e-8, 9e-4 and 0
    both = [np.linalg.eigvalsh(projected(x)) for x in (run, expected)]
    np.testing.assert_allclose(*both, atol=atol)


def test_an_inner_product_of_the_operators_own_is_used():
    B = np.linspace(1, 3, N)

    class Weighted:
        shape, like = (N, N), np.empty(0)

        def matvec(self, x):
            return x @ A.matrix.T / B  # symmetric in ⟨x, y⟩ = xᵀ B y

        def vecdot(self, x, y):
            return (x * B * y).sum(axis=-1)

    run = slq.block_lanczos(Weighted(), V, STEPS, return_basis=True)
    np.testing.assert_allclose((run.basis * B) @ run.basis.T, np.eye(STEPS * K), atol=1e-13)
    np.testing.assert_allclose(run.basis @ A.matrix @ run.basis.T, projected(run), atol=1e-12)


def test_progress_is_told():
    seen = []
    slq.block_lanczos(A.matrix, V, 3, progress=lambda done, steps: seen.append((done, steps)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def after(products, fault):
    """An operator that works so often, then does `fault`."""
    count = iter(range(1000))
    return slq.aslinearoperator(lambda x: x @ A.matrix if next(count) < products else fault(x), like=V[0], batched=True)


def test_what_was_done_before_a_fault_is_kept():
    def broken(x):
        raise ValueError("no")

    for fault, error in ((lambda x: x * np.nan, NonFiniteError), (broken, ProductError)):
        with pytest.raises(error) as caught:
            slq.block_lanczos(after(2, fault), V, STEPS)
        np.testing.assert_array_equal(caught.value.partial.alpha, slq.block_lanczos(A.matrix, V, 2).alpha)
    assert caught.value.step == 2
    with pytest.raises(NonFiniteError) as caught:
        slq.block_lanczos(after(0, lambda x: x * np.inf), V, STEPS)
    assert caught.value.partial is None


def test_asymmetry_is_found():
    skew = A.matrix + 0.1 * np.triu(np.ones((N, N)), 1)
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        slq.block_lanczos(skew, V, STEPS)
    slq.block_lanczos(skew, V, STEPS, check=False)
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        slq.block_lanczos(after(2, lambda x: x @ skew.T), V, STEPS)


def test_bad_arguments_are_named():
    with pytest.raises(RequestError, match="num_steps= expects an integer >= 1, got 0"):
        slq.block_lanczos(A.matrix, V, 0)
    with pytest.raises(RequestError, match="zero or not finite"):
        slq.block_lanczos(A.matrix, 0 * V, 2)
    with pytest.raises(PlacementError, match="convert V"):
        slq.block_lanczos(A.matrix, V.tolist(), 2)
