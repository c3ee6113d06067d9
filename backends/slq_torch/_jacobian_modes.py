"""Ways to multiply with Jᵀ M J, where J is the Jacobian of the outputs and M a matrix on them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from slq_torch._data_pass import DataPass, Piece
from slq_torch._output_curvature import Curvature, Matrix
from slq_torch._trace import linearized
from slq_torch._trees import leaves

__all__ = ["JacobianJvp", "JacobianLinearize", "TwoBackward", "output_tensors"]

Forward = Callable[[torch.nn.Module, Any], Any]


class _Base:
    """The outputs of a piece and the matrix on them.

    Parameters
    ----------
    data : DataPass
    forward : callable
        (model, batch) -> outputs.
    curvature : Curvature
    """

    def __init__(self, data: DataPass, forward: Forward, curvature: Curvature) -> None:
        self._data, self._forward, self._curvature = data, forward, curvature
        self._keep = data.is_single
        self._kept: Any = None

    def _outputs(self, piece: Piece) -> Any:
        with self._data.evaluating(piece):
            return self._forward(self._data.model, piece.batch)

    def _matrix(self, piece: Piece, outputs: Any) -> Matrix:
        return self._curvature(self._data, piece, outputs, [z.detach() for z in output_tensors(outputs)])

    def drop(self) -> None:
        """Keep nothing of a piece, now and later: it is too large."""
        self._keep, self._kept = False, None


class _Backward(NamedTuple):
    matrix: Matrix
    outputs: list[torch.Tensor]
    connected: list[int]  # the outputs that depend on the parameters
    weights: list[torch.Tensor]  # u, of their shapes
    pulled: dict[int, torch.Tensor]  # Jᵀ u by the number of the parameter, as far as it depends on u


class TwoBackward(_Base):
    """Jv by differentiating the linear function u -> Jᵀ u, whose graph is built once per piece; then Jᵀ.

    The graph of a single piece is kept between products.
    """

    name = "double_backward"

    def add_products(self, piece: Piece, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor | None:
        """Add the product with each row of `vectors` to `total`; no loss."""
        graph = self._kept or self._graph(piece)
        if self._keep:
            self._kept = graph
        parameters = self._data.parameters
        if not graph.pulled:
            return None
        outputs = [graph.outputs[i] for i in graph.connected]
        for v, sum_of_row in zip(vectors, total, strict=True):
            parts = parameters.split(v)
            slopes = torch.autograd.grad(
                list(graph.pulled.values()),
                graph.weights,
                [parts[i] for i in graph.pulled],
                retain_graph=True,
                materialize_grads=True,
            )
            tangents = [torch.zeros_like(z) for z in graph.outputs]
            for i, slope in zip(graph.connected, slopes, strict=True):
                tangents[i] = slope
            cotangents = graph.matrix(tangents)
            products = torch.autograd.grad(
                outputs,
                parameters.tensors,
                [cotangents[i].to(graph.outputs[i].dtype) for i in graph.connected],
                retain_graph=True,
                allow_unused=True,
            )
            parameters.add_to(sum_of_row, products)
        return None

    def _graph(self, piece: Piece) -> _Backward:
        outputs = self._outputs(piece)
        tensors = output_tensors(outputs)
        connected = [i for i, z in enumerate(tensors) if z.requires_grad]
        if not connected:
            return _Backward(self._matrix(piece, outputs), tensors, [], [], {})
        weights = [torch.zeros_like(tensors[i], requires_grad=True) for i in connected]
        pulled = torch.autograd.grad(
            [tensors[i] for i in connected],
            self._data.parameters.tensors,
            weights,
            create_graph=True,
            allow_unused=True,
        )
        depending = {i: g for i, g in enumerate(pulled) if g is not None and g.requires_grad}
        return _Backward(self._matrix(piece, outputs), tensors, connected, weights, depending)


class _Pushed(NamedTuple):
    matrix: Matrix
    push: Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]  # rows of parameters -> rows of outputs
    pull: Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]


class _Pushing(_Base):
    """All vectors at once, by forward differentiation of the outputs and `torch.vmap`."""

    name: str

    def __init__(self, data: DataPass, forward: Forward, curvature: Curvature, compiled: bool = False) -> None:
        super().__init__(data, forward, curvature)
        self._compiled = compiled
        self.name = f"{self.name}, compiled" if compiled else self.name
        self._values = tuple(p.detach() for p in data.parameters.tensors)
        self._function = data.functional(lambda piece: tuple(output_tensors(self._outputs(piece))))

    def add_products(self, piece: Piece, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor | None:
        """Add the product with each row of `vectors` to `total`; no loss."""
        maps = self._kept or self._maps(piece)
        if self._keep:
            self._kept = maps
        parameters = self._data.parameters
        with self._data.evaluating(piece):  # a trace draws its random numbers anew
            tangents = maps.push(tuple(parameters.split(vectors)))
        cotangents = tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in tangents)
        for row in range(len(vectors)):  # for all at once, M would hold several times what they take
            for cotangent, part in zip(cotangents, maps.matrix([t[row] for t in tangents]), strict=True):
                cotangent[row] = part
        del tangents
        parameters.add_rows_to(total, maps.pull(cotangents))
        return None

    def _maps(self, piece: Piece) -> _Pushed:
        def function(*values: torch.Tensor) -> Any:
            return self._function(values, piece)

        pullback: Callable[..., Any] = torch.func.vjp(function, *self._values)[1]
        push = torch.vmap(self._pushforward(function, piece), randomness="same")
        pull = torch.vmap(pullback, randomness="same")
        with torch.no_grad():
            outputs = self._outputs(piece)
        matrix = self._matrix(piece, outputs)
        return _Pushed(matrix, torch.compile(push) if self._compiled else push, pull)

    def _pushforward(self, function: Callable[..., Any], piece: Piece) -> Callable[[Sequence[torch.Tensor]], Any]:
        raise NotImplementedError


class JacobianJvp(_Pushing):
    """Jv by `torch.func.jvp`, anew for each product."""

    name = "jvp"

    def _pushforward(self, function: Callable[..., Any], piece: Piece) -> Callable[[Sequence[torch.Tensor]], Any]:
        del piece
        return lambda tangents: torch.func.jvp(function, self._values, tuple(tangents))[1]


class JacobianLinearize(_Pushing):
    """Jv by `torch.func.linearize`, traced once for each piece."""

    name = "linearize"

    def _pushforward(self, function: Callable[..., Any], piece: Piece) -> Callable[[Sequence[torch.Tensor]], Any]:
        linear = linearized(function, self._values, lambda: self._data.evaluating(piece))
        return lambda tangents: linear(*tangents)


def output_tensors(outputs: Any) -> list[torch.Tensor]:
    """The floating-point tensors of what forward returned."""
    return [z for z in leaves(outputs) if z.is_floating_point()]
