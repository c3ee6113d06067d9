"""Gauss-Newton and Fisher matrices of a mean loss over a data set."""

from collections.abc import Callable
from typing import Any, Unpack

import jax
import numpy as np

from slq.errors import RequestError
from slq_jax._curvatures import GaussNewton
from slq_jax._objective import Composed, Objective, require_hashable
from slq_jax._operator import ModelOperator
from slq_jax._output_matrices import Empirical, Matrix, OfLoss, Sampled
from slq_jax._parameters import Selection
from slq_jax._settings import Options, Settings

__all__ = ["GaussNewtonOperator", "fisher_operator", "ggn_operator"]

Forward = Callable[[Any, Any], Any]


def ggn_operator(
    forward: Forward, loss: Any, params: Any, data: Any, *, select: Selection = None, **options: Unpack[Options]
) -> "GaussNewtonOperator":
    """Make the generalised Gauss-Newton matrix of the mean loss over `data` an operator.

    That is Σ Jᵀ M J / Σ weights, where J is the Jacobian of the outputs with respect to the parameters and M the second
    derivative of the summed loss with respect to the outputs: the Hessian without the curvature of the model.

    Parameters
    ----------
    forward : callable
        ``forward(params, batch)`` returns the outputs: an array or a tree of arrays. Pure and hashable.
    loss : callable
        ``loss(outputs, batch)`` returns a scalar, the mean over the samples of the batch, or ``(sum, weight)``. M is
        known in closed form for `CrossEntropy`, `SquaredError` and `BinaryCrossEntropy`; of any other loss it is
        differentiated.
    params, data, select, **options
        As for `hessian_operator`.

    Returns
    -------
    GaussNewtonOperator
        Of shape (n, n); positive semidefinite where the loss is convex in the outputs.

    Raises
    ------
    SlqError
        As `hessian_operator`.

    References
    ----------
    Schraudolph, Fast curvature matrix-vector products for second-order gradient descent, Neural Computation 14 (2002).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from slq_jax import CrossEntropy
    >>> forward = lambda w, batch: batch[0] @ w
    >>> batch = jnp.ones((8, 3)), jnp.arange(8) % 2
    >>> ggn_operator(forward, CrossEntropy(), jnp.zeros((3, 2)), batch).shape
    (6, 6)
    """
    return _operator(forward, loss, OfLoss(loss), params, data, select, options)


def fisher_operator(
    forward: Forward,
    loss: Any,
    params: Any,
    data: Any,
    *,
    samples: int | None = None,
    empirical: bool = False,
    rng: int = 0,
    select: Selection = None,
    **options: Unpack[Options],
) -> "GaussNewtonOperator":
    """Make the Fisher information matrix of a model, over the inputs in `data`, an operator.

    Parameters
    ----------
    forward, params, data, select, **options
        As for `ggn_operator`.
    loss : loss
        `CrossEntropy`, `SquaredError` or `BinaryCrossEntropy`: negative log-likelihoods, which say how labels are
        drawn. With ``empirical=True`` any loss.
    samples : int, optional
        How many labels to draw for each row (sample or token) from the model; default: the exact expectation.
    empirical : bool
        Take the labels of the data instead: Σ g gᵀ / Σ weights, where g is the gradient of the summed loss of a row.
        This is another matrix, with no claim to be near the Fisher information away from a well fitted model. Weights
        of classes enter squared. A scalar loss is the mean of those of the samples: where it is also a mean over d
        outputs, g is that of the mean over outputs, and the matrix d times smaller than that of `SquaredError`, which
        sums them.
    rng : int
        The seed of the labels. With the number of the batch it gives the same labels for each product; data that come
        in another order in each pass would give a sample other labels, which is not noticed where they do not fit on
        the device and are read for each product.

    Returns
    -------
    GaussNewtonOperator

    Raises
    ------
    RequestError
        If labels are to be drawn but the loss is no likelihood, or `samples` is out of range.

    Notes
    -----
    The exact matrix is the Gauss-Newton matrix, as outputs are natural parameters of these likelihoods. Weights of
    classes and labels multiply the rows, as they do in the loss.

    References
    ----------
    Martens, New insights and perspectives on the natural gradient method, JMLR 21 (2020).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from slq_jax import CrossEntropy
    >>> batch = jnp.ones((8, 3)), jnp.arange(8) % 2
    >>> F = fisher_operator(lambda w, b: b[0] @ w, CrossEntropy(), jnp.zeros((3, 2)), batch, samples=5)
    >>> bool(F.matvec(jnp.ones(6)) @ jnp.ones(6) >= 0)
    True
    """
    if empirical and samples is not None:
        raise RequestError("samples= draws labels from the model, empirical=True takes those of the data; choose one")
    if not empirical and not hasattr(loss, "sampled_gradients"):
        raise RequestError(
            f"the Fisher matrix needs a likelihood, from which labels can be drawn, and {loss!r} names none; take "
            "CrossEntropy, SquaredError or BinaryCrossEntropy, or empirical=True"
        )
    if samples is not None and (not isinstance(samples, int | np.integer) or isinstance(samples, bool) or samples < 1):
        raise RequestError(f"samples= expects a positive integer or None, got {samples!r}")
    matrix: Matrix = OfLoss(loss) if samples is None else Sampled(loss, int(samples))
    operator = _operator(forward, loss, Empirical(loss) if empirical else matrix, params, data, select, options)
    if samples is not None:
        operator.give(key=jax.random.key(int(rng)))  # an argument: other seeds compile nothing
    return operator


def _operator(
    forward: Forward, loss: Any, matrix: Matrix, params: Any, data: Any, select: Selection, options: Options
) -> "GaussNewtonOperator":
    for function, what in ((forward, "forward function"), (loss, "loss")):
        require_hashable(function, what)
    settings = Settings(**options)
    objective = Objective(Composed(forward, loss), settings.reduction)
    return GaussNewtonOperator(GaussNewton(objective, forward, matrix), params, data, select, settings)


class GaussNewtonOperator(ModelOperator):
    """The operator that `ggn_operator` and `fisher_operator` make.

    Attributes
    ----------
    shape : (n, n)
        n is the number of parameters.
    like : (0,) array
        Dtype and device of the vectors.
    """
