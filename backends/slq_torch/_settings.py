"""How the adapter's operators pass over the data and differentiate."""

from dataclasses import dataclass
from typing import TypedDict

import torch

from slq.errors import RequestError

__all__ = ["MODES", "Options", "Settings"]

MODES = ("auto", "double_backward", "jvp", "linearize", "difference")


class Options(TypedDict, total=False):
    """Options that all operators of models take, as keywords.

    Attributes
    ----------
    ad : {"auto", "double_backward", "jvp", "linearize", "difference"}
        How to differentiate the gradient. "double_backward": its graph is built once per batch, and differentiated
        once per vector; kept between products where the data are one batch and it fits. "jvp": forward over reverse,
        all vectors at once by `torch.vmap`. "linearize": the same, traced once per batch, kept as above; takes long to
        trace. "difference": central differences of gradients, with Richardson's error estimate, for code that has no
        second derivative. "auto" (default): tried on the first batch, verified, timed and remembered; see `ad` of the
        operator. Never reverse over forward: torch's is silently wrong for normalisation layers.
    compile : bool
        Also try what `torch.compile` makes of it; taken where that is faster.
    cuda_graph : bool
        Record the product of a single batch as a CUDA graph: for models that are bound by launches of small kernels.
    microbatch : int
        Cut batches into pieces of at most so many samples: less memory, the same operator.
    reduction : {"mean", "sum"}
        What a loss without weight is, over the samples of a batch; verified by splitting one.
    accumulate : torch.dtype
        The dtype in which products are added up over the batches; default: that of the vectors.
    batch_norm : {None, "running", "batch", "population"}
        What BatchNorm layers divide by: None, as their mode says (training: the batch); "running", the statistics that
        training collected; "batch", those of each batch, differentiated through; "population", those of all data,
        differentiated through, for which all data pass as one batch. Running statistics are never updated.
    seed : int
        Draw dropout masks and other random numbers of the loss from this seed and the number of the batch, the same for
        each product; without it, a loss that is random is refused.
    compute_dtype : torch.dtype
        Differentiate a copy of the model in this dtype: float32 for a model in half precision, or float64.
    weight_decay : float or dict of str to float
        Adds ½ Σ d ‖p‖² to the loss, and so d to the diagonal; by names or patterns where it differs.
    max_batches : int
        Read no more batches than these, for a stream that has no end.
    check : bool
        Compare a product on the first batch with finite differences of the gradient, once; default True.
    """

    ad: str
    compile: bool
    cuda_graph: bool
    microbatch: int | None
    reduction: str
    accumulate: torch.dtype | None
    batch_norm: str | None
    seed: int | None
    compute_dtype: torch.dtype | None
    weight_decay: float | dict[str, float]
    max_batches: int | None
    check: bool


@dataclass(frozen=True)
class Settings:
    """`Options` with their defaults."""

    ad: str = "auto"
    compile: bool = False
    cuda_graph: bool = False
    microbatch: int | None = None
    reduction: str = "mean"
    accumulate: torch.dtype | None = None
    batch_norm: str | None = None
    seed: int | None = None
    compute_dtype: torch.dtype | None = None
    weight_decay: float | dict[str, float] = 0.0
    max_batches: int | None = None
    check: bool = True

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("ad", self.ad, MODES),
            ("reduction", self.reduction, ("mean", "sum")),
            ("batch_norm", self.batch_norm, (None, "running", "batch", "population")),
        ):
            if value not in allowed:
                raise RequestError(f"{name}= expects one of {', '.join(map(repr, allowed))}, got {value!r}")
        if self.microbatch is not None and (not isinstance(self.microbatch, int) or self.microbatch < 1):
            raise RequestError(f"microbatch= expects a positive integer, got {self.microbatch!r}")
        if self.microbatch is not None and self.batch_norm in ("batch", "population"):
            raise RequestError(
                f"microbatch= would change the statistics of batch_norm={self.batch_norm!r}, which couple all samples "
                "of a batch; leave it out, or take batch_norm='running'"
            )
        for name, dtype in (("accumulate", self.accumulate), ("compute_dtype", self.compute_dtype)):
            if dtype is not None and dtype not in (torch.float32, torch.float64):
                raise RequestError(f"{name}= expects torch.float32 or torch.float64, got {dtype!r}")
