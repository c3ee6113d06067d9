"""What the tests of models of JAX libraries share: data, the same networks without a library, and comparisons."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from slq_jax import hessian_operator

RNG = np.random.default_rng(0)
INPUTS, LABELS = RNG.normal(size=(12, 4)), RNG.integers(3, size=12)
ENDS = [5, 9]  # batches of 5, 4 and 3
BATCHES = list(zip(np.split(INPUTS, ENDS), np.split(LABELS, ENDS), strict=True))


def load(name):
    """The module, or a skip that says what is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


def require_hessian(loss, params, data, reference):
    """Compare all products with the dense Hessian of another way to the same mean loss; return that."""
    flat, unravel = ravel_pytree(params)
    exact = jax.hessian(lambda v: reference(unravel(v)))(flat)
    op = hessian_operator(loss, params, data)
    assert op.like.dtype == jnp.float64
    np.testing.assert_allclose(op.matvec(jnp.eye(len(flat))), exact, rtol=0, atol=1e-10)  # measured: 2e-13
    return exact


def require_compiled(loss, params, data, caplog):
    """Require that all of a new operator is compiled already, for others of an equal loss."""
    assert compilations(loss, params, data, caplog) == []


def compilations(loss, params, data, caplog):
    """What JAX says that it compiles for a new operator and its products; the loss is traced once, for its check."""
    unit_vectors = jnp.eye(ravel_pytree(params)[0].size)
    caplog.clear()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        hessian_operator(loss, params, data).matvec(unit_vectors)
    return [record.message for record in caplog.records if not record.message.startswith("Finished tracing loss")]


def cross_entropy(scores, labels):
    """Sum and weight."""
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1).sum(), labels.size


def plain(first, last, norm=lambda hidden: hidden):
    """The mean loss over all data of the networks of the tests, without any library."""
    scores = jnp.tanh(norm(INPUTS @ first[0] + first[1])) @ last[0] + last[1]
    return cross_entropy(scores, LABELS)[0] / len(LABELS)


def normalized(tree, statistics, ends=()):
    """That of both kinds of Flax, with given statistics of the hidden units, or else those of batches."""

    def norm(hidden):
        if statistics is not None:
            whitened = (hidden - statistics["mean"]) / jnp.sqrt(statistics["var"] + 1e-5)
        else:
            parts = jnp.split(hidden, ends)
            whitened = jnp.concatenate([(h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5) for h in parts])
        return whitened * tree["norm"]["scale"] + tree["norm"]["bias"]

    first, last = ((tree[name]["kernel"], tree[name]["bias"]) for name in ("first", "last"))
    return plain(first, last, norm)


def with_each(*frozen):
    """What the loss needs beside the samples travels with each batch: it is no constant of what is compiled."""
    return [(*batch, *frozen) for batch in BATCHES]


def perturbed(tree):
    """Other values, so that nothing is zero or one, as it was initialised."""
    flat, unravel = ravel_pytree(tree)
    return unravel(flat + np.random.default_rng(1).uniform(0.1, 0.3, size=flat.size))
