"""The battery as operators: in every library, of 5 million dimensions and more, and by automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import slq
import slq_jax
import slq_torch
from slq.errors import DtypeError, RequestError
from slq.testing import graphs, mixed, models, physics, problems, spectra

# In every library

FEW = [physics.flux_ring(24), graphs.hamming(2, 5), mixed.mixed(spectra.uniform(24), "u", formula="", hard_for="")]


@pytest.mark.parametrize("problem", FEW, ids=lambda p: p.name)
@pytest.mark.parametrize("dtype", [None, "single"])
def test_operators_multiply_in_each_library(xp, problem, dtype):
    dtype = {None: None, "single": "complex64" if problem.is_complex else "float32"}[dtype]
    A = problem.operator(xp.namespace, xp.device, dtype)
    kind = dtype or ("complex128" if problem.is_complex else "float64")
    assert A.like.dtype == getattr(xp.namespace, kind)
    x = slq.sphere(0, range(3), None, problem.n, np.empty(0, kind))
    product = A.matvec(xp.asarray(x))
    measure = slq.spectral_measure(A, num_probes=3, num_steps=4)
    eps = np.finfo(kind).eps
    wide = x.astype(np.promote_types(kind, np.float64))
    found = slq._arrays.to_host(product)
    # A sum of n roundings; measured: at most 4, and 9 for the forms.
    np.testing.assert_allclose(found, problem.product(wide), atol=problem.n * eps * problem.norm)
    forms = problem.forms(wide, lambda t: t**2)
    np.testing.assert_allclose(measure.quadratic_forms(lambda t: t**2), forms, rtol=100 * eps)


def test_a_dtype_can_be_given_as_an_object():
    assert FEW[1].operator(np, dtype=np.float32).like.dtype == np.float32


def test_jax_without_float64_is_refused():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    try:
        with (
            pytest.warns(UserWarning, match="float64"),
            pytest.raises(DtypeError, match=r"made float32 of a matrix asked for in float64.*jax_enable_x64"),
        ):
            FEW[1].operator(jnp)
    finally:
        jax.config.update("jax_enable_x64", before)


def test_a_dense_matrix_of_a_large_problem_is_refused():
    large = graphs.path_laplacian(5000)
    for ask in (large.matrix, lambda: large.operator(torch)):
        with pytest.raises(RequestError, match=r"path Laplacian, n=5000 as a dense matrix would take 0.2 GB"):
            ask()
    assert large.operator().matvec(np.ones(5000)).max() == 0


# Large


@pytest.mark.slow
@pytest.mark.parametrize("index", range(4))
def test_large_problems_have_their_first_moments(index):
    problem = problems(size="large")[index]
    assert problem.n >= 5_000_000
    values, counts = problem.levels()
    assert counts.sum() == problem.n
    A = problem.operator()
    for seed in range(3):
        measure = slq.spectral_measure(A, num_probes=1, num_steps=3, rng=seed, reorthogonalize=False)
        for p in (1, 2, 3):  # exact in the quadrature, as 3 ≤ 2·3 − 1
            truth = float(np.sum(counts * values**p) / problem.n)
            # 36 intervals of 99.99 %: fewer than one in 250 runs with other seeds would fail.
            low, high = measure.moment(p).interval(0.9999)
            assert low <= truth <= high


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1, 3])
def test_large_products_act_on_their_eigenvectors(index):
    problem = problems(size="large")[index]
    assert problem.modes is not None
    x = slq.rademacher(0, [0], None, problem.n, np.empty(0))
    found, expected = problem.modes(problem.product(x)), problem.levels()[0] * problem.modes(x)
    # The coordinates are of order one; measured: at most 3e-15 of the norm.
    np.testing.assert_allclose(found, expected, atol=1e-13 * problem.norm)


# Through automatic differentiation


@pytest.fixture
def x64():
    """float64 in JAX during the test; the flag belongs to the whole process."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def squared(params, batch, _):
    return ((batch[0] @ params["W"].T - batch[1]) ** 2).mean()


def logistic(params, batch, lib):
    z = (batch[0] @ params["W"].T)[:, 0]
    return (lib.log(1 + lib.exp(z)) - batch[1] * z).mean()


def softmax(params, batch, lib):
    z = batch[0] @ params["W"].T + batch[2]
    return (lib.log(lib.exp(z).sum(-1)) - (batch[1] * z).sum(-1)).mean()


def deep(params, batch, _):
    y = batch[0]
    for name in sorted(params):
        y = y @ params[name].T
    return ((y - batch[1]) ** 2).sum(-1).mean() / 2


def quadratic(params, batch, _):
    return params["x"] @ batch[0] @ params["x"] / 2


def squares(problem):
    X = problem.data["X"]
    return squared, {"W": np.ones((3, X.shape[1]))}, (X, np.cos(np.arange(3 * len(X))).reshape(-1, 3))


def logits(problem):
    X = problem.data["X"]
    return logistic, {"W": np.zeros((1, X.shape[1]))}, (X, problem.data["y"])


def classes(problem):
    X, bias = problem.data["X"], problem.data["bias"]
    return softmax, {"W": np.zeros((bias.size, X.shape[1]))}, (X, np.eye(bias.size)[problem.data["y"]], bias)


def layers(problem):
    X = problem.data["X"]
    params = {name: problem.data[name] for name in ("W1", "W2")}
    return deep, params, (X, X @ params["W1"].T @ params["W2"].T)


def scaled_layers(problem):
    X, c = problem.data["X"], float(problem.data["c"])
    return deep, {f"W{i}": c * np.eye(X.shape[1]) for i in range(3)}, (X, c**3 * X)


def form(problem):
    return quadratic, {"x": np.cos(np.arange(problem.n))}, (problem.matrix(),)


MODELS = [
    (models.linear_regression(16, 6, 3), squares),
    (models.logistic_regression(32, 16), logits),
    (models.softmax_regression(16, 7, 4), classes),
    (models.deep_linear(4, 5, 3), layers),
    (models.deep_linear(5, 2, 4), layers),
    (models.deep_linear_scaled(3, 4), scaled_layers),
    *((problem, form) for problem in problems(tags="graph")[:3]),
]
AUTOGRAD = pytest.mark.parametrize(("problem", "make"), MODELS, ids=lambda v: getattr(v, "name", ""))


class Parameters(nn.Module):
    """Named parameters without a network around them."""

    def __init__(self, params):
        super().__init__()
        for name, value in params.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(value)))


# Measured: at most 2e-16 of the norm with either library.
@AUTOGRAD
def test_torch_differentiates_to_the_same_matrix(problem, make):
    loss, params, batch = make(problem)
    op = slq_torch.hessian_operator(
        Parameters(params),
        lambda model, batch: loss(dict(model.named_parameters()), batch, torch),
        tuple(torch.tensor(part) for part in batch),
    )
    found = op.matvec(torch.eye(problem.n, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, problem.matrix(), atol=1e-14 * problem.norm)


@AUTOGRAD
def test_jax_differentiates_to_the_same_matrix(problem, make, x64):
    loss, params, batch = make(problem)
    op = slq_jax.hessian_operator(
        lambda params, batch: loss(params, batch, jnp),
        {name: jnp.asarray(value) for name, value in params.items()},
        tuple(jnp.asarray(part) for part in batch),
    )
    found = np.asarray(op.matvec(jnp.eye(problem.n)))
    np.testing.assert_allclose(found, problem.matrix(), atol=1e-14 * problem.norm)
