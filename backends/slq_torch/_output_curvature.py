"""What stands between the two Jacobians of a Gauss-Newton or Fisher product: a matrix on the outputs of a piece."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch

from slq.errors import DataError, OperatorError
from slq_torch._data_pass import DataPass, Piece
from slq_torch._output_loss import OutputLoss, require_tensor
from slq_torch._trees import ordered_fingerprint, with_leaves

__all__ = ["Curvature", "empirical", "of_loss", "sampled"]

Tensors = Sequence[torch.Tensor]
Matrix = Callable[[Tensors], Tensors]  # a product with tangents of the shapes of the outputs
Curvature = Callable[[DataPass, Piece, Any, Tensors], Matrix]  # (data, piece, outputs, their tensors, detached)


def of_loss(loss: Any) -> Curvature:
    """The second derivative of the summed loss with respect to the outputs."""
    return _closed(loss) if hasattr(loss, "hessian_product") else _differentiated(loss)


def _closed(loss: OutputLoss) -> Curvature:
    def curvature(_: DataPass, piece: Piece, outputs: Any, leaves: Tensors) -> Matrix:
        z = _only(loss, outputs, leaves)
        return lambda tangents: [loss.hessian_product(z, piece.batch, tangents[0])]

    return curvature


def _differentiated(loss: Callable[[Any, Any], Any]) -> Curvature:
    def curvature(data: DataPass, piece: Piece, outputs: Any, leaves: Tensors) -> Matrix:
        z, gradient = _gradient(loss, data, piece, outputs, leaves, create_graph=True)
        connected = [i for i, g in enumerate(gradient) if g.requires_grad]

        def product(tangents: Tensors) -> Tensors:
            if not connected:  # linear in the outputs
                return [torch.zeros_like(x) for x in z]
            return torch.autograd.grad(
                [gradient[i] for i in connected],
                z,
                [tangents[i] for i in connected],
                retain_graph=True,
                materialize_grads=True,
            )

        return product

    return curvature


def sampled(loss: OutputLoss, samples: int, seed: int) -> Curvature:
    """The mean outer product, within rows, of gradients at labels drawn from the model.

    The labels are drawn from the seed and the number of the piece, the same for each product.
    """
    marks: WeakKeyDictionary[DataPass, dict[int, torch.Tensor]] = WeakKeyDictionary()

    def curvature(data: DataPass, piece: Piece, outputs: Any, leaves: Tensors) -> Matrix:
        z = _only(loss, outputs, leaves)
        _require_same_order(piece, marks.setdefault(data, {}))
        generator = torch.Generator(z.device).manual_seed(seed * 1_000_003 + piece.number)
        drawn = torch.stack([loss.rows(loss.sampled_gradients(z, piece.batch, generator)) for _ in range(samples)])
        drawn /= samples**0.5
        return lambda tangents: [_outer(loss, drawn, tangents[0].to(drawn.dtype))]

    return curvature


def _require_same_order(piece: Piece, marks: dict[int, torch.Tensor]) -> None:
    """Raise if a piece is not what `marks` holds of it; otherwise a sample gets other labels in each product."""
    mark = ordered_fingerprint(piece.batch)
    known = marks.setdefault(piece.number, mark)
    if mark.shape != known.shape or not torch.allclose(mark, known, rtol=1e-9, atol=0, equal_nan=True):
        raise DataError(
            f"labels are drawn for each sample of a batch, but batch {piece.number} holds other samples than in the "
            "pass before, or in another order; pass a loader with shuffle=False"
        )


def empirical(loss: Any) -> Curvature:
    """The outer product, within rows, of the gradients at the true labels; of other losses, within samples."""

    def curvature(data: DataPass, piece: Piece, outputs: Any, leaves: Tensors) -> Matrix:
        gradient = [g.detach() for g in _gradient(loss, data, piece, outputs, leaves, create_graph=False)[1]]
        if hasattr(loss, "rows"):
            z = _only(loss, outputs, leaves)
            return lambda tangents: [_outer(loss, loss.rows(gradient[0])[None], tangents[0].reshape(z.shape))]
        if len({len(g) if g.ndim else 0 for g in gradient}) != 1:
            raise OperatorError(
                "the empirical Fisher matrix needs outputs with one row a sample each, got shapes "
                f"{[tuple(g.shape) for g in gradient]}"
            )

        def product(tangents: Tensors) -> Tensors:
            slopes = sum((g * t).flatten(1).sum(1) for g, t in zip(gradient, tangents, strict=True))
            return [g * slopes.reshape(-1, *[1] * (g.ndim - 1)) for g in gradient]  # type: ignore[union-attr]

        return product

    return curvature


def _gradient(
    loss: Callable[[Any, Any], Any], data: DataPass, piece: Piece, outputs: Any, leaves: Tensors, *, create_graph: bool
) -> tuple[Tensors, Tensors]:
    """The outputs as variables of their own, and the gradient of the summed loss with respect to them."""
    z = [x.detach().requires_grad_() for x in leaves]
    summed = data.summed(loss(with_leaves(outputs, z), piece.batch), piece)[0]
    return z, torch.autograd.grad(summed, z, create_graph=create_graph, materialize_grads=True)


def _outer(loss: OutputLoss, gradients: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
    """Σ_s g_s ⟨g_s, t⟩ within rows, for (samples, rows, entries) gradients, in the shape of the tangent."""
    slopes = torch.einsum("sre,re->sr", gradients, loss.rows(tangent))
    return loss.from_rows(torch.einsum("sre,sr->re", gradients, slopes), tangent)


def _only(loss: Any, outputs: Any, leaves: Tensors) -> torch.Tensor:
    require_tensor(loss, outputs)
    return leaves[0]
