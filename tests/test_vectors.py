"""slq/_vectors.py, _host_vectors.py, _compiled.py: every way of doing the vector work gives the same."""

import sys
import types

import numpy as np
import pytest
import scipy.sparse

import slq
from slq import _compiled, _host_vectors, _vectors
from slq._arrays import to_host
from slq._products import Products
from slq._vectors import Vectors, device_vectors
from slq.errors import NotSymmetricError

K, N = 5, 40_000  # longer than a block of rows, and enough numbers for the compiled loops
RNG = np.random.default_rng(0)
LINE = scipy.sparse.diags_array([-1.0, 2.5, -1.0], offsets=[-1, 0, 1], shape=(N, N)).tocsr()


def arrays(dtype, k=K, n=N):
    """Y, before, v with rows of unit length, and a factor for each row."""
    drawn = RNG.normal(size=(3, k, n)) + (1j * RNG.normal(size=(3, k, n)) if "complex" in dtype else 0)
    drawn /= np.linalg.norm(drawn, axis=-1)[..., None]
    return (*drawn.astype(dtype), RNG.random(k))


def step(work, y, before, v, b, compare=True):
    """`open` and `close` of one step; the arrays are used up."""
    w, a, returned = work.open(y, before, b, v, compare)
    w, squared = work.close(w, a.real, v)
    return w, a, returned, squared


def same(found, expected, eps):
    # Each sum of n products of unit vectors carries at most a few roundings: measured below 4.
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(to_host(one), to_host(other), atol=16 * eps)


HOST = {
    "blocks": lambda v: _host_vectors._Blocks(v),
    "compiled": lambda v: _host_vectors._CompiledBlocks(v, _compiled),
}


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128", "complex64"])
@pytest.mark.parametrize("kind", HOST)
@pytest.mark.parametrize("shape", [(1, N), (K, N), (7, 300), (300, 7), (1, 1)])
@pytest.mark.parametrize("layout", ["rows", "interleaved"])
def test_work_on_the_host_is_that_of_the_array_api(dtype, kind, shape, layout):
    if kind == "compiled" and "complex" in dtype:
        pytest.skip("compiled loops are for real numbers")
    y, before, v, b = arrays(dtype, *shape)
    expected = step(Vectors(), y, before.copy(), v, b)
    product = y if layout == "rows" else np.asfortranarray(y)
    kept = product.copy()
    found = step(HOST[kind](v), product, before, v, b)
    same(found, expected, np.finfo(dtype).eps)
    np.testing.assert_array_equal(product, kept)  # what a product returned is the operator's
    assert found[0] is before
    assert step(HOST[kind](v), y, before, v, b, compare=False)[2] is None


@pytest.mark.parametrize("kind", HOST)
def test_the_first_step_leaves_the_product_alone(kind):
    y, _, v, b = arrays("float64")
    kept = y.copy()
    work = HOST[kind](v)
    w, a, returned = work.open(y, None, b, v, True)
    work.normalise(work.close(w, a, v)[0], b)
    np.testing.assert_array_equal(y, kept)
    assert returned is None


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", ["scipy", "compiled"])
def test_products_made_on_the_way_are_those_of_scipy(dtype, kind):
    matrix = LINE.astype(dtype)
    _, before, v, b = arrays(dtype)
    expected = step(Vectors(), 0.5 * (matrix @ v.T).T, before.copy(), v, b)
    work = _host_vectors._Csr(matrix, v) if kind == "scipy" else _host_vectors._CompiledCsr(matrix, v, _compiled)
    v, before = work.adopt(v), work.adopt(before)
    w, a, returned = work.multiply_and_open(Products(slq.aslinearoperator(matrix)), 0.5, before, b, v, True)
    same((*work.close(w, a, v), a, returned), [expected[i] for i in (0, 3, 1, 2)], 4 * np.finfo(dtype).eps)
    same([work.dot(v, v)], [np.ones(K)], np.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("kind", ["scipy", "compiled"])
def test_vectors_that_are_not_normalised_stay_in_range(kind, scale, monkeypatch):
    # Their factors drift by the norm of the operator in each step, and are drawn back before they leave float32.
    if kind == "scipy":
        monkeypatch.setattr(_host_vectors, "compiled", lambda: None)
    start = RNG.normal(size=(K, N)).astype(np.float32)
    matrix = (scale * LINE).astype(np.float32)
    run = slq.lanczos(matrix, start, 40, reorthogonalize=False)
    rows = slq.aslinearoperator(lambda x: (matrix @ x.T).T, like=start[0], batched=True)
    expected = slq.lanczos(rows, start, 40, reorthogonalize=False)
    # Differences of rounding grow as orthogonality is lost: measured 2e-6 of the norm.
    np.testing.assert_allclose(run.alpha / scale, expected.alpha / scale, atol=1e-4)
    np.testing.assert_allclose(run.beta / scale, expected.beta / scale, atol=1e-4)


@pytest.mark.parametrize("kind", ["scipy", "compiled"])
def test_interleaved_runs_end_one_by_one(kind, monkeypatch):
    if kind == "scipy":
        monkeypatch.setattr(_host_vectors, "compiled", lambda: None)
    blocks = scipy.sparse.block_diag([2 * scipy.sparse.eye_array(N // 2), LINE[: N // 2, : N // 2]]).tocsr()
    start = RNG.normal(size=(K, N))
    start[1, N // 2 :] = 0.0  # in an eigenspace
    run = slq.lanczos(blocks, start, 6, reorthogonalize=False)
    assert run.beta[1].tolist() == [0.0] * 6
    assert run.alpha[1].tolist() == pytest.approx([2.0, 0, 0, 0, 0, 0])
    others = [0, 2, 3, 4]
    expected = slq.lanczos(blocks, start[others], 6, reorthogonalize=False)
    np.testing.assert_allclose(run.alpha[others], expected.alpha, atol=1e-12)


# What cannot run here as it does elsewhere: the sources of compiled loops as Python, CuPy's kernels as NumPy


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("compare", [True, False])
@pytest.mark.parametrize("name", _compiled.__all__)
def test_compiled_loops_do_what_their_source_says(name, dtype, compare):
    matrix = LINE[:60, :60].tocsr().astype(dtype)
    y, before, v, b = arrays(dtype, 3, 60)
    columns, old = np.ascontiguousarray(v.T), np.ascontiguousarray(before.T)
    arguments = {
        "open_rows": (y, before, b, v),
        "close_rows": (before, b, v),
        "open_csr": (matrix.indptr, matrix.indices, matrix.data, 0.5, old, b, columns, compare),
        "close_columns": (old, b, columns),
        "dot_columns": (old, columns),
        "scale_columns": (old, b),
    }[name]
    seen = []
    for loop in (getattr(_compiled, name), getattr(_compiled, name).py_func):
        own = [x.copy() if isinstance(x, np.ndarray) else x for x in arguments]
        returned = loop(*own)
        returned = [] if returned is None else returned if isinstance(returned, tuple) else [returned]
        seen.append([*returned, *(x for x in own if isinstance(x, np.ndarray))])
    assert len(seen[0]) == len(seen[1])
    same(*seen, np.finfo(dtype).eps)
    changed = [not np.array_equal(x, z) for x, z in zip(seen[1][-len(own) :], arguments[-len(own) :], strict=False)]
    assert any(changed) == (name != "dot_columns")


class ElementwiseKernel:
    """CuPy's, in NumPy: the operation is run as it stands, on whole arrays, into the last argument."""

    def __init__(self, into, out, operation, _):
        self._names = [part.split()[1] for part in f"{into}, {out}".split(", ")]
        self._operation = operation

    def __call__(self, *arrays):
        values = dict(zip(self._names, arrays, strict=True))
        exec(self._operation, {}, values)  # leaves its result under the last name
        arrays[-1][...] = values[self._names[-1]]
        return arrays[-1]


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(ElementwiseKernel=ElementwiseKernel))
    monkeypatch.setattr("slq._vectors.library_name", lambda _: "cupy")
    _vectors._cupy_subtract.cache_clear()
    yield device_vectors(slq.aslinearoperator(np.eye(24)), np.eye(24))
    _vectors._cupy_subtract.cache_clear()


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_the_kernels_of_cupy_make_the_steps_of_the_array_api(kernels, dtype):
    y, before, v, b = arrays(dtype, 3, 24)
    expected = step(Vectors(), y, before.copy(), v, b)
    kept = y.copy()
    found = step(kernels, y, before, v, b)
    same(found, expected, np.finfo(dtype).eps)
    assert found[0] is before
    assert step(kernels, y, before, v, b, compare=False)[2] is None
    w, a, returned = kernels.open(y, None, b, v, True)
    assert returned is None
    same([w, a], [y, np.vecdot(v, y)], np.finfo(dtype).eps)
    same([kernels.normalise(w, b)], [kept * b[:, None]], np.finfo(dtype).eps)
    np.testing.assert_array_equal(y, kept)


@pytest.mark.parametrize("compare", [True, False])
@pytest.mark.parametrize("kind", ["scipy", "compiled"])
def test_products_made_on_the_way_compare_only_if_asked(kind, compare, monkeypatch):
    start = np.random.default_rng(3).normal(size=(K, N))
    if kind == "scipy":
        monkeypatch.setattr(_host_vectors, "compiled", lambda: None)
    run = slq.lanczos(LINE, start, 3, reorthogonalize=False, check=compare)
    expected = slq.lanczos(LINE, start, 3)
    np.testing.assert_allclose(run.alpha, expected.alpha, atol=1e-13)
    np.testing.assert_allclose(run.beta, expected.beta, atol=1e-13)
    # An asymmetric entry is met only by a comparison.
    spoilt = LINE.copy()
    spoilt.data = LINE.data * (1 + (np.arange(LINE.nnz) % 3 == 1))  # those above the diagonal
    if compare:
        with pytest.raises(NotSymmetricError, match="not symmetric"):
            slq.lanczos(spoilt, start, 3, reorthogonalize=False)
    else:
        assert np.isfinite(slq.lanczos(spoilt, start, 3, reorthogonalize=False, check=False).alpha).all()


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_work_on_every_library_is_that_of_the_array_api(xp, dtype):
    y, before, v, b = (xp.asarray(x) for x in arrays(dtype, 3, 24))
    expected = step(Vectors(), *(to_host(x).copy() for x in (y, before, v, b)))
    kept = to_host(y).copy()
    work = device_vectors(slq.aslinearoperator(lambda x: x, like=v[0, ...]), v)
    w, a, returned = work.open(y, before, b, v, True)
    w, squared = work.close(w, xp.namespace.real(a) if "complex" in dtype else a, v)
    same((w, a, returned, squared), expected, np.finfo(dtype).eps)
    np.testing.assert_array_equal(to_host(y), kept)


def test_sums_are_in_double_precision():
    # Added up in single precision, 10⁷ squares of 0.1 lose the fifth digit.
    v = np.full((1, 10**7), 0.1, dtype=np.float32)
    exact = 1e7 * float(np.float32(0.1)) ** 2
    for work in (Vectors(), _host_vectors._Blocks(v), _host_vectors._CompiledBlocks(v, _compiled)):
        assert float(work.close(v.copy(), np.zeros(1), v)[1][0]) == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize("kind", ["scipy", "compiled", "rows"])
def test_sparse_matrices_are_measured_alike_whatever_does_the_work(kind, monkeypatch):
    start = np.random.default_rng(3).normal(size=(K, N))
    expected = slq.lanczos(slq.aslinearoperator(lambda x: LINE @ x, like=np.zeros(N)), start, 12, reorthogonalize=False)
    seen = []
    original = _host_vectors.host_vectors
    monkeypatch.setattr(
        "slq._recurrence.host_vectors", lambda *a: (seen.append(type(original(*a)).__name__), original(*a))[1]
    )
    if kind != "compiled":
        monkeypatch.setattr(_host_vectors, "compiled", lambda: None)
    run = slq.lanczos(LINE, start if kind != "rows" else start[:2], 12, reorthogonalize=False)
    assert seen == [{"scipy": "_Csr", "compiled": "_CompiledCsr", "rows": "_Blocks"}[kind]]
    k = len(run.alpha)
    np.testing.assert_allclose(run.alpha, expected.alpha[:k], atol=1e-13)
    np.testing.assert_allclose(run.beta, expected.beta[:k], atol=1e-13)


def test_without_numba_the_blocks_do_the_work(monkeypatch):
    monkeypatch.setattr(_host_vectors.importlib.util, "find_spec", lambda _: None)
    _host_vectors.compiled.cache_clear()
    assert _host_vectors.compiled() is None
    _host_vectors.compiled.cache_clear()

    def cannot_cache(_):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.undo()
    monkeypatch.setattr(_host_vectors.importlib, "import_module", cannot_cache)
    assert _host_vectors.compiled() is None
    _host_vectors.compiled.cache_clear()


def test_autocast_of_the_caller_is_for_products_only():
    """Inside torch.autocast the recurrence keeps its precision, and products have the caller's."""
    torch = pytest.importorskip("torch")
    d = torch.linspace(1, 2, 300)
    inside: list[bool] = []

    def product(x):
        inside.append(torch.is_autocast_enabled("cpu"))
        return x * d

    A = slq.aslinearoperator(product, like=d, batched=True)
    plain = slq.spectral_measure(A, num_probes=2, num_steps=20)
    inside.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = slq.spectral_measure(A, num_probes=2, num_steps=20)
    assert all(inside)
    np.testing.assert_array_equal(found.alpha, plain.alpha)
    np.testing.assert_array_equal(found.beta, plain.beta)
