"""A function linearised by torch: traced once, and safe to call again."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

__all__ = ["linearized"]


def linearized(
    function: Callable[..., Any],
    values: Sequence[torch.Tensor],
    around: Callable[[], AbstractContextManager[Any]],
) -> Callable[..., Any]:
    """The derivative of a function of tensors at `values`, as a function of tangents.

    A trace draws the random numbers of the function anew in each call, which `around` must seed: it is to be called
    inside it.

    Raises
    ------
    RuntimeError
        If the function has no forward derivative, or its trace gives another result in each call.

    Notes
    -----
    torch 2.13 crashes where it traces what has no forward derivative (F.mse_loss): without a trace it raises. And a
    trace of what is written in place (recurrent layers, binary cross-entropy of logits) can write to constants that it
    has folded, in its second call and later ones.
    """
    torch.func.jvp(function, tuple(values), tuple(values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's tracing, which concern its developers
        _, linear = torch.func.linearize(function, *values)
        # The first call folds the constants, which Dynamo could not follow.
        calls = []
        for _ in range(3):
            with around():
                calls.append(_flat(linear(*values)))
    sizes = [torch.linalg.vector_norm(calls[0])] + [torch.linalg.vector_norm(later - calls[0]) for later in calls[1:]]
    if max(sizes[1:]) > 1e3 * torch.finfo(calls[0].dtype).eps * sizes[0]:
        raise RuntimeError("torch.func.linearize traced a function whose results change from call to call")
    return linear


def _flat(tree: Any) -> torch.Tensor:
    return torch.cat([x.detach().reshape(-1) for x in torch.utils._pytree.tree_leaves(tree)])
