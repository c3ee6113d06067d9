"""What losses in closed form are, and what they share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from slq.errors import DtypeError, RequestError

__all__ = ["LossOfTargets", "OutputLoss", "Targets", "fixed_numbers", "require_array", "wide"]

Targets = Callable[[Any], ArrayLike] | None


class OutputLoss(Protocol):
    """A loss of outputs and a batch: the negative logarithm of a likelihood, up to a constant.

    A row is what one label explains: a sample, or a token. Rows do not interact. Losses are keys of compiled functions:
    hashable, and equal where their options are.
    """

    def __call__(self, outputs: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array]:
        """The loss summed over the rows, and the sum of their weights."""
        ...

    def hessian_product(self, outputs: jax.Array, batch: Any, tangent: jax.Array) -> jax.Array:
        """The second derivative of the summed loss with respect to `outputs`, times `tangent`, of their shape."""
        ...

    def sampled_gradients(self, outputs: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
        """The gradient for drawn labels, whose mean outer product, within a row, is the second derivative."""
        ...

    def rows(self, outputs: jax.Array) -> jax.Array:
        """Outputs, or what has their shape, as (rows, entries of a row)."""
        ...

    def from_rows(self, rows: jax.Array, like: jax.Array) -> jax.Array:
        """The inverse of `rows`, for outputs of the shape of `like`."""
        ...


def require_array(loss: Any, outputs: Any) -> jax.Array:
    """The outputs, of which a loss in closed form takes one real floating-point array.

    Raises
    ------
    RequestError
        If they are no array.
    DtypeError
        If they are of another dtype.
    """
    name = type(loss).__name__
    if not isinstance(outputs, jax.Array | np.ndarray):
        raise RequestError(
            f"{name} is a loss of one array, but forward returns a {type(outputs).__name__}; return the array alone, "
            "or write the loss as a function (outputs, batch)"
        )
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise DtypeError(f"{name} expects real floating-point outputs, got dtype {outputs.dtype}; convert them")
    return jnp.asarray(outputs)


def wide(x: ArrayLike) -> jax.Array:
    """Half precision as float32: products of two and three digits are no longer semidefinite."""
    x = jnp.asarray(x)
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


@dataclass(frozen=True, kw_only=True)
class LossOfTargets:
    """Knows where a batch has its targets."""

    targets: Targets = None

    def __post_init__(self) -> None:
        if self.targets is None:
            return
        try:
            hash(self.targets)
        except TypeError:
            usable = False
        else:
            usable = callable(self.targets)
        if not usable:
            raise RequestError(
                f"targets= expects a hashable function batch -> targets, got a {type(self.targets).__name__}; wrap it "
                "in a function defined once"
            )

    def targets_of(self, batch: Any) -> jax.Array:
        """The targets of a batch: what `targets=` finds, or ``batch["labels"]``, or ``batch[1]``."""
        if self.targets is not None:
            return jnp.asarray(self.targets(batch))
        try:
            if isinstance(batch, jax.Array | np.ndarray):
                raise TypeError  # entry 1 would be its second sample; in JAX its first, where there is no second
            found = batch["labels"] if isinstance(batch, Mapping) else batch[1]
            if found is None:
                raise TypeError
        except (KeyError, IndexError, TypeError):
            raise RequestError(
                f"{type(self).__name__} finds no targets in a {type(batch).__name__}: they are batch[1] or "
                'batch["labels"] unless targets= is a function batch -> targets'
            ) from None
        return jnp.asarray(found)


def fixed_numbers(name: str, value: Any) -> Any:
    """An option as nested tuples of floats, or one float: hashable, and equal by value. None stays.

    Raises
    ------
    RequestError
        If they are not finite numbers, or known only when compiled code runs.
    """
    if value is None:
        return None
    if isinstance(value, jax.core.Tracer):
        raise RequestError(
            f"{name}= expects numbers, got a traced array; losses are keys of compiled functions: make them outside"
        )
    try:
        numbers = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        numbers = np.asarray(np.nan)
    if not np.isfinite(numbers).all():
        raise RequestError(f"{name}= expects finite numbers, got {value!r}; mend what computes them")
    return _as_tuples(numbers.tolist())


def _as_tuples(x: Any) -> Any:
    return tuple(map(_as_tuples, x)) if isinstance(x, list) else x
