"""The diagonal by which Adam divides, from a state like Optax's; tests/interop/test_optax.py has the real ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slq
from slq.errors import RequestError
from slq_jax import adam_diagonal, hessian_operator


class AdamState(NamedTuple):
    count: Any
    mu: Any
    nu: Any


class AmsgradState(NamedTuple):
    count: Any
    mu: Any
    nu: Any
    nu_max: Any


class Wrapper(NamedTuple):
    inner_state: Any
    step: Any


def squares(p, x):
    return jnp.mean((jnp.tanh(x @ p["weight"]) + p["bias"]) ** 2)


@pytest.fixture
def params(rng):
    return {"bias": rng.normal(size=()), "weight": rng.normal(size=4)}


@pytest.fixture
def op(params, rng):
    return hessian_operator(squares, params, rng.normal(size=(8, 4)))


@pytest.fixture
def state(rng):
    """After two updates with β₂ = 0.9."""
    zeros = {"bias": jnp.zeros(()), "weight": jnp.zeros(4)}
    return AdamState(jnp.asarray(2), zeros, {"bias": jnp.asarray(0.3), "weight": jnp.asarray(rng.uniform(size=4))})


@pytest.fixture
def exact(state):
    unbiased = np.concatenate([[state.nu["bias"]], state.nu["weight"]]) / (1 - 0.9**2)
    return lambda eps, eps_root: np.sqrt(unbiased + eps_root) + eps


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: (None, state, ()),
        lambda state: Wrapper({"all": Wrapper((state, Wrapper((), 3)), 2)}, jnp.ones(3)),
    ],
)
def test_found_anywhere(wrap, op, state, exact):
    diagonal = adam_diagonal(wrap(state), op, b2=0.9, eps=1e-3, eps_root=0.1)
    np.testing.assert_allclose(diagonal, exact(1e-3, 0.1), rtol=1e-14)  # measured: 3e-16
    np.testing.assert_allclose(adam_diagonal(wrap(state), op, b2=0.9), exact(1e-8, 0), rtol=1e-14)


def test_default_decay(op, state):
    expected = adam_diagonal(state, op, b2=0.999, eps=1e-8, eps_root=0.0)
    assert np.array_equal(adam_diagonal(state, op), expected)


def test_running_maximum_is_corrected_already(op, state):
    most = jax.tree.map(lambda x: x + 1, state.nu)
    diagonal = adam_diagonal(AmsgradState(state.count, state.mu, state.nu, most), op, b2=0.9, eps=0)
    np.testing.assert_allclose(diagonal, jnp.sqrt(op.ravel(most)), rtol=0, atol=0)


def test_in_the_dtype_of_the_vectors(params, state):
    """Correction in float64, the rest in float32, also of moments in half precision."""
    single = jax.tree.map(jnp.float32, params)
    op = hessian_operator(squares, single, np.ones((8, 4), np.float32))
    second = jax.tree.map(jnp.bfloat16, state.nu)
    diagonal = adam_diagonal(AdamState(1, None, second), op, eps=0)
    assert diagonal.dtype == op.like.dtype == jnp.float32
    exact = np.sqrt(np.asarray(op.ravel(second), float) / (1 - 0.999))
    np.testing.assert_allclose(diagonal, exact, rtol=1.5e-7)  # three roundings of 6e-8, two under the root


def test_preconditioned_hessian(op, state, exact, dense, distance):
    diagonal = adam_diagonal(state, op, b2=0.9, eps=1e-2)
    factors = 1 / np.sqrt(exact(1e-2, 0))
    expected = factors[:, None] * dense(op) * factors
    assert distance(dense(slq.precondition(op, diagonal)), expected) < 1e-14  # measured: 2e-16


@pytest.mark.parametrize("state", [(), {"mu": 1}, (Wrapper(None, 1), jnp.ones(2))])
def test_no_moments(state, op):
    with pytest.raises(RequestError, match=r"of one Adam, got a \w+ with none; pass that of optax\.adam"):
        adam_diagonal(state, op)


def test_several_moments(op, state):
    with pytest.raises(RequestError, match=r"of one Adam, got a dict with 2 of them; pass the part of one"):
        adam_diagonal({"a": state, "b": (state,)}, op)


def test_before_the_first_update(op, state):
    with pytest.raises(RequestError, match="no update yet, so that its second moments are zero; update it first"):
        adam_diagonal(state._replace(count=jnp.asarray(0)), op)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"weight": jnp.ones(4)}, "expected a tree of structure"),
        ({"bias": jnp.ones(()), "weight": jnp.ones(5)}, r"expected leaves of the shapes of the parameters: \(4,\)"),
    ],
)
def test_moments_of_other_parameters(second, reason, op, state):
    with pytest.raises(RequestError, match=rf"of other parameters than the operator's: {reason}.*make the operator of"):
        adam_diagonal(state._replace(nu=second), op)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"b2": 1.0}, "b2= expects a number at least 0 and below 1, got 1.0"),
        ({"b2": float("nan")}, "b2= expects a number at least 0 and below 1, got nan"),
        ({"eps": -1}, "eps= expects a number >= 0, got -1"),
        ({"eps_root": -0.5}, "eps_root= expects a number >= 0, got -0.5"),
    ],
)
def test_numbers_out_of_range(options, message, op, state):
    with pytest.raises(RequestError, match=message):
        adam_diagonal(state, op, **options)
