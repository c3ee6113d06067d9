"""Ways to multiply with the Hessian of the loss of a piece of the data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from slq.errors import RequestError
from slq_torch._data_pass import DataPass, Piece
from slq_torch._trace import linearized

__all__ = ["Difference", "DoubleBackward", "Jvp", "Linearize", "best_step", "gradient_at", "gradient_of"]


class _Graph(NamedTuple):
    """The gradient of the loss of a piece, with its graph."""

    loss: torch.Tensor  # detached
    gradient: dict[int, torch.Tensor]  # by the number of the parameter; those that depend on the parameters


class DoubleBackward:
    """The gradient's graph, built once per piece and differentiated once per vector (Pearlmutter 1994).

    That of a single piece is kept between products.
    """

    name = "double_backward"

    def __init__(self, data: DataPass) -> None:
        self._data = data
        self._keep = data.is_single
        self._kept: _Graph | None = None

    def add_products(self, piece: Piece, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor | None:
        """Add the product with each row of `vectors` to `total`; the summed loss."""
        graph = self.graph(piece)
        parameters = self._data.parameters
        outputs = list(graph.gradient.values())
        for row, (v, sum_of_row) in enumerate(zip(vectors, total, strict=True)):
            if not outputs:
                break  # the loss of this piece is linear in the parameters
            parts = parameters.split(v)
            products = torch.autograd.grad(
                outputs,
                parameters.tensors,
                [parts[i] for i in graph.gradient],
                retain_graph=self._keep or row + 1 < len(vectors),
                allow_unused=True,  # second derivatives that are identically zero
            )
            parameters.add_to(sum_of_row, products)
        return graph.loss

    def drop(self) -> None:
        """Keep no graph, now and later: it is too large."""
        self._keep, self._kept = False, None

    def graph(self, piece: Piece) -> _Graph:
        """The gradient of a piece with its graph."""
        if self._kept is not None:
            return self._kept
        graph = self._build(piece)
        self._kept = graph if self._keep else None
        return graph

    def _build(self, piece: Piece) -> _Graph:
        loss, _ = self._data.summed_loss(piece)
        if not loss.requires_grad:
            return _Graph(loss.detach(), {})
        gradient = torch.autograd.grad(loss, self._data.parameters.tensors, create_graph=True, allow_unused=True)
        return _Graph(loss.detach(), {i: g for i, g in enumerate(gradient) if g is not None and g.requires_grad})


class _Forward:
    """What forward differentiation of the gradient shares: the loss as a function of values."""

    def __init__(self, data: DataPass) -> None:
        self._data = data
        self._values = tuple(p.detach() for p in data.parameters.tensors)
        self._loss = data.functional(lambda piece: data.summed_loss(piece)[0])


class Jvp(_Forward):
    """Forward over reverse, all vectors at once (`compiled`: through `torch.compile`)."""

    name = "jvp"

    def __init__(self, data: DataPass, compiled: bool = False) -> None:
        super().__init__(data)
        self.name = "jvp, compiled" if compiled else "jvp"
        gradient = torch.func.grad_and_value(self._loss)

        def push(values: Any, piece: Piece, tangents: Any) -> Any:
            def one(tangent: Any) -> Any:
                return torch.func.jvp(lambda values: gradient(values, piece), (values,), (tangent,), has_aux=True)[1:]

            return torch.vmap(one, randomness="same", out_dims=(0, None))(tangents)  # type: ignore[arg-type]

        self._push = torch.compile(push) if compiled else push

    def add_products(self, piece: Piece, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor | None:
        """Add the product with each row of `vectors` to `total`; the summed loss."""
        tangents = tuple(self._data.parameters.split(vectors))
        products, loss = self._push(self._values, piece, tangents)
        self._data.parameters.add_rows_to(total, products)
        return loss.detach()


class Linearize(_Forward):
    """The derivative of the gradient, traced once per piece, applied to all vectors at once; as `Jvp`."""

    def __init__(self, data: DataPass, compiled: bool = False) -> None:
        super().__init__(data)
        self.name = "linearize, compiled" if compiled else "linearize"
        self._keep = data.is_single
        self._compiled = compiled
        self._kept: tuple[torch.Tensor, Callable] | None = None

    def add_products(self, piece: Piece, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor | None:
        """Add the product with each row of `vectors` to `total`; the summed loss."""
        loss, push = self._kept or self._trace(piece)
        if self._keep:
            self._kept = loss, push
        with self._data.evaluating(piece):  # a trace draws its random numbers anew
            products = push(tuple(self._data.parameters.split(vectors)))
        self._data.parameters.add_rows_to(total, products)
        return loss

    def _trace(self, piece: Piece) -> tuple[torch.Tensor, Callable]:
        gradient = torch.func.grad(self._loss)
        linear = linearized(lambda *values: gradient(values, piece), self._values, lambda: self._data.evaluating(piece))
        push = torch.vmap(lambda tangents: linear(*tangents), randomness="same")
        with torch.no_grad():
            loss = self._data.summed_loss(piece)[0]
        return loss, torch.compile(push) if self._compiled else push


class Difference:
    """Central differences of the gradient, for what has no second derivative.

    Attributes
    ----------
    error : float
        The largest error so far of a product on a piece, relative to its size, by Richardson's estimate.
    """

    name = "difference"

    def __init__(self, data: DataPass, step: float) -> None:
        if data.rounding > 1e-4:
            raise RequestError(
                "half precision rounds the steps of ad='difference' away; pass compute_dtype=torch.float32 with it"
            )
        self._data = data
        self._step = step
        self.error = 0.0

    def add_products(self, piece: Piece, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor | None:
        """Add the product with each row of `vectors` to `total`; no loss."""
        for v, sum_of_row in zip(vectors, total, strict=True):
            length = torch.linalg.vector_norm(v)
            if float(length) == 0:
                continue
            product, error = richardson(self._data, piece, v / length, self._step)
            self.error = max(self.error, error)
            sum_of_row += length * product
        return None


def richardson(data: DataPass, piece: Piece, direction: torch.Tensor, step: float) -> tuple[torch.Tensor, float]:
    """The derivative of the gradient along a unit vector, and its estimated relative error.

    Differences of step h have the error c h² + O(h⁴); those of h and h/2 remove c, and their difference tells it
    (Richardson 1911).
    """
    wide, narrow = (_slope(data, piece, direction, h) for h in (step, step / 2))
    best = (4 * narrow - wide) / 3
    size = float(torch.linalg.vector_norm(best))
    return best, float(torch.linalg.vector_norm(best - narrow)) / size if size else 0.0


def best_step(data: DataPass, direction: torch.Tensor) -> float:
    """The step along unit vectors whose differences have the smallest estimated error on the first piece."""
    eps = torch.finfo(data.parameters.like.dtype).eps
    steps = [h for h in (3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5) if h > eps ** (1 / 3) / 2]
    errors = [richardson(data, data.first, direction, h)[1] for h in steps]
    return steps[errors.index(min(errors))]


def _slope(data: DataPass, piece: Piece, direction: torch.Tensor, step: float) -> torch.Tensor:
    ahead, behind = (gradient_at(data, piece, direction * h) for h in (step, -step))
    return (ahead - behind) / (2 * step)


def gradient_at(data: DataPass, piece: Piece, displacement: torch.Tensor) -> torch.Tensor:
    """The gradient of the summed loss of a piece at displaced parameters."""
    with data.parameters.displaced(displacement):
        return gradient_of(data, piece)[0]


def gradient_of(data: DataPass, piece: Piece) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of the summed loss of a piece, flat, and that loss."""
    loss, _ = data.summed_loss(piece)
    if not loss.requires_grad:
        return data.parameters.join([None] * len(data.parameters.tensors)), loss.detach()
    parts = torch.autograd.grad(loss, data.parameters.tensors, allow_unused=True)
    return data.parameters.join(parts), loss.detach()
