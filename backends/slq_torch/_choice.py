"""Which way to differentiate: tried on the first piece, verified against the safest, timed and remembered."""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from slq.adapters import available_memory
from slq_torch._data_pass import DataPass, Piece

__all__ = ["WORTH_TRACING", "WORTH_TRYING", "Mode", "choose"]

_MARGIN = 0.87  # a way that gains less is not worth leaving the safest for
# Seconds of a block of products. Where one is short, so is the run, and it is better that it never depends on a clock
# to the last bit. Tracing a model takes seconds.
WORTH_TRYING, WORTH_TRACING = 0.01, 1.0


class Mode(Protocol):
    """A way to multiply; `name` is what `ad` of an operator shows."""

    name: str

    def add_products(self, piece: Piece, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor | None:
        """Add the product with each row of `vectors` to `total`; the summed loss if known."""
        ...


def choose(
    data: DataPass,
    safest: Mode,
    candidates: Sequence[tuple[Callable[[], Mode], float]],
    vectors: torch.Tensor,
    bytes_of_safest: int,
) -> tuple[Mode, dict[str, str]]:
    """The fastest way that agrees with the safest.

    Parameters
    ----------
    data : DataPass
    safest : Mode
    candidates : sequence of (constructor, seconds)
        Other ways, and how long a block of products must take to try them.
    vectors : (k, n) tensor
        What to multiply with.
    bytes_of_safest : int
        What a product takes; others hold as much for each vector.

    Returns
    -------
    mode : Mode
    tried : dict of str to str
        Seconds of each way, or why it was not taken.
    """
    reference, seconds = _time(data, safest, vectors)
    best, best_seconds = safest, seconds
    tried = {safest.name: f"{seconds:.3g} s"}
    free = available_memory(data.parameters.like)
    if free is not None and 4 * len(vectors) * bytes_of_safest > free / 2:
        return safest, tried
    for make, least in candidates:
        if seconds < least:
            continue
        mode = make()
        try:
            product, took = _time(data, mode, vectors)
        except Exception as error:  # whatever torch cannot differentiate, trace or compile in this way
            tried[mode.name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            continue
        off = float(torch.linalg.vector_norm(product - reference))
        size = float(torch.linalg.vector_norm(reference))
        if not off <= min(1e3 * data.rounding, 0.1) * size:
            tried[mode.name] = f"differs by {off / size if size else off:.2g} of the size"
            continue
        tried[mode.name] = f"{took:.3g} s"
        if took < (_MARGIN * seconds if best is safest else best_seconds):
            best, best_seconds = mode, took
    return best, tried


def _time(data: DataPass, mode: Mode, vectors: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The product and its seconds; of what is made at first and kept, those of a second product."""
    took = []
    for _ in range(2 if (data.is_single and mode.name != "jvp") or "compiled" in mode.name else 1):
        product = torch.zeros_like(vectors)
        _wait(vectors)
        start = time.perf_counter()
        with data.differentiating(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's tracing, which concern its developers
            mode.add_products(data.first, vectors, product)
        _wait(vectors)
        took.append(time.perf_counter() - start)
    return product, took[-1]


def _wait(x: Any) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
