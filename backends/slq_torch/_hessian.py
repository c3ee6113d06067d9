"""The Hessian of a mean loss over a data set."""

from collections.abc import Mapping
from typing import Any, Unpack

import torch

from slq_torch._chosen import ChosenOperator, Way
from slq_torch._data_pass import LossFunction
from slq_torch._hessian_modes import Difference, DoubleBackward, Jvp, Linearize, best_step
from slq_torch._parameters import Selection
from slq_torch._settings import Options, Settings
from slq_torch._verify import require_derivative

__all__ = ["HessianOperator", "hessian_operator"]


def hessian_operator(
    model: torch.nn.Module, loss_fn: LossFunction, data: Any, *, params: Selection = None, **options: Unpack[Options]
) -> "HessianOperator":
    """Make the Hessian of the mean loss over `data`, with respect to the model's parameters, an operator.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode to be studied, usually after ``model.eval()``. It is left as it is.
    loss_fn : callable
        ``loss_fn(model, batch)`` returns a scalar, the mean over the samples of the batch (its leading dimension), or
        ``(sum, weight)``, for example the sum over valid tokens and their number.
    data : batch or iterable of batches or callable
        A tensor, tuple or dict is one batch; a list, DataLoader or other re-iterable holds batches, in any order; a
        function returns a fresh iterable for each pass. However the samples are batched, the operator is that of the
        whole set.
    params : str, iterable of str, mapping or callable, optional
        Which parameters to differentiate: names or patterns (``"encoder.*"``, ``"*lora_*"``), a mapping of names to
        parameters, or a function ``(name, parameter) -> bool``; default: all that require gradients. Tied ones count
        once.
    **options
        Those of `Options`: how to differentiate (`ad`, `compile`, `microbatch`, `compute_dtype`, ...), what layers do
        (`batch_norm`, `seed`), and what is added (`weight_decay`).

    Returns
    -------
    HessianOperator
        Of shape (n, n), in float64 if a parameter is, else in float32; its vectors lie on the parameters' device.

    Raises
    ------
    DataError
        If the data are empty or can be read only once, a loss is not finite, or a scalar loss is no mean over samples.
        A product raises it if the data are no longer the same.
    OperatorError
        If no parameter requires gradients, the loss does not depend on them, or is random (dropout), a module is known
        to be differentiated wrongly, or a product on the first batch is not the derivative of the gradient. A product
        raises it if the parameters or the model's mode changed since.
    RequestError
        If an option is out of range.

    Warns
    -----
    BatchStatisticsWarning
        If BatchNorm layers are in training mode.
    LostSamplesWarning
        If a loader leaves samples of its data set out.
    PrecisionWarning
        If the model computes in half precision, by its parameters or by autocast; or if only differences are to be had.
    UnusedParameterWarning
        If the loss does not depend on some parameters.

    Notes
    -----
    One pass over the data serves a whole block of vectors: the gradient's graph is built once per batch and
    differentiated once per vector (reverse over reverse; Pearlmutter 1994), unless another way proves to be faster.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(3, 1)
    >>> x, y = torch.randn(8, 3), torch.randn(8, 1)
    >>> loss = lambda model, batch: ((model(batch[0]) - batch[1]) ** 2).mean()
    >>> hessian_operator(model, loss, (x, y)).shape
    (4, 4)
    """
    return HessianOperator(model, loss_fn, data, params, Settings(**options))


class HessianOperator(ChosenOperator):
    """The operator that `hessian_operator` makes.

    Attributes
    ----------
    shape : (n, n)
        n is the number of parameters.
    like : (0,) tensor
        Dtype and device of the vectors.
    ad : str
        The way of differentiation, as far as it is chosen.
    tried : dict of str to str
        What "auto" found: seconds of each way, or why it was not taken.
    """

    @property
    def difference_error(self) -> float:
        """The largest estimated relative error of a difference on a batch so far; 0 where none is taken."""
        return self._mode.error if isinstance(self._mode, Difference) else 0.0

    def _make_ways(self, direction: torch.Tensor) -> Mapping[str, Way]:
        return {
            "double_backward": DoubleBackward,
            "jvp": Jvp,
            "linearize": Linearize,
            "difference": lambda data: Difference(data, best_step(data, direction)),
        }

    def _require_right(self, way: Way) -> None:
        require_derivative(self._data, way)
