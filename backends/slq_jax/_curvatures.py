"""Curvature matrices of a piece of data as linear functions of the leaves, linearised so that residuals exist once.

Each class is a static key of compilations. `linearize` returns a `Partial`, a tree whose arrays are the residuals: it
can leave a compiled function, be kept, and be applied in another.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from slq_jax._layout import Leaves
from slq_jax._objective import Objective, Piece, size_of
from slq_jax._output_matrices import Matrix
from slq_jax._parameters import Tree

__all__ = ["Covariance", "Curvature", "GaussNewton", "Given", "Hessian", "gradient"]


Wrap = Callable[[Callable[[Any, Any], Any]], Callable[[Any, Any], Any]]


class Given(NamedTuple):
    """What a matrix depends on besides the leaves and the data."""

    scale: Any  # a factor: one over the sum of the weights
    mean: Leaves | None = None  # the gradient of the mean loss, of which deviations are taken
    key: Any = None  # of drawn labels


class Curvature(Protocol):
    """A matrix for each piece of the data, times a factor; the operator is their sum."""

    @property
    def objective(self) -> Objective:
        """The loss that the operator belongs to."""
        ...

    def linearize(self, tree: Tree, leaves: Leaves, others: Leaves, piece: Piece, given: Given) -> Any:
        """The product with tangents of the leaves."""
        ...

    def around(self, wrap: Wrap) -> Self:
        """The same with the user's function (params, batch) wrapped."""
        ...


@dataclass(frozen=True)
class Hessian:
    """The Hessian of the summed loss, forward over reverse."""

    objective: Objective

    def linearize(self, tree: Tree, leaves: Leaves, others: Leaves, piece: Piece, given: Given) -> Any:
        """The derivative of the gradient."""
        return jax.linearize(lambda x: gradient(self.objective, tree, x, others, piece, given.scale)[0], leaves)[1]

    def around(self, wrap: Wrap) -> Self:
        """The same with the loss wrapped."""
        return replace(self, objective=self.objective.around(wrap))


def gradient(
    objective: Objective, tree: Tree, leaves: Leaves, others: Leaves, piece: Piece, scale: Any = 1.0
) -> tuple[Leaves, jax.Array]:
    """The gradient of `scale` times the summed loss of a piece, and that."""

    def summed(leaves: Leaves) -> jax.Array:
        return scale * objective.summed(tree.join(leaves, others), piece.batch)[0]

    loss, cotangents = jax.value_and_grad(summed)(leaves)
    return cotangents, loss


@dataclass(frozen=True)
class GaussNewton:
    """Jᵀ M J, with J the Jacobian of the outputs and M a matrix on them.

    J is made by transposing Jᵀ: functions with a reverse rule of their own (`jax.custom_vjp`) have no other.
    """

    objective: Objective
    forward: Callable[[Any, Any], Any]
    matrix: Matrix

    def linearize(self, tree: Tree, leaves: Leaves, others: Leaves, piece: Piece, given: Given) -> Partial:
        """J, M and Jᵀ one after the other."""

        def outputs(leaves: Leaves) -> Any:
            z = self.forward(tree.join(leaves, others), piece.batch)
            return _floating(z), z

        z, pull, whole = jax.vjp(outputs, leaves, has_aux=True)
        product = self.matrix.linearize(self.objective, whole, z, piece, given.key)
        return Partial(_JacobianTwice(_shapes(z)), pull, product, given.scale)

    def around(self, wrap: Wrap) -> Self:
        """The same with the forward function wrapped."""
        forward = wrap(self.forward)
        composed: Any = self.objective.loss_fn
        objective = replace(self.objective, loss_fn=replace(composed, forward=forward))
        return replace(self, objective=objective, forward=forward)


@dataclass(frozen=True)
class _JacobianTwice:
    shapes: tuple[Any, ...]

    def __call__(self, pull: Any, product: Any, scale: Any, tangents: Leaves) -> Leaves:
        slopes = jax.linear_transpose(lambda *z: pull(tuple(z))[0], *_structs(self.shapes))(tangents)
        return pull(tuple((scale * z).astype(z.dtype) for z in product(tuple(slopes))))[0]


@dataclass(frozen=True)
class Covariance:
    """Σ wᵢ (gᵢ − g)(gᵢ − g)ᵀ, wᵢ gᵢ being the gradient of the summed loss of item i, g = `given.mean` (None: zero)."""

    objective: Objective
    per_example: bool

    def linearize(self, tree: Tree, leaves: Leaves, others: Leaves, piece: Piece, given: Given) -> Partial:
        """With L the vector of the summed losses: Lʹ, then its transpose."""

        def losses(leaves: Leaves) -> tuple[jax.Array, Any]:
            return self._losses(tree.join(leaves, others), piece.batch)

        items, pull, weights = jax.vjp(losses, leaves, has_aux=True)
        return Partial(_Deviations(_shapes((items,))), pull, weights, given.mean, given.scale)

    def around(self, wrap: Wrap) -> Self:
        """The same with the loss wrapped."""
        return replace(self, objective=self.objective.around(wrap))

    @partial(jax.jit, static_argnums=(0, 1))
    def both_sums(self, tree: Tree, leaves: Leaves, others: Leaves, batch: Any) -> tuple[jax.Array, jax.Array]:
        """The summed loss of a batch, and the sum of those of its items."""
        params = tree.join(leaves, others)
        return self.objective.summed(params, batch)[0], self._losses(params, batch)[0].sum()

    def _losses(self, params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        """The summed losses of the items, and their weights."""
        if not self.per_example:
            loss, weight = self.objective.summed(params, batch)
            return loss[None], weight[None]
        return jax.vmap(lambda i: self.objective.summed(params, _row(batch, i)))(jnp.arange(size_of(batch)))


@dataclass(frozen=True)
class _Deviations:
    shapes: tuple[Any, ...]

    def __call__(self, pull: Any, weights: jax.Array, mean: Leaves | None, scale: Any, tangents: Leaves) -> Leaves:
        (slopes,) = jax.linear_transpose(lambda z: pull(z)[0], *_structs(self.shapes))(tangents)
        slopes = slopes * jnp.where(weights > 0, 1 / jnp.where(weights > 0, weights, 1), 0).astype(slopes.dtype)
        if mean is None:
            return pull((scale * slopes).astype(slopes.dtype))[0]
        slopes = slopes - sum(jnp.vdot(g, t.astype(g.dtype)) for g, t in zip(mean, tangents, strict=True))
        slopes = (scale * slopes).astype(slopes.dtype)
        total = jnp.sum(weights * slopes)
        return tuple(x - (total * g).astype(x.dtype) for x, g in zip(pull(slopes)[0], mean, strict=True))


def _row(batch: Any, i: Any) -> Any:
    """Sample i as a batch of one."""
    size = size_of(batch)

    def take(x: Any) -> Any:
        return jax.lax.dynamic_slice_in_dim(x, i, 1) if jnp.ndim(x) and x.shape[0] == size else x

    return jax.tree.map(take, batch)


def _floating(outputs: Any) -> Leaves:
    """The outputs that have derivatives."""
    return tuple(x for x in map(jnp.asarray, jax.tree.leaves(outputs)) if jnp.issubdtype(x.dtype, jnp.floating))


def _shapes(leaves: Leaves) -> tuple[Any, ...]:
    return tuple((x.shape, x.dtype) for x in leaves)


def _structs(shapes: tuple[Any, ...]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
