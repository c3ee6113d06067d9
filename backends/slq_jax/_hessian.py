"""The Hessian of a mean loss over a data set."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from slq.adapters import Batches, weigh
from slq.errors import RequestError, ShapeError
from slq_jax._parameters import join, result_dtype, split, to_device_tree

__all__ = ["HessianOperator", "hessian_operator"]

LossFunction = Callable[[Any, Any], Any]


def hessian_operator(loss_fn: LossFunction, params: Any, data: Any) -> "HessianOperator":
    """Make the Hessian of the mean loss over `data`, with respect to `params`, an operator.

    Parameters
    ----------
    loss_fn : callable
        ``loss_fn(params, batch)`` returns a scalar, the mean over the samples of the batch (its leading dimension), or
        ``(sum, weight)``, for example the sum over valid tokens and their number. Pure and hashable: the product is
        compiled once per function and shapes, and serves every later operator of the same function.
    params : tree of arrays
        Real floating-point leaves; float64 needs JAX's x64 mode.
    data : batch or iterable of batches or callable
        An array, tuple or dict is one batch; a list, loader or other re-iterable holds batches; a function returns a
        fresh iterable for each pass. However the samples are batched, the operator is that of the whole set.

    Returns
    -------
    HessianOperator
        Of shape (n, n), in float64 if a leaf is, else in float32.

    Raises
    ------
    DataError
        If the data are empty or can be read only once, a loss is not finite, or a scalar loss is no mean over samples.
    DtypeError
        If a leaf is not real floating-point, or is float64 without x64.

    Notes
    -----
    One pass over the data serves a whole block of vectors: the gradient is linearised once per batch (forward over
    reverse) and applied to one vector after the other. Parameters and data are arguments of the compiled function,
    never constants in it.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> loss = lambda w, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2)
    >>> hessian_operator(loss, jnp.zeros(3), (jnp.ones((8, 3)), jnp.ones(8))).shape
    (3, 3)
    """
    return HessianOperator(loss_fn, params, data)


class HessianOperator:
    """The operator that `hessian_operator` makes.

    Attributes
    ----------
    shape : (n, n)
        n is the number of parameters.
    like : (0,) array
        Dtype and device of the vectors.
    """

    def __init__(self, loss_fn: LossFunction, params: Any, data: Any) -> None:
        try:
            hash(loss_fn)  # the key under which JAX keeps the compiled product
        except TypeError:
            raise RequestError(
                f"the loss must be hashable, but {type(loss_fn).__name__} is not; wrap it in a function defined once"
            ) from None
        self._loss_fn = loss_fn
        self._params = to_device_tree(params)
        self._batches = Batches(data)
        leaves = jax.tree.leaves(self._params)
        n = sum(leaf.size for leaf in leaves)
        self.shape = (n, n)
        self.like = jnp.empty(0, dtype=result_dtype(self._params), device=leaves[0].sharding)
        eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in leaves)
        self._rtol = eps**0.5
        self._weighed = weigh(self._batches, self._evaluate, _size, _cut, self._rtol)
        self._confirmed = False  # that a second pass reads the same

    def matvec(self, x: jax.Array, /) -> jax.Array:
        """The product of the Hessian with each row of `x`: (..., n) -> (..., n), one pass over the data."""
        if x.ndim == 0 or x.shape[-1] != self.shape[0]:
            raise ShapeError(f"matvec expects vectors of shape (..., {self.shape[0]}), got {x.shape}")
        vectors = x.reshape(-1, self.shape[0])
        return (self._sum(lambda batch: _products(self._loss_fn, self._params, batch, vectors))).reshape(x.shape)

    def gradient(self) -> jax.Array:
        """The gradient of the mean loss, flat, in the order of the tree's leaves."""
        return self._sum(lambda batch: _gradient(self._loss_fn, self._params, batch))

    def loss(self) -> float:
        """The mean loss over the data."""
        return self._weighed.loss

    def unravel(self, v: jax.Array) -> Any:
        """A flat (n,) vector as a tree like the parameters."""
        return split(v, self._params)

    def ravel(self, tree: Any) -> jax.Array:
        """A tree like the parameters as a flat (n,) vector."""
        return join(tree, self._params)

    def _sum(self, term: Callable[[Any], tuple[jax.Array, jax.Array, Any]]) -> jax.Array:
        """The weighted mean of a term over the batches; the pass is compared with the first one."""
        number, samples = 0, 0
        total: Any = 0.0
        summed: Any = 0.0
        for batch in self._batches:
            value, loss, weight = term(batch)
            number += 1
            if self._weighed.any_ignored and weight is not None and float(weight) == 0:
                continue
            samples += (_size(batch) or 1) if weight is None else 0
            total, summed = total + value, summed + loss
        self._weighed.require_same_size(number, samples or None)
        if not self._confirmed:  # once: reading a number from the device waits for it
            self._weighed.require_same_loss(float(summed), self._rtol)
            self._confirmed = True
        return total / self._weighed.weight

    def _evaluate(self, batch: Any) -> tuple[float, float | None]:
        loss, weight = _loss_and_weight(self._loss_fn, self._params, batch)
        return float(loss), None if weight is None else float(weight)


@partial(jax.jit, static_argnums=0)
def _loss_and_weight(loss_fn: LossFunction, params: Any, batch: Any) -> tuple[jax.Array, Any]:
    """What the loss function returned, as (loss, None) or (sum, weight)."""
    result = loss_fn(params, batch)
    loss, weight = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(loss, jax.Array):
        raise RequestError(f"the loss must return a scalar array or (sum, weight), got {type(loss).__name__}")
    if loss.size != 1:
        raise ShapeError(f"the loss returned shape {loss.shape}; reduce it: loss.mean(), or (loss.sum(), loss.size)")
    return loss.reshape(()), weight


def _summed_loss(loss_fn: LossFunction, params: Any, batch: Any) -> tuple[jax.Array, Any]:
    """Loss times weight, and the weight that the loss function returned."""
    loss, weight = _loss_and_weight(loss_fn, params, batch)
    return (loss * (_size(batch) or 1) if weight is None else loss), weight


def _gradient_and_loss(loss_fn: LossFunction, batch: Any, params: Any) -> tuple[Any, tuple[jax.Array, Any]]:
    (loss, weight), gradient = jax.value_and_grad(partial(_summed_loss, loss_fn), has_aux=True)(params, batch)
    return gradient, (loss, weight)


@partial(jax.jit, static_argnums=0)
def _gradient(loss_fn: LossFunction, params: Any, batch: Any) -> tuple[jax.Array, jax.Array, Any]:
    gradient, (loss, weight) = _gradient_and_loss(loss_fn, batch, params)
    return join(gradient, params), loss, weight


@partial(jax.jit, static_argnums=0)
def _products(loss_fn: LossFunction, params: Any, batch: Any, vectors: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
    """Hessian of the summed loss times each row: the linearisation is shared, its residuals exist once."""
    _, push, (loss, weight) = jax.linearize(partial(_gradient_and_loss, loss_fn, batch), params, has_aux=True)
    return jax.lax.map(lambda v: join(push(split(v, params)), params), vectors), loss, weight


def _size(batch: Any) -> int | None:
    """The leading dimension of the batch's first array that has one."""
    return next((leaf.shape[0] for leaf in jax.tree.leaves(batch) if jnp.ndim(leaf)), None)


def _cut(batch: Any, low: int, high: int) -> Any:
    """Samples `low` to `high`: every array of the full leading dimension is cut, the rest is kept."""
    size = _size(batch)
    return jax.tree.map(lambda x: x[low:high] if jnp.ndim(x) and x.shape[0] == size else x, batch)
