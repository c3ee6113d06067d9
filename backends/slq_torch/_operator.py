"""What all operators of models share: products are weighted sums over the pieces of the data."""

from collections.abc import Mapping
from typing import Any

import torch

from slq.errors import RequestError, ShapeError
from slq_torch._data_pass import DataPass, LossFunction, Piece
from slq_torch._hessian_modes import gradient_of
from slq_torch._parameters import Selection
from slq_torch._settings import Settings

__all__ = ["ModelOperator"]


class ModelOperator:
    """A symmetric operator on the parameters of a model: Σ over the data / Σ weights.

    A subclass makes `_add_products`.

    Attributes
    ----------
    shape : (n, n)
        n is the number of parameters.
    like : (0,) tensor
        Dtype and device of the vectors.
    """

    def __init__(
        self, model: torch.nn.Module, loss_fn: LossFunction, data: Any, params: Selection, settings: Settings
    ) -> None:
        self._settings = settings
        self._data = DataPass(model, loss_fn, data, params, settings)
        self._parameters = self._data.parameters
        self.shape = (self._parameters.n, self._parameters.n)
        self.like = self._parameters.like
        self._decay = _diagonal(self._parameters, settings.weight_decay)

    def matvec(self, x: torch.Tensor, /) -> torch.Tensor:
        """The product with each row of `x`: (..., n) -> (..., n), one pass over the data."""
        if x.ndim == 0 or x.shape[-1] != self.shape[1]:
            raise ShapeError(f"matvec expects vectors of shape (..., {self.shape[1]}), got {tuple(x.shape)}")
        with torch.inference_mode(False):
            vectors = (x.clone() if x.is_inference() else x).detach().reshape(-1, self.shape[1])
            return self._multiply(vectors).reshape(*x.shape[:-1], self.shape[0])

    def gradient(self) -> torch.Tensor:
        """The gradient of the mean loss, flat, in the order of `named_parameters`."""
        return self._gradient(None)

    def gradient_at(self, displacement: torch.Tensor) -> torch.Tensor:
        """The gradient at displaced parameters: both flat, (n,)."""
        return self._gradient(displacement)

    def loss(self) -> float:
        """The mean loss over the data, with the penalty of `weight_decay`."""
        loss = self._data.weighed.loss
        if self._decay is not None:
            flat = self._parameters.join([p.detach() for p in self._parameters.tensors])
            loss += 0.5 * float((self._decay * flat * flat).sum())
        return loss

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The user's parameters by their names, in the order of the flat vectors."""
        return dict(self._data.watched.named)

    def unravel(self, v: torch.Tensor) -> dict[str, torch.Tensor]:
        """A flat (n,) vector as tensors by parameter names."""
        return self._parameters.unravel(v)

    def ravel(self, tree: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Tensors by parameter names as a flat (n,) vector."""
        return self._parameters.ravel(tree)

    def _multiply(self, vectors: torch.Tensor) -> torch.Tensor:
        total = self._zeros(len(vectors), self.shape[0])
        self._data.run(lambda piece: self._add_products(piece, vectors, total))
        product = total.div_(self._data.weighed.weight).to(self.like.dtype)
        if self._decay is not None:
            product += self._decay * vectors
        return product

    def _add_products(self, piece: Piece, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor | None:
        """Add the products on a piece, not divided by any weight, to `total`; the summed loss if known, detached."""
        raise NotImplementedError

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=self._settings.accumulate or self.like.dtype, device=self.like.device)

    @torch.inference_mode(False)
    def _gradient(self, displacement: torch.Tensor | None) -> torch.Tensor:
        total = self._zeros(self._parameters.n)

        def add(piece: Piece) -> torch.Tensor | None:
            if displacement is None:
                gradient, loss = gradient_of(self._data, piece)
            else:
                with self._parameters.displaced(displacement):
                    gradient, loss = gradient_of(self._data, piece)[0], None
            total.add_(gradient)
            return loss

        self._data.run(add)
        gradient = (total / self._data.weighed.weight).to(self.like.dtype)
        if self._decay is not None:
            flat = self._parameters.join([p.detach() for p in self._parameters.tensors])
            gradient += self._decay * (flat if displacement is None else flat + displacement)
        return gradient


def _diagonal(parameters: Any, weight_decay: float | Mapping[str, float]) -> torch.Tensor | None:
    """What `weight_decay` adds to the diagonal: None, or (n,)."""
    if not isinstance(weight_decay, Mapping):
        if not weight_decay:
            return None
        weight_decay = {"*": weight_decay}
    values: dict[str, float] = {}
    for pattern, value in weight_decay.items():
        names = parameters.matching(pattern)
        if not names or not float(value) >= 0:
            raise RequestError(
                f"weight_decay= expects numbers >= 0, by names or patterns of parameters, not {pattern!r}: {value!r}"
            )
        values |= dict.fromkeys(names, float(value))
    return parameters.join([torch.full_like(p, values.get(name, 0.0)) for name, p in parameters.named.items()])
