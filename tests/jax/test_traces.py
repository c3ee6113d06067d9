"""Arrays that are gone or traced, precision that is not there, batches and losses of types that JAX does not know."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slq
from slq.errors import DataError, DtypeError, OperatorError, RequestError
from slq_jax import hessian_operator


def squares(w, batch):
    return jnp.mean((jnp.tanh(batch[0] @ w) - batch[1]) ** 2)


@pytest.fixture
def w(rng):
    return jnp.asarray(rng.normal(size=3))


@pytest.fixture
def batch(rng):
    return rng.normal(size=(6, 3)), rng.normal(size=6)


def donate(x):
    jax.jit(lambda x: 2 * x, donate_argnums=0)(x)
    assert x.is_deleted()


GONE = "params was donated to a compiled function.*build the operator from the parameters that the training step"


def test_donated_parameters(w, batch):
    donate(w)
    with pytest.raises(OperatorError, match=GONE):
        hessian_operator(squares, w, batch)


USES = {
    "product": lambda A: A.matvec(jnp.ones(3)),
    "gradient": lambda A: A.gradient(),
    "measure": lambda A: slq.spectral_measure(A, num_probes=2, num_steps=2),
    "block": lambda A: A.block(["params"]),
}


@pytest.mark.parametrize("use", USES)
def test_parameters_that_are_donated_later(use, w, batch):
    operator = hessian_operator(squares, w, batch)
    operator.matvec(jnp.ones(3))
    donate(w)
    with pytest.raises(OperatorError, match=GONE):
        USES[use](operator)


def test_donated_data(w, batch):
    x, y = map(jnp.asarray, batch)
    operator = hessian_operator(squares, w, (x, y))
    donate(x)
    for use in (operator.gradient, lambda: operator.matvec(w), lambda: hessian_operator(squares, w, (x, y))):
        with pytest.raises(DataError, match=r"an array of batch 0 was donated.*do not donate the data"):
            use()


# Traces.


@pytest.mark.parametrize(
    "transformed",
    [
        lambda w, batch: jax.jit(lambda w: hessian_operator(squares, w, batch).matvec(w))(w),
        lambda w, batch: jax.grad(lambda w: hessian_operator(squares, w, batch).loss())(w),
        lambda w, batch: jax.vmap(lambda w: hessian_operator(squares, w, batch).matvec(w))(w[None]),
        lambda w, batch: jax.jit(lambda v: hessian_operator(squares, np.asarray(w), batch).matvec(v))(w),
        lambda w, batch: jax.jit(lambda x: hessian_operator(squares, w, (x, batch[1])).matvec(w))(batch[0]),
        lambda w, batch: jax.vmap(lambda x: hessian_operator(squares, w, (x, batch[1])).matvec(w))(batch[0][None]),
    ],
    ids=["jit", "grad", "vmap", "jit of something else", "jit of the data", "vmap of the data"],
)
def test_operator_inside_a_transformation(transformed, w, batch):
    with pytest.raises(OperatorError, match=r"trace.*cannot be built inside jit, grad or vmap; build it outside"):
        transformed(w, batch)


def test_products_inside_jit(w, batch):
    """An operator that was built outside multiplies vectors that are traced."""
    operator = hessian_operator(squares, w, batch)
    np.testing.assert_allclose(jax.jit(operator.matvec)(w), operator.matvec(w), rtol=1e-14)


@pytest.mark.parametrize("kept", ["parameters", "result"])
def test_loss_that_keeps_what_was_traced(kept, w, batch):
    store = []

    def loss(w, batch):
        store.append(w if kept == "parameters" else squares(w, batch))
        return squares(w, batch) + 0.1 * jnp.sum(store[0])

    with pytest.raises(OperatorError, match=r"kept from an earlier call.*keep nothing"):
        hessian_operator(loss, w, batch)
    parts = [tuple(x[low : low + size] for x in batch) for low, size in ((0, 4), (4, 2))]
    with pytest.raises(OperatorError, match=r"kept from an earlier call.*keep nothing"):
        hessian_operator(loss, w, parts, check=False)


LOOKING = {
    "if": lambda w, b: squares(w, b) if squares(w, b) > 0 else -squares(w, b),
    "float": lambda w, b: jnp.asarray(float(squares(w, b))),
    "item": lambda w, b: jnp.asarray(squares(w, b).item()),
    "NumPy": lambda w, _: jnp.asarray(np.tanh(np.asarray(w)).sum()),
    "range": lambda w, b: sum((squares(w, b) for _ in range(jnp.argmax(w))), squares(w, b)),
    "mask": lambda w, b: jnp.mean((b[0] @ w)[b[1] > 0] ** 2),
}


@pytest.mark.parametrize("name", LOOKING)
def test_loss_that_looks_at_values(name, w, batch):
    with pytest.raises(OperatorError, match=r"asks for the value of an array while JAX traces it.*use jax\.numpy"):
        hessian_operator(LOOKING[name], w, batch)


# Precision.


def test_float64_without_x64(w, batch):
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(DtypeError, match=r"params is float64, which JAX would silently make float32.*jax_enable_x64"):
        hessian_operator(squares, np.asarray(w), batch)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")  # JAX, before
@pytest.mark.parametrize("use", ["product", "gradient", "measure"])
def test_x64_switched_off_later(use, w, batch):
    operator = hessian_operator(squares, w, batch)
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(DtypeError, match=r"x64 mode, which was on when it was built, is off now.*jax_enable_x64"):
        USES[use](operator)


def test_x64_in_a_block_of_code(w, batch):
    jax.config.update("jax_enable_x64", False)
    with jax.enable_x64(True):
        assert hessian_operator(squares, w, batch).matvec(w).dtype == jnp.float64


# Batches and parameters of other types.


class Tokens(collections.UserDict):
    """As libraries for text give them: a mapping that JAX does not know as a tree."""

    def __init__(self, x, y):
        super().__init__(x=x, y=y)


@pytest.mark.parametrize("make", [Tokens, lambda *_: "train.csv", lambda *_: ["a", "b"]])
def test_batches_of_other_types(make, w, batch):
    with pytest.raises(DataError, match=r"batch 0 holds a (Tokens|str), which is no array of JAX or NumPy; convert"):
        hessian_operator(squares, w, make(*batch))


def test_tensors_of_another_library(w, batch):
    torch = pytest.importorskip("torch")
    with pytest.raises(DataError, match="batch 0 holds a Tensor, which is no array of JAX or NumPy; convert"):
        hessian_operator(squares, w, tuple(map(torch.tensor, batch)))
    with pytest.raises(DtypeError, match="params is a Tensor, which is no array of JAX or NumPy; convert it"):
        hessian_operator(squares, torch.ones(3), batch)


def test_parameters_that_are_functions(w, batch):
    with pytest.raises(
        DtypeError, match=r"act is a .*, which is no array of JAX or NumPy; convert it, or close over it"
    ):
        hessian_operator(lambda p, b: squares(p["w"], b), {"w": w, "act": np.tanh}, batch)


# Losses of other types.


class Model:
    def loss(self, w, batch):
        return squares(w, batch)


@dataclasses.dataclass(frozen=True)
class Scaled:
    factor: float

    def __call__(self, w, batch):
        return self.factor * squares(w, batch)


@pytest.mark.parametrize(
    "loss",
    [
        functools.partial(lambda factor, w, batch: factor * squares(w, batch), 1.0),
        functools.partial(lambda factor, w, batch: factor * squares(w, batch), jnp.ones(())),
        Model().loss,
        Scaled(1.0),
        jax.tree_util.Partial(squares),
        jax.jit(squares),
        jax.checkpoint(squares),
    ],
    ids=["partial", "partial of an array", "method", "data class", "Partial", "jit", "checkpoint"],
)
def test_losses_of_other_types(loss, w, batch, distance):
    expected = hessian_operator(squares, w, batch).matvec(w)
    assert distance(hessian_operator(loss, w, batch).matvec(w), expected) < 1e-14  # measured: 2e-16


def test_loss_that_is_no_function(w, batch):
    with pytest.raises(RequestError, match="the loss must be a function, got int"):
        hessian_operator(3, w, batch)


def test_loss_of_other_arguments(w, batch):
    with pytest.raises(
        DataError, match=r"raised TypeError .*1 positional argument but 2 were given.* for batch 0, tuple"
    ):
        hessian_operator(lambda w: w.sum(), w, batch)
