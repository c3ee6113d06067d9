"""Where the entries of a tree are in a flat vector."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["Flat", "Leaves", "Push"]

Leaves = tuple[jax.Array, ...]
Push = Callable[[Leaves], Leaves]  # tangents of the leaves -> cotangents, linear


@dataclass(frozen=True)
class Flat:
    """The leaves one after the other, on one device. Hashable: a static key of compilations.

    Attributes
    ----------
    shapes, dtypes : tuple
        Of the leaves.
    dtype : dtype
        Of the vectors.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    dtype: Any

    @property
    def size(self) -> int:
        """The length of a vector."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def split(self, v: jax.Array) -> Leaves:
        """A vector as leaves of the shapes and dtypes of the parameters."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1].tolist()
        parts = zip(jnp.split(v, ends), self.shapes, self.dtypes, strict=True)
        return tuple(part.reshape(shape).astype(dtype) for part, shape, dtype in parts)

    def join(self, leaves: Iterable[jax.Array]) -> jax.Array:
        """Leaves of these shapes as a vector."""
        return jnp.concatenate([jnp.ravel(leaf).astype(self.dtype) for leaf in leaves])

    def zeros(self, *lead: int) -> jax.Array:
        """Vectors of zeros."""
        return jnp.zeros((*lead, self.size), self.dtype)

    def place(self, x: Any) -> jax.Array:
        """An array where the parameters are, or where JAX puts it if they are nowhere in particular."""
        return jnp.asarray(x)

    def place_leaf(self, i: int, x: Any) -> jax.Array:
        """An array where the leaf number i is."""
        del i
        return jnp.asarray(x)

    def rows(self, x: Any) -> jax.Array:
        """Vectors (..., n) as a block (k, n)."""
        return jnp.asarray(x, self.dtype).reshape(-1, x.shape[-1])

    def as_given(self, block: jax.Array, x: Any) -> jax.Array:
        """A block in the shape of `x`, of which `rows` made one."""
        return block.reshape(x.shape)

    def map_rows(self, push: Push, vectors: jax.Array, together: int) -> jax.Array:
        """The vectors that `push` makes of the rows of `vectors`, so many at once."""

        def one(v: jax.Array) -> jax.Array:
            return self.join(push(self.split(v)))

        rows = len(vectors)
        if together == 1 or rows == 1:
            return lax.map(one, vectors)
        return jax.vmap(one)(vectors) if together >= rows else lax.map(one, vectors, batch_size=together)
