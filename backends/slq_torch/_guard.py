"""Leave the user's model and random numbers as they were."""

import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from slq.errors import OperatorError

__all__ = ["parameters_of", "untouched", "unwritten"]


@contextmanager
def untouched(model: torch.nn.Module, *, forward: bool = False) -> Iterator[None]:
    """Differentiate inside: gradients on, attention twice differentiable; buffers and RNG states are restored after.

    Forward passes in training mode change buffers (running statistics), and data loaders and layers draw random numbers
    (of torch, NumPy and Python). `forward`: by kernels that forward differentiation knows, too.
    """
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    modes = [module.training for module in model.modules()]
    drawn = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is what users' loaders draw from
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        # Fused attention kernels have no second derivative; the MATH backend is made of operations that have.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, torch.nn.RNNBase) for module in model.modules()):
            stack.enter_context(_differentiable_recurrence(forward, on_cuda=bool(devices)))
        try:
            yield
        finally:
            random.setstate(drawn[0])
            np.random.set_state(drawn[1])  # noqa: NPY002
            with torch.no_grad():
                for module, name, buffer, before in buffers:
                    setattr(module, name, buffer)  # the loss may have put another tensor in its place
                    buffer.data.copy_(before)  # through .data: a graph of the user's that holds the buffer stays valid
            for module, training in zip(model.modules(), modes, strict=True):
                module.training = training


@contextmanager
def unwritten(model: torch.nn.Module) -> Iterator[None]:
    """Inside, the model is called; parameters that this writes to come back, with an error.

    Raises
    ------
    OperatorError
        With the name of the parameter.
    """
    before = {name: (p, p._version, p.detach().clone()) for name, p in model.named_parameters()}
    try:
        yield
    finally:
        written = [name for name, (p, version, _) in before.items() if p._version != version]
        for name in written:
            p, _, values = before[name]
            p.data.copy_(values)
    if written:
        raise OperatorError(
            f"the loss writes to parameter {written[0]} in place (F.embedding with max_norm does), which no derivative "
            "sees; its values are restored; take the operation out of the loss"
        )


@contextmanager
def _differentiable_recurrence(forward: bool, *, on_cuda: bool) -> Iterator[None]:
    """Without the kernels of recurrent layers that lack derivatives: cuDNN's the second, oneDNN's the forward one."""
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the switch of oneDNN warns of a device that need not be there
        if forward:
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        if on_cuda:
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def parameters_of(loss: torch.Tensor, *, once: bool = False) -> set[int]:
    """The identities of the leaves that the graph of `loss` leads to.

    Raises
    ------
    OperatorError
        If the graph contains a reentrant checkpoint, or a function that is marked `once_differentiable`: autograd would
        take what its backward uses for constants, and parts of the Hessian would be missing silently. `once`: it is
        only the first derivative that is needed.
    """
    found: set[int] = set()
    seen: set[object] = set()
    nodes: list = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes.extend(before for before, _ in node.next_functions)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        if type(node).__name__ == "CheckpointFunctionBackward":
            raise OperatorError(
                "a reentrant activation checkpoint hides its inside from autograd.grad; call checkpoint with "
                "use_reentrant=False"
            )
        function = getattr(type(node), "_forward_cls", None)  # of a user's autograd.Function
        code = getattr(getattr(function, "backward", None), "__code__", None)
        if (
            not once
            and function is not None
            and code is not None
            and code.co_qualname.startswith("once_differentiable")
        ):
            raise OperatorError(
                f"{function.__name__} has no second derivative: its backward is marked once_differentiable; "
                "write it from differentiable operations without that mark, or take ad='difference'"
            )
    return found
