"""The real operators of other packages, where installed; tests/test_foreign.py has stand-ins that always run.

Passed with pylops 2.8.0, sparse 0.19.3, linear_operator 0.6.1, cola-ml 0.0.7, lineax 0.1.1, curvlinops-for-pytorch
3.0.1, hessian-eigenthings 1.0.0a5, under NumPy 2.4.6, SciPy 1.17.1, torch 2.13.0 and JAX 0.10.2.
"""

import importlib
import itertools
import warnings

import numpy as np
import pytest

import slq
from slq import aslinearoperator, gram, to_scipy
from slq._arrays import to_host
from slq._products import Products
from slq.errors import DtypeWarning, OperatorError, ShapeError
from tests.problems import K, N, indefinite, problem

A = problem(indefinite(N)).matrix
H = problem(indefinite(N), dtype=complex).matrix
RNG = np.random.default_rng(0)
R = RNG.normal(size=(N - 5, N))
X = RNG.normal(size=(K, N))
Z = X + 1j * RNG.normal(size=(K, N))
CLOSE = {"rtol": 1e-12, "atol": 1e-12}

# What the packages warn of on import or use is theirs to mend.
pytestmark = pytest.mark.filterwarnings("default")


def load(name, distribution=None):
    """The module, or a skip that says what is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{distribution or name} is not installed: {error}")


def check(operator, dense, like):
    """One block product, one single product, and a measure, against the dense matrix."""
    x = Z if np.iscomplexobj(dense) else X
    assert tuple(operator.shape) == dense.shape
    assert type(operator.like) is type(like)
    assert operator.like.dtype == like.dtype
    for rows in (x, x[0]):
        placed = type_of(like, rows)
        np.testing.assert_allclose(to_host(Products(operator)(placed)), rows @ dense.T, **CLOSE)
    measure = slq.spectral_measure(operator, num_probes=1, num_steps=4)
    exact = slq.spectral_measure(dense, num_probes=1, num_steps=4)
    np.testing.assert_allclose(measure.nodes, exact.nodes, **CLOSE)
    np.testing.assert_allclose(to_scipy(operator) @ x.T, dense @ x.T, **CLOSE)


def check_gram(operator, dense, like):
    x = Z[:, : dense.shape[1]] if np.iscomplexobj(dense) else X[:, : dense.shape[1]]
    product = to_host(Products(operator)(type_of(like, x)))
    np.testing.assert_allclose(product, x @ (dense.conj().T @ dense).T, **CLOSE)


def type_of(like, rows):
    return slq._arrays.from_host(np.ascontiguousarray(rows), like)


@pytest.fixture
def jnp():
    jax = load("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield load("jax.numpy")
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def torch():
    return load("torch")


@pytest.mark.parametrize("matrix", [A, H])
@pytest.mark.parametrize("format", ["coo", "gcxs", "dok"])
def test_pydata_sparse(format, matrix):
    sparse = load("sparse")
    check(aslinearoperator(sparse.COO(matrix).asformat(format)), matrix, np.empty(0, matrix.dtype))
    check_gram(gram(sparse.COO(matrix[:5]).asformat(format)), matrix[:5], np.empty(0, matrix.dtype))


def test_pydata_sparse_is_refused_or_converted():
    sparse = load("sparse")
    with pytest.warns(DtypeWarning, match="matrix of dtype int64 converted to float64"):
        operator = aslinearoperator(sparse.COO(np.eye(N, dtype=int)))
    np.testing.assert_array_equal(operator.matvec(X), X)
    with pytest.raises(OperatorError, match=r"filled with 2.0 has no sparse product"):
        aslinearoperator(sparse.full((N, N), 2.0))
    with pytest.raises(ShapeError, match="a matrix with 2 dimensions"):
        aslinearoperator(sparse.random((3, 3, 3)))


def test_pylops():
    pylops = load("pylops")
    check(aslinearoperator(pylops.MatrixMult(A)), A, np.empty(0))
    check(aslinearoperator(pylops.MatrixMult(H, dtype=complex)), H, np.empty(0, complex))
    D = pylops.FirstDerivative(N, kind="forward")
    dense = D.todense()
    check(aslinearoperator(D.H @ D), dense.T @ dense, np.empty(0))
    check_gram(gram(D), dense, np.empty(0))
    check_gram(gram(pylops.MatrixMult(R)), R, np.empty(0))


def test_linear_operator(torch):
    lo = load("linear_operator")
    like = torch.empty(0, dtype=torch.float64)
    check(aslinearoperator(lo.to_linear_operator(torch.tensor(A))), A, like)
    diagonal = np.arange(1.0, N + 1)
    added = lo.operators.DiagLinearOperator(torch.tensor(diagonal)) + lo.to_linear_operator(torch.tensor(A))
    check(aslinearoperator(added), A + np.diag(diagonal), like)
    check_gram(gram(lo.to_linear_operator(torch.tensor(R))), R, like)
    with pytest.raises(ShapeError, match="a matrix with 2 dimensions, got shape"):
        aslinearoperator(lo.to_linear_operator(torch.ones(2, N, N)))


def test_cola_with_torch(torch):
    cola = load("cola", "cola-ml")
    like = torch.empty(0, dtype=torch.float64)
    dense = cola.ops.Dense(torch.tensor(A))
    check(aslinearoperator(dense), A, like)
    check(aslinearoperator(cola.ops.Sum(dense, cola.ops.I_like(dense))), A + np.eye(N), like)
    check(aslinearoperator(cola.ops.Dense(torch.tensor(H))), H, torch.empty(0, dtype=torch.complex128))
    check_gram(gram(cola.ops.Dense(torch.tensor(R))), R, like)


def test_cola_with_jax(jnp):
    cola = load("cola", "cola-ml")
    dense = cola.ops.Dense(jnp.asarray(A))
    check(aslinearoperator(dense), A, jnp.empty(0, dtype=jnp.float64))
    check_gram(gram(cola.ops.Dense(jnp.asarray(H[:5]))), H[:5], jnp.empty(0, dtype=jnp.complex128))
    # a CoLA operator of NumPy arrays calls itself one of JAX where JAX is installed: like= says what it is
    check(aslinearoperator(cola.ops.Dense(A), like=np.empty(0)), A, np.empty(0))


@pytest.mark.parametrize("matrix", [A, H])
def test_lineax(jnp, matrix):
    lx = load("lineax")
    like = jnp.empty(0, dtype=matrix.dtype)
    placed = jnp.asarray(matrix)
    check(aslinearoperator(lx.MatrixLinearOperator(placed)), matrix, like)
    structure = load("jax").ShapeDtypeStruct((N,), matrix.dtype)
    check(aslinearoperator(lx.FunctionLinearOperator(lambda x: placed @ x, structure)), matrix, like)
    check_gram(gram(lx.MatrixLinearOperator(placed[:5])), matrix[:5], like)


def test_lineax_on_trees(jnp):
    jax, lx = load("jax"), load("lineax")
    placed = jnp.asarray(A)

    def product(tree):
        x = placed @ jnp.concatenate([tree["a"].ravel(), tree["b"]])
        return {"a": x[:6].reshape(2, 3), "b": x[6:]}

    structure = {"a": jax.ShapeDtypeStruct((2, 3), float), "b": jax.ShapeDtypeStruct((N - 6,), float)}
    operator = lx.FunctionLinearOperator(product, structure)
    check(aslinearoperator(operator), A, jnp.empty(0, dtype=float))
    check_gram(gram(operator), A, jnp.empty(0, dtype=float))


def linear_regression(torch):
    """A model without hidden units, its loss and data, and the Hessian 2 XᵀX / samples of the mean square error."""
    inputs = torch.tensor(RNG.normal(size=(9, 5)))
    model = torch.nn.Linear(5, 1, bias=False).double()
    targets = torch.tensor(RNG.normal(size=(9, 1)))
    return model, torch.nn.MSELoss(), [(inputs, targets)], (2 * inputs.T @ inputs / 9).numpy()


def test_curvlinops(torch):
    curvlinops = load("curvlinops", "curvlinops-for-pytorch")
    model, loss, data, hessian = linear_regression(torch)
    operator = curvlinops.HessianLinearOperator(model, loss, list(model.parameters()), data)
    wrapped = aslinearoperator(operator)
    assert wrapped.like.dtype == torch.float64
    product = Products(wrapped)(torch.tensor(X[:, :5]))
    np.testing.assert_allclose(product.numpy(), X[:, :5] @ hessian, **CLOSE)
    examples = load("curvlinops.examples")
    like = torch.empty(0, dtype=torch.float64)
    check(aslinearoperator(examples.TensorLinearOperator(torch.tensor(A))), A, like)
    check_gram(gram(examples.TensorLinearOperator(torch.tensor(R))), R, like)


def test_hessian_eigenthings(torch):
    eigenthings = load("hessian_eigenthings", "hessian-eigenthings")
    placed = torch.tensor(A)
    operator = eigenthings.LambdaOperator(lambda x: placed @ x, N, dtype=torch.float64)
    check(aslinearoperator(operator), A, torch.empty(0, dtype=torch.float64))
    check_gram(gram(operator), A, torch.empty(0, dtype=torch.float64))
    model, loss, data, hessian = linear_regression(torch)
    operator = eigenthings.HessianOperator(model, data, lambda model, batch: loss(model(batch[0]), batch[1]))
    wrapped = aslinearoperator(operator)
    product = Products(wrapped)(torch.tensor(X[:, :5]))
    np.testing.assert_allclose(product.numpy(), X[:, :5] @ hessian, **CLOSE)


def classifier(torch, *widths):
    """A network, the mean cross-entropy as each package takes it, and its data in batches of 5, 5 and 2."""
    layers = [torch.nn.Linear(*pair) for pair in itertools.pairwise(widths)]
    model = torch.nn.Sequential(*(x for layer in layers for x in (layer, torch.nn.Tanh())))[:-1].double()
    inputs = torch.tensor(RNG.normal(size=(12, widths[0])))
    targets = torch.tensor(RNG.integers(widths[-1], size=12))
    return model, torch.nn.CrossEntropyLoss(), list(zip(inputs.split(5), targets.split(5), strict=True))


def ours(model, loss, data):
    return load("slq_torch").hessian_operator(model, lambda model, batch: loss(model(batch[0]), batch[1]), data)


def require_equal(torch, foreign, own):
    """Products of a block and of a vector, and measures of the same probes. Measured: at most 6e-16."""
    wrapped = aslinearoperator(foreign)
    assert tuple(wrapped.shape) == own.shape
    assert wrapped.like.dtype == own.like.dtype == torch.float64
    x = torch.tensor(np.random.default_rng(1).normal(size=(K, own.shape[0])))
    for rows in (x, x[:1]):
        np.testing.assert_allclose(Products(wrapped)(rows).numpy(), own.matvec(rows).numpy(), rtol=0, atol=1e-10)
    measures = [slq.spectral_measure(A, num_probes=2, num_steps=8) for A in (wrapped, own)]
    np.testing.assert_allclose(*(m.nodes for m in measures), rtol=0, atol=1e-10)


def test_hessian_of_curvlinops_is_ours(torch):
    curvlinops = load("curvlinops", "curvlinops-for-pytorch")
    model, loss, data = classifier(torch, 4, 5, 3)
    operator = curvlinops.HessianLinearOperator(model, loss, list(model.parameters()), data)
    require_equal(torch, operator, ours(model, loss, data))


def test_ggn_of_curvlinops(torch):
    """That of a model linear in its parameters is the Hessian; that of another is JᵀHJ."""
    curvlinops = load("curvlinops", "curvlinops-for-pytorch")
    model, loss, data = classifier(torch, 4, 3)
    operator = curvlinops.GGNLinearOperator(model, loss, list(model.parameters()), data)
    require_equal(torch, operator, ours(model, loss, data))

    model, loss, data = classifier(torch, 4, 5, 3)
    operator = aslinearoperator(curvlinops.GGNLinearOperator(model, loss, list(model.parameters()), data))
    inputs, targets = (torch.cat(parts) for parts in zip(*data, strict=True))
    named = dict(model.named_parameters())
    jacobian = torch.func.jacrev(lambda tensors: torch.func.functional_call(model, tensors, (inputs,)))(named)
    J = torch.cat([part.flatten(2) for part in jacobian.values()], dim=2).flatten(0, 1)
    of_outputs = torch.func.hessian(lambda outputs: loss(outputs, targets))(model(inputs).detach())
    dense = (J.T @ of_outputs.reshape(len(J), len(J)) @ J).detach()
    x = torch.eye(len(dense), dtype=torch.float64)
    np.testing.assert_allclose(Products(operator)(x).numpy(), dense.numpy(), rtol=0, atol=1e-10)
    assert float((ours(model, loss, data).matvec(x) - dense).norm()) > 1e-2  # the Hessian is another matrix


def test_hessian_of_hessian_eigenthings_is_ours(torch):
    """It takes the mean over batches, whatever their sizes: here they are equal."""
    eigenthings = load("hessian_eigenthings", "hessian-eigenthings")
    model, loss, data = classifier(torch, 4, 5, 3)
    data = data[:2]
    operator = eigenthings.HessianOperator(model, data, lambda model, batch: loss(model(batch[0]), batch[1]))
    require_equal(torch, operator, ours(model, loss, data))
