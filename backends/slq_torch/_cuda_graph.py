"""Record the product of a single batch as a CUDA graph: one launch instead of one for each small kernel."""

import torch

from slq.errors import RequestError
from slq_torch._choice import Mode
from slq_torch._data_pass import DataPass, Piece

__all__ = ["Recorded"]

_WARM_UP = 3  # products before recording, in which libraries choose kernels and allocate workspaces


class Recorded:
    """A way to multiply, recorded once for each number of vectors and replayed.

    Parameters
    ----------
    data : DataPass
    mode : Mode
        Fresh: what it keeps is made on the stream of the recording, on which autograd then runs backward, too.

    Raises
    ------
    RequestError
        If the parameters lie on no CUDA device, or the data are more than one batch.
    """

    def __init__(self, data: DataPass, mode: Mode) -> None:
        device = data.parameters.like.device
        if device.type != "cuda" or not data.is_single:
            where = f"on {device.type}" if device.type != "cuda" else f"over {data.weighed.num_batches} batches"
            raise RequestError(
                f"cuda_graph=True records the product of one batch on a CUDA device, not {where}; leave it out, or "
                "give the data as one batch there"
            )
        self.name = f"{mode.name}, recorded"
        self._mode = mode
        self._stream = torch.cuda.Stream(device)
        self._records: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]] = {}

    def add_products(self, piece: Piece, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor | None:
        """Add the product with each row of `vectors` to `total`; no loss, as the forward pass is not repeated."""
        if len(vectors) not in self._records:
            self._records[len(vectors)] = self._record(piece, vectors)
        graph, arguments, products = self._records[len(vectors)]
        arguments.copy_(vectors)
        graph.replay()
        total += products
        return None

    def _record(self, piece: Piece, vectors: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]:
        arguments, products = vectors.clone(), torch.zeros_like(vectors)
        self._stream.wait_stream(torch.cuda.current_stream(vectors.device))
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP):
                self._mode.add_products(piece, arguments, products)
        torch.cuda.current_stream(vectors.device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            products.zero_()
            self._mode.add_products(piece, arguments, products)
        return graph, arguments, products
