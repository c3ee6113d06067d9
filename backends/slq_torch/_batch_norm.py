"""Which statistics BatchNorm layers divide by."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from slq.errors import RequestError

__all__ = ["statistics", "uses_batch_statistics"]


def statistics(model: torch.nn.Module, kind: str | None) -> AbstractContextManager[None]:
    """Inside, BatchNorm layers use these statistics, whatever their mode, and change none of their buffers.

    "running": those that training collected. "batch" and "population": those of the samples that pass together,
    differentiated through. None: as the mode of each layer says.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if kind is None:
        layers = [layer for layer in layers if layer.training]
    if not layers:
        return nullcontext()
    return _running(layers) if kind == "running" else _of_the_batch(layers)


def uses_batch_statistics(model: torch.nn.Module) -> list[str]:
    """The names of the layers that couple the samples of a batch, in the mode that they are in."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._NormBase)
        and (module.running_mean is None or module.training)
        and isinstance(module, _BatchNorm)  # instance normalisation looks at one sample at a time
    ]


@contextmanager
def _running(layers: list[_BatchNorm]) -> Iterator[None]:
    for layer in layers:
        if layer.running_mean is None:
            raise RequestError(
                "batch_norm='running' needs running statistics, but a layer was made with track_running_stats=False; "
                "take 'batch' or 'population'"
            )
    before = [layer.training for layer in layers]
    try:
        for layer in layers:
            layer.training = False
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.training = training


@contextmanager
def _of_the_batch(layers: list[_BatchNorm]) -> Iterator[None]:
    """Without buffers a layer takes the statistics of what it gets, and has nothing to update."""
    names = ("training", "track_running_stats", "running_mean", "running_var", "num_batches_tracked")
    before = [[getattr(layer, name) for name in names] for layer in layers]
    try:
        for layer in layers:
            layer.training = True
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
        yield
    finally:
        for layer, values in zip(layers, before, strict=True):
            for name, value in zip(names, values, strict=True):
                setattr(layer, name, value)
