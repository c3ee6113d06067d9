"""Whether a model computes as precisely as its vectors are."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from slq.adapters import warn_user
from slq.errors import PrecisionWarning

__all__ = ["autocasts", "warn_of_precision"]


@contextmanager
def autocasts(kind: str) -> Iterator[set[torch.dtype]]:
    """Collect the dtypes to which `torch.autocast` rounds on a kind of device while modules are called inside."""
    found: set[torch.dtype] = set()

    def look(*_: object) -> None:
        if torch.is_autocast_enabled(kind):
            found.add(torch.get_autocast_dtype(kind))

    handle = register_module_forward_pre_hook(look)
    try:
        yield found
    finally:
        handle.remove()


def warn_of_precision(parameters: Iterable[torch.Tensor], cast: set[torch.dtype]) -> None:
    """Warn of parameters in half precision, or of single ones that `autocast` rounds to it: the dtypes in `cast`.

    Warns
    -----
    PrecisionWarning
        With the machine epsilon, and what avoids it.
    """
    held = {p.dtype for p in parameters}
    half = {dtype for dtype in held if torch.finfo(dtype).eps > 1e-4}
    if half:
        reason, mend = "the parameters are in", "compute_dtype=torch.float32 differentiates a copy in single precision"
    elif torch.float64 not in held and cast:  # which autocast leaves alone
        half = cast
        reason, mend = "autocast computes in", "leave it out of the loss, or pass compute_dtype=torch.float64"
    else:
        return
    eps = max(torch.finfo(dtype).eps for dtype in half)
    names = ", ".join(sorted(str(dtype) for dtype in half))
    warn_user(f"{reason} {names}, so that products have relative errors of about {eps:.2g}; {mend}", PrecisionWarning)
