"""How many bytes of tensors a computation holds."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Meter"]


class Meter(TorchDispatchMode):
    """Counts, inside its context, the bytes of the tensors that are made, until they are freed.

    The same on every device, and of this computation alone; what kernels take for themselves is not seen. For plain
    autograd: under the transforms of torch.func, torch 2.13 can crash with it (forward derivative of F.mse_loss).

    Attributes
    ----------
    live, peak : int
        Bytes made inside and held now, and at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            key = storage._cdata
            if key in before or key in self._known:  # a view, or in place
                continue
            size = storage.nbytes()
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key, size).atexit = False
        return result

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    tensors = [x for x in tree_leaves(tree) if type(x) in (torch.Tensor, torch.nn.Parameter)]
    return [x.untyped_storage() for x in tensors if x.layout is torch.strided]
