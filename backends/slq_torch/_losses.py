"""Losses whose second derivative with respect to the outputs is known in closed form."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from slq.errors import RequestError, ShapeError

__all__ = ["BinaryCrossEntropy", "CrossEntropy", "OutputLoss", "SquaredError", "closed_form"]

Targets = Callable[[Any], torch.Tensor] | None


class OutputLoss(Protocol):
    """A loss of outputs and a batch: the negative logarithm of a likelihood, up to a constant.

    A row is what one label explains: a sample, or a token. Rows do not interact.
    """

    def __call__(self, outputs: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss summed over the rows, and the sum of their weights."""
        ...

    def hessian_product(self, outputs: torch.Tensor, batch: Any, tangent: torch.Tensor) -> torch.Tensor:
        """The second derivative of the summed loss with respect to `outputs`, times `tangent`, of their shape."""
        ...

    def sampled_gradients(self, outputs: torch.Tensor, batch: Any, generator: torch.Generator) -> torch.Tensor:
        """The gradient for drawn labels, whose mean outer product, within a row, is the second derivative."""
        ...

    def rows(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs, or what has their shape, as (rows, entries of a row)."""
        ...

    def from_rows(self, rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The inverse of `rows`, for outputs of the shape of `like`."""
        ...


class _Targets:
    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    def targets(self, batch: Any) -> torch.Tensor:
        """The targets of a batch: what `targets=` finds, or ``batch["labels"]``, or ``batch[1]``."""
        if self._targets is not None:
            return self._targets(batch)
        try:
            return batch["labels"] if isinstance(batch, Mapping) else batch[1]
        except (KeyError, IndexError, TypeError):
            raise RequestError(
                f"{type(self).__name__} finds no targets in a {type(batch).__name__}: they are batch[1] or "
                'batch["labels"] unless targets= is a function batch -> targets'
            ) from None


class CrossEntropy(_Targets):
    """Cross-entropy of logits and class indices, as `torch.nn.functional.cross_entropy`; a row is one label.

    Parameters
    ----------
    ignore_index : int
        Targets that do not count.
    label_smoothing : float
        In [0, 1].
    class_weights : (C,) tensor, optional
        The weight of each class; the sum of the weights is that of the true classes, as torch divides.
    class_dim : int
        Where the logits have their classes: 1, as in torch, or -1, as language models.
    targets : callable, optional
        batch -> targets; default: ``batch["labels"]`` or ``batch[1]``.

    Raises
    ------
    RequestError
        If a batch has no targets where they are looked for.
    ShapeError
        If logits and targets do not fit.
    """

    def __init__(
        self,
        *,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        class_weights: torch.Tensor | None = None,
        class_dim: int = 1,
        targets: Targets = None,
    ) -> None:
        super().__init__(targets)
        if not 0 <= label_smoothing <= 1:
            raise RequestError(f"label_smoothing= expects a number from 0 to 1, got {label_smoothing!r}")
        if class_dim not in (1, -1):
            raise RequestError(f"class_dim= expects 1 or -1, got {class_dim!r}")
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing
        self.class_weights, self.class_dim = class_weights, class_dim

    def __call__(self, outputs: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The summed loss and the sum of the weights of the labels that count."""
        logits, targets = self._flat(outputs, batch)
        summed = F.cross_entropy(
            logits,
            targets,
            weight=self._weights(logits),
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        counts = (targets != self.ignore_index).to(logits.dtype)
        if self.class_weights is not None:
            counts = counts * self._class_weight_of(logits, targets)
        return summed, counts.sum()

    def hessian_product(self, outputs: torch.Tensor, batch: Any, tangent: torch.Tensor) -> torch.Tensor:
        """A (diag p − p pᵀ) times the tangent of each label, where A is the weight of the label."""
        logits, targets = self._flat(outputs, batch)
        p, t = logits.softmax(-1), self._to_rows(tangent)
        product = self._row_weights(logits, targets)[:, None] * p * (t - (p * t).sum(-1, keepdim=True))
        return self.from_rows(product, outputs)

    def sampled_gradients(self, outputs: torch.Tensor, batch: Any, generator: torch.Generator) -> torch.Tensor:
        """√A (p − e_y), with y drawn from p."""
        logits, targets = self._flat(outputs, batch)
        p = logits.softmax(-1)
        labels = torch.multinomial(p, 1, generator=generator)
        gradient = p.scatter_add(1, labels, torch.full_like(p[:, :1], -1.0))
        return self.from_rows(self._row_weights(logits, targets).sqrt()[:, None] * gradient, outputs)

    def rows(self, outputs: torch.Tensor) -> torch.Tensor:
        """One row for each label."""
        return self._to_rows(outputs)

    def _row_weights(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What multiplies log p in the loss of each label, summed over the classes."""
        weights = (targets != self.ignore_index).to(logits.dtype)
        if self.class_weights is None:
            return weights
        smooth = self.label_smoothing * self._weights(logits).mean()  # type: ignore[union-attr]
        return weights * ((1 - self.label_smoothing) * self._class_weight_of(logits, targets) + smooth)

    def _class_weight_of(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self._weights(logits)[targets.where(targets != self.ignore_index, 0)]  # type: ignore[index]

    def _weights(self, logits: torch.Tensor) -> torch.Tensor | None:
        return None if self.class_weights is None else self.class_weights.to(logits)

    def _flat(self, outputs: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        targets, logits = self.targets(batch), self._to_rows(outputs)
        if targets.is_floating_point() or targets.numel() != len(logits):
            raise ShapeError(
                f"cross-entropy expects one class index for each of {len(logits)} labels (logits of shape "
                f"{tuple(outputs.shape)}, classes along dimension {self.class_dim}), got targets of shape "
                f"{tuple(targets.shape)} and dtype {targets.dtype}; class_dim=-1 takes logits (..., classes)"
            )
        return logits, targets.reshape(-1)

    def _to_rows(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim < 2:
            raise ShapeError(f"cross-entropy expects logits (N, classes, ...), got shape {tuple(x.shape)}")
        return x.movedim(self.class_dim, -1).reshape(-1, x.shape[self.class_dim])

    def from_rows(self, rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The inverse of `rows`, for outputs of the shape of `like`."""
        return rows.reshape(like.movedim(self.class_dim, -1).shape).movedim(-1, self.class_dim)


class _Elementwise(_Targets):
    """Losses that are sums over the entries of the outputs; a row is a sample."""

    def _targets_like(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        targets = self.targets(batch)
        if targets.shape != outputs.shape:
            raise ShapeError(
                f"{type(self).__name__} expects targets of the shape of the outputs {tuple(outputs.shape)}, got "
                f"{tuple(targets.shape)}; reshape one of them (broadcasting would pair all with all)"
            )
        return targets.to(outputs.dtype)

    def rows(self, outputs: torch.Tensor) -> torch.Tensor:
        """One row for each sample."""
        return outputs.reshape(len(outputs), -1)

    def from_rows(self, rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The inverse of `rows`, for outputs of the shape of `like`."""
        return rows.reshape(like.shape)


class SquaredError(_Elementwise):
    """Squared errors, with all entries of the outputs as weight, as `torch.nn.functional.mse_loss`.

    As a likelihood: normal with variance 1/2. For the mean over samples of the squared norm, multiply the operator by
    the number of outputs.

    Parameters
    ----------
    targets : callable, optional
        batch -> targets; default: ``batch["labels"]`` or ``batch[1]``.

    Raises
    ------
    RequestError
        If a batch has no targets where they are looked for.
    ShapeError
        If outputs and targets differ in shape.
    """

    def __init__(self, *, targets: Targets = None) -> None:
        super().__init__(targets)

    def __call__(self, outputs: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The summed squares and the number of entries."""
        # Not F.mse_loss, of which torch has no forward derivative.
        summed = (outputs - self._targets_like(outputs, batch)).square().sum()
        return summed, torch.tensor(float(outputs.numel()), device=outputs.device)

    def hessian_product(self, outputs: torch.Tensor, batch: Any, tangent: torch.Tensor) -> torch.Tensor:
        """Twice the tangent."""
        del outputs, batch
        return 2 * tangent

    def sampled_gradients(self, outputs: torch.Tensor, batch: Any, generator: torch.Generator) -> torch.Tensor:
        """2 (z − y), with y normal about z with variance 1/2."""
        del batch
        noise = torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype, device=outputs.device)
        return noise * 2**0.5


class BinaryCrossEntropy(_Elementwise):
    """Binary cross-entropy of logits, as `torch.nn.functional.binary_cross_entropy_with_logits`.

    Parameters
    ----------
    pos_weight : tensor, optional
        Multiplies the positive terms; broadcast against the outputs.
    targets : callable, optional
        batch -> targets in [0, 1]; default: ``batch["labels"]`` or ``batch[1]``.

    Raises
    ------
    RequestError
        If a batch has no targets where they are looked for.
    ShapeError
        If outputs and targets differ in shape.
    """

    def __init__(self, *, pos_weight: torch.Tensor | None = None, targets: Targets = None) -> None:
        super().__init__(targets)
        self.pos_weight = pos_weight

    def __call__(self, outputs: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The summed loss and the number of entries."""
        summed = F.binary_cross_entropy_with_logits(
            outputs, self._targets_like(outputs, batch), pos_weight=self._weight(outputs), reduction="sum"
        )
        return summed, torch.tensor(float(outputs.numel()), device=outputs.device)

    def hessian_product(self, outputs: torch.Tensor, batch: Any, tangent: torch.Tensor) -> torch.Tensor:
        """A σ (1 − σ) times the tangent, where A is the weight of each entry."""
        p = outputs.sigmoid()
        return self._entry_weights(outputs, batch) * p * (1 - p) * tangent

    def sampled_gradients(self, outputs: torch.Tensor, batch: Any, generator: torch.Generator) -> torch.Tensor:
        """√A (σ − y), with y drawn from σ."""
        p = outputs.sigmoid()
        return self._entry_weights(outputs, batch).sqrt() * (p - torch.bernoulli(p, generator=generator))

    def _entry_weights(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        targets, weight = self._targets_like(outputs, batch), self._weight(outputs)
        return torch.ones_like(outputs) if weight is None else weight * targets + 1 - targets

    def _weight(self, outputs: torch.Tensor) -> torch.Tensor | None:
        return None if self.pos_weight is None else self.pos_weight.to(outputs)


def closed_form(loss: Any) -> Any:
    """Torch's loss modules as losses in closed form; any other callable as it is.

    Raises
    ------
    RequestError
        If a module has an option that the closed form has not, or is no mean.
    """
    if not isinstance(loss, nn.CrossEntropyLoss | nn.MSELoss | nn.BCEWithLogitsLoss):
        return loss
    if loss.reduction != "mean":
        raise RequestError(
            f'{type(loss).__name__}(reduction="{loss.reduction}") is no mean, which the operator is of; take "mean", '
            "the default, and scale the operator"
        )
    if isinstance(loss, nn.CrossEntropyLoss):
        return CrossEntropy(
            ignore_index=loss.ignore_index, label_smoothing=loss.label_smoothing, class_weights=loss.weight
        )
    if isinstance(loss, nn.BCEWithLogitsLoss):
        if loss.weight is not None:
            raise RequestError(
                "BCEWithLogitsLoss(weight=) weighs entries; write a function (outputs, batch) -> (sum, weight) instead"
            )
        return BinaryCrossEntropy(pos_weight=loss.pos_weight)
    return SquaredError()
