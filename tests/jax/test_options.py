"""Options, and all ways in which data and linearisations are kept: one operator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slq.errors import DataError, OperatorError, RequestError
from slq_jax import CrossEntropy, ggn_operator, hessian_operator
from slq_jax._product import Kept
from tests.jax.matrices import INPUTS, mlp, mlp_params

CLOSE = 1e-12  # measured: at most 5e-16


def squares(p, batch):
    return ((mlp(p, batch) - batch[1]) ** 2).mean()


def valid_squares(p, batch):
    """Labels below zero do not count; the mean over none is 0/0."""
    valid = batch[1] >= 0
    total = jnp.where(valid, (mlp(p, batch).sum(1) - batch[1]) ** 2, 0).sum()
    return total / valid.sum() * valid.sum(), valid.sum()


@pytest.fixture
def params(rng):
    return mlp_params(rng)


@pytest.fixture
def batch(rng):
    return INPUTS, rng.uniform(size=(8, 3))


def in_parts(batch, *ends):
    return list(zip(*(np.split(x, ends) for x in batch), strict=True))


def stream(monkeypatch):
    monkeypatch.setattr("slq_jax._data._SHARE", 1 << 60)


def linearise_anew(monkeypatch):
    monkeypatch.setattr("slq_jax._operator._SHARE", 1 << 60)


def keep_one_shape(monkeypatch):
    monkeypatch.setattr("slq_jax._data._FEW", 1)


WAYS = {
    "one": (lambda b: b, None, {}),
    "stacked": (lambda b: in_parts(b, 2, 4, 6), None, {}),
    "two shapes": (lambda b: in_parts(b, 3, 6), None, {}),
    "too many shapes": (lambda b: in_parts(b, 3, 6), keep_one_shape, {}),
    "microbatch": (lambda b: b, None, {"microbatch": 3}),
    "microbatch of batches": (lambda b: in_parts(b, 5), None, {"microbatch": 2}),
    "microbatch larger than a batch": (lambda b: b, None, {"microbatch": np.int64(9)}),
    "streamed": (lambda b: in_parts(b, 2, 4, 6), stream, {}),
    "streamed microbatches": (lambda b: b, stream, {"microbatch": 4}),
    "linearised anew": (lambda b: in_parts(b, 2, 4, 6), linearise_anew, {}),
    "one, linearised anew": (lambda b: b, linearise_anew, {}),
    "rows at once": (lambda b: in_parts(b, 2, 4, 6), None, {"together": 3}),
    "rows in pieces, linearised anew": (lambda b: in_parts(b, 2, 4, 6), linearise_anew, {"together": 2}),
    "generator function": (lambda b: lambda: iter(in_parts(b, 4)), None, {}),
    "generator function, streamed": (lambda b: lambda: iter(in_parts(b, 4)), stream, {}),
    "python scalars": (lambda b: [(x, y, 1.0) for x, y in in_parts(b, 4)], None, {}),
    "first batches": (lambda b: [*in_parts(b, 4), b], None, {"max_batches": 2}),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_keep_the_data(way, params, batch, rng, distance, monkeypatch):
    make, patch, options = WAYS[way]
    whole = hessian_operator(squares, params, batch)
    assert isinstance(whole.linear().function, Kept)
    v = jnp.asarray(rng.normal(size=(3, 38)))
    if patch:
        patch(monkeypatch)
    op = hessian_operator(squares, params, make(batch), **options)
    assert (op.linear() is None) == (patch in (stream, keep_one_shape) or way == "python scalars")
    assert op.linear() is None or isinstance(op.linear().function, Kept) == (patch is None)
    assert distance(op.matvec(v), whole.matvec(v)) < CLOSE
    assert distance(op.matvec(v[0]), whole.matvec(v[0])) < CLOSE
    assert distance(op.gradient(), whole.gradient()) < CLOSE
    assert op.loss() == pytest.approx(whole.loss(), rel=CLOSE)


@pytest.mark.parametrize("way", [None, stream, linearise_anew], ids=["kept", "streamed", "linearised anew"])
@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_batches_in_which_nothing_counts(operator, way, params, rng, distance, monkeypatch):
    """First, last and in between; their mean losses are no numbers, and neither are the derivatives."""
    x, y = rng.normal(size=(10, 4)), rng.integers(3, size=10) * 1.0
    y[[0, 1, 4, 5, 8, 9]] = -100
    batches = in_parts((x, y), 2, 4, 6, 8)

    def make(data):
        if operator == "hessian":
            return hessian_operator(valid_squares, params, data)
        labelled = [(x, y.astype(int)) for x, y in data]
        return ggn_operator(mlp, CrossEntropy(), params, labelled)

    without = make(batches[1::2])
    v = jnp.asarray(rng.normal(size=(2, 38)))
    if way:
        way(monkeypatch)
    op = make(batches)
    assert distance(op.matvec(v), without.matvec(v)) < CLOSE
    assert distance(op.gradient(), without.gradient()) < CLOSE
    assert op.loss() == pytest.approx(without.loss(), rel=CLOSE)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_declared_reduction(reduction, params, batch, dense, distance):
    def loss(p, b):
        return squares(p, b) * (1 if reduction == "mean" else len(b[0]))

    whole = hessian_operator(squares, params, batch)
    op = hessian_operator(loss, params, in_parts(batch, 3), reduction=reduction)
    assert distance(dense(op), dense(whole)) < CLOSE
    other = "sum" if reduction == "mean" else "mean"
    with pytest.raises(DataError, match=f"not a {other} over the samples of batch 0"):
        hessian_operator(loss, params, in_parts(batch, 3), reduction=other)


def test_weight_decay(params, batch, dense, distance):
    plain = hessian_operator(squares, params, batch)
    decays = np.concatenate([np.full(3, 0.1), np.full(20, 0.7), np.zeros(15)])
    op = hessian_operator(squares, params, batch, weight_decay={"b*": 0.1, "first": 0.7})
    flat = plain.ravel(params)
    assert distance(dense(op), dense(plain) + np.diag(decays)) < CLOSE
    assert distance(op.gradient(), plain.gradient() + decays * flat) < CLOSE
    assert op.loss() == pytest.approx(plain.loss() + 0.5 * float(decays @ flat**2), rel=CLOSE)


@jax.custom_vjp
def square(x):
    """A square whose backward pass takes x as constant: the gradient is right, its derivative is zero."""
    return x**2


square.defvjp(lambda x: (x**2, jax.lax.stop_gradient(x)), lambda x, g: (2 * x * g,))


def test_check(batch):
    def loss(w, b):
        return square(b[0] @ w).mean()

    with pytest.raises(OperatorError, match=r"the product is not the derivative of the gradient.*check=False"):
        hessian_operator(loss, np.ones(4), batch)
    hessian_operator(loss, np.ones(4), batch, check=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "max"}, 'reduction= expects "mean" or "sum", got \'max\''),
        ({"microbatch": 0}, "microbatch= expects a positive integer, got 0"),
        ({"microbatch": True}, "microbatch= expects a positive integer, got True"),
        ({"together": 1.5}, r"together= expects a positive integer, got 1\.5"),
        ({"max_batches": 0}, "max_batches= expects a positive integer, got 0"),
        ({"weight_decay": -1.0}, r"weight_decay= expects numbers >= 0, by names or patterns of leaves, not '\*': -1"),
        ({"weight_decay": {"none": 1.0}}, r"weight_decay= expects numbers >= 0.*not 'none': 1\.0"),
        ({"weight_decay": {"bias": np.nan}}, "weight_decay= expects numbers >= 0.*not 'bias': nan"),
        ({"probe_axis": "probes"}, "probe_axis='probes' needs parameters that are placed on a mesh with that axis"),
    ],
)
def test_options_out_of_range(options, message, params, batch):
    with pytest.raises(RequestError, match=message):
        hessian_operator(squares, params, batch, **options)


def test_what_cannot_be_cut_and_unknown_options(params, batch):
    with pytest.raises(
        RequestError, match="microbatch= cuts arrays along their leading dimension, but the batch has n"
    ):
        hessian_operator(lambda w, _: (w**2).sum(), np.ones(3), 1.0, microbatch=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'microbatches'"):
        hessian_operator(squares, params, batch, microbatches=2)
