"""Hessians that are known as formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slq_jax import hessian_operator

# Measured: at most 1e-15 over four seeds; nothing but rounding separates the operator from the formula.
TOLERANCE = 1e-13


@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        pytest.param(lambda error: (error**2).sum(1).mean(), 1, id="squared length"),
        pytest.param(lambda error: (error**2).mean(), 3, id="mean of all"),
    ],
)
def test_linear_regression(loss, factor, rng, dense, distance):
    x, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 3))
    params = {"bias": rng.normal(size=3), "weight": rng.normal(size=(3, 4))}
    op = hessian_operator(lambda p, batch: loss(batch[0] @ p["weight"].T + p["bias"] - batch[1]), params, (x, y))
    extended = np.hstack([np.ones((20, 1)), x])
    block = 2 * extended.T @ extended / 20 / factor
    # Leaves of a dict come in the order of their keys: the biases, then the weight row by row.
    order = [0, 5, 10, *(5 * row + column for row in range(3) for column in range(1, 5))]
    assert distance(dense(op), np.kron(np.eye(3), block)[order][:, order]) < TOLERANCE


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_logistic_regression(scale, rng, dense, distance):
    x, y, w = rng.normal(size=(20, 4)), rng.integers(2, size=20).astype(float), scale * rng.normal(size=4)

    def loss(w, batch):
        logits = batch[0] @ w
        return jnp.mean(jax.nn.softplus(logits) - batch[1] * logits)

    p = 1 / (1 + np.exp(-x @ w))
    expected = x.T @ x / 80 if scale == 0 else x.T @ ((p * (1 - p))[:, None] * x) / 20
    assert distance(dense(hessian_operator(loss, w, (x, y))), expected) < TOLERANCE


def test_softmax_regression_at_zero_weights(rng, dense, distance):
    x, y, bias = rng.normal(size=(20, 4)), rng.integers(3, size=20), rng.normal(size=3)

    def loss(w, batch):
        x, y = batch
        logits = jax.nn.log_softmax(x @ w + bias)
        return -jnp.mean(jnp.take_along_axis(logits, y[:, None], 1))

    p = np.exp(bias) / np.exp(bias).sum()  # the same for every sample, whatever its label
    expected = np.kron(x.T @ x / 20, np.diag(p) - np.outer(p, p))  # a weight of shape (inputs, classes)
    assert distance(dense(hessian_operator(loss, np.zeros((4, 3)), (x, y))), expected) < TOLERANCE


def test_quadratic_form(rng, dense, distance):
    a = rng.normal(size=(6, 6))
    op = hessian_operator(lambda x, a: x @ a @ x / 2, rng.normal(size=6), a)
    assert distance(dense(op), (a + a.T) / 2) < TOLERANCE


def test_cubic_depends_on_the_point(rng, dense, distance):
    c = rng.normal(size=6)

    def loss(x, c):
        return (c * x**3).sum() / 6 + x.sum() ** 3 / 6

    for x in rng.normal(size=(2, 6)):
        assert distance(dense(hessian_operator(loss, x, c)), np.diag(c * x) + x.sum()) < TOLERANCE
