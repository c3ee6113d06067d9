"""Blocks of a Hessian from one pass over the data, against blocks of the dense matrix."""

import jax.numpy as jnp
import numpy as np
import pytest

import slq
from slq.errors import RequestError, ShapeError, UnusedParameterWarning
from slq_jax import hessian_operator, layer_operators
from tests.jax.matrices import INPUTS

CLOSE = 1e-12  # measured: at most 3e-16


def loss(p, batch):
    x, y = batch
    for layer in p["layers"][:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    last = p["layers"][-1]
    return jnp.mean((x @ last["w"] + last["b"] + p["shift"] - y) ** 2)


@pytest.fixture
def params(rng):
    sizes = ((4, 3), (3, 2))
    layers = [{"w": rng.normal(size=size), "b": rng.normal(size=size[1])} for size in sizes]
    return {"layers": layers, "shift": rng.normal(size=2)}


@pytest.fixture
def batch(rng):
    return INPUTS, rng.normal(size=(8, 2))


def in_parts(batch):
    return [tuple(x[a:b] for x in batch) for a, b in ((0, 2), (2, 4), (4, 8))]


def slices(whole, block):
    """Where the entries of a block lie in the flat vector of the whole."""
    places = {name: np.arange(end - x.size, end) for (name, x), end in ends(whole)}
    return np.concatenate([places[name] for name in block.parameters])


def ends(op):
    return zip(op.parameters.items(), np.cumsum([x.size for x in op.parameters.values()]), strict=True)


@pytest.mark.parametrize("fits", [True, False], ids=["kept", "read anew"])
@pytest.mark.parametrize("blocks", ["modules", "parameters"])
def test_every_block_is_that_of_the_dense_matrix(blocks, fits, params, batch, dense, distance, monkeypatch):
    whole = hessian_operator(loss, params, batch, weight_decay={"*.w": 0.5, "shift": 0.1})
    matrix = dense(whole)
    if not fits:
        monkeypatch.setattr("slq_jax._data._SHARE", 1 << 60)
    layers = layer_operators(
        loss, params, in_parts(batch), blocks=blocks, weight_decay={"*.w": 0.5, "shift": 0.1}, microbatch=2
    )
    assert list(layers)[:2] == (["layers.0", "layers.1"] if blocks == "modules" else ["layers.0.b", "layers.0.w"])
    together = layers.matvecs({name: jnp.eye(A.shape[0]) for name, A in layers.items()})
    size = 0
    for name, A in layers.items():
        at = slices(whole, A)
        exact = matrix[np.ix_(at, at)]
        assert distance(together[name], exact) < CLOSE
        assert distance(dense(A), exact) < CLOSE
        assert distance(A.gradient(), whole.gradient()[at]) < CLOSE
        v = jnp.arange(A.shape[0] * 1.0)
        assert np.array_equal(A.ravel(A.unravel(v)), v)
        assert A.workspace(2) > 0
        size += A.shape[0]
    assert size == whole.shape[0] == len(matrix)
    traces = sum(float(np.trace(x)) for x in together.values())
    assert traces == pytest.approx(float(np.trace(matrix)), rel=1e-12)


def test_rows_of_any_shape(params, batch, distance):
    layers = layer_operators(loss, params, batch)
    x = jnp.ones((2, 3, 15))
    found = layers.matvecs({"layers.0": x, "shift": jnp.ones(2)})
    assert found["layers.0"].shape == (2, 3, 15)
    assert distance(found["layers.0"], layers["layers.0"].matvec(x)) < CLOSE
    assert found["shift"].shape == (2,)


def test_measures_are_those_of_one_run_per_layer(params, batch):
    layers = layer_operators(loss, params, in_parts(batch))
    options = {"num_probes": 2, "num_steps": 4}
    measures = slq.spectral_measures({name: layers[name] for name in ("layers.0", "layers.1")}, **options)
    for name, measure in measures.items():
        alone = hessian_operator(loss, params, batch, select=f"{name}.*")
        exact = slq.spectral_measure(alone, **options)
        size = abs(exact.nodes).max()
        np.testing.assert_allclose(measure.alpha, exact.alpha, rtol=0, atol=1e-10 * size)
        np.testing.assert_allclose(measure.beta, exact.beta, rtol=0, atol=1e-10 * size)


def test_partitions(params, batch):
    def names(blocks, **options):
        layers = layer_operators(loss, params, batch, blocks=blocks, **options)
        return {name: A.shape[0] for name, A in layers.items()}

    assert names({"first": ["layers.0.*", "layers.1.w"], "rest": ["*.1.b", "shift"]}) == {"first": 21, "rest": 4}
    assert names(lambda name: name.rpartition(".")[2]) == {"b": 5, "w": 18, "shift": 2}
    assert names("modules", select="layers.1.*") == {"layers.1": 8}
    for blocks, message in (
        ({"a": "layers.0.*"}, r"layers\.1\.b, .* is in no block; add one for the rest"),
        ({"a": "*", "b": "none.*"}, r"block 'b' \(none\.\*\) is empty; the parameters are layers\.0\.b"),
        ({"a": "*", "b": "shift"}, r"shift is in the blocks 'a' and 'b'; a partition has it in one"),
        (lambda _: None, r"blocks= gave None for layers\.0\.b; a function must return the name of a block"),
        ("layers", r"blocks= expects \"modules\", \"parameters\".*not 'layers'"),
    ):
        with pytest.raises(RequestError, match=message):
            names(blocks)


def test_blocks_that_the_loss_does_not_bend(rng, dense):
    """A linear and an unused leaf: zero blocks."""
    params = {"line": rng.normal(size=4), "idle": np.ones(2), "bent": rng.normal(size=4)}

    def bent(p, x):
        return (x @ p["line"]).mean() + (jnp.tanh(x @ p["bent"]) ** 2).mean()

    with pytest.warns(UnusedParameterWarning, match="does not depend on idle: zero rows"):
        layers = layer_operators(bent, params, INPUTS, blocks="parameters")
    assert not dense(layers["line"]).any()
    assert not dense(layers["idle"]).any()
    assert dense(layers["bent"]).any()


def test_refusals(params, batch):
    layers = layer_operators(loss, params, batch)
    with pytest.raises(ShapeError, match=r"expects vectors of shape \(\.\.\., 15\), got \(2, 3\)"):
        layers["layers.0"].matvec(jnp.ones((2, 3)))
    for x, shape in ((jnp.ones((2, 3)), r"\(2, 3\)"), (jnp.ones(()), r"\(\)")):
        with pytest.raises(ShapeError, match=rf"the product expects vectors of shape \(\.\.\., 15\), got {shape}"):
            layers.matvecs({"layers.0": x})
    with pytest.raises(RequestError, match=r"no block 'last'; the blocks are layers\.0, layers\.1, shift"):
        layers.matvecs({"last": jnp.ones(2)})
    with pytest.raises(KeyError):
        layers["last"]
