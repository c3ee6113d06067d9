"""What stands between the two Jacobians of a Gauss-Newton or Fisher product: a matrix on the outputs of a piece."""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from slq.errors import OperatorError, RequestError
from slq_jax._layout import Leaves
from slq_jax._objective import Objective, Piece

__all__ = ["Empirical", "Matrix", "OfLoss", "Sampled"]


class Matrix(Protocol):
    """A symmetric matrix on the outputs; a static key of compilations."""

    def linearize(self, objective: Objective, outputs: Any, leaves: Leaves, piece: Piece, key: Any) -> Any:
        """The product with tangents of the floating-point `leaves` of the outputs; `key` if labels are drawn."""
        ...


@dataclass(frozen=True)
class OfLoss:
    """The second derivative of the summed loss with respect to the outputs."""

    loss: Any

    def linearize(self, objective: Objective, outputs: Any, leaves: Leaves, piece: Piece, key: Any) -> Any:
        """In closed form where the loss has one."""
        del key
        if hasattr(self.loss, "hessian_product"):
            return Partial(_Closed(self.loss), _only(self.loss, outputs), piece.batch)
        return jax.linearize(lambda z: _gradient(self.loss, objective, outputs, z, piece), leaves)[1]


@dataclass(frozen=True)
class _Closed:
    loss: Any

    def __call__(self, outputs: jax.Array, batch: Any, tangents: Leaves) -> Leaves:
        return (self.loss.hessian_product(outputs, batch, tangents[0]).astype(outputs.dtype),)


@dataclass(frozen=True)
class Sampled:
    """The mean outer product, within rows, of gradients at labels drawn from the model.

    The labels are drawn from the key and the number of the piece, the same for each product.
    """

    loss: Any
    samples: int

    def linearize(self, objective: Objective, outputs: Any, leaves: Leaves, piece: Piece, key: Any) -> Any:
        """The labels drawn, and the gradients at them."""
        del objective, leaves
        z = _only(self.loss, outputs)
        keys = jax.random.split(jax.random.fold_in(key, piece.number), self.samples)
        drawn = jax.vmap(lambda key: self.loss.rows(self.loss.sampled_gradients(z, piece.batch, key)))(keys)
        return Partial(_Outer(self.loss), z, drawn / self.samples**0.5)


@dataclass(frozen=True)
class Empirical:
    """The outer product, within rows, of the gradients at the true labels; of other losses, within samples."""

    loss: Any

    def linearize(self, objective: Objective, outputs: Any, leaves: Leaves, piece: Piece, key: Any) -> Any:
        """The gradients."""
        del key
        gradients = _gradient(self.loss, objective, outputs, leaves, piece)
        if hasattr(self.loss, "rows"):
            return Partial(_Outer(self.loss), _only(self.loss, outputs), self.loss.rows(gradients[0])[None])
        if len({len(g) if g.ndim else 0 for g in gradients}) != 1 or gradients[0].ndim == 0:
            raise OperatorError(
                "the empirical Fisher matrix needs outputs with one row a sample each, got shapes "
                f"{[g.shape for g in gradients]}"
            )
        return Partial(_outer_of_samples, gradients)


@dataclass(frozen=True)
class _Outer:
    """Σ_s g_s ⟨g_s, t⟩ within rows, for (samples, rows, entries) gradients."""

    loss: Any

    def __call__(self, outputs: jax.Array, drawn: jax.Array, tangents: Leaves) -> Leaves:
        slopes = jnp.einsum("sre,re->sr", drawn, self.loss.rows(tangents[0]).astype(drawn.dtype))
        product = jnp.einsum("sre,sr->re", drawn, slopes)
        return (self.loss.from_rows(product, outputs).astype(outputs.dtype),)


def _outer_of_samples(gradients: Leaves, tangents: Leaves) -> Leaves:
    slopes: Any = sum((g * t).reshape(len(g), -1).sum(1) for g, t in zip(gradients, tangents, strict=True))
    return tuple(g * slopes.reshape(-1, *[1] * (g.ndim - 1)).astype(g.dtype) for g in gradients)


def _gradient(loss: Any, objective: Objective, outputs: Any, leaves: Leaves, piece: Piece) -> Leaves:
    """The gradient of the summed loss with respect to the floating-point leaves of the outputs."""

    def summed(leaves: Leaves) -> jax.Array:
        others = iter(leaves)
        z = jax.tree.map(lambda x: next(others) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x, outputs)
        result = Objective(lambda z, batch: loss(z, batch), objective.reduction).summed(z, piece.batch)
        return result[0]

    return jax.grad(summed)(leaves)


def _only(loss: Any, outputs: Any) -> jax.Array:
    if not isinstance(outputs, jax.Array):
        raise RequestError(
            f"{type(loss).__name__} is a loss of one array, but forward returns a {type(outputs).__name__}; return "
            "the array alone, or write the loss as a function (outputs, batch)"
        )
    return outputs
