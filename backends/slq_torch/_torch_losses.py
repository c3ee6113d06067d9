"""Torch's loss modules as losses of outputs and a batch."""

from typing import Any

from torch import nn
from torch.nn.modules.loss import _Loss

from slq.errors import RequestError
from slq_torch._losses import BinaryCrossEntropy, CrossEntropy, SquaredError
from slq_torch._output_loss import LossOfTargets

__all__ = ["closed_form"]


def closed_form(loss: Any) -> Any:
    """Torch's loss modules as functions of outputs and a batch, in closed form where there is one; others as they are.

    Raises
    ------
    RequestError
        If a module is no mean, or weighs the entries of a batch.
    """
    if not isinstance(loss, _Loss):
        return loss
    if loss.reduction not in ("mean", "batchmean"):
        raise RequestError(
            f'{type(loss).__name__}(reduction="{loss.reduction}") is no mean, which the operator is of; take "mean", '
            "the default, and scale the operator"
        )
    forward = type(loss).forward  # a subclass may compute something else
    if forward is nn.CrossEntropyLoss.forward:
        return CrossEntropy(
            ignore_index=loss.ignore_index,  # type: ignore[arg-type]
            label_smoothing=loss.label_smoothing,  # type: ignore[arg-type]
            class_weights=loss.weight,  # type: ignore[arg-type]
        )
    if forward is nn.BCEWithLogitsLoss.forward:
        if loss.weight is not None:
            raise RequestError(
                "BCEWithLogitsLoss(weight=) weighs entries; write a function (outputs, batch) -> (sum, weight) instead"
            )
        return BinaryCrossEntropy(pos_weight=loss.pos_weight)
    if forward is nn.MSELoss.forward:
        return SquaredError()
    return _OfTargets(loss)


class _OfTargets(LossOfTargets):
    """A module of outputs and targets, whose second derivative is not known in closed form."""

    def __init__(self, module: _Loss) -> None:
        super().__init__(None, type(module).__name__)
        self._module = module

    def __call__(self, outputs: Any, batch: Any) -> Any:
        return self._module(outputs, self.targets(batch))

    def __repr__(self) -> str:
        return repr(self._module)
