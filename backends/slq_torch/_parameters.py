"""A model's parameters as one flat vector."""

from collections.abc import Iterable, Mapping

import torch

from slq.errors import DtypeError, OperatorError, RequestError, ShapeError

__all__ = ["Parameters"]


class Parameters:
    """The parameters to differentiate, in the order of `named_parameters` (tied ones once).

    Parameters
    ----------
    model : torch.nn.Module
    names : iterable of str, optional
        Which parameters; default: all that require gradients.

    Raises
    ------
    OperatorError
        If there is nothing to differentiate, or the parameters lie on several devices.
    RequestError
        If a name is unknown or its parameter is frozen.
    """

    def __init__(self, model: torch.nn.Module, names: Iterable[str] | None = None) -> None:
        available = dict(model.named_parameters())
        wanted = set(available) if names is None else {self._found(available, name) for name in names}
        self.named = {name: p for name, p in available.items() if name in wanted and p.requires_grad}
        self._model = model
        self.tensors = list(self.named.values())
        if not self.tensors:
            raise OperatorError(
                f"0 of {len(available)} parameter tensors require gradients; call requires_grad_(True) on some"
            )
        devices = {p.device for p in self.tensors}
        if len(devices) > 1:
            raise OperatorError(f"the parameters lie on several devices ({devices}); move the model to one")
        for name, p in self.named.items():
            if not p.dtype.is_floating_point:
                raise DtypeError(f"parameter {name} has dtype {p.dtype}; only real floating-point ones are supported")
        self.sizes = [p.numel() for p in self.tensors]
        self.n = sum(self.sizes)
        wide = any(p.dtype == torch.float64 for p in self.tensors)
        self.like = torch.empty(0, dtype=torch.float64 if wide else torch.float32, device=devices.pop())
        self._states = [(p._version, p.data_ptr()) for p in self.tensors]

    @staticmethod
    def _found(available: Mapping[str, torch.nn.Parameter], name: str) -> str:
        if name not in available or not available[name].requires_grad:
            state = "is frozen" if name in available else "does not exist"
            raise RequestError(f"parameter {name!r} {state}; the model has {', '.join(available)}")
        return name

    def require_unchanged(self) -> None:
        """Raise if a parameter was written to or replaced since construction."""
        current = dict(self._model.named_parameters())
        for (name, p), (version, address) in zip(self.named.items(), self._states, strict=True):
            if current.get(name) is not p or p._version != version or p.data_ptr() != address:
                raise OperatorError(f"parameter {name} changed after the operator was built; build a new operator")

    def split(self, v: torch.Tensor) -> list[torch.Tensor]:
        """A flat vector as tensors of the parameters' shapes and dtypes."""
        parts = v.split(self.sizes)
        return [part.view(p.shape).to(p.dtype) for part, p in zip(parts, self.tensors, strict=True)]

    def join(self, parts: Iterable[torch.Tensor | None]) -> torch.Tensor:
        """Tensors of the parameters' shapes as a flat vector; None stands for zeros."""
        flat = [
            torch.zeros(size, dtype=self.like.dtype, device=self.like.device)
            if part is None
            else part.reshape(-1).to(self.like.dtype)
            for part, size in zip(parts, self.sizes, strict=True)
        ]
        return torch.cat(flat)

    def unravel(self, v: torch.Tensor) -> dict[str, torch.Tensor]:
        """A flat vector by parameter names."""
        if tuple(v.shape) != (self.n,):
            raise ShapeError(
                f"unravel expects a vector of shape ({self.n},), got {tuple(v.shape)}; pass one row at a time"
            )
        shapes = (p.shape for p in self.tensors)
        return {
            name: part.view(shape) for name, part, shape in zip(self.named, v.split(self.sizes), shapes, strict=True)
        }

    def ravel(self, tree: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Tensors by parameter names as a flat vector: the inverse of `unravel`."""
        if set(tree) != set(self.named):
            raise RequestError(f"ravel expects exactly the names {list(self.named)}, got {list(tree)}")
        for name, p in self.named.items():
            if tree[name].shape != p.shape:
                raise ShapeError(f"{name} expects shape {tuple(p.shape)}, got {tuple(tree[name].shape)}")
        return self.join(tree[name] for name in self.named)
