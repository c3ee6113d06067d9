"""Leave the user's model and random numbers as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["untouched"]


@contextmanager
def untouched(model: torch.nn.Module) -> Iterator[None]:
    """Differentiate inside: gradients on, attention twice differentiable; buffers and RNG states are restored after.

    Forward passes in training mode change buffers (running statistics) and draw random numbers (dropout, loaders).
    """
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    # Fused attention kernels have no second derivative; the MATH backend is made of operations that have.
    with torch.random.fork_rng(devices), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        try:
            yield
        finally:
            with torch.no_grad():
                for module, name, buffer, before in buffers:
                    setattr(module, name, buffer)  # the loss may have put another tensor in its place
                    buffer.copy_(before)
