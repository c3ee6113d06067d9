"""A model's parameters as one flat vector."""

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch

from slq.errors import DtypeError, OperatorError, RequestError, ShapeError

__all__ = ["Parameters", "Selection"]

Selection = str | Iterable[str] | Mapping[str, torch.Tensor] | Callable[[str, torch.nn.Parameter], bool] | None


class Parameters:
    """The parameters to differentiate, in the order of `named_parameters`; a tied one is one.

    Parameters
    ----------
    model : torch.nn.Module
    selection : str, iterable of str, mapping, callable, optional
        Which parameters: a name or pattern (``"encoder.*"``, ``"*lora_*"``), several, a mapping of names to parameters
        of the model, or a function (name, parameter) -> bool; default: all that require gradients.

    Raises
    ------
    DtypeError
        If a parameter is not real floating-point.
    OperatorError
        If there is nothing to differentiate, or the parameters lie on several devices.
    RequestError
        If a name or pattern finds nothing, or a parameter that is named is frozen.
    """

    def __init__(self, model: torch.nn.Module, selection: Selection = None) -> None:
        everything = dict(model.named_parameters(remove_duplicate=False))
        available = dict(model.named_parameters())
        wanted = _select(everything, available, selection)
        self.named = {name: p for name, p in available.items() if id(p) in wanted and p.requires_grad}
        self._model = model
        self.tensors = list(self.named.values())
        if not self.tensors:
            raise OperatorError(
                f"0 of {len(available)} parameter tensors require gradients; call requires_grad_(True) on some"
            )
        for name, p in self.named.items():
            if isinstance(p, torch.nn.parameter.UninitializedParameter):
                raise OperatorError(f"parameter {name} has no shape yet; run the model once on a batch before")
            if not p.dtype.is_floating_point:
                raise DtypeError(f"parameter {name} has dtype {p.dtype}; only real floating-point ones are supported")
            if p.is_inference():
                raise OperatorError(
                    f"parameter {name} was made under inference_mode, where nothing can be differentiated; make the "
                    "model outside of it, or copy.deepcopy it there with clones of its parameters"
                )
            if type(p.data) is not torch.Tensor:
                raise OperatorError(
                    f"parameter {name} is a {type(p.data).__name__}, sharded or wrapped by another package; build the "
                    "operator from the plain model"
                )
        devices = {p.device for p in self.tensors}
        if len(devices) > 1:
            raise OperatorError(f"the parameters lie on several devices ({devices}); move the model to one")
        self.sizes = [p.numel() for p in self.tensors]
        self.n = sum(self.sizes)
        wide = any(p.dtype == torch.float64 for p in self.tensors)
        self.like = torch.empty(0, dtype=torch.float64 if wide else torch.float32, device=devices.pop())
        self._states = self._versions()
        self._contents = self._sums()

    def require_unchanged(self, *, contents: bool) -> None:
        """Raise if a parameter was written to or replaced since construction; `contents` also reads all of them."""
        current = dict(self._model.named_parameters())
        frozen = [name for name, p in self.named.items() if not p.requires_grad]
        if frozen:
            raise OperatorError(f"parameter {frozen[0]} was frozen after the operator was built; build a new operator")
        sums = self._sums() if contents else self._contents
        same = zip(self._states, self._versions(), self._contents, sums, strict=True)
        for (name, p), (state, state_now, content, content_now) in zip(self.named.items(), same, strict=True):
            # A NaN differs from itself, but not from what it was
            if current.get(name) is not p or state != state_now or repr(content) != repr(content_now):
                raise OperatorError(f"parameter {name} changed after the operator was built; build a new operator")

    def matching(self, pattern: str) -> list[str]:
        """The names that a name or pattern means."""
        return [name for name in self.named if name == pattern or fnmatch.fnmatchcase(name, pattern)]

    @contextmanager
    def displaced(self, displacement: torch.Tensor) -> Iterator[None]:
        """Inside, the parameters of the model are those plus a flat displacement; the user's tensors come back."""
        before = [p.data for p in self.tensors]
        try:
            # Other data in the same tensors: a loss that holds a parameter of its own sees it, too.
            for p, part in zip(self.tensors, self.split(displacement, cast=False), strict=True):
                p.data = (p.data.to(part.dtype) + part).to(p.dtype)
            yield
        finally:
            for p, data in zip(self.tensors, before, strict=True):
                p.data = data

    def split(self, v: torch.Tensor, *, cast: bool = True) -> list[torch.Tensor]:
        """Flat vectors (..., n) as tensors (..., shape) of the parameters' shapes and, if `cast`, dtypes."""
        parts = v.split(self.sizes, dim=-1)
        shaped = [part.reshape(*v.shape[:-1], *p.shape) for part, p in zip(parts, self.tensors, strict=True)]
        return [part.to(p.dtype) for part, p in zip(shaped, self.tensors, strict=True)] if cast else shaped

    def join(self, parts: Iterable[torch.Tensor | None]) -> torch.Tensor:
        """Tensors of the parameters' shapes as a flat vector; None stands for zeros."""
        flat = torch.zeros(self.n, dtype=self.like.dtype, device=self.like.device)
        self.add_to(flat, parts)
        return flat

    def add_to(self, flat: torch.Tensor, parts: Iterable[torch.Tensor | None]) -> None:
        """Add tensors of the parameters' shapes to a flat vector, in its dtype."""
        for row, part in zip(flat.split(self.sizes), parts, strict=True):
            if part is not None:
                row += part.reshape(-1)

    def add_rows_to(self, total: torch.Tensor, parts: Iterable[torch.Tensor]) -> None:
        """Add tensors (k, shape) of the parameters' shapes to (k, n) rows, in their dtype."""
        for columns, part in zip(total.split(self.sizes, dim=1), parts, strict=True):
            columns += part.reshape(part.shape[0], -1)

    def unravel(self, v: torch.Tensor) -> dict[str, torch.Tensor]:
        """A flat vector by parameter names."""
        if tuple(v.shape) != (self.n,):
            raise ShapeError(
                f"unravel expects a vector of shape ({self.n},), got {tuple(v.shape)}; pass one row at a time"
            )
        return dict(zip(self.named, self.split(v, cast=False), strict=True))

    def ravel(self, tree: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Tensors by parameter names as a flat vector: the inverse of `unravel`."""
        if set(tree) != set(self.named):
            raise RequestError(f"ravel expects exactly the names {list(self.named)}, got {list(tree)}")
        for name, p in self.named.items():
            if tree[name].shape != p.shape:
                raise ShapeError(f"{name} expects shape {tuple(p.shape)}, got {tuple(tree[name].shape)}")
        return self.join(tree[name] for name in self.named)

    def _versions(self) -> list[tuple[int, int]]:
        return [(p._version, p.data_ptr()) for p in self.tensors]

    def _sums(self) -> list[float]:
        """One number per parameter that tells of writing through `.data`, which counts no version."""
        with torch.no_grad():
            return torch.stack([p.sum(dtype=torch.float64) for p in self.tensors]).tolist()


def _select(
    everything: Mapping[str, torch.nn.Parameter], available: Mapping[str, torch.nn.Parameter], selection: Selection
) -> set[int]:
    """The identities of the parameters that a selection means."""
    if selection is None:
        return {id(p) for p in everything.values()}
    if callable(selection):
        return {id(p) for name, p in everything.items() if selection(name, p)}
    if isinstance(selection, Mapping):
        known = {id(p) for p in everything.values()}
        strange = [name for name, p in selection.items() if id(p) not in known]
        if strange:
            raise RequestError(
                f"params= maps {', '.join(strange)} to tensors that are not parameters of the model; take them from "
                "model.named_parameters(), or give names"
            )
        return {id(p) for p in selection.values()}
    found: set[int] = set()
    for pattern in [selection] if isinstance(selection, str) else selection:
        # Every name of a tied parameter means it.
        matching = [p for name, p in everything.items() if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        free = [p for p in matching if p.requires_grad]
        if not free:
            state = "is frozen" if matching else "does not exist"
            raise RequestError(f"parameter {pattern!r} {state}; the model has {', '.join(available)}")
        found |= {id(p) for p in free}
    return found
