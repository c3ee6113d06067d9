"""slq/_operators.py: the one door, and what products may return."""

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import LinearOperator as ScipyOperator

import slq
from slq import _operators as operators
from slq import _products as products
from slq import aslinearoperator
from slq._arrays import to_host
from slq.errors import DtypeError, DtypeWarning, OperatorError, PlacementError, ProductError, ShapeError
from tests.problems import K, N, indefinite, problem

A = problem(indefinite(N)).matrix
X = np.random.default_rng(0).normal(size=(K, N))


class Columns:
    """An operator of another package: a shape, a dtype and `@` on columns."""

    shape = (N, N)
    dtype = A.dtype

    def __matmul__(self, x):
        return A @ x


class Matmat:
    """An operator of another package: `matmat` on columns, no dtype."""

    shape = (N, N)

    def matmat(self, x):
        return A @ x


class Minimal:
    """The three members that slq asks for."""

    shape = (N, N)
    like = np.empty(0)

    def matvec(self, x, /):
        return x @ A.T


HOST_KINDS = {
    "sparse matrix": scipy.sparse.csr_matrix(A),
    "sparse array": scipy.sparse.coo_array(A),
    "scipy operator": scipy.sparse.linalg.aslinearoperator(A),
    "scipy function": ScipyOperator((N, N), matvec=lambda x: A @ x, dtype=A.dtype),
    "@ on columns": Columns(),
    "matmat": Matmat(),
    "numpy matrix": np.matrix(A),
    "Fortran order": np.asfortranarray(A),
    "negative strides": A[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": np.frombuffer(A.tobytes()).reshape(N, N),
    "protocol": Minimal(),
}


# A single vector fails for SciPy operators: their `matmat` takes two dimensions only.
@pytest.mark.parametrize("kind", HOST_KINDS)
def test_everything_that_multiplies_becomes_an_operator(kind):
    operator = aslinearoperator(HOST_KINDS[kind], n=N)
    assert tuple(operator.shape) == (N, N)
    np.testing.assert_allclose(operator.matvec(X), X @ A, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(operator.matvec(X[0]), A @ X[0], rtol=1e-13, atol=1e-13)


def test_a_memory_mapped_matrix_is_a_matrix(tmp_path):
    np.save(tmp_path / "A.npy", A)
    mapped = np.load(tmp_path / "A.npy", mmap_mode="r")
    np.testing.assert_allclose(aslinearoperator(mapped).matvec(X), X @ A, rtol=1e-13, atol=1e-13)
    mapped._mmap.close()


def test_a_members_name_does_not_make_an_operator_a_matrix():
    class Other(Minimal):
        matrix = scipy.sparse.csr_array(np.eye(N))

    starts = np.random.default_rng(1).normal(size=(8, N))  # enough that a CSR matrix has a product of its own
    run = slq.lanczos(Other(), starts, 4, reorthogonalize=False)
    np.testing.assert_allclose(run.alpha, slq.lanczos(A, starts, 4, reorthogonalize=False).alpha, rtol=1e-12)


def test_an_operator_is_returned_unchanged():
    operator = Minimal()
    assert aslinearoperator(operator) is operator
    assert isinstance(operator, slq.LinearOperator)


# A single vector fails for batched functions under array_api_strict: `[0]` on two dimensions is not in the standard.
def test_matrices_and_functions_of_every_library(xp):
    matrix, block = xp.asarray(A), xp.asarray(X)
    for operator in (
        aslinearoperator(matrix),
        aslinearoperator(lambda x: matrix @ x, like=xp.asarray(X[0])),
        aslinearoperator(lambda x: x @ matrix, like=xp.asarray(np.empty(0)), n=N, batched=True),
    ):
        assert operator.like.dtype == matrix.dtype
        for x, expected in ((block, X @ A), (block[0, ...], A @ X[0])):
            product = products.Products(operator)(x)
            np.testing.assert_allclose(to_host(product), expected, rtol=1e-13, atol=1e-13)


def test_a_torch_sparse_matrix_is_an_operator():
    torch = pytest.importorskip("torch")
    product = aslinearoperator(torch.tensor(A).to_sparse()).matvec(torch.tensor(X))
    np.testing.assert_allclose(product, X @ A, rtol=1e-13, atol=1e-13)


def test_a_jax_sparse_matrix_is_an_operator():
    jnp = pytest.importorskip("jax.numpy")
    from jax.experimental import sparse

    values, indices = jnp.asarray([2.0, 3.0], dtype=jnp.float32), jnp.asarray([[0, 1], [1, 0]])
    operator = aslinearoperator(sparse.BCOO((values, indices), shape=(2, 2)))
    assert operator.like.dtype == jnp.float32
    block = jnp.asarray([[1.0, 0.0], [1.0, 1.0]], dtype=jnp.float32)
    np.testing.assert_array_equal(operator.matvec(block), [[0.0, 3.0], [2.0, 3.0]])


@pytest.mark.parametrize("dtype", [int, bool, np.uint8])
def test_integers_are_converted_with_a_warning(dtype):
    values = (A > 0.1).astype(dtype)
    with pytest.warns(DtypeWarning, match=r"matrix of dtype \w+ converted to float64"):
        operator = aslinearoperator(values)
    np.testing.assert_allclose(operator.matvec(X), X @ values.T.astype(float), rtol=1e-13)
    with pytest.warns(DtypeWarning, match=r"matrix of dtype \w+ converted to float64"):
        operator = aslinearoperator(scipy.sparse.csr_array(values))
    np.testing.assert_allclose(operator.matvec(X), X @ values.T.astype(float), rtol=1e-13)


def test_an_integer_example_vector_means_floating_point():
    assert aslinearoperator(lambda x: 2 * x, like=np.arange(4)).like.dtype == np.float64


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: aslinearoperator(A[:-1]), ShapeError, r"expected a square operator, got shape \(23, 24\)"),
        (lambda: aslinearoperator(np.zeros((0, 0))), ShapeError, "expected at least one dimension"),
        (lambda: aslinearoperator(A, n=3), ShapeError, r"n=3 was given, but the operator has shape \(24, 24\)"),
        (lambda: aslinearoperator(A[0]), ShapeError, r"a matrix with 2 dimensions, got an array of shape \(24,\)"),
        (lambda: aslinearoperator(A[None]), ShapeError, r"a matrix with 2 dimensions, got .* \(1, 24, 24\)"),
        (lambda: aslinearoperator(A.astype(object)), DtypeError, "expected a numeric matrix, got dtype object"),
        (lambda: aslinearoperator([[1.0]]), OperatorError, "cannot make an operator of list"),
        (lambda: aslinearoperator(None), OperatorError, "cannot make an operator of NoneType"),
        (lambda: aslinearoperator(np.sin), OperatorError, "a function needs like= an example vector"),
        (lambda: aslinearoperator(np.sin, like=[0.0]), OperatorError, "like= expects a one-dim.* array, got list"),
        (lambda: aslinearoperator(np.sin, like=A), OperatorError, r"like= .* got an array of shape \(24, 24\)"),
        (lambda: aslinearoperator(np.sin, like=np.empty(0)), OperatorError, "give n= as well"),
    ],
)
def test_what_cannot_be_an_operator_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_foreign_dtypes_need_like():
    class Foreign(Columns):
        dtype = "no dtype of NumPy"

    with pytest.raises(OperatorError, match=r"cannot tell which vectors Foreign multiplies \(dtype 'no dtype"):
        aslinearoperator(Foreign())
    np.testing.assert_allclose(aslinearoperator(Foreign(), like=X[0]).matvec(X), X @ A, rtol=1e-13, atol=1e-13)


def test_sparse_matrices_must_hold_numbers():
    class Text:
        """What a sparse class of another package might hold; SciPy's own refuse it."""

        dtype = np.dtype("U1")
        ndim = 2

    with pytest.raises(DtypeError, match="expected a numeric matrix, got dtype <U1"):
        operators._sparse(Text())


# What a product returns, through the recurrence that meets it.
RETURNS = {
    "n + 1": (lambda x: np.append(x, 0.0), ShapeError, r"returned shape \(25,\) for an input of shape \(24,\)"),
    "column": (lambda x: x[:, None], ShapeError, r"returned shape \(24, 1\) for an input of shape \(24,\)"),
    "row": (lambda x: x[None], ShapeError, r"returned shape \(1, 24\)"),
    "array scalar": (lambda x: x.sum(), ShapeError, r"returned shape \(\)"),
    "number": (lambda _: 1.0, PlacementError, "returned float; expected an array of numpy"),
    "nothing": (lambda _: None, PlacementError, "returned NoneType; expected an array of numpy"),
    "list": (lambda x: x.tolist(), PlacementError, "returned list; expected an array of numpy"),
    "objects": (lambda x: x.astype(object), DtypeError, "returned dtype object for an input of float64"),
    "matrix class": (lambda x: x.view(np.matrix), PlacementError, "returned a NumPy matrix, whose arithmetic differs"),
    "masked array": (lambda x: np.ma.masked_less(x, 0), PlacementError, "returned a NumPy MaskedArray"),
    "complex": (lambda x: x + 0j, DtypeError, "returned dtype complex128 for an input of float64"),
}


@pytest.mark.parametrize("kind", RETURNS)
def test_a_product_keeps_the_shape_and_dtype_of_its_input(kind):
    function, error, message = RETURNS[kind]
    with pytest.raises(error, match=message):
        slq.lanczos(aslinearoperator(function, like=X[0], batched="class" in kind or "masked" in kind), X[:1], 2)


@pytest.mark.parametrize(
    ("start", "returned", "eps", "message"),
    [
        ("float64", "float32", 2.0**-23, "returns dtype float32 for vectors of float64, which limits the precision"),
        ("float32", "float64", 2.0**-23, "returns dtype float64 for vectors of float32, which is converted each time"),
        ("float64", "int64", 2.0**-52, "returns dtype int64 for vectors of float64, which is converted each time"),
    ],
)
def test_another_precision_is_warned_of_once_and_remembered(start, returned, eps, message):
    operator = aslinearoperator(lambda x: (2 * x).astype(returned), like=X[0].astype(start), batched=True)
    with pytest.warns(DtypeWarning, match=message) as caught:
        measure = slq.spectral_measure(operator, num_probes=2, num_steps=3, check=False)
    assert len(caught) == 1
    assert measure.eps == eps


def test_a_block_product_keeps_the_shape_of_its_input():
    for wrong in (lambda x: x.T, lambda x: x[:1], lambda x: x[..., None]):
        with pytest.raises(ShapeError, match="a product keeps the shape of its input"):
            slq.lanczos(aslinearoperator(wrong, like=X[0], batched=True), X, 2)


def test_a_block_product_of_one_vector_keeps_its_shape():
    for wrong in (lambda x: x[..., None], lambda x: x[:0], lambda _: None):
        operator = aslinearoperator(wrong, like=X[0], batched=True)
        with pytest.raises((ShapeError, PlacementError), match="the product returned"):
            products.Products(operator)(X[0])


def test_a_product_stays_in_its_library(xp):
    other = np.asarray if xp.name != "numpy" else pytest.importorskip("torch").tensor
    operator = aslinearoperator(lambda x: other(to_host(x)), like=xp.asarray(X[0]))
    with pytest.raises(PlacementError, match=rf"returned an array of \w+ for one of {xp.name}"):
        slq.lanczos(operator, xp.asarray(X), 2)


def test_a_product_stays_on_its_device():
    xs = pytest.importorskip("array_api_strict")
    operator = aslinearoperator(lambda x: xs.asarray(to_host(x)), like=xs.zeros(N, device=xs.Device("device1")))
    with pytest.raises(PlacementError, match=r"returned an array on .*CPU_DEVICE.* for one on .*device1"):
        slq.lanczos(operator, xs.asarray(X, device=xs.Device("device1")), 2)


def test_a_product_may_return_the_same_buffer_every_time():
    buffer = np.empty((K, N))
    operator = aslinearoperator(lambda x: np.matmul(x, A, out=buffer), like=X[0], batched=True)
    for one, other in zip(slq.lanczos(operator, X, 6)[:2], slq.lanczos(A, X, 6)[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_a_product_may_return_its_input():
    run = slq.lanczos(aslinearoperator(lambda x: x, like=X[0], batched=True), X, 3)
    np.testing.assert_allclose(run.alpha[:, 0], 1.0, rtol=1e-15)
    np.testing.assert_array_equal(run.beta, 0.0)


# Wrong without a word: the recurrence goes on with the vector that the product has overwritten.
def test_a_product_that_writes_into_its_input_is_right_or_refused():
    diagonal = np.arange(1.0, N + 1)
    operator = aslinearoperator(lambda x: np.multiply(x, diagonal, out=x), like=X[0], batched=True)
    try:
        run = slq.lanczos(operator, X, 6)
    except OperatorError:
        return
    np.testing.assert_allclose(run.alpha, slq.lanczos(np.diag(diagonal), X, 6).alpha, rtol=1e-12)


def test_gradients_are_not_tracked_through_the_recurrence():
    torch = pytest.importorskip("torch")
    parameter = torch.tensor(A, requires_grad=True)
    operator = aslinearoperator(lambda x: parameter @ x, like=torch.zeros(N, dtype=torch.float64))
    product = products.Products(operator)(torch.tensor(X))
    assert not product.requires_grad
    run = slq.lanczos(operator, torch.tensor(X), 5, return_basis=True)
    assert not run.basis.requires_grad
    np.testing.assert_allclose(run.alpha, slq.lanczos(A, X, 5).alpha, rtol=1e-12, atol=1e-14)


def test_a_product_may_mark_its_input_for_autograd():
    torch = pytest.importorskip("torch")
    matrix = torch.tensor(A)
    operator = aslinearoperator(lambda x: x.requires_grad_() @ matrix, like=matrix[0], batched=True)
    run = slq.lanczos(operator, torch.tensor(X), 5)
    np.testing.assert_allclose(run.alpha, slq.lanczos(A, X, 5).alpha, rtol=1e-12, atol=1e-14)


def test_a_sparse_tensor_is_no_product():
    torch = pytest.importorskip("torch")
    operator = aslinearoperator(lambda x: x.to_sparse(), like=torch.tensor(X[0]), batched=True)
    with pytest.raises(PlacementError, match="returned a sparse tensor; expected a dense one, like its input"):
        slq.lanczos(operator, torch.tensor(X), 5)


def test_an_error_inside_the_product_reaches_the_user():
    def fails(x):
        raise RuntimeError("out of memory")

    with pytest.raises(
        ProductError, match=r"the product of step 0 raised RuntimeError for a block .* out of memory"
    ) as caught:
        slq.lanczos(aslinearoperator(fails, like=X[0]), X, 2)
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert caught.value.partial is None


def test_optional_members_replace_the_defaults():
    class Weighted(Minimal):
        def vecdot(self, x, y):
            return 2.0 * (x * y).sum(axis=-1)

        def put(self, block):
            return -block

    assert products.inner(Weighted())(X, X) == pytest.approx(2.0 * (X * X).sum(axis=1))
    assert products.inner(Minimal())(X, X) == pytest.approx((X * X).sum(axis=1))
    np.testing.assert_array_equal(products.put(Weighted(), X, X), -X)
    np.testing.assert_array_equal(products.put(Minimal(), X, X), X)
