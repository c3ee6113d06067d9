"""The covariance of the gradients of batches or examples."""

from collections.abc import Iterator
from typing import Any, Unpack

import torch

from slq.adapters import available_memory
from slq.errors import RequestError
from slq_torch._batch_norm import uses_batch_statistics
from slq_torch._data_pass import LossFunction, Piece
from slq_torch._hessian_modes import gradient_of
from slq_torch._operator import ModelOperator
from slq_torch._parameters import Selection
from slq_torch._settings import Options, Settings
from slq_torch._trees import cut, rows_of, size_of

__all__ = ["GradientCovarianceOperator", "gradient_covariance_operator"]

_CHUNK = 64  # examples whose gradients are made at once


def gradient_covariance_operator(
    model: torch.nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    per: str = "batch",
    centered: bool = True,
    params: Selection = None,
    **options: Unpack[Options],
) -> "GradientCovarianceOperator":
    """Make the covariance of the gradients of mini-batches, or of examples, an operator.

    With gᵢ the gradient of the mean loss of item i, wᵢ its weight and g that of the mean loss of all, it is
    Σ wᵢ (gᵢ − g)(gᵢ − g)ᵀ / Σ wᵢ; not centred, Σ wᵢ gᵢ gᵢᵀ / Σ wᵢ.

    Parameters
    ----------
    model, loss_fn, data, params, **options
        As for `hessian_operator`; nothing is differentiated twice, so that `ad`, `compile`, `cuda_graph` and
        `weight_decay` have no meaning here.
    per : {"batch", "example"}
        The items: the batches that `data` holds (their pieces, with ``microbatch=``), or the samples of each.
    centered : bool
        The covariance, or the second moment.

    Returns
    -------
    GradientCovarianceOperator
        Of shape (n, n), positive semidefinite, of a rank below the number of items.

    Raises
    ------
    RequestError
        If an option has no meaning here, or batch statistics couple the examples.
    SlqError
        As `hessian_operator`.

    Notes
    -----
    The gradients are kept if they take less than a quarter of the free memory: a product is then one with a matrix.
    Else each product makes them anew, those of examples by `torch.vmap`, 64 at a time.

    References
    ----------
    Ghorbani, Krishnan and Xiao, An investigation into neural net optimization via Hessian eigenvalue density, ICML
    2019, section 4: gradients concentrate in the space of the outliers, as this matrix shows.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(3, 1)
    >>> loss = lambda model, batch: ((model(batch[0]) - batch[1]) ** 2).mean()
    >>> batches = [(torch.randn(8, 3), torch.randn(8, 1)) for _ in range(5)]
    >>> gradient_covariance_operator(model, loss, batches).shape
    (4, 4)
    """
    meaningless = {"ad", "compile", "cuda_graph", "weight_decay"} & set(options)
    if meaningless:
        names = ", ".join(sorted(meaningless))
        raise RequestError(f"{names} has no meaning for a covariance of gradients; leave it out")
    if per not in ("batch", "example"):
        raise RequestError(f"per= expects 'batch' or 'example', got {per!r}")
    return GradientCovarianceOperator(model, loss_fn, data, params, Settings(**options), per, centered)


class GradientCovarianceOperator(ModelOperator):
    """The operator that `gradient_covariance_operator` makes.

    Attributes
    ----------
    shape : (n, n)
        n is the number of parameters.
    like : (0,) tensor
        Dtype and device of the vectors.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        model: torch.nn.Module,
        loss_fn: LossFunction,
        data: Any,
        params: Selection,
        settings: Settings,
        per: str,
        centered: bool,
    ) -> None:
        super().__init__(model, loss_fn, data, params, settings)
        self._per_example = per == "example"
        if self._per_example:
            self._require_separate_examples()
        self._mean = self.gradient() if centered else None
        items = self._data.weighed.num_samples if self._per_example else self._data.weighed.num_batches
        free = available_memory(self.like)
        fits = free is None or (items or 0) * self.shape[0] * self.like.dtype.itemsize < free / 4
        self._kept: list[torch.Tensor] | None = [] if fits and items is not None else None

    def workspace(self, rows: int) -> int:
        """Bytes that a product takes: the gradients of a chunk of items, if all are not kept."""
        del rows
        return (_CHUNK if self._per_example else 1) * self.shape[0] * self.like.dtype.itemsize

    def _multiply(self, vectors: torch.Tensor) -> torch.Tensor:
        total = self._zeros(len(vectors), self.shape[0])
        if self._kept:
            self._data.require_unchanged(contents=self.like.device.type == "cpu")
            for gradients in self._kept:
                total += vectors @ gradients.T @ gradients
        else:
            self._data.run(lambda piece: self._add_products(piece, vectors, total))
        product = total.div_(self._data.weighed.weight).to(self.like.dtype)
        if self._mean is not None:
            product -= (vectors @ self._mean)[:, None] * self._mean
        return product

    def _add_products(self, piece: Piece, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor | None:
        for gradients in self._gradients(piece):
            total += vectors @ gradients.T @ gradients
            if self._kept is not None:
                self._kept.append(gradients)
        return None

    def _gradients(self, piece: Piece) -> Iterator[torch.Tensor]:
        """The summed gradients of the items of a piece over the roots of their weights, as rows."""
        if not self._per_example:
            gradient = gradient_of(self._data, piece)[0]
            yield (gradient / self._weight(piece) ** 0.5)[None]
            return
        size = size_of(piece.batch) or 0
        for low in range(0, size, _CHUNK):
            yield self._of_examples(Piece(piece.number, cut(piece.batch, low, min(low + _CHUNK, size))))

    def _of_examples(self, piece: Piece) -> torch.Tensor:
        rows, one = rows_of(piece.batch)
        values = tuple(p.detach() for p in self._parameters.tensors)
        gradient = torch.func.grad(self._data.functional(lambda sample: self._data.summed_loss(sample)[0]))
        try:
            parts = torch.vmap(lambda *row: gradient(values, Piece(piece.number, one(row))), randomness="same")(*rows)
            flat = torch.zeros(len(rows[0]), self._parameters.n, dtype=self.like.dtype, device=self.like.device)
            self._parameters.add_rows_to(flat, parts)
        except RuntimeError:  # something in the model that vmap or torch.func does not know
            samples = [Piece(piece.number, cut(piece.batch, i, i + 1)) for i in range(len(rows[0]))]
            flat = torch.stack([gradient_of(self._data, sample)[0] for sample in samples])
        weights = [self._weight(Piece(piece.number, cut(piece.batch, i, i + 1))) for i in range(len(flat))]
        scale = torch.tensor([w**-0.5 if w else 0.0 for w in weights], dtype=flat.dtype, device=flat.device)
        return flat * scale[:, None]

    def _weight(self, piece: Piece) -> float:
        with torch.no_grad():
            weight = self._data.summed_loss(piece)[1]
        return float(size_of(piece.batch) or 1) if weight is None else float(weight)

    def _require_separate_examples(self) -> None:
        coupled = uses_batch_statistics(self._data.model)
        if self._settings.batch_norm in ("batch", "population") or (self._settings.batch_norm is None and coupled):
            raise RequestError(
                f"{', '.join(coupled) or 'BatchNorm'} takes statistics of the batch, which couple its examples; call "
                "model.eval(), or take per='batch'"
            )
        if self._data.weighed.num_samples is None:
            raise RequestError("per='example' needs batches that tell their samples: tensors with a leading dimension")
