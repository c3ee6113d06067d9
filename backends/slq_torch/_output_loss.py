"""What losses in closed form are, and what they share."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from slq.errors import RequestError

__all__ = ["LossOfTargets", "OutputLoss", "Targets", "require_tensor", "wide"]

Targets = Callable[[Any], torch.Tensor] | None


class OutputLoss(Protocol):
    """A loss of outputs and a batch: the negative logarithm of a likelihood, up to a constant.

    A row is what one label explains: a sample, or a token. Rows do not interact.
    """

    def __call__(self, outputs: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss summed over the rows, and the sum of their weights."""
        ...

    def hessian_product(self, outputs: torch.Tensor, batch: Any, tangent: torch.Tensor) -> torch.Tensor:
        """The second derivative of the summed loss with respect to `outputs`, times `tangent`, of their shape."""
        ...

    def sampled_gradients(self, outputs: torch.Tensor, batch: Any, generator: torch.Generator) -> torch.Tensor:
        """The gradient for drawn labels, whose mean outer product, within a row, is the second derivative."""
        ...

    def rows(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs, or what has their shape, as (rows, entries of a row)."""
        ...

    def from_rows(self, rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The inverse of `rows`, for outputs of the shape of `like`."""
        ...


def require_tensor(loss: Any, outputs: Any) -> torch.Tensor:
    """The outputs, of which a loss in closed form takes one tensor.

    Raises
    ------
    RequestError
        If they are something else.
    """
    if not isinstance(outputs, torch.Tensor):
        raise RequestError(
            f"{type(loss).__name__} is a loss of one tensor, but forward returns a {type(outputs).__name__}; return "
            "the tensor alone, or write the loss as a function (outputs, batch)"
        )
    return outputs


def wide(x: torch.Tensor) -> torch.Tensor:
    """Half precision as float32: products of two and three digits are no longer semidefinite."""
    return x if x.dtype == torch.float64 else x.float()


class LossOfTargets:
    """Knows where a batch has its targets."""

    def __init__(self, targets: Targets, name: str | None = None) -> None:
        self._targets = targets
        self._name = name or type(self).__name__  # for messages

    def targets(self, batch: Any) -> torch.Tensor:
        """The targets of a batch: what `targets=` finds, or ``batch["labels"]``, or ``batch[1]``."""
        if self._targets is not None:
            return self._targets(batch)
        try:
            return batch["labels"] if isinstance(batch, Mapping) else batch[1]
        except (KeyError, IndexError, TypeError):
            raise RequestError(
                f"{self._name} finds no targets in a {type(batch).__name__}: they are batch[1] or "
                'batch["labels"] unless targets= is a function batch -> targets'
            ) from None
