"""Some leaves of a tree are differentiated, the others are constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slq.errors import DtypeError, OperatorError, RequestError, ShapeError
from slq_jax import fisher_operator, ggn_operator, hessian_operator
from slq_jax._losses import CrossEntropy
from tests.jax.matrices import INPUTS

CLOSE = 1e-12  # measured: at most 5e-16


def forward(p, batch):
    hidden = jnp.tanh(batch[0] @ p["encoder"]["w"] + p["encoder"]["b"])
    return (hidden @ p["head"]["w"] + p["head"]["b"]) * p["scale"]


def loss(p, batch):
    log_p = jax.nn.log_softmax(forward(p, batch))
    return -jnp.take_along_axis(log_p, batch[1][:, None], 1).mean()


@pytest.fixture
def params(rng):
    """An integer leaf, and a hole: the flat vector has encoder.b (2), encoder.w (8), head.b (3) and head.w (6)."""
    return {
        "encoder": {"w": rng.normal(size=(4, 2)), "b": rng.normal(size=2), "rate": None},
        "head": {"w": rng.normal(size=(2, 3)), "b": rng.normal(size=3)},
        "scale": np.int32(2),
    }


@pytest.fixture
def batch(rng):
    return INPUTS, rng.integers(3, size=8)


@pytest.fixture
def matrix(params, batch):
    """The dense Hessian by all real leaves."""
    leaves, structure = jax.tree.flatten({name: params[name] for name in ("encoder", "head")})
    sizes = [leaf.size for leaf in leaves]

    def of_flat(v):
        parts = [x.reshape(leaf.shape) for x, leaf in zip(jnp.split(v, np.cumsum(sizes)[:-1]), leaves, strict=True)]
        return loss({**jax.tree.unflatten(structure, parts), "scale": 2}, batch)

    return np.asarray(jax.hessian(of_flat)(jnp.concatenate([jnp.ravel(x) for x in leaves])))


SELECTIONS = {
    "pattern": ("head.*", range(10, 19)),
    "name": ("encoder.w", range(2, 10)),
    "several": (["head.b", "encoder.*"], range(13)),
    "generator": ((name for name in ("head.b", "encoder.w")), range(2, 13)),
    "function of names": (lambda name, _: name.endswith(".b"), [0, 1, 10, 11, 12]),
    "function of leaves": (lambda _, leaf: np.issubdtype(leaf.dtype, np.floating) and leaf.ndim == 2, None),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_selections(name, params, batch, matrix, dense, distance):
    select, at = SELECTIONS[name]
    at = list([*range(2, 10), *range(13, 19)] if at is None else at)
    op = hessian_operator(loss, params, batch, select=list(select) if name == "generator" else select)
    assert op.shape == (len(at), len(at))
    assert distance(dense(op), matrix[np.ix_(at, at)]) < CLOSE


def test_names_are_told_and_vectors_become_trees(params, batch):
    op = hessian_operator(loss, params, batch, select="head.*")
    assert list(op.parameters) == ["head.b", "head.w"]
    v = jnp.arange(9.0)
    tree = op.unravel(v)
    assert tree["encoder"] == {"w": None, "b": None, "rate": None}
    assert tree["scale"] is None
    assert np.array_equal(tree["head"]["w"], v[3:].reshape(2, 3))
    assert np.array_equal(op.ravel(tree), v)
    whole = jax.tree.map(jnp.zeros_like, params) | {"head": tree["head"]}
    assert np.array_equal(op.ravel(whole), v)
    with pytest.raises(RequestError, match="expected a tree of structure"):
        op.ravel({"head": tree["head"]})
    with pytest.raises(RequestError, match="expected a tree of structure"):
        op.ravel(whole | {"head": {"w": {}, "b": None}})
    with pytest.raises(ShapeError, match=r"expected a vector of shape \(9,\), got \(18,\)"):
        op.unravel(jnp.zeros(18))


@pytest.mark.parametrize("make", [ggn_operator, fisher_operator])
def test_other_operators_take_it_as_well(make, params, batch, dense, distance):
    """The last layer is linear: its matrices are blocks of its Hessian."""
    op = make(forward, CrossEntropy(), params, batch, select="head.*")
    assert distance(dense(op), dense(hessian_operator(loss, params, batch, select="head.*"))) < CLOSE


def test_other_values_of_constants_compile_nothing(params, batch, caplog):
    hessian_operator(loss, params, batch, select="head.*").matvec(jnp.ones(9))
    moved = jax.tree.map(lambda x: x + np.ones_like(x), params)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        hessian_operator(loss, moved, batch, select="head.*").matvec(jnp.ones(9))
    # The check that the loss is a function of its arguments traces it once more, and compiles nothing.
    assert [r.message for r in caplog.records if not r.message.startswith("Finished tracing loss")] == []


def test_refusals(params, batch):
    with pytest.raises(RequestError, match=r"select='tail' finds no leaf; the leaves are encoder\.b, encoder\.w"):
        hessian_operator(loss, params, batch, select=["head.*", "tail"])
    for select in ([], lambda *_: False):
        with pytest.raises(OperatorError, match="select= leaves none of 5 leaves: there is nothing to differentiate"):
            hessian_operator(loss, params, batch, select=select)
    with pytest.raises(DtypeError, match=r"scale has dtype int32; only floating-point.*leave them out by select="):
        hessian_operator(loss, params, batch, select="*")


def test_traced_and_donated_leaves(params, batch):
    def inside(w):
        return hessian_operator(loss, params | {"head": params["head"] | {"w": w}}, batch, select="head.*").loss()

    for transform, what in ((jax.jit, "all that is computed here"), (jax.grad, r"head\.w")):
        with pytest.raises(OperatorError, match=rf"{what} is a tracer: an operator holds numbers.*slq_jax\.lanczos"):
            transform(inside)(params["head"]["w"])
    op = hessian_operator(loss, jax.tree.map(jnp.asarray, params), batch, select="head.*")
    op.parameters["head.w"].delete()
    for use in (lambda: op.matvec(jnp.ones(9)), op.gradient):
        with pytest.raises(OperatorError, match=r"head\.w was donated to a compiled function, and its buffer is gone"):
            use()
    dead = jnp.ones(3)
    dead.delete()
    with pytest.raises(OperatorError, match="params was donated"):
        hessian_operator(lambda w, _: (w**2).sum(), dead, None)
