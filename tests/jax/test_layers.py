"""Layers and losses against dense Hessians of another kind of differentiation."""

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

from slq_jax import hessian_operator

# Measured: at most 1e-14 over all cases and four seeds; one step in float32 would leave 1e-8.
TOLERANCE = 1e-13


def cross_entropy(logits, y):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))


def linear(p, x):
    return x @ p["weight"] + p["bias"]


def standardized(x, axis):
    return (x - x.mean(axis, keepdims=True)) / jnp.sqrt(x.var(axis, keepdims=True) + 1e-5)


@jax.custom_vjp
def own_tanh(x):
    return jnp.tanh(x)


own_tanh.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))


def perceptron(p, x):
    """The statistics of the batch couple its samples."""
    return linear(p["last"], own_tanh(standardized(linear(p["first"], x), 0)))


def convolution(p, x):
    """With GroupNorm, GELU and recomputation."""
    image = jax.lax.conv_general_dilated(x, p["kernel"], (2, 2), "VALID")
    groups = jax.checkpoint(lambda h: jax.nn.gelu(standardized(h, -1)))(image.reshape(len(x), 2, -1))
    return linear(p["last"], groups.reshape(len(x), -1))


def recurrence(p, x):
    """A gated recurrent unit."""

    def step(h, x):
        z, r = jnp.split(jax.nn.sigmoid(linear(p["gates"], jnp.concatenate([x, h], -1))), 2, -1)
        return (1 - z) * h + z * jnp.tanh(linear(p["state"], jnp.concatenate([x, r * h], -1))), None

    h, _ = jax.lax.scan(step, jnp.zeros((len(x), 3)), x.swapaxes(0, 1))
    return linear(p["last"], h)


def transformer(p, tokens):
    """With LayerNorm; the decoder is the encoder: one leaf, used twice.

    Attention is written out: jax.nn.dot_product_attention computes its softmax in float32.
    """
    x = p["table"][tokens]
    q, k, v = jnp.split(linear(p["project"], standardized(x, -1)).reshape(*x.shape[:2], 2, 6), 3, -1)
    weights = jax.nn.softmax(jnp.einsum("bihd,bjhd->bhij", q, k) / 2**0.5)
    x = x + jnp.einsum("bhij,bjhd->bihd", weights, v).reshape(x.shape)
    return x.mean(1) @ p["table"].T


def dense_layer(rng, inputs, outputs):
    return {"weight": rng.normal(size=(inputs, outputs)), "bias": rng.normal(size=outputs)}


# The leaves of each model, and the shape of an input or the number of its tokens.
MODELS = {
    perceptron: (lambda rng: {"first": dense_layer(rng, 4, 5), "last": dense_layer(rng, 5, 3)}, (4,)),
    convolution: (
        lambda rng: {"kernel": rng.normal(size=(4, 2, 3, 3)), "last": dense_layer(rng, 16, 3)},
        (2, 5, 5),
    ),
    recurrence: (
        lambda rng: {name: dense_layer(rng, *size) for name, size in GATES.items()},
        (4, 2),
    ),
    transformer: (lambda rng: {"table": rng.normal(size=(7, 4)), "project": dense_layer(rng, 4, 12)}, 7),
}
GATES = {"gates": (5, 6), "state": (5, 3), "last": (3, 3)}


def batch_of(inputs, rng):
    x = rng.integers(inputs, size=(6, 2)) if isinstance(inputs, int) else rng.normal(size=(6, *inputs))
    return x, rng.integers(3, size=6)


def by(differentiate, loss, params, batch):
    """The dense Hessian with respect to the flat vector of parameters."""
    point, unravel = ravel_pytree(params)
    return jax.jit(differentiate(lambda v: loss(unravel(v), batch)))(point)


def reverse_twice(loss):
    """Pulls back through the gradient; the operator, like jax.hessian, pushes tangents through it."""
    return jax.jacrev(jax.grad(loss))


@pytest.mark.parametrize("forward", MODELS)
def test_models(forward, rng, dense, distance):
    make, inputs = MODELS[forward]
    params, batch = make(rng), batch_of(inputs, rng)

    def loss(p, batch):
        return cross_entropy(forward(p, batch[0]), batch[1])

    hessian = dense(hessian_operator(loss, params, batch))
    assert distance(hessian, by(reverse_twice, loss, params, batch)) < TOLERANCE
    assert distance(hessian.T, hessian) < TOLERANCE


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda o, y: jnp.mean((o - y) ** 2), id="squares"),
        pytest.param(
            lambda o, y: jnp.where(abs(o - y) < 0.7, (o - y) ** 2 / 2, 0.7 * (abs(o - y) - 0.35)).mean(), id="huber"
        ),
    ],
)
def test_losses(loss, rng, dense, distance):
    params, batch = MODELS[perceptron][0](rng), (rng.normal(size=(6, 4)), rng.normal(size=(6, 3)))

    def loss_fn(p, batch):
        return loss(linear(p["last"], jnp.tanh(linear(p["first"], batch[0]))), batch[1])

    assert (
        distance(dense(hessian_operator(loss_fn, params, batch)), by(jax.hessian, loss_fn, params, batch)) < TOLERANCE
    )
