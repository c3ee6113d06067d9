"""The network of `slq demo` as a PyTorch model."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from slq_torch._hessian import HessianOperator, hessian_operator

__all__ = ["digits_operator"]


def digits_operator(
    weights: Sequence[np.ndarray], X: np.ndarray, y: np.ndarray, *, dtype: str, device: str | None
) -> tuple[HessianOperator, Callable[[Any], Any]]:
    """Make the Hessian of the mean cross-entropy over all samples an operator.

    Parameters
    ----------
    weights : W₁ (H, 64), b₁, W₂ (10, H), b₂
    X, y : (N, 64) and (N,) array
    dtype : str
        ``"float32"`` or ``"float64"``.
    device : str, optional
        A torch device; default: CUDA if there is one.

    Returns
    -------
    operator : HessianOperator
    synchronize : callable
        Waits until an array is computed, for timing.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    hidden = weights[1].size
    model = torch.nn.Sequential(torch.nn.Linear(64, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 10))
    model.load_state_dict(
        {name: torch.from_numpy(w) for name, w in zip(model.state_dict(), weights, strict=True)}, assign=True
    )
    model = model.to(device=device, dtype=getattr(torch, dtype)).requires_grad_(True).eval()
    data = (torch.as_tensor(X, dtype=getattr(torch, dtype), device=device), torch.as_tensor(y, device=device))

    def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    return hessian_operator(model, loss, data), _synchronize


def _synchronize(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
