"""The covariance of the gradients of batches or examples."""

from collections.abc import Callable
from typing import Any, Unpack

import torch

from slq.adapters import available_memory
from slq.errors import DataError, RequestError
from slq_torch._batch_norm import uses_batch_statistics
from slq_torch._data_pass import LossFunction, Piece
from slq_torch._hessian_modes import gradient_of
from slq_torch._meter import Meter
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
        The items: the batches that `data` holds, or the samples of each.
    centered : bool
        The covariance, or the second moment.

    Returns
    -------
    GradientCovarianceOperator
        Of shape (n, n), positive semidefinite; its rank is at most the number of items, less one if centred.

    Raises
    ------
    DataError
        If the gradients of examples do not add up to that of their batch.
    RequestError
        If an option has no meaning here, batch statistics couple the examples, or there is one batch only.
    SlqError
        As `hessian_operator`.

    Notes
    -----
    Weights are exact: a batch weighs its samples, or what the loss says with ``(sum, weight)``, so that g is the
    gradient of the whole set and a smaller last batch counts for less. ``microbatch=`` changes nothing but memory.

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
        self._example = torch.func.grad_and_value(self._data.functional(self._loss_and_weight), has_aux=True)
        self._values = tuple(p.detach() for p in self._parameters.tensors)
        self._by_vmap = True
        with self._data.differentiating(), Meter() as meter:
            gradient_of(self._data, self._data.first)
        self._bytes_of_gradient = meter.peak
        if self._per_example:
            self._require_separate_examples()
        elif centered and self._data.num_batches == 1:
            raise RequestError(
                "the covariance of the gradients of one batch is zero; give several batches, or take per='example'"
            )
        self._mean = self.gradient() if centered else None
        items = (self._data.weighed.num_samples or 0) if self._per_example else self._data.num_batches
        self._bytes_of_all = items * self.shape[0] * self.like.dtype.itemsize
        free = available_memory(self.like)
        self._fits = free is None or self._bytes_of_all < free / 4
        self._kept: list[torch.Tensor] | None = None

    def workspace(self, rows: int) -> int:
        """Bytes that a product takes: two blocks, a gradient, and those that are made at once or, at first, kept."""
        of_row = self.shape[0] * self.like.dtype.itemsize
        if self._kept is not None:
            return 2 * rows * of_row
        at_once = _CHUNK if self._per_example else 1
        return (2 * rows + at_once) * of_row + self._bytes_of_gradient + (self._bytes_of_all if self._fits else 0)

    def _multiply(self, vectors: torch.Tensor) -> torch.Tensor:
        vectors = vectors.to(self.like.dtype)
        total = self._zeros(len(vectors), self.shape[0])
        if self._kept is None:
            kept: list[torch.Tensor] | None = [] if self._fits else None

            def add(sums: torch.Tensor, weights: torch.Tensor) -> None:
                deviations = self._deviations(sums, weights)
                total.add_(vectors @ deviations.T @ deviations)
                if kept is not None:
                    kept.append(deviations)

            self._run(add)
            self._kept = kept  # only now that the whole pass was right
        else:
            self._data.require_unchanged(contents=self.like.device.type == "cpu")
            for deviations in self._kept:
                total += vectors @ deviations.T @ deviations
        return total.div_(self._data.weighed.weight).to(self.like.dtype)

    def _deviations(self, sums: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """√w (g - mean) of items with the sums w g, as rows; differences first, as their squares would cancel."""
        if self._mean is not None:
            sums = sums - weights[:, None] * self._mean
        return sums * torch.where(weights > 0, weights, torch.inf).rsqrt()[:, None]

    def _run(self, add: Callable[[torch.Tensor, torch.Tensor], None]) -> None:
        """Call `add` with the summed gradients (r, n) of all items and their weights (r,), some at a time."""
        if self._per_example:
            self._data.run(lambda piece: self._add_examples(piece, add))
            return
        open_batch: list[Any] = []  # its number, gradient and weight: its pieces come one after the other

        def close() -> None:
            if open_batch:
                add(open_batch[1][None], open_batch[2][None])

        def work(piece: Piece) -> torch.Tensor:
            gradient, weight, loss = self._of_piece(piece)
            if open_batch and open_batch[0] == piece.source:
                open_batch[1] += gradient
                open_batch[2] += weight
            else:
                close()
                open_batch[:] = piece.source, gradient, weight
            return loss

        self._data.run(work)
        close()

    def _add_examples(self, piece: Piece, add: Callable[[torch.Tensor, torch.Tensor], None]) -> torch.Tensor:
        loss = torch.zeros((), dtype=self.like.dtype, device=self.like.device)
        size = size_of(piece.batch) or 0
        for low in range(0, size, _CHUNK):
            sums, weights, losses = self._of_examples(piece._replace(batch=cut(piece.batch, low, low + _CHUNK)))
            add(sums, weights)
            loss += losses.sum()
        return loss

    def _of_examples(self, piece: Piece) -> tuple[torch.Tensor, ...]:
        """The summed gradients of the samples of a piece, their weights and their losses."""
        rows, one = rows_of(piece.batch)
        if self._by_vmap:
            try:
                parts, (losses, weights) = torch.vmap(
                    lambda *row: self._example(self._values, piece._replace(batch=one(row))), randomness="same"
                )(*rows)
            except RuntimeError:  # something in the model that vmap or torch.func does not know
                self._by_vmap = False
            else:
                sums = torch.zeros(len(rows[0]), self._parameters.n, dtype=self.like.dtype, device=self.like.device)
                self._parameters.add_rows_to(sums, parts)
                return sums, weights, losses
        samples = [self._of_piece(piece._replace(batch=cut(piece.batch, i, i + 1))) for i in range(len(rows[0]))]
        return tuple(torch.stack(column) for column in zip(*samples, strict=True))

    def _of_piece(self, piece: Piece) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The summed gradient of a piece, its weight and its loss."""
        loss, weight = self._loss_and_weight(piece)
        parts: Any = [None] * len(self._parameters.tensors)
        if loss.requires_grad:
            parts = torch.autograd.grad(loss, self._parameters.tensors, allow_unused=True)
        return self._parameters.join(parts), weight, loss.detach()

    def _loss_and_weight(self, piece: Piece) -> tuple[torch.Tensor, torch.Tensor]:
        loss, weight = self._data.summed_loss(piece)
        if weight is None:
            weight = size_of(piece.batch) or 1
        return loss, torch.as_tensor(weight, dtype=self.like.dtype, device=self.like.device).detach()

    def _require_separate_examples(self) -> None:
        """Refuse a loss whose examples have no gradients of their own."""
        coupled = uses_batch_statistics(self._data.model)
        if self._settings.batch_norm in ("batch", "population") or (self._settings.batch_norm is None and coupled):
            raise RequestError(
                f"{', '.join(coupled) or 'BatchNorm'} takes statistics of the batch, which couple its examples; call "
                "model.eval(), or take per='batch'"
            )
        if self._settings.seed is not None:
            raise RequestError("seed= draws masks for whole batches, not for examples; call model.eval()")
        if self._data.weighed.num_samples is None:
            raise RequestError("per='example' needs batches that tell their samples: tensors with a leading dimension")
        if self._settings.check:
            self._require_sum_of_examples()

    def _require_sum_of_examples(self) -> None:
        first = self._data.first
        total, size = torch.zeros_like(self._parameters.join(self._values)), 0.0

        def add(sums: torch.Tensor, _: torch.Tensor) -> None:
            nonlocal size
            total.add_(sums.sum(0))
            size += float(torch.linalg.vector_norm(sums, dim=1).sum())

        with self._data.differentiating():
            self._data.require_samples()
            whole = gradient_of(self._data, first)[0]
            self._add_examples(first, add)
        off = float(torch.linalg.vector_norm(total - whole))
        if not off <= self._data.rtol * size:
            raise DataError(
                f"the gradients of the examples of batch 0 do not add up to its own: they differ by {off / size:.2g} "
                "of their size; the loss must be a mean over samples, or (sum, weight), and no layer may couple them; "
                "or take per='batch'"
            )
