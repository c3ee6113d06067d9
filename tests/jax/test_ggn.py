"""Gauss-Newton matrices against dense Jacobians and loss Hessians, which use nothing of slq."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import slq
from slq.errors import RequestError
from slq_jax import BinaryCrossEntropy, CrossEntropy, SquaredError, fisher_operator, ggn_operator, hessian_operator
from tests.jax.matrices import INPUTS, dense_ggn, mlp, mlp_params

CLOSE = 1e-12  # measured: at most 2e-15 over all cases and four seeds
WEIGHTS = [0.5, 2.0, 1.0]


@jax.custom_vjp
def own_tanh(x):
    return jnp.tanh(x)


own_tanh.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))


def with_own_rule(p, batch):
    return own_tanh(batch[0] @ p["first"]) @ p["last"] + p["bias"]


def convolution(p, batch):
    image = jax.lax.conv_general_dilated(batch[0].reshape(-1, 1, 2, 2), p["first"].reshape(5, 1, 2, 2), (1, 1), "SAME")
    return jax.nn.gelu(image).mean((2, 3)) @ p["last"] + p["bias"]


def recurrence(p, batch):
    """The inputs are sequences of four numbers."""

    def step(h, x):
        return jnp.tanh(h + x[:, None] * p["first"][0]), None

    h, _ = jax.lax.scan(step, jnp.zeros((len(batch[0]), 5)), batch[0].T)
    return h @ p["last"] + p["bias"]


def attention(p, batch):
    """Four tokens of one number; the softmax is in float32."""
    x = (batch[0][..., None] * p["first"][0]).reshape(-1, 4, 1, 5)
    return jax.nn.dot_product_attention(x, x, x, is_causal=True).mean((1, 2)) @ p["last"] + p["bias"]


def labels(rng):
    return INPUTS, rng.integers(3, size=8)


def ignored(rng):
    x, y = labels(rng)
    y[2:5] = -100
    return x, y


def entries(rng):
    return INPUTS, rng.uniform(size=(8, 3))


CASES = {
    "cross-entropy": (mlp, CrossEntropy(), labels),
    "ignored": (mlp, CrossEntropy(), ignored),
    "smoothing": (mlp, CrossEntropy(label_smoothing=0.2), labels),
    "both": (mlp, CrossEntropy(class_weights=WEIGHTS, label_smoothing=0.2), labels),
    "squares": (mlp, SquaredError(), entries),
    "binary": (mlp, BinaryCrossEntropy(pos_weight=WEIGHTS), entries),
    "own rule": (with_own_rule, CrossEntropy(), labels),
    "convolution": (convolution, CrossEntropy(), labels),
    "scan": (recurrence, CrossEntropy(), labels),
    "own loss": (mlp, lambda z, b: jnp.log1p((z.sum(1) - b[1]) ** 2).mean(), labels),
    "own coupled loss": (mlp, lambda z, _: ((z.T @ z) ** 2).sum(), labels),
}


@pytest.mark.parametrize("case", CASES)
def test_dense(case, rng, dense, distance):
    forward, loss, make = CASES[case]
    params, batch = mlp_params(rng), make(rng)
    op = ggn_operator(forward, loss, params, batch)
    # Jacobians by forward passes know no rule of the user's own for reverse ones; its function is the perceptron's.
    exact = dense_ggn(mlp if forward is with_own_rule else forward, loss, params, batch)
    assert distance(dense(op), exact) < CLOSE
    v = rng.normal(size=op.shape[0])
    assert distance(op.matvec(jnp.asarray(v)), exact @ v) < CLOSE


def test_attention(rng, dense, distance):
    params, batch = mlp_params(rng), labels(rng)
    found = dense(ggn_operator(attention, CrossEntropy(), params, batch))
    # The softmax rounds to 6e-8. Measured over four seeds: at most 5e-8.
    assert distance(found, dense_ggn(attention, CrossEntropy(), params, batch)) < 1e-5


def test_loss_linear_in_the_outputs(rng, dense):
    op = ggn_operator(mlp, lambda z, b: (z * b[1][:, None]).mean(), mlp_params(rng), labels(rng))
    assert not dense(op).any()


LINEAR = {
    "cross-entropy": (CrossEntropy(class_weights=WEIGHTS), labels),
    "squares": (SquaredError(), entries),
    "binary": (BinaryCrossEntropy(), entries),
    "own": (lambda z, b: jnp.cosh(z[:, 0] - b[1]).mean(), labels),
}


def linear(w, batch):
    return batch[0] @ w


@pytest.mark.parametrize("case", LINEAR)
def test_ggn_of_a_linear_model_is_the_hessian(case, rng, dense, distance):
    (loss, make), w = LINEAR[case], rng.normal(size=(4, 3))
    batch = make(rng)
    found = dense(ggn_operator(linear, loss, w, batch))
    assert distance(found, dense(hessian_operator(lambda w, b: loss(linear(w, b), b), w, batch))) < CLOSE
    if case != "own":
        assert np.array_equal(dense(fisher_operator(linear, loss, w, batch)), found)


def outputs(p, batch):
    """A tree with leaves that have no derivative, or none with respect to the parameters, and a hole."""
    z = mlp(p, batch)
    return {
        "mean": z[:, :2],
        "spread": [jax.nn.softplus(z[:, 2])],
        "input": batch[0],
        "index": batch[1],
        "count": len(z),
        "cache": None,
    }


def of_tree(z, batch):
    spread = z["spread"][0]
    squares = (z["mean"].sum(1) - z["index"]) ** 2 / spread
    return (squares + jnp.log(spread) + z["input"].sum(1)).sum(), z["count"]


def test_outputs_as_a_tree(rng, dense, distance):
    params, batch = mlp_params(rng), labels(rng)

    def flat(p, batch):
        z = outputs(p, batch)
        return jnp.concatenate([z["mean"], z["spread"][0][:, None]], 1)

    def flat_loss(z, batch):
        return of_tree({"mean": z[:, :2], "spread": [z[:, 2]], "input": batch[0], "index": batch[1], "count": 8}, batch)

    op = ggn_operator(outputs, of_tree, params, batch)
    assert distance(dense(op), dense_ggn(flat, flat_loss, params, batch)) < CLOSE


@pytest.mark.parametrize("loss", [CrossEntropy(), of_tree], ids=["closed form", "own"])
def test_batches_and_pieces(loss, rng, dense, distance):
    """Unequal batches, one of them wholly ignored, and microbatches: one matrix."""
    forward = mlp if isinstance(loss, CrossEntropy) else outputs
    params, (x, y) = mlp_params(rng), labels(rng)
    if loss is not of_tree:
        y[2:4] = -100
    whole = dense(ggn_operator(forward, loss, params, (x, y)))
    parts = [(x[a:b], y[a:b]) for a, b in ((0, 2), (2, 4), (4, 6), (6, 7), (7, 8))]
    assert distance(dense(ggn_operator(forward, loss, params, parts)), whole) < CLOSE
    for size in (3, 8):
        assert distance(dense(ggn_operator(forward, loss, params, (x, y), microbatch=size)), whole) < CLOSE


def test_decay_selection_and_checks(rng, dense, distance):
    params, batch = mlp_params(rng), labels(rng)
    whole = ggn_operator(mlp, CrossEntropy(), params, batch)
    matrix = dense(whole)
    decayed = ggn_operator(mlp, CrossEntropy(), params, batch, weight_decay=0.5)
    assert distance(dense(decayed), matrix + 0.5 * np.eye(len(matrix))) < CLOSE
    last = ggn_operator(mlp, CrossEntropy(), params, batch, select="last")
    assert distance(dense(last), matrix[-15:, -15:]) < CLOSE
    assert slq.check_operator(whole)
    assert whole.workspace(1) > 0
    assert np.linalg.eigvalsh(matrix)[0] > -1e-14
    flat, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda v: (lambda s: s[0] / s[1])(CrossEntropy()(mlp(unravel(v), batch), batch)))(flat)
    assert distance(whole.gradient(), gradient) < CLOSE


def test_half_precision_parameters_give_a_float32_operator(rng, dense, distance):
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), mlp_params(rng))
    x, y = labels(rng)
    op = ggn_operator(mlp, CrossEntropy(), half, (jnp.asarray(x, jnp.bfloat16), y))
    assert op.like.dtype == dense(op).dtype == jnp.float32
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), half)
    exact = dense_ggn(mlp, CrossEntropy(), wide, (jnp.asarray(x, jnp.bfloat16).astype(jnp.float64), y))
    assert distance(dense(op), exact) < 0.03  # four machine epsilons. Measured over four seeds: at most 0.0065


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError(), BinaryCrossEntropy()], ids=lambda x: type(x).__name__)
def test_a_loss_of_one_array_refuses_a_tree(loss, rng):
    name = type(loss).__name__
    with pytest.raises(RequestError, match=rf"{name} is a loss of one array, but forward returns a dict; return the"):
        ggn_operator(outputs, loss, mlp_params(rng), labels(rng))


def test_a_loss_of_ones_own_with_a_closed_form_refuses_a_tree(rng):
    """One that reads trees itself, and gives a second derivative, which is asked for one array."""

    class Closed:
        def __call__(self, z, _):
            return (z["mean"] ** 2).sum(), 8

        def hessian_product(self, *arguments):
            return 2 * arguments[-1]

    op = ggn_operator(outputs, Closed(), mlp_params(rng), labels(rng), check=False)
    with pytest.raises(RequestError, match="Closed is a loss of one array, but forward returns a dict; return the arr"):
        op.matvec(jnp.ones(op.shape[0]))


@pytest.mark.parametrize("what", ["forward function", "loss"])
def test_functions_that_jax_cannot_remember(what, rng):
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, *_):
            return jnp.ones(())

    forward, loss = (Unhashable(), CrossEntropy()) if what == "forward function" else (mlp, Unhashable())
    with pytest.raises(RequestError, match=f"the {what} must be hashable, but Unhashable is not; wrap it in a func"):
        ggn_operator(forward, loss, mlp_params(rng), labels(rng))
