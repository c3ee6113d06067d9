"""slq/_foreign.py: operators of other packages, by stand-ins that have the same members and no others.

tests/interop/ has the real ones.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse

import slq
from slq import aslinearoperator, gram, to_scipy
from slq._arrays import from_host, to_host
from slq._products import Products
from slq._wrappers import SparseMatrix
from slq.errors import DtypeWarning, OperatorError, ShapeError
from tests.conftest import load
from tests.problems import K, N, indefinite, problem

A = problem(indefinite(N)).matrix
H = problem(indefinite(N), dtype=complex).matrix
RNG = np.random.default_rng(0)
X = RNG.normal(size=(K, N))
Z = X + 1j * RNG.normal(size=(K, N))
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def check(operator, dense):
    """A block product and a single one; then, made rectangular by the caller or not, AᴴA."""
    x = (Z if np.iscomplexobj(dense) else X)[:, : dense.shape[1]]
    for rows in (x, x[0]):
        product = Products(operator)(from_host(rows, operator.like))
        np.testing.assert_allclose(to_host(product), rows @ dense.T, **CLOSE)


def check_gram(A, dense, **options):
    check(gram(A, **options), dense.conj().T @ dense)


class Counted:
    """What stand-ins share: a matrix, its shape, and the number of products asked for."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.calls = matrix, tuple(matrix.shape), 0

    def product(self, x):
        self.calls += 1
        return self.matrix @ x


# SciPy


@pytest.mark.parametrize("format", ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"])
@pytest.mark.parametrize("kind", [scipy.sparse.csr_array, scipy.sparse.csr_matrix])
@pytest.mark.parametrize("matrix", [A, H])
def test_every_format_of_scipy(format, kind, matrix):
    sparse = kind(matrix).asformat(format)
    operator = aslinearoperator(sparse)
    assert isinstance(operator, SparseMatrix)
    assert operator.matrix.format in ("csr", "csc", "bsr")
    assert (operator.matrix is sparse) == (format in ("csr", "csc", "bsr"))
    assert operator.like.dtype == matrix.dtype
    check(operator, matrix)
    check_gram(kind(matrix[:7]).asformat(format), matrix[:7])


def test_sparse_arrays_of_one_dimension_are_no_matrices():
    with pytest.raises(ShapeError, match=r"a matrix with 2 dimensions, got an array of shape \(24,\)"):
        aslinearoperator(scipy.sparse.coo_array(A[0]))


# PyTorch


@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr", "bsc"])
@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.filterwarnings("ignore:Sparse (CSR|BSR|CSC|BSC) tensor support is in beta:UserWarning")
def test_every_layout_of_torch(layout, dtype):
    torch = pytest.importorskip("torch")
    matrix = A if dtype is float else H
    blocks = ((2, 2),) if layout.startswith("bs") else ()

    def sparse(matrix):
        return getattr(torch.tensor(matrix), f"to_sparse_{layout}")(*blocks)

    operator = aslinearoperator(sparse(matrix))
    assert operator.like.layout == torch.strided
    check(operator, matrix)
    check_gram(sparse(matrix[:8]), matrix[:8])


def test_sparse_integers_of_torch_are_converted():
    torch = pytest.importorskip("torch")
    with pytest.warns(DtypeWarning, match=r"matrix of dtype torch.int64 converted to torch.float64"):
        operator = aslinearoperator(torch.eye(N, dtype=torch.int64).to_sparse())
    check(operator, np.eye(N))


# JAX


@pytest.fixture
def jnp():
    return load("jax.numpy", "cpu").namespace


@pytest.mark.parametrize("kind", ["BCOO", "BCSR", "CSR", "COO"])
@pytest.mark.parametrize("matrix", [A, H], ids=["real", "complex"])
def test_every_sparse_class_of_jax(jnp, kind, matrix):
    from jax.experimental import sparse

    make = getattr(sparse, kind).fromdense
    check(aslinearoperator(make(jnp.asarray(matrix))), matrix)
    check_gram(make(jnp.asarray(matrix[:7])), matrix[:7])


def test_sparse_integers_of_jax_are_converted(jnp):
    from jax.experimental import sparse

    with pytest.warns(DtypeWarning, match="matrix of dtype int64 converted to float64"):
        operator = aslinearoperator(sparse.BCOO.fromdense(jnp.eye(N, dtype=int)))
    check(operator, np.eye(N))


class Lineax:
    """A lineax operator on trees {"a": (2, 3), "b": (n - 6,)}: `mv`, the structures, and `T`."""

    def __init__(self, jax, matrix):
        self.jax, self.matrix = jax, matrix

    def _structure(self, n):
        dtype = self.matrix.dtype
        return {"a": self.jax.ShapeDtypeStruct((2, 3), dtype), "b": self.jax.ShapeDtypeStruct((n - 6,), dtype)}

    def in_structure(self):
        return self._structure(self.matrix.shape[1])

    def out_structure(self):
        return self._structure(self.matrix.shape[0])

    def in_size(self):
        return self.matrix.shape[1]

    def out_size(self):
        return self.matrix.shape[0]

    def mv(self, tree):
        x = self.matrix @ self.jax.numpy.concatenate([tree["a"].ravel(), tree["b"]])
        return {"a": x[:6].reshape(2, 3), "b": x[6:]}

    @property
    def T(self):
        return Lineax(self.jax, self.matrix.T)


@pytest.mark.parametrize("matrix", [A, H], ids=["real", "complex"])
def test_lineax(jnp, matrix):
    jax = pytest.importorskip("jax")
    check(aslinearoperator(Lineax(jax, jnp.asarray(matrix))), matrix)
    check_gram(Lineax(jax, jnp.asarray(matrix[:9])), matrix[:9])


# CuPy


class CupySparse(Counted):
    """A cupyx sparse matrix: `@` and `T`; known by the package of its class."""

    __module__ = "cupyx.scipy.sparse._csr"

    @property
    def dtype(self):
        return self.matrix.dtype

    @property
    def T(self):
        return CupySparse(self.matrix.T)

    def __matmul__(self, x):
        return self.product(x)


class CupyOperator(Counted):
    """CuPy's `LinearOperator`."""

    __module__ = "cupyx.scipy.sparse.linalg._interface"
    dtype = A.dtype

    def matvec(self, x):
        return self.product(x)

    matmat = __matmul__ = matvec

    def rmatmat(self, x):
        return self.matrix.conj().T @ x


class UsersCupyOperator(CupyOperator):
    """A user's own subclass of it, in a module of his."""

    __module__ = "users_module"


@pytest.mark.parametrize("kind", [CupySparse, CupyOperator, UsersCupyOperator])
def test_cupy(monkeypatch, kind):
    made = []

    def empty(shape, dtype):
        made.append(dtype)
        return np.empty(shape, dtype=dtype)

    cupy = SimpleNamespace(empty=empty, float64=np.float64, ndarray=type("ndarray", (), {}))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    counted = kind(A)
    operator = aslinearoperator(counted)
    assert made == [np.float64]
    operator.matvec(X)
    assert counted.calls == 1
    check(operator, A)
    check_gram(kind(A[:7]), A[:7])


# PyData


class PydataCoo(Counted):
    """A PyData array: an array by the standard, whose namespace makes sparse arrays."""

    ndim = 2
    fill_value = 0.0
    nnz = 3
    device = "cpu"

    @property
    def dtype(self):
        return self.matrix.dtype

    def __array_namespace__(self, *, api_version=None):
        return np

    def astype(self, dtype):
        return type(self)(self.matrix.astype(dtype))

    @property
    def T(self):
        return PydataCoo(self.matrix.T)

    def __matmul__(self, x):
        return self.product(x)


class PydataDok:
    """Its dictionary of keys does not multiply."""

    ndim, shape, dtype, fill_value, nnz = 2, (N, N), A.dtype, 0.0, 3

    def __array_namespace__(self, *, api_version=None):
        return np

    def asformat(self, format):
        assert format == "coo"
        return PydataCoo(A)


def test_pydata():
    counted = PydataCoo(A)
    operator = aslinearoperator(counted)
    assert type(operator.like) is np.ndarray
    operator.matvec(X)
    assert counted.calls == 1
    check(operator, A)
    check(aslinearoperator(PydataDok()), A)
    check_gram(PydataCoo(H[:7]), H[:7])
    with pytest.warns(DtypeWarning, match="matrix of dtype int64 converted to float64"):
        check(aslinearoperator(PydataCoo(np.eye(N, dtype=int))), np.eye(N))


def test_pydata_with_a_fill_value_is_refused():
    filled = PydataCoo(A)
    filled.fill_value = 2.0
    with pytest.raises(OperatorError, match=r"filled with 2.0 has no sparse product; give .* as a function"):
        aslinearoperator(filled)


# Operators of torch


class GPyTorch(Counted):
    """A linear_operator: `matmul`, `mT`, torch's dtype and device, and a method `size`."""

    def __init__(self, matrix):
        super().__init__(matrix)
        self.dtype, self.device = matrix.dtype, matrix.device

    def size(self):
        return self.shape

    def matmul(self, x):
        return self.product(x)

    __matmul__ = matmul

    @property
    def mT(self):
        return GPyTorch(self.matrix.mT)


class Curvlinops(Counted):
    """A curvlinops operator: `@` on (n,) or (n, k), `adjoint()`."""

    def __init__(self, matrix):
        super().__init__(matrix)
        self.dtype, self.device = matrix.dtype, matrix.device

    def __matmul__(self, x):
        assert x.ndim <= 2
        return self.product(x)

    def adjoint(self):
        return Curvlinops(self.matrix.mH)


class Cola(Counted):
    """A CoLA operator: `@`, `T`, dtype, device, and the namespace `xnp` of its backend."""

    def __init__(self, matrix, backend="torch_fns"):
        super().__init__(matrix)
        self.dtype, self.device, self.backend = matrix.dtype, matrix.device, backend
        self.xnp = SimpleNamespace(__name__=f"cola.backends.{backend}")

    def __matmul__(self, x):
        return self.product(x)

    @property
    def T(self):
        return Cola(self.matrix.T, self.backend)


class Eigenthings:
    """A hessian-eigenthings operator: no shape, a `size`, products of one vector only."""

    def __init__(self, matrix):
        self.matrix, self.size, self.dtype, self.device = matrix, matrix.shape[0], matrix.dtype, matrix.device
        self.calls = 0

    def matvec(self, v):
        assert v.shape == (self.size,)
        self.calls += 1
        return self.matrix @ v

    __call__ = __matmul__ = matvec

    def rmatvec(self, v):
        return self.matvec(v)


@pytest.mark.parametrize("kind", [GPyTorch, Curvlinops, Cola, Eigenthings])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_operators_of_torch(kind, dtype):
    torch = pytest.importorskip("torch")
    matrix = A if dtype == "float64" else H
    foreign = kind(torch.tensor(matrix))
    operator = aslinearoperator(foreign)
    assert operator.like.dtype == getattr(torch, dtype)
    operator.matvec(torch.tensor(Z if dtype == "complex128" else X))
    assert foreign.calls == (K if kind is Eigenthings else 1)
    check(operator, matrix)
    part = matrix if kind is Eigenthings else matrix[:7]
    check_gram(kind(torch.tensor(part)), part)
    np.testing.assert_allclose(to_scipy(foreign) @ Z.T, matrix @ Z.T, **CLOSE)


def test_cola_of_jax(jnp):
    operator = aslinearoperator(Cola(jnp.asarray(A), "jax_fns"))
    assert operator.like.dtype == jnp.float64
    check(operator, A)
    check_gram(Cola(jnp.asarray(H[:7]), "jax_fns"), H[:7])


def test_cola_of_numpy():
    check(aslinearoperator(Cola(A, "np_fns")), A)


# Others


class OneVector:
    """SciPy's vocabulary, but for blocks."""

    shape = (N, N)
    dtype = A.dtype

    def matvec(self, x):
        assert x.ndim == 1
        return A @ x


def test_operators_of_one_vector_are_looped():
    operator = aslinearoperator(OneVector())
    check(operator, A)
    assert not hasattr(operator, "rmatvec")


def test_a_wrong_type_inside_a_foreign_adjoint_reaches_the_user():
    class Broken(CupyOperator):
        __module__ = "users_module"

        def rmatmat(self, _):
            raise TypeError("unsupported operand")

        def rmatvec(self, x):
            return x

    operator = gram(Broken(A), like=np.empty(0))
    with pytest.raises(TypeError, match="unsupported operand"):
        operator.matvec(X)


def test_batches_of_matrices_are_refused():
    class Batch(OneVector):
        shape = (2, N, N)

    with pytest.raises(ShapeError, match=r"2 dimensions, got shape \(2, 24, 24\); take one of the batch"):
        aslinearoperator(Batch())


def test_a_class_is_no_operator():
    with pytest.raises(OperatorError, match="a function needs like= an example vector"):
        aslinearoperator(OneVector)


def test_masked_arrays_are_refused():
    with pytest.raises(OperatorError, match=r"no product that respects its mask; fill it first, e.g. A.filled\(0\)"):
        aslinearoperator(np.ma.masked_less(A, 0))


def test_an_operator_must_say_what_its_vectors_are_like():
    class Unlike(OneVector):
        like = "numpy"

    with pytest.raises(OperatorError, match="the operator's `like` is str; expected an array of size 0"):
        aslinearoperator(Unlike())


def test_one_product_for_all_probes():
    counted = CupySparse(A)
    operator = aslinearoperator(counted, like=np.empty(0))
    slq.spectral_measure(operator, num_probes=5, num_steps=6)
    assert counted.calls == 2 + 6  # ten vectors to check the operator, in two blocks of five
