"""How the adapter's operators pass over the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from slq.errors import RequestError

__all__ = ["Options", "Settings"]


class Options(TypedDict, total=False):
    """Options that all operators of JAX functions take, as keywords.

    Attributes
    ----------
    microbatch : int, optional
        Differentiate a batch in pieces of so many samples, one after the other: memory falls with their size.
    reduction : {"mean", "sum"}
        What a loss without a weight is, over the samples of its batch.
    max_batches : int, optional
        Read no more batches than these, for a stream that has no end.
    weight_decay : float or mapping
        Adds the Hessian of ½ λ‖θ‖² to the operator, as optimisers do it: one λ, or one for each name or pattern of
        leaves.
    together : int, optional
        How many vectors to multiply at once, by `jax.vmap`; default: one after the other on a CPU, where that was
        faster for each model measured, and all of them on an accelerator.
    probe_axis : str, optional
        For parameters on a mesh: the axis over which the probes of a block are sharded, if their number is a multiple
        of its size. Vectors are sharded over the other axes. The flat vectors of sharded parameters (of `gradient`,
        `ravel`, `put`) hold the shards of each device one after the other, in place of whole leaves.
    check : bool
        Look, at construction, whether the loss is a function of its arguments and the products are the derivatives of
        its gradient. Default: True.
    """

    microbatch: int | None
    reduction: str
    max_batches: int | None
    weight_decay: float | Mapping[str, float]
    together: int | None
    probe_axis: str | None
    check: bool


@dataclass(frozen=True)
class Settings:
    """`Options` with their defaults.

    Raises
    ------
    RequestError
        If an option is out of range.
    """

    microbatch: int | None = None
    reduction: str = "mean"
    max_batches: int | None = None
    weight_decay: float | Mapping[str, float] = 0.0
    together: int | None = None
    probe_axis: str | None = None
    check: bool = True

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum"):
            raise RequestError(f'reduction= expects "mean" or "sum", got {self.reduction!r}')
        for name in ("microbatch", "together"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1):
                raise RequestError(f"{name}= expects a positive integer, got {value!r}")
