"""slq/_eigen.py: eigenpairs against exact spectra."""

import tracemalloc

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

import slq
from slq import _memory, generalized
from slq._arrays import library_name, to_host
from slq.errors import (
    MemoryForecastError,
    NonFiniteError,
    NotSymmetricError,
    PlacementError,
    RequestError,
    UnconvergedWarning,
)
from slq.testing import problems
from slq.testing.graphs import complete_laplacian
from slq.testing.spectra import hessian_like, strakos
from tests.problems import N, indefinite, problem

LIMIT = 2.0 ** (-52 * 2 / 3)  # the default tolerance in double precision


def first(values, k, which):
    """The first k of exact eigenvalues, as the docstring orders them."""
    up = np.sort(values)
    return {
        "LA": up[::-1][:k],
        "SA": up[:k],
        "LM": values[np.argsort(-np.abs(values), kind="stable")][:k],
        "BE": np.concatenate([up[: k // 2], up[len(up) - (k + 1) // 2 :]]),
    }[which]


def agree(found, exact, matrix, atol=1e-9):
    """Values within `atol` of ‖A‖; orthonormal vectors; residuals that are those of the vectors."""
    norm = np.abs(matrix).max() * len(matrix) or 1.0
    vectors = to_host(found.vectors).astype(np.complex128)
    assert found.converged.all()
    assert found.complete
    np.testing.assert_allclose(found.values, exact, rtol=0, atol=atol * norm)
    eps = 30 * len(matrix) * np.finfo(to_host(found.vectors).dtype).eps  # LAPACK's test ratios, as in test_lanczos
    np.testing.assert_allclose(vectors.conj() @ vectors.T, np.eye(len(exact)), atol=eps)
    true = np.linalg.norm(vectors @ matrix.T - found.values[:, None] * vectors, axis=1)
    np.testing.assert_allclose(found.residuals, true, rtol=1e-3, atol=eps * norm)


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_every_library_finds_them(xp, which, dtype):
    exact = problem(indefinite(N), dtype=complex if dtype == "complex128" else float)
    matrix = xp.asarray(exact.matrix, dtype)
    found = slq.eigenpairs(matrix, 3, which=which, num_steps=9)
    assert found.values.dtype == found.residuals.dtype == np.float64
    assert library_name(found.vectors) == xp.name
    assert found.vectors.dtype == matrix.dtype
    assert found.vectors.device == matrix.device
    assert tuple(found.vectors.shape) == (3, N)
    # An error of a value is at most its residual, 2e-5 ‖A‖ in single precision (by default).
    agree(found, first(exact.eigenvalues, 3, which), to_host(matrix).astype(np.complex128), 1e-5)


@pytest.mark.parametrize("num_steps", [7, 12, 60, 200])
@pytest.mark.parametrize("seed", range(5))
def test_no_ghost_is_taken_for_an_eigenvalue(num_steps, seed):
    # In single precision, Lanczos without reorthogonalisation finds 100 five times here.
    small = np.random.default_rng(seed).uniform(0, 0.5, 995)
    matrix = np.diag(np.concatenate([[100.0, 10.0, 5.0, 2.0, 1.0], small])).astype(np.float32)
    found = slq.eigenpairs(matrix, 5, num_steps=num_steps, rng=seed)
    assert found.converged.all()
    assert found.complete
    # Residuals are below 2e-5 · 100; with gaps of 0.5 and more, errors below their squares over these, and rounding.
    np.testing.assert_allclose(found.values, [100, 10, 5, 2, 1], rtol=0, atol=3e-5)


MULTIPLE = {
    "identity": (np.eye(10), 3),
    "a multiple of it": (-3 * np.eye(10), 10),
    "zero": (np.zeros((6, 6)), 2),
    "rank one": (np.ones((8, 8)), 2),
    "one dimension": (np.array([[3.0]]), 1),
    "two dimensions, one": (np.diag([1.0, 2.0]), 1),
    "two dimensions, both": (np.array([[3.0, 1.0], [1.0, 3.0]]), 2),
    "all": (problem(indefinite(N)).matrix, N),
    "all but one": (problem(indefinite(N)).matrix, N - 1),
    "complete graph": (20 * np.eye(20) - np.ones((20, 20)), 5),
    "double top": (problem(np.append(np.linspace(0, 3, 80), [5.0, 5.0, 4.0])).matrix, 3),
    "half of a double top": (problem(np.append(np.linspace(0, 3, 80), [5.0, 5.0])).matrix, 1),
    "fourfold top": (problem(np.append(np.linspace(0, 3, 80), [5.0] * 4)).matrix, 4),
    "both signs": (problem(np.append(np.linspace(-1, 1, 80), [-5.0, 5.0, -5.0, 4.0])).matrix, 4),
}


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
@pytest.mark.parametrize("name", MULTIPLE)
def test_multiple_eigenvalues_are_found_as_often_as_they_occur(name, which):
    matrix, k = MULTIPLE[name]
    for seed in range(3):
        found = slq.eigenpairs(matrix, k, which=which, rng=seed, check=False)
        exact = first(np.linalg.eigvalsh(matrix), k, which)
        if which == "LM":  # ties of ±λ come in any order
            found = found._replace(values=np.abs(found.values))
            exact = np.abs(exact)
            np.testing.assert_allclose(found.values, exact, atol=1e-9 * np.abs(matrix).sum())
        else:
            agree(found, exact, matrix)


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_the_battery(which):
    missed = []
    for case in problems():
        exact = first(case.eigenvalues(), 4, which)
        found = slq.eigenpairs(case.operator(), 4, which=which, check=False)
        values, exact = (np.abs(x) if which == "LM" else x for x in (found.values, exact))
        if not found.complete or np.abs(values - exact).max() > 1e-9 * np.abs(case.eigenvalues()).max():
            missed.append((case.name, found.values, exact))
    assert not missed


@pytest.mark.parametrize("exponent", [-1000, -500, 500, 1000])
def test_the_scale_of_the_operator_does_not_matter(exponent):
    matrix = problem(np.append(hessian_like(80), [100.0, 100.0])).matrix
    expected = slq.eigenpairs(matrix, 4)
    with np.errstate(under="ignore"):
        found = slq.eigenpairs(np.ldexp(matrix, exponent), 4, check=False)
        residuals = np.ldexp(found.residuals, -exponent)
    assert found.converged.all()
    assert found.complete
    # To a few roundings of 100; below 2^-1000 entries are subnormal, and lose digits: an error of 2^-1074/2^-1000.
    np.testing.assert_allclose(np.ldexp(found.values, -exponent), expected.values, rtol=0, atol=1e-11)
    assert residuals.max() <= LIMIT * 101


@pytest.mark.parametrize("exponent", [-100, 100])
def test_the_scale_does_not_matter_in_single_precision(exponent):
    matrix = problem(hessian_like(80)).matrix.astype(np.float32)
    found = slq.eigenpairs(np.ldexp(matrix, exponent), 4, check=False)
    np.testing.assert_allclose(np.ldexp(found.values, -exponent), slq.eigenpairs(matrix, 4).values, rtol=1e-5)


def test_a_start_in_the_null_space_does_not_hide_the_scale():
    matrix = np.diag([0.0, *np.linspace(1, 2, 21)]) * 2.0**600
    found = slq.eigenpairs(matrix, 2, v0=np.eye(22)[0], check=False)
    np.testing.assert_allclose(found.values * 2.0**-600, [2, 1.95], rtol=1e-12)


@pytest.mark.parametrize("tol", [0.0, 1e-3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "spectrum", [hessian_like(300), strakos(300), indefinite(300)], ids=["hessian", "strakos", "-"]
)
def test_the_tolerance_is_met_and_no_less_than_rounding(spectrum, dtype, tol):
    matrix = problem(spectrum).matrix.astype(dtype)
    eps = np.finfo(dtype).eps
    floor = {"float64": 70, "float32": 10}[dtype] * eps
    norm = np.abs(spectrum).max()
    for seed in range(3):
        found = slq.eigenpairs(matrix, 6, tol=tol, rng=seed, check=False)
        assert found.converged.all()  # with tol=0, measured: residuals up to 17 eps in double precision, 5 in single
        assert found.residuals.max() <= max(tol, floor) * norm
        # Kato and Temple: r²/gap; here against the plain bound r, and rounding.
        np.testing.assert_allclose(found.values, np.sort(spectrum)[::-1][:6], rtol=0, atol=max(tol, floor) * norm)


def test_many_seeds_miss_no_copy():
    matrix = problem(np.append(np.linspace(0, 3, 60), [4.0, 4.0, 4.0, 3.5])).matrix
    for seed in range(60):
        found = slq.eigenpairs(matrix, 4, rng=seed, check=False)
        np.testing.assert_allclose(found.values, [4, 4, 4, 3.5], rtol=0, atol=1e-9)


def test_copies_are_missed_no_more_often_than_was_allowed(monkeypatch):
    monkeypatch.setattr("slq._wanted._MISSED", 0.5)
    matrix = problem(np.append(np.linspace(0, 3, 60), [3.3, 3.3])).matrix
    counts = [int((slq.eigenpairs(matrix, 2, rng=seed, check=False).values > 3.2).sum()) for seed in range(200)]
    # A binomial of 200 and at most 0.5: above 130 with probability 1e-5. Measured: 16 misses.
    assert counts.count(1) <= 130
    assert counts.count(1) + counts.count(2) == 200


def test_without_verification_copies_are_missed_and_completeness_is_not_claimed():
    matrix = problem(np.append(np.linspace(0, 1, 100), [100.0, 100.0, 50.0])).matrix
    plain = slq.eigenpairs(matrix, 2, verify=False, check=False)
    whole = slq.eigenpairs(matrix, 2, check=False)
    np.testing.assert_allclose(plain.values, [100, 50], rtol=1e-9)  # rounding has not had the time to bring the copy
    np.testing.assert_allclose(whole.values, [100, 100], rtol=1e-9)
    assert not plain.complete
    assert plain.converged.all()
    assert plain.products < whole.products


def test_what_has_not_converged_is_said_and_told_apart():
    matrix = problem(np.concatenate([np.linspace(0, 1, 390), np.geomspace(2, 500, 10)])).matrix
    with pytest.warns(UnconvergedWarning, match=r"of 8 eigenpairs have not converged.*after 25 products; allow more"):
        found = slq.eigenpairs(matrix, 8, max_products=25)
    assert found.products == 25
    assert not found.complete
    assert found.converged[0]
    assert not found.converged[-1]
    vectors = found.vectors
    true = np.linalg.norm(vectors @ matrix - found.values[:, None] * vectors, axis=1)
    np.testing.assert_allclose(found.residuals, true, rtol=1e-6, atol=1e-12 * 500)
    distance = np.abs(found.values[:, None] - np.linalg.eigvalsh(matrix)).min(axis=1)
    assert (distance <= found.residuals + 1e-12 * 500).all()


def test_an_unfinished_verification_is_said():
    matrix = problem(np.linspace(0, 1, 300)).matrix
    enough = slq.eigenpairs(matrix, 2, verify=False, check=False).products
    with pytest.warns(UnconvergedWarning, match="it is not sure that none before them is missing"):
        found = slq.eigenpairs(matrix, 2, max_products=enough + 3, check=False)
    assert found.converged.all()
    assert not found.complete


def test_products_are_counted_and_progress_is_reported():
    multiplied, seen = [], []
    matrix = problem(hessian_like(100)).matrix

    def product(x):
        multiplied.append(len(x))
        return x @ matrix

    operator = slq.aslinearoperator(product, like=matrix[0], batched=True)
    multiplied.clear()
    found = slq.eigenpairs(operator, 3, check=False, progress=lambda done, of: seen.append((done, of)))
    assert found.products == sum(multiplied)
    assert [done for done, _ in seen] == list(range(1, found.products - 2))
    assert seen[-1][1] == 3


def test_an_interrupt_goes_through():
    def interrupted(done, converged):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slq.eigenpairs(np.diag(hessian_like(100)), 3, progress=interrupted)


def test_a_seed_is_a_result_and_a_given_start_is_used():
    exact = problem(hessian_like(200))
    one, two = (slq.eigenpairs(exact.matrix, 3, rng=7) for _ in range(2))
    np.testing.assert_array_equal(one.vectors, two.vectors)
    near = exact.vectors[np.argsort(-exact.eigenvalues)[:3]] + 1e-6 * np.random.default_rng(0).normal(size=(3, 200))
    for v0 in (near, near.sum(axis=0)):
        again = slq.eigenpairs(exact.matrix, 3, rng=7, v0=v0)
        assert again.products < one.products
        np.testing.assert_allclose(again.values, one.values, rtol=1e-12)


def test_half_precision_products():
    torch = pytest.importorskip("torch")
    matrix = torch.tensor(problem(np.append(np.linspace(0, 1, 197), [20.0, 50.0, 100.0])).matrix).bfloat16()
    operator = slq.aslinearoperator(
        lambda x: (x.float() @ matrix.float()).bfloat16(), like=torch.zeros(200, dtype=torch.bfloat16), batched=True
    )
    found = slq.eigenpairs(operator, 3)
    assert found.vectors.dtype == torch.float32
    assert found.converged.all()
    np.testing.assert_allclose(found.values, [100, 50, 20], rtol=0, atol=2.0**-7 * 100)  # a rounding of the products


@pytest.mark.parametrize("is_complex", [False, True])
def test_pairs_of_matrices(xp, is_complex):
    A = problem(indefinite(N), dtype=complex if is_complex else float).matrix
    B = problem(np.geomspace(0.1, 10.0, N), seed=3).matrix
    found = slq.eigenpairs(generalized(xp.asarray(A), xp.asarray(B)), 3, num_steps=9)
    v = to_host(found.vectors)
    np.testing.assert_allclose(found.values, scipy.linalg.eigh(A, B, eigvals_only=True)[::-1][:3], rtol=0, atol=1e-9)
    np.testing.assert_allclose(v @ A.T, found.values[:, None] * (v @ B.T), atol=1e-7)  # residuals in the B⁻¹ norm
    np.testing.assert_allclose(v.conj() @ B @ v.T, np.eye(3), atol=1e-10)  # cond(B) = 100


def test_sparse_matrices():
    path = scipy.sparse.diags_array([-np.ones(499), 2 * np.ones(500), -np.ones(499)], offsets=[-1, 0, 1])
    exact = 2 - 2 * np.cos(np.pi * np.arange(500, 495, -1) / 501)
    np.testing.assert_allclose(slq.eigenpairs(path.tocsr(), 5).values, exact, rtol=0, atol=1e-12)


def test_graphs_with_one_eigenvalue_but_for_one():
    graph = complete_laplacian(24)
    found = slq.eigenpairs(graph.operator(), 20, check=False)
    np.testing.assert_allclose(found.values, 24, rtol=1e-12)


def test_parts_of_vectors_multiplied_by_processes_that_meet():
    class Permuted:
        """One process that holds all coordinates, in an order of its own."""

        def __init__(self, matrix, order):
            self.shape, self.like, self.index = matrix.shape, np.empty(0), order
            self._matrix = matrix[np.ix_(order, order)]

        def matvec(self, x, /):
            return x @ self._matrix

        def vecdot(self, x, y):
            return (x * y).sum(axis=-1)

        def put(self, block):
            return np.array(block)

    matrix = problem(indefinite(N)).matrix
    order = np.random.default_rng(0).permutation(N)
    found = slq.eigenpairs(Permuted(matrix, order), 3)
    whole = slq.eigenpairs(matrix, 3)
    np.testing.assert_allclose(found.values, whole.values, atol=1e-12)
    overlap = np.abs((found.vectors * whole.vectors[:, order]).sum(axis=1))
    np.testing.assert_allclose(overlap, 1, atol=1e-9)


def test_the_gradient_concentrates_in_them():
    exact = problem(hessian_like(100))
    found = slq.eigenpairs(exact.matrix, 5)
    g = exact.vectors[np.argmax(exact.eigenvalues)] + 1e-3 * exact.vectors[0]
    expected = 1 / (1 + 1e-6)
    assert slq.analysis.gradient_concentration(found, g, 5) == pytest.approx(expected, rel=1e-9)
    assert slq.analysis.gradient_concentration(found.vectors, g, 5) == pytest.approx(expected, rel=1e-9)


REFUSED = {
    "k": ({"k": 0}, "k= expects an integer >= 1, got 0"),
    "too many": ({"k": N + 1}, f"k= expects at most the {N} eigenvalues that there are, got {N + 1}"),
    "which": ({"which": "SM"}, "which= expects 'LA', 'SA', 'LM', 'BE', got 'SM'; the smallest magnitudes are"),
    "tol": ({"tol": -1e-3}, r"tol= expects None or a number in \[0, 1\), relative to the norm of A, got -0.001"),
    "tol as text": ({"tol": "small"}, "tol= expects None or a number"),
    "num_steps": ({"num_steps": 4}, "num_steps= expects an integer >= 5, got 4"),
    "max_products": ({"max_products": 5}, "max_products= expects an integer >= 6, got 5"),
    "rng": ({"rng": -1}, "rng= expects an integer >= 0, got -1"),
    "v0": ({"v0": np.zeros(N)}, r"start vectors \[0\] are zero or not finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_are_checked(name):
    options, message = REFUSED[name]
    with pytest.raises(RequestError, match=message):
        slq.eigenpairs(np.eye(N), **{"k": 3, **options})


def test_a_start_belongs_to_the_library():
    torch = pytest.importorskip("torch")
    with pytest.raises(PlacementError, match="multiplies arrays of numpy, but V is of torch"):
        slq.eigenpairs(np.eye(N), 2, v0=torch.ones(N))


def test_what_is_not_symmetric_is_refused():
    matrix = np.triu(np.random.default_rng(0).normal(size=(60, 60)))
    with pytest.raises(NotSymmetricError):
        slq.eigenpairs(matrix, 3)
    # Seen on the way too: an operator that becomes asymmetric after the first check.
    calls = []

    def product(x):
        calls.append(1)
        return x @ (matrix if len(calls) > 15 else np.eye(60) + matrix + matrix.T)

    operator = slq.aslinearoperator(product, like=matrix[0], batched=True)
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        slq.eigenpairs(operator, 3)
    assert len(calls) == 16  # at once


def test_products_that_are_not_finite():
    matrix = problem(hessian_like(60)).matrix

    def product(x):
        calls.append(1)
        return x @ matrix * (np.nan if len(calls) == 7 else 1.0)

    for first_bad in (0, 6):
        calls = [1] * (6 - first_bad)
        operator = slq.aslinearoperator(product, like=matrix[0], batched=True)
        with pytest.raises(NonFiniteError, match="contains NaN or infinity"):
            slq.eigenpairs(operator, 3, check=False)


def test_memory_is_forecast(monkeypatch):
    asked = []
    monkeypatch.setattr(_memory, "available", lambda like: asked.append(like) or 10**6)
    with pytest.raises(
        MemoryForecastError, match=r"the run needs about 1.87 MB, but 1 MB are free; these fit: num_steps=7"
    ):
        slq.eigenpairs(np.diag(np.arange(1000.0) ** 4), 5, num_steps=200)
    assert asked


def test_the_forecast_is_not_exceeded(monkeypatch):
    n, needed = 100_000, []
    monkeypatch.setattr("slq._eigen.require", lambda *arguments: needed.append(arguments[1]))
    diagonal = np.linspace(0, 1, n)
    operator = slq.aslinearoperator(lambda x: x * diagonal, like=diagonal, batched=True)
    for k in (3, 30):
        tracemalloc.start()
        with pytest.warns(UnconvergedWarning):
            slq.eigenpairs(operator, k, max_products=200, check=False)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert 0.7 * needed[-1] < peak < 1.02 * needed[-1]  # measured: 0.86 and 0.93 of it
