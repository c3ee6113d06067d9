"""Products over all data as pure functions of arrays: what is compiled, once for a loss and shapes."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from slq_jax._curvatures import Curvature, Given, gradient
from slq_jax._layout import Flat, Leaves
from slq_jax._objective import Objective, Piece
from slq_jax._parameters import Tree

__all__ = [
    "Arrays",
    "Fresh",
    "Kept",
    "add_piece",
    "add_piece_of_blocks",
    "apply",
    "apply_blocks",
    "evaluate",
    "gradient_of",
    "linearized",
    "linearized_piece",
]


class Arrays(NamedTuple):
    """All that a product depends on; arguments of what is compiled, never constants in it."""

    leaves: Leaves
    others: Leaves
    pieces: tuple[Piece, ...]  # or () where the data are read for each product
    decay: jax.Array | None  # (n,), added to the diagonal
    given: Given


@dataclass(frozen=True)
class _Product:
    """What is the same for all operators of a kind, a loss and shapes: the static key of compilations."""

    curvature: Curvature
    tree: Tree
    layout: Flat
    stacked: tuple[bool, ...]  # for each entry of `pieces`
    together: int

    def finish(self, total: jax.Array, arrays: Arrays, x: jax.Array) -> jax.Array:
        """Add the penalty."""
        return total if arrays.decay is None else total + arrays.decay * x

    def linearize(self, arrays: Arrays, piece: Piece) -> Partial:
        """The product with tangents, of one piece."""
        return self.curvature.linearize(self.tree, arrays.leaves, arrays.others, piece, arrays.given)


@dataclass(frozen=True)
class Fresh(_Product):
    """Each product linearises each piece anew: the memory of one piece."""

    def __call__(self, arguments: Arrays, x: jax.Array) -> jax.Array:
        """The product with each row of `x`."""
        total = jnp.zeros_like(x)
        for stacked, piece in zip(self.stacked, arguments.pieces, strict=True):
            if stacked:
                total = lax.scan(lambda t, piece: (t + self.piece(arguments, piece, x), None), total, piece)[0]
            else:
                total = total + self.piece(arguments, piece, x)
        return self.finish(total, arguments, x)

    def piece(self, arrays: Arrays, piece: Piece, x: jax.Array) -> jax.Array:
        """The products of one piece."""
        return self.layout.map_rows(self.linearize(arrays, piece), x, self.together)


@dataclass(frozen=True)
class Kept(_Product):
    """The linearisations of all pieces were made once; `arguments` are (them, the arrays without data)."""

    def __call__(self, arguments: tuple[tuple[Any, ...], Arrays], x: jax.Array) -> jax.Array:
        """The product with each row of `x`."""
        linearized, arrays = arguments
        total = jnp.zeros_like(x)

        def add(total: jax.Array, push: Any) -> tuple[jax.Array, None]:
            return total + self.layout.map_rows(push, x, self.together), None

        for stacked, push in zip(self.stacked, linearized, strict=True):
            total = lax.scan(add, total, push)[0] if stacked else add(total, push)[0]
        return self.finish(total, arrays, x)


@partial(jax.jit, static_argnums=0)
def linearized(product: _Product, arrays: Arrays) -> tuple[Any, ...]:
    """The linearisations of all pieces."""
    make = partial(product.linearize, arrays)
    pairs = zip(product.stacked, arrays.pieces, strict=True)
    return tuple(lax.map(make, piece) if stacked else make(piece) for stacked, piece in pairs)


@partial(jax.jit, static_argnums=0)
def linearized_piece(product: _Product, arrays: Arrays, piece: Piece) -> Any:
    """The linearisation of one piece."""
    return product.linearize(arrays, piece)


@partial(jax.jit, static_argnums=0)
def apply(product: Any, arguments: Any, x: jax.Array) -> jax.Array:
    """A product as a call of its own."""
    return product(arguments, x)


@partial(jax.jit, static_argnums=0)
def add_piece(
    product: Fresh, arrays: Arrays, piece: Piece, x: jax.Array, total: jax.Array
) -> tuple[jax.Array, jax.Array, Any]:
    """`total` plus the products of one piece unless it has no weight, its summed loss, and its weight."""
    params = product.tree.join(arrays.leaves, arrays.others)
    loss, weight = product.curvature.objective.summed(params, piece.batch)
    return total + _counted(product.piece(arrays, piece, x), weight), loss, weight


@partial(jax.jit, static_argnums=0)
def apply_blocks(
    products: tuple[Fresh, ...], arrays: tuple[Arrays, ...], rows: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """Products of several blocks of one matrix: what they share of each piece is computed once."""

    def add(totals: Any, piece: Piece) -> Any:
        return _added(products, arrays, piece, rows, totals), None

    totals = tuple(map(jnp.zeros_like, rows))
    for stacked, piece in zip(products[0].stacked, arrays[0].pieces, strict=True):
        totals = lax.scan(add, totals, piece)[0] if stacked else add(totals, piece)[0]
    return tuple(p.finish(t, a, x) for p, t, a, x in zip(products, totals, arrays, rows, strict=True))


@partial(jax.jit, static_argnums=0)
def add_piece_of_blocks(
    products: tuple[Fresh, ...],
    arrays: tuple[Arrays, ...],
    piece: Piece,
    rows: tuple[jax.Array, ...],
    totals: tuple[jax.Array, ...],
) -> tuple[tuple[jax.Array, ...], jax.Array, Any]:
    """`add_piece` for blocks of one matrix."""
    params = products[0].tree.join(arrays[0].leaves, arrays[0].others)
    loss, weight = products[0].curvature.objective.summed(params, piece.batch)
    sums = _added(products, arrays, piece, rows, tuple(map(jnp.zeros_like, totals)))
    return tuple(t + _counted(x, weight) for t, x in zip(totals, sums, strict=True)), loss, weight


def _added(
    products: tuple[Fresh, ...],
    arrays: tuple[Arrays, ...],
    piece: Piece,
    rows: tuple[jax.Array, ...],
    totals: tuple[jax.Array, ...],
) -> tuple[jax.Array, ...]:
    blocks = zip(products, arrays, rows, totals, strict=True)
    return tuple(t + p.piece(a, piece, x) for p, a, x, t in blocks)


@partial(jax.jit, static_argnums=0)
def gradient_of(product: _Product, arrays: Arrays, piece: Piece, total: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
    """`total` plus the gradient of the summed loss of one piece unless it has no weight, that loss, and its weight."""
    params = product.tree.join(arrays.leaves, arrays.others)
    weight = product.curvature.objective.summed(params, piece.batch)[1]
    cotangents, loss = gradient(product.curvature.objective, product.tree, arrays.leaves, arrays.others, piece)
    return total + _counted(product.layout.join(cotangents), weight), loss, weight


@partial(jax.jit, static_argnums=(0, 1))
def evaluate(objective: Objective, tree: Tree, leaves: Leaves, others: Leaves, batch: Any) -> tuple[jax.Array, Any]:
    """What the loss function returned, as (loss, None) or (sum, weight)."""
    return objective.evaluate(tree.join(leaves, others), batch)


def _counted(x: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.where(weight == 0, 0, x)  # the mean over no sample may be 0/0
