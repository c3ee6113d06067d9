"""The Hessian of a mean loss over a data set."""

from typing import Any, Unpack

from slq_jax._curvatures import Hessian
from slq_jax._objective import LossFunction, Objective
from slq_jax._operator import ModelOperator
from slq_jax._parameters import Selection
from slq_jax._settings import Options, Settings

__all__ = ["HessianOperator", "hessian_operator"]


def hessian_operator(
    loss_fn: LossFunction, params: Any, data: Any, *, select: Selection = None, **options: Unpack[Options]
) -> "HessianOperator":
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
    select : str, iterable of str, callable, optional
        Which leaves to differentiate: names or patterns of them (``"encoder.*"``; a name is made of the keys on the way
        to the leaf), or a function (name, leaf) -> bool; default: all. The others may have any dtype.
    **options
        See `Options`: ``microbatch``, ``reduction``, ``max_batches``, ``weight_decay``, ``together``, ``check``.

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
    OperatorError
        If the loss is no function of its arguments, a random key is used twice, a leaf was donated or is traced, or
        products are not the derivatives of the gradient.

    Notes
    -----
    Data that take less than a quarter of the free memory are read twice and kept on the device; others are read for
    each product. The gradient is linearised once (forward over reverse) where what that keeps takes less than a quarter
    of the free memory, else once for each product, and applied to one vector after the other. Parameters and data are
    arguments of the compiled function, never constants in it.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> loss = lambda w, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2)
    >>> hessian_operator(loss, jnp.zeros(3), (jnp.ones((8, 3)), jnp.ones(8))).shape
    (3, 3)
    """
    settings = Settings(**options)
    return HessianOperator(Hessian(Objective(loss_fn, settings.reduction)), params, data, select, settings)


class HessianOperator(ModelOperator):
    """The operator that `hessian_operator` makes.

    Attributes
    ----------
    shape : (n, n)
        n is the number of parameters.
    like : (0,) array
        Dtype and device of the vectors.
    """
