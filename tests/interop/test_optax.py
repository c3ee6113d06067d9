"""Losses and optimisers of Optax, where installed, with the recipes of docs/jax-libraries.md.

Passed with optax 0.2.8 (and flax 0.12.8) under JAX 0.10.2; tests/jax/test_optimizer.py has a stand-in that always runs.
"""

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import slq
from slq.errors import RequestError
from slq_jax import adam_diagonal, hessian_operator
from tests.jax_models import BATCHES, INPUTS, LABELS, load, plain, require_compiled, require_hessian

# What the libraries warn of on import or use is theirs to mend.
pytestmark = pytest.mark.filterwarnings("default")
RATE, B2, EPS, EPS_ROOT = 1e-3, 0.9, 1e-3, 1e-4


@pytest.fixture(autouse=True)
def _x64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def optax():
    return load("optax")


def loss(params, batch):
    """The mean over the samples."""
    x, y = batch
    (w, b), (v, c) = params["first"], params["last"]
    return load("optax").softmax_cross_entropy_with_integer_labels(jnp.tanh(x @ w + b) @ v + c, y).mean()


def parameters(seed):
    rng = np.random.default_rng(seed)
    return {
        name: (jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=shape[1])))
        for name, shape in (("first", (4, 5)), ("last", (5, 3)))
    }


def train(optimizer, params, updates=3):
    """Parameters and state after some updates, the last gradient and the last update."""
    state = optimizer.init(params)
    for step in range(updates):
        gradient = jax.grad(loss)(params, BATCHES[step % 3])
        update, state = optimizer.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, update)
    return params, state, ravel_pytree(gradient)[0], ravel_pytree(update)[0]


def test_loss(optax, caplog):
    require_hessian(loss, parameters(0), BATCHES, lambda p: plain(p["first"], p["last"]))
    require_compiled(loss, parameters(1), BATCHES, caplog)


# Without a first moment (β₁ = 0), an update is -rate g / diagonal.
OPTIONS = {"b1": 0.0, "b2": B2, "eps": EPS, "eps_root": EPS_ROOT}
OPTIMIZERS = {
    "adam": lambda optax: optax.adam(RATE, **OPTIONS),
    "adamw": lambda optax: optax.adamw(RATE, **OPTIONS, weight_decay=0.0),
    "nadam": lambda optax: optax.nadam(RATE, **OPTIONS),
    "amsgrad": lambda optax: optax.amsgrad(RATE, **OPTIONS),
    "scale_by_yogi": lambda optax: optax.chain(optax.scale_by_yogi(**OPTIONS), optax.scale(-RATE)),
    "chain": lambda optax: optax.chain(optax.clip_by_global_norm(1e9), optax.adam(RATE, **OPTIONS)),
    "inject_hyperparams": lambda optax: optax.inject_hyperparams(optax.adam)(RATE, **OPTIONS),
    "masked": lambda optax: optax.masked(optax.adam(RATE, **OPTIONS), lambda p: jax.tree.map(lambda _: True, p)),
    "multi_steps": lambda optax: optax.MultiSteps(optax.adam(RATE, **OPTIONS), 1),
    "apply_if_finite": lambda optax: optax.apply_if_finite(optax.adam(RATE, **OPTIONS), 3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_is_divided_by_it(name, optax):
    params, state, gradient, update = train(OPTIMIZERS[name](optax), parameters(0))
    op = hessian_operator(loss, params, BATCHES)
    diagonal = adam_diagonal(state, op, b2=B2, eps=EPS, eps_root=EPS_ROOT)
    np.testing.assert_allclose(update, -RATE * gradient / diagonal, rtol=1e-13)  # measured: 3e-16


def test_moments_are_those_of_tree_get(optax):
    params, state, _, _ = train(optax.adamw(RATE), parameters(0))
    op = hessian_operator(loss, params, BATCHES)
    second, count = optax.tree_utils.tree_get(state, "nu"), optax.tree_utils.tree_get(state, "count")
    by_hand = jnp.sqrt(op.ravel(optax.tree_utils.tree_bias_correction(second, 0.999, count))) + 1e-8
    np.testing.assert_allclose(adam_diagonal(state, op), by_hand, rtol=1e-13)  # measured: 2e-16


def test_preconditioned_hessian(optax):
    params, state, _, _ = train(optax.adam(RATE), parameters(0))
    op = hessian_operator(loss, params, BATCHES)
    diagonal = adam_diagonal(state, op)
    flat, unravel = ravel_pytree(params)
    exact = jax.hessian(lambda v: loss(unravel(v), (INPUTS, LABELS)))(flat) / jnp.sqrt(diagonal[:, None] * diagonal)
    measure = slq.spectral_measure(slq.precondition(op, diagonal), num_probes=2, num_steps=len(flat))
    values = np.linalg.eigvalsh(exact)
    assert measure.support == pytest.approx((values[0], values[-1]), rel=1e-10)  # measured: 4e-16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda optax: optax.sgd(0.1), "with none"),
        (lambda optax: optax.lion(0.1), "with none"),
        (lambda optax: optax.rmsprop(0.1), "with none"),
        (lambda optax: optax.novograd(0.1), "moments are of other parameters than the operator's"),
        (lambda optax: by_name(optax, optax.adam(RATE)), "with 2 of them"),
        (lambda optax: by_name(optax, optax.sgd(RATE)), "moments are of other parameters than the operator's"),
    ],
)
def test_states_of_others(make, message, optax):
    params, state, _, _ = train(make(optax), parameters(0))
    with pytest.raises(RequestError, match=message):
        adam_diagonal(state, hessian_operator(loss, params, BATCHES))


def by_name(optax, of_last):
    """Adam for the first layer, and another optimiser for the last."""
    labels = {name: jax.tree.map(lambda _, name=name: name, layer) for name, layer in parameters(0).items()}
    return optax.multi_transform({"first": optax.adam(RATE), "last": of_last}, labels)


def test_optimizer_of_nnx():
    """Its state wraps arrays in variables of its own; `nnx.as_pure` takes all of them off."""
    load("optax")
    nnx, optax = load("flax.nnx"), load("optax")
    model = nnx.Linear(4, 3, param_dtype=float, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(RATE), wrt=nnx.Param)
    gradient = nnx.grad(lambda model: jnp.mean(model(INPUTS) ** 2))(model)
    optimizer.update(model, gradient)
    graph, params = nnx.split(model)

    def mean_square(params, x):
        return jnp.mean(nnx.merge(graph, params)(x) ** 2)

    op = hessian_operator(mean_square, nnx.as_pure(params), INPUTS)
    diagonal = adam_diagonal(nnx.as_pure(optimizer.opt_state), op)
    exact = np.abs(ravel_pytree(gradient)[0]) + 1e-8  # of one update
    np.testing.assert_allclose(diagonal, exact, rtol=1e-13)  # measured: 2e-16
    with pytest.raises(RequestError, match="moments are of other parameters than the operator's"):
        adam_diagonal(optimizer.opt_state, op)
