"""What the tests of the JAX adapter share: float64, the matrix of an operator, and distances."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _x64() -> Iterator[None]:
    """JAX has float64 during each test, also one that switches it off; afterwards the flag is as it was.

    The flag belongs to the process, and other tests of the same process expect theirs.
    """
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def dense() -> Callable:
    """The matrix of an operator: its products with the unit vectors."""
    return lambda op: np.asarray(op.matvec(jnp.eye(op.shape[0], dtype=op.like.dtype)))


@pytest.fixture
def distance() -> Callable:
    """‖a − b‖/‖b‖."""
    return lambda a, b: float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b)))
