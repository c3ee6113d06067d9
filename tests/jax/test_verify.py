"""Losses that are no functions, whose derivatives are wrong, or that JAX cannot trace, are refused, with the mend."""

import itertools
import random
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slq.errors import OperatorError, UnusedParameterWarning
from slq_jax import ggn_operator, hessian_operator


def squares(w, batch):
    return jnp.mean((jnp.tanh(batch[0] @ w) - batch[1]) ** 2)


@pytest.fixture
def w(rng):
    return jnp.asarray(rng.normal(size=3))


@pytest.fixture
def batch(rng):
    return rng.normal(size=(6, 3)), rng.normal(size=6)


IMPURE = {
    "NumPy's numbers": lambda w, batch: squares(w, batch) * np.random.default_rng().normal(),
    "a mask of NumPy's": lambda w, batch: squares(w * np.random.default_rng().normal(size=3), batch),
    "Python's numbers": lambda w, batch: squares(w, batch) * random.random(),
    "the time": lambda w, batch: squares(w, batch) * time.perf_counter(),
}
NO_FUNCTION = "the loss is no function of its arguments.*random key in the batch"


@pytest.mark.parametrize("name", IMPURE)
def test_impure_loss(name, w, batch):
    with pytest.raises(OperatorError, match=NO_FUNCTION):
        hessian_operator(IMPURE[name], w, batch)


@pytest.mark.parametrize("factor", [2.0, np.arange(1.0, 4)])
def test_variable_that_changes_between_operators(factor, w, batch):
    """JAX would go on with the value of the first trace."""
    outside = {"factor": np.ones_like(factor)}

    def loss(w, batch):
        return squares(w * outside["factor"], batch)

    hessian_operator(loss, w, batch)
    hessian_operator(loss, w, batch)
    outside["factor"] = factor
    with pytest.raises(OperatorError, match=NO_FUNCTION):
        hessian_operator(loss, w, batch)


def test_array_that_is_written_into_between_operators(w, batch):
    weights = np.ones(6)

    def loss(w, batch):
        return jnp.mean(weights * (batch[0] @ w - batch[1]) ** 4)

    hessian_operator(loss, w, batch)
    weights[2] = 7
    with pytest.raises(OperatorError, match=NO_FUNCTION):
        hessian_operator(loss, w, batch)


def test_loss_that_counts_its_calls(w, batch):
    calls = []

    def loss(w, batch):
        calls.append(0)
        return squares(w, batch) * len(calls)

    with pytest.raises(OperatorError, match=NO_FUNCTION):
        hessian_operator(loss, w, batch)


def test_no_check(w, batch):
    """What JAX traced first is used throughout."""
    loss = IMPURE["Python's numbers"]
    operator = hessian_operator(loss, w, batch, check=False)
    np.testing.assert_array_equal(operator.matvec(w), operator.matvec(w))


def drawing(key_of):
    def loss(w, batch):
        x, y, key = batch
        first, second = key_of(key)
        return squares(w, (x, y)) + jax.random.normal(first) * w[0] ** 2 + jax.random.normal(second) * w[1] ** 2

    return loss


@pytest.mark.parametrize("where", ["in the batch", "in the loss"])
def test_key_used_twice(where, w, batch):
    loss = drawing(lambda key: (key, key) if where == "in the batch" else (jax.random.key(0),) * 2)
    with pytest.raises(OperatorError, match=r"uses a random key twice.*split the key"):
        hessian_operator(loss, w, (*batch, jax.random.key(0)))
    hessian_operator(loss, w, (*batch, jax.random.key(0)), check=False)


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_split_keys(make, w, batch, dense, distance):
    """Also in several batches: each has its own key, and each product draws the same."""
    x, y = batch
    loss = drawing(jax.random.split)
    data = [(x[:3], y[:3], make(0)), (x[3:], y[3:], make(1))]

    def weighed(w, batch):
        return 3 * loss(w, batch), 3

    found = dense(hessian_operator(weighed, w, data))
    expected = sum(jax.hessian(loss)(w, part) for part in data) / 2
    assert distance(found, expected) < 1e-12  # measured: 2e-16


# Rules of derivatives that the user wrote.


@jax.custom_vjp
def cube(x):
    return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, slope: (3 * x**2 * slope,))


@jax.custom_vjp
def detached(x):
    return x**3


detached.defvjp(lambda x: (x**3, x), lambda x, slope: (3 * jax.lax.stop_gradient(x) ** 2 * slope,))


@jax.custom_vjp
def half_detached(x):
    return x**3


half_detached.defvjp(lambda x: (x**3, x), lambda x, slope: (3 * x * jax.lax.stop_gradient(x) * slope,))


def through(function):
    def loss(w, batch):
        return jnp.mean(function(batch[0] @ w) * batch[1].astype(w.dtype))

    return loss


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("function", [detached, half_detached])
def test_backward_pass_that_takes_something_as_constant(function, dtype, w, batch):
    with pytest.raises(OperatorError, match=r"product is not the derivative of the gradient.*jax\.custom_vjp"):
        hessian_operator(through(function), w.astype(dtype), tuple(x.astype(dtype) for x in batch))
    hessian_operator(through(function), w.astype(dtype), tuple(x.astype(dtype) for x in batch), check=False)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_right_rule(dtype, w, batch, dense, distance):
    batch = tuple(x.astype(dtype) for x in batch)
    found = dense(hessian_operator(through(cube), w.astype(dtype), batch))
    assert distance(found, jax.hessian(through(lambda x: x**3))(w.astype(dtype), batch)) < 20 * np.finfo(dtype).eps


def test_gauss_newton_needs_no_second_derivative_of_the_network(w, batch):
    """What the backward pass takes as constant is none of its business."""
    ggn_operator(lambda w, b: detached(b[0] @ w), lambda z, b: jnp.mean((z - b[1]) ** 2), w, batch)


@jax.custom_vjp
def relu(x):
    return jnp.maximum(x, 0)


relu.defvjp(lambda x: (jnp.maximum(x, 0), x > 0), lambda on, slope: (slope * on,))


def network(params, batch):
    x, y = batch
    for weight, bias in params[:-1]:
        x = relu(x @ weight + bias)
    weight, bias = params[-1]
    return jnp.mean((x @ weight + bias - y) ** 2)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_kinks_are_no_wrong_rule(dtype):
    """Differences of the gradient jump where a unit switches on."""
    refused = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        sizes, scale = [4, 16, 16, 2], 10.0 ** rng.uniform(-1, 1)
        params = [
            ((scale * rng.normal(size=(m, n)) / m**0.5).astype(dtype), rng.normal(size=n).astype(dtype))
            for m, n in itertools.pairwise(sizes)
        ]
        data = rng.normal(size=(32, 4)).astype(dtype), rng.normal(size=(32, 2)).astype(dtype)
        try:
            hessian_operator(network, params, data)
        except OperatorError as error:
            refused.append((seed, str(error)))
    assert refused == []


# What the loss depends on.


def test_unused_leaf(w, batch, dense):
    with pytest.warns(UnusedParameterWarning, match="does not depend on other: zero rows") as caught:
        operator = hessian_operator(lambda p, b: squares(p["used"], b), {"used": w, "other": w}, batch)
    assert [c.filename for c in caught] == [__file__]
    assert (dense(operator)[:3] == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hessian_operator(lambda p, b: squares(p["used"], b), {"used": w, "other": w}, batch, check=False)


@pytest.mark.parametrize(
    "loss",
    [lambda w, b: squares(jax.lax.stop_gradient(w), b), lambda _, b: jnp.mean(b[0]), lambda w, b: squares(w > 0, b)],
)
def test_detached_loss(loss, w, batch):
    with pytest.raises(OperatorError, match=r"does not depend on the parameters.*stop_gradient"):
        hessian_operator(loss, w, batch)
