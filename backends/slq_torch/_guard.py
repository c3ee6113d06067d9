"""Leave the user's model and random numbers as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from slq.errors import OperatorError

__all__ = ["require_twice_differentiable", "untouched"]


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
    with (
        torch.random.fork_rng(devices),
        torch.inference_mode(False),
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        try:
            yield
        finally:
            with torch.no_grad():
                for module, name, buffer, before in buffers:
                    setattr(module, name, buffer)  # the loss may have put another tensor in its place
                    buffer.data.copy_(before)  # through .data: a graph of the user's that holds the buffer stays valid


def require_twice_differentiable(loss: torch.Tensor) -> None:
    """Raise if the graph of `loss` contains a function that is marked `once_differentiable`.

    Autograd would take what its backward uses for constants, and parts of the Hessian would be missing silently.
    """
    seen: set[object] = set()
    nodes: list = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes.extend(before for before, _ in node.next_functions)
        function = getattr(type(node), "_forward_cls", None)  # of a user's autograd.Function
        code = getattr(getattr(function, "backward", None), "__code__", None)
        if function is not None and code is not None and code.co_qualname.startswith("once_differentiable"):
            raise OperatorError(
                f"{function.__name__} has no second derivative: its backward is marked once_differentiable; "
                "write it from differentiable operations without that mark"
            )
