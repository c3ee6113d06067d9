"""The data as pieces, and what a loss returns for one."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from slq.adapters import Batches
from slq.errors import RequestError, ShapeError
from slq_torch._settings import Settings
from slq_torch._trees import cast, cut, join, size_of

__all__ = ["LossFunction", "Owner", "Piece", "Pieces", "sum_and_weight"]

LossFunction = Callable[[torch.nn.Module, Any], Any]


class Piece(NamedTuple):
    """What is differentiated at once: a batch or a part of one.

    Attributes
    ----------
    number : int
        Its own, in the pass.
    batch : batch
    source : int
        The number of the batch of the data that it is, or is a part of.
    """

    number: int
    batch: Any
    source: int = 0


class Pieces:
    """The data as pieces, numbered.

    Attributes
    ----------
    num_batches : int
        Batches of the data that the last pass read to its end.
    """

    def __init__(self, batches: Batches, settings: Settings) -> None:
        self._batches, self._settings = batches, settings
        self._joined: Piece | None = None
        self.num_batches = 0

    @property
    def is_constant(self) -> bool:
        """Each pass gives the same tensors, so that nothing needs to be compared."""
        return self._batches.single or self._joined is not None

    def __iter__(self) -> Iterator[Piece]:
        source = -1
        for number, (source, batch) in enumerate(self._cut()):
            yield Piece(number, batch, source)
        self.num_batches = source + 1

    def _cut(self) -> Iterator[tuple[int, Any]]:
        settings = self._settings
        if settings.batch_norm == "population":
            if self._joined is None:
                batches = list(self._batches)
                self._joined = Piece(0, join(batches) if len(batches) > 1 else batches[0]) if batches else None
            whole: Any = [] if self._joined is None else [self._joined.batch]
        else:
            whole = self._batches
        for source, batch in enumerate(whole):
            if settings.compute_dtype is not None:
                batch = cast(batch, settings.compute_dtype)
            size = size_of(batch)
            if settings.microbatch is None or (size is not None and size <= settings.microbatch):
                yield source, batch
                continue
            if size is None:
                raise RequestError("microbatch= cuts tensors along their leading dimension, but the batch has none")
            for low in range(0, size, settings.microbatch):
                yield source, cut(batch, low, min(low + settings.microbatch, size))


class Owner(torch.nn.Module):
    """Makes a function that uses a model one module, whose parameters torch can exchange for a call."""

    def __init__(self, model: torch.nn.Module, function: Callable[[Piece], Any]) -> None:
        super().__init__()
        self.model = model
        self._function = function

    def forward(self, piece: Piece) -> Any:
        return self._function(piece)


def sum_and_weight(result: Any) -> tuple[torch.Tensor, Any]:
    """What a loss function returned, as (loss, None) or (sum, weight)."""
    loss, weight = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(loss, torch.Tensor):
        raise RequestError(
            f"the loss must return a scalar tensor or (sum, weight), got {type(loss).__name__}; keep it a tensor"
        )
    if loss.ndim and loss.numel() != 1:
        raise ShapeError(
            f"the loss returned a tensor of shape {tuple(loss.shape)}; reduce it: loss.mean(), "
            "or (loss.sum(), loss.numel())"
        )
    return loss.reshape(()), weight
