"""Hessians of models of Equinox and Haiku, where installed, by the recipes of docs/jax-libraries.md.

Passed with equinox 0.13.8 and dm-haiku 0.0.17 under JAX 0.10.2; test_flax.py and test_optax.py have the others.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

from slq.errors import RequestError
from slq_jax import hessian_operator
from tests.jax_models import (
    BATCHES,
    ENDS,
    INPUTS,
    LABELS,
    cross_entropy,
    load,
    plain,
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


# Equinox: the arrays of a model and the rest of it, which is part of the function


def equinox_model(seed):
    eqx = load("equinox")
    first, last = jax.random.split(jax.random.key(seed))
    layers = [
        eqx.nn.Linear(4, 5, dtype=float, key=first),
        eqx.nn.Lambda(jnp.tanh),
        eqx.nn.Dropout(0.5),
        eqx.nn.Linear(5, 3, dtype=float, key=last),
    ]
    return eqx.nn.Sequential(layers)


@dataclass(frozen=True)
class EquinoxLoss:
    static: Any

    def __call__(self, params, batch):
        x, y, keys = batch  # a key for each sample, or None
        model = load("equinox").combine(params, self.static)
        return cross_entropy(jax.vmap(lambda x, key: model(x, key=key), (0, None if keys is None else 0))(x, keys), y)


def equinox_split(model):
    eqx = load("equinox")
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return EquinoxLoss(static), params


def test_equinox(caplog):
    eqx = load("equinox")
    loss, params = equinox_split(eqx.nn.inference_mode(equinox_model(0)))

    def reference(p):
        first, last = ((layer.weight.T, layer.bias) for layer in (p.layers[0], p.layers[3]))
        return plain(first, last)

    require_hessian(loss, params, with_each(None), reference)
    other, params = equinox_split(eqx.nn.inference_mode(equinox_model(1)))
    assert other is not loss
    require_compiled(other, params, with_each(None), caplog)


def test_equinox_dropout(caplog):
    loss, params = equinox_split(equinox_model(0))
    keys = np.split(jax.random.split(jax.random.key(0), len(LABELS)), ENDS)
    data = [(*batch, k) for batch, k in zip(BATCHES, keys, strict=True)]

    def reference(p):
        return sum(loss(p, batch)[0] for batch in data) / len(LABELS)

    without, _ = equinox_split(load("equinox").nn.inference_mode(equinox_model(0)))
    assert abs(reference(params) - sum(without(params, b)[0] for b in with_each(None)) / len(LABELS)) > 1e-3
    require_hessian(loss, params, data, reference)
    require_compiled(*equinox_split(equinox_model(1)), data, caplog)


def test_equinox_with_an_array_beside_the_parameters():
    """An array cannot be part of a function that is compared; what is no parameter travels with the batches."""
    eqx = load("equinox")
    model = eqx.tree_at(lambda m: m.layers[3].bias, equinox_model(0), jnp.arange(3))
    with pytest.raises(RequestError, match="the loss must be hashable, but EquinoxLoss is not"):
        hessian_operator(*equinox_split(model), with_each(None))


# Haiku: a transformed function, made once


@functools.cache
def haiku_network():
    hk = load("haiku")

    def network(x, dropout):
        hidden = jnp.tanh(hk.Linear(5, name="first")(x))
        return hk.Linear(3, name="last")(hk.dropout(hk.next_rng_key(), 0.5, hidden) if dropout else hidden)

    return hk.transform(network)


def haiku_params(seed):
    return haiku_network().init(jax.random.key(seed), jnp.asarray(INPUTS), False)


def haiku_loss(params, batch):
    x, y = batch
    scores = haiku_network().apply(params, None, x, False)
    return cross_entropy(scores, y)[0] / y.size  # the mean over the samples will do


def haiku_dropout(params, batch):
    x, y, key = batch
    return cross_entropy(haiku_network().apply(params, key, x, True), y)


def test_haiku(caplog):
    def reference(p):
        return plain(*((p[name]["w"], p[name]["b"]) for name in ("first", "last")))

    require_hessian(haiku_loss, haiku_params(0), BATCHES, reference)
    require_compiled(haiku_loss, haiku_params(1), BATCHES, caplog)


def test_haiku_dropout(caplog):
    params, data = haiku_params(0), with_each(jax.random.key(0))

    def reference(p):
        return sum(haiku_dropout(p, batch)[0] for batch in data) / len(LABELS)

    without = sum(haiku_loss(params, batch) * len(batch[1]) for batch in BATCHES) / len(LABELS)
    assert abs(reference(params) - without) > 1e-3  # units are dropped
    require_hessian(haiku_dropout, params, data, reference)
    require_compiled(haiku_dropout, haiku_params(1), data, caplog)
