"""Operators whose product is a pure function of arrays, as the compiled recurrence asks for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slq_jax._driver import Linear

__all__ = ["LINE", "N", "Operator", "diagonal", "matrix"]

N = 50
LINE = np.linspace(-1, 2, N)


def diagonal(d, x):
    return d * x


def matrix(m, x):
    return x @ m.T


@dataclasses.dataclass
class Operator:
    """A product as a function of arrays, for the driver and for the core."""

    function: Callable
    arguments: Any
    dtype: str = "float64"
    n: int = N

    def __post_init__(self):
        self.arguments = jax.tree.map(lambda x: jnp.asarray(x, self.dtype), self.arguments)
        self.shape, self.like = (self.n, self.n), jnp.empty(0, self.dtype)

    def linear(self):
        return Linear(self.function, self.arguments)

    def matvec(self, x):
        return self.function(self.arguments, x)
