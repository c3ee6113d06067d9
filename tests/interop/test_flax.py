"""Hessians of models of Flax, linen and nnx, where installed, by the recipes of docs/jax-libraries.md.

Passed with flax 0.12.8 under JAX 0.10.2.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
from jax.flatten_util import ravel_pytree

from tests.jax_models import (
    BATCHES,
    ENDS,
    INPUTS,
    LABELS,
    compilations,
    cross_entropy,
    load,
    normalized,
    perturbed,
    require_compiled,
    require_hessian,
    with_each,
)

# What the libraries warn of on import or use is theirs to mend.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def _x64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


# Flax linen: functions of the parameters; what layers collect is another tree


@functools.cache
def linen_network():
    nn = load("flax.linen")

    class Network(nn.Module):
        momentum: float = 0.9

        @nn.compact
        def __call__(self, x, batch_statistics=False, dropout=False):
            hidden = nn.Dense(5, name="first", param_dtype=float)(x)
            norm = nn.BatchNorm(not batch_statistics, momentum=self.momentum, name="norm", param_dtype=float)
            hidden = nn.Dropout(0.5, deterministic=not dropout)(nn.tanh(norm(hidden)))
            return nn.Dense(3, name="last", param_dtype=float)(hidden)

    return Network


def linen_variables(seed):
    variables = linen_network()().init(jax.random.key(seed), INPUTS)
    return perturbed(variables["params"]), perturbed(variables["batch_stats"])


def linen_running(params, batch):
    x, y, statistics = batch
    return cross_entropy(linen_network()().apply({"params": params, "batch_stats": statistics}, x), y)


def linen_batch(params, batch):
    x, y = batch
    scores, _ = linen_network()().apply({"params": params}, x, batch_statistics=True, mutable=["batch_stats"])
    return cross_entropy(scores, y)


def linen_dropout(params, batch):
    x, y, statistics, key = batch
    variables = {"params": params, "batch_stats": statistics}
    return cross_entropy(linen_network()().apply(variables, x, dropout=True, rngs={"dropout": key}), y)


def linen_population(params):
    """With momentum 0, one pass of all data leaves its statistics."""
    network = linen_network()(momentum=0.0)
    _, collected = network.apply({"params": params}, INPUTS, batch_statistics=True, mutable=["batch_stats"])
    return collected["batch_stats"]


def test_linen_running_statistics(caplog):
    params, statistics = linen_variables(0)
    reference = functools.partial(normalized, statistics=statistics["norm"])
    require_hessian(linen_running, params, with_each(statistics), reference)
    params, statistics = linen_variables(1)
    require_compiled(linen_running, params, with_each(statistics), caplog)


def test_linen_batch_statistics(caplog):
    reference = functools.partial(normalized, statistics=None, ends=ENDS)
    require_hessian(linen_batch, linen_variables(0)[0], BATCHES, reference)
    require_compiled(linen_batch, linen_variables(1)[0], BATCHES, caplog)


def test_linen_population_statistics(caplog):
    """Fixed, they give another matrix than differentiated through, which is one batch of all data."""
    params, other = linen_variables(0)[0], linen_variables(1)[0]
    reference = functools.partial(normalized, statistics=statistics_of_all(params))
    fixed = require_hessian(linen_running, params, with_each(linen_population(params)), reference)
    require_compiled(linen_running, other, with_each(linen_population(other)), caplog)
    reference = functools.partial(normalized, statistics=None)
    through = require_hessian(linen_batch, params, (INPUTS, LABELS), reference)
    assert np.linalg.norm(fixed - through) > 0.1 * np.linalg.norm(through)  # measured: 0.65


def statistics_of_all(tree):
    hidden = INPUTS @ tree["first"]["kernel"] + tree["first"]["bias"]
    return {"mean": hidden.mean(0), "var": hidden.var(0)}


def test_linen_dropout(caplog):
    """With its key in the batch, each pass draws the same masks."""
    params, statistics = linen_variables(0)
    keys = jax.random.split(jax.random.key(0), 3)
    data = [(*batch, statistics, key) for batch, key in zip(BATCHES, keys, strict=True)]

    def reference(p):
        return sum(linen_dropout(p, batch)[0] for batch in data) / len(LABELS)

    assert abs(reference(params) - normalized(params, statistics["norm"])) > 1e-3  # units are dropped
    require_hessian(linen_dropout, params, data, reference)
    params, statistics = linen_variables(1)
    require_compiled(linen_dropout, params, with_each(statistics, keys[0]), caplog)


# Flax nnx: a graph definition, which is part of the function, the parameters, and the rest, which travels in batches


@functools.cache
def nnx_network():
    nnx = load("flax.nnx")

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(4, 5, param_dtype=float, rngs=rngs)
            self.norm = nnx.BatchNorm(5, param_dtype=float, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.last = nnx.Linear(5, 3, param_dtype=float, rngs=rngs)

        def __call__(self, x):
            return self.last(self.dropout(nnx.tanh(self.norm(self.first(x)))))

    return Network


def nnx_model(seed):
    nnx = load("flax.nnx")
    model = nnx_network()(nnx.Rngs(seed))
    for kind in (nnx.Param, nnx.BatchStat):
        nnx.update(model, perturbed(nnx.as_pure(nnx.state(model, kind))))
    model.eval()
    return model


def nnx_split(model):
    """A loss, parameters, and data; losses of equal graphs are equal."""
    nnx = load("flax.nnx")
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    return NnxLoss(graph), nnx.as_pure(params), with_each(nnx.as_pure(rest))


@dataclass(frozen=True)
class NnxLoss:
    graph: Any

    def __call__(self, params, batch):
        x, y, rest = batch
        return cross_entropy(load("flax.nnx").merge(self.graph, params, rest)(x), y)


def test_nnx_running_statistics(caplog):
    loss, params, data = nnx_split(nnx_model(0))
    require_hessian(loss, params, data, functools.partial(normalized, statistics=data[0][2]["norm"]))
    other, params, data = nnx_split(nnx_model(1))
    assert other is not loss
    require_compiled(other, params, data, caplog)


def test_nnx_batch_statistics(caplog):
    """What the layers collect goes into a copy of the model, and is lost."""
    nnx = load("flax.nnx")
    model, other = nnx_model(0), nnx_model(1)
    for each in (model, other):
        each.norm.use_running_average = False
    before = ravel_pytree(nnx.state(model, nnx.BatchStat))[0]
    loss, params, data = nnx_split(model)
    require_hessian(loss, params, data, functools.partial(normalized, statistics=None, ends=ENDS))
    require_compiled(*nnx_split(other), caplog)
    assert np.array_equal(before, ravel_pytree(nnx.state(model, nnx.BatchStat))[0])


def nnx_population(model):
    """The model with the statistics of all data: with momentum 0, one pass leaves them."""
    nnx = load("flax.nnx")
    trained, copy = nnx.clone(model), nnx.clone(model)
    copy.set_attributes(nnx.BatchNorm, use_running_average=False, momentum=0.0)
    copy(INPUTS)
    nnx.update(trained, nnx.state(copy, nnx.BatchStat))
    return trained


def test_nnx_population_statistics(caplog):
    loss, params, data = nnx_split(nnx_population(nnx_model(0)))
    require_hessian(loss, params, data, functools.partial(normalized, statistics=statistics_of_all(params)))
    require_compiled(*nnx_split(nnx_population(nnx_model(1))), caplog)


def test_nnx_dropout(caplog):
    """Keys and their counts are part of the rest: each batch and each pass draws the same masks."""
    model, other = nnx_model(0), nnx_model(1)
    for each in (model, other):
        each.dropout.deterministic = False
    loss, params, data = nnx_split(model)

    def reference(p):
        return sum(loss(p, batch)[0] for batch in data) / len(LABELS)

    assert abs(reference(params) - normalized(params, data[0][2]["norm"])) > 1e-3  # units are dropped
    require_hessian(loss, params, data, reference)
    require_compiled(*nnx_split(other), caplog)


def test_a_partial_made_anew_is_compiled_anew(caplog):
    """`functools.partial` compares by identity, a frozen dataclass by what it holds."""
    nnx = load("flax.nnx")
    graph, params, rest = nnx.split(nnx_model(0), nnx.Param, ...)
    data = with_each(nnx.as_pure(rest))
    losses = [functools.partial(NnxLoss.__call__, NnxLoss(graph)) for _ in range(2)]
    assert compilations(losses[0], nnx.as_pure(params), data, caplog)
    assert not compilations(losses[0], nnx.as_pure(params), data, caplog)
    assert compilations(losses[1], nnx.as_pure(params), data, caplog)
