"""The flat vector: the leaves of a tree in their order, and back."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slq.errors import DtypeError, OperatorError, RequestError, ShapeError
from slq_jax import hessian_operator


class Layer(NamedTuple):
    weight: np.ndarray
    bias: np.ndarray


def squares(p, batch):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p)) * jnp.mean(batch)


@pytest.fixture
def params():
    """Keys out of order, a named tuple, a scalar and a hole."""
    return {"z": [np.ones(2), None], "a": Layer(np.ones((2, 3)), np.ones(3)), "scale": np.float64(2)}


@pytest.fixture
def op(params):
    return hessian_operator(squares, params, np.ones(4))


def test_order_is_that_of_the_leaves(op):
    flat = jnp.arange(12.0)
    tree = op.unravel(flat)
    assert np.array_equal(tree["a"].weight, flat[:6].reshape(2, 3))
    assert np.array_equal(tree["a"].bias, flat[6:9])
    assert tree["scale"] == 9
    assert np.array_equal(tree["z"][0], flat[10:])
    assert tree["z"][1] is None


def test_unravel_and_ravel_are_inverse(op, params, rng):
    v = jnp.asarray(rng.normal(size=12))
    assert np.array_equal(op.ravel(op.unravel(v)), v)
    back = op.unravel(op.ravel(params))
    assert jax.tree.all(jax.tree.map(np.array_equal, back, params))


def test_ravel_takes_gradients(op, params):
    gradient = jax.grad(squares)(params, np.ones(4))
    assert np.array_equal(op.ravel(gradient), op.gradient())


@pytest.mark.parametrize("shape", [(13,), (11,), (1, 12), (12, 1)])
def test_unravel_refuses_other_shapes(op, shape):
    with pytest.raises(ShapeError, match=r"shape \(12,\), got .*pass one row at a time"):
        op.unravel(jnp.zeros(shape))


def test_ravel_refuses_other_trees_and_shapes(op, params):
    with pytest.raises(RequestError, match="expected a tree of structure"):
        op.ravel({"a": params["a"]})
    with pytest.raises(ShapeError, match=r"shapes of the parameters: \(2, 3\), got \(3, 2\)"):
        op.ravel(params | {"a": Layer(np.ones((3, 2)), np.ones(3))})


@pytest.mark.parametrize("empty", [{}, [], None])
def test_nothing_to_differentiate(empty):
    with pytest.raises(OperatorError, match="params hold no arrays"):
        hessian_operator(squares, empty, np.ones(4))


@pytest.mark.parametrize(
    ("leaf", "dtype"),
    [(np.arange(3), "int64"), (np.ones(3, bool), "bool"), (np.ones(3) + 1j, "complex128"), (3, "int")],
)
def test_leaves_that_cannot_be_differentiated(leaf, dtype):
    with pytest.raises(DtypeError, match=rf"steps has dtype {dtype}.*close over the others"):
        hessian_operator(squares, {"steps": leaf, "w": np.ones(3)}, np.ones(4))


@pytest.mark.parametrize("leaf", [np.ones(3), 1.5])
def test_float64_without_x64_is_refused(leaf):
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(DtypeError, match=r"w is float64, which JAX would silently make float32.*jax_enable_x64"):
        hessian_operator(squares, {"w": leaf}, np.ones(4, np.float32))


def test_x64_switched_by_a_context():
    with jax.enable_x64(False), pytest.raises(DtypeError, match="params is float64"):
        hessian_operator(squares, np.ones(3), np.ones(4))
    jax.config.update("jax_enable_x64", False)
    with jax.enable_x64(True):
        assert hessian_operator(squares, np.ones(3), np.ones(4)).like.dtype == jnp.float64
