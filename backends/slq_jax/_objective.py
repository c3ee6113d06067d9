"""What a loss function of the user's returns, and batches as trees."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slq.errors import RequestError, ShapeError

__all__ = ["Composed", "LossFunction", "Objective", "Piece", "cut", "lengths_of", "require_hashable", "size_of"]

LossFunction = Callable[[Any, Any], Any]


class Piece(NamedTuple):
    """What is differentiated at once: a batch or a part of one, and its number in the pass."""

    number: Any
    batch: Any


@dataclass(frozen=True)
class Objective:
    """A loss function ``(params, batch)``, and what its scalar value means; a static key of compilations."""

    loss_fn: LossFunction
    reduction: str

    def evaluate(self, params: Any, batch: Any) -> tuple[jax.Array, Any]:
        """What the loss function returned, as (loss, None) or (sum, weight)."""
        result = self.loss_fn(params, batch)
        loss, weight = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        if not isinstance(loss, jax.Array):
            raise RequestError(f"the loss must return a scalar array or (sum, weight), got {type(loss).__name__}")
        if loss.size != 1:
            raise ShapeError(
                f"the loss returned shape {loss.shape}; reduce it: loss.mean(), or (loss.sum(), loss.size)"
            )
        return loss.reshape(()), weight

    def around(self, wrap: Callable[[LossFunction], LossFunction]) -> "Objective":
        """The same with the loss function wrapped."""
        return replace(self, loss_fn=wrap(self.loss_fn))

    def summed(self, params: Any, batch: Any) -> tuple[jax.Array, Any]:
        """The loss summed over the batch, and its weight, which is what sums over batches are divided by."""
        return self.sum_of(*self.evaluate(params, batch), batch)

    def sum_of(self, loss: jax.Array, weight: Any, batch: Any) -> tuple[jax.Array, Any]:
        """The same of what `evaluate` returned."""
        if weight is not None:
            return loss, jnp.asarray(weight, jnp.float32 if loss.dtype != jnp.float64 else jnp.float64)
        size = float(size_of(batch) or 1)
        # In half precision the product would be rounded.
        wide = loss.astype(jnp.promote_types(loss.dtype, jnp.float32))
        return (wide * size if self.reduction == "mean" else wide), jnp.asarray(size, wide.dtype)


@dataclass(frozen=True)
class Composed:
    """``loss(forward(params, batch), batch)`` as a function of (params, batch), equal for equal parts."""

    forward: Callable[[Any, Any], Any]
    loss: Callable[[Any, Any], Any]

    def __call__(self, params: Any, batch: Any) -> Any:
        """The loss."""
        return self.loss(self.forward(params, batch), batch)


def require_hashable(function: Any, what: str) -> None:
    """Raise if JAX could not keep what it compiles for a function."""
    if not callable(function):
        raise RequestError(f"the {what} must be a function, got {type(function).__name__}")
    try:
        hash(function)
    except TypeError:
        raise RequestError(
            f"the {what} must be hashable, but {type(function).__name__} is not; wrap it in a function defined once"
        ) from None


def size_of(batch: Any) -> int | None:
    """The leading dimension of the batch's first array that has one."""
    return next(iter(lengths_of(batch)), None)


def lengths_of(batch: Any) -> list[int]:
    """The leading dimensions of all arrays."""
    return [leaf.shape[0] for leaf in jax.tree.leaves(batch) if jnp.ndim(leaf)]


def cut(batch: Any, low: int, high: int, size: int | None = None) -> Any:
    """Samples `low` to `high`: every array of the leading dimension `size` (default: the first) is cut, no other."""
    size = size_of(batch) if size is None else size
    return jax.tree.map(lambda x: x[low:high] if jnp.ndim(x) and x.shape[0] == size else x, batch)
