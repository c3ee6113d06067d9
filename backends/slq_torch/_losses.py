"""Losses whose second derivative with respect to the outputs is known in closed form."""

from typing import Any

import torch
import torch.nn.functional as F

from slq.errors import RequestError, ShapeError
from slq_torch._output_loss import LossOfTargets, Targets, require_tensor, wide

__all__ = ["BinaryCrossEntropy", "CrossEntropy", "SquaredError"]


class CrossEntropy(LossOfTargets):
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
        counts = (targets != self.ignore_index).float()  # half precision cannot count to 1000
        if self.class_weights is not None:
            counts = counts * self._class_weight_of(logits, targets)
        return summed, counts.sum()

    def hessian_product(self, outputs: torch.Tensor, batch: Any, tangent: torch.Tensor) -> torch.Tensor:
        """A (diag p − p pᵀ) times the tangent of each label, where A is the weight of the label."""
        logits, targets = self._flat(outputs, batch)
        p, t = wide(logits).softmax(-1), wide(self._to_rows(tangent))
        # Constants are in the null space. Without that of the likeliest class, no number close to one is taken from
        # another, and the product is right to rounding where the model is sure.
        t = t - t.gather(-1, p.argmax(-1, keepdim=True))
        product = self._row_weights(logits, targets)[:, None] * p * (t - (p * t).sum(-1, keepdim=True))
        return self.from_rows(product, outputs)

    def sampled_gradients(self, outputs: torch.Tensor, batch: Any, generator: torch.Generator) -> torch.Tensor:
        """√A (p − e_y), with y drawn from p."""
        logits, targets = self._flat(outputs, batch)
        p = wide(logits).softmax(-1)
        labels = torch.multinomial(p, 1, generator=generator)
        others = p.scatter(1, labels, 0.0)
        gradient = others.scatter(1, labels, -others.sum(-1, keepdim=True))  # p - 1, without the cancellation
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
        expected = outputs.movedim(self.class_dim, -1).shape[:-1]
        if targets.is_floating_point() or targets.shape != expected:
            raise ShapeError(
                f"cross-entropy expects class indices of shape {tuple(expected)} for logits of shape "
                f"{tuple(outputs.shape)} with the classes along dimension {self.class_dim}, got targets of shape "
                f"{tuple(targets.shape)} and dtype {targets.dtype}; class_dim=-1 takes logits (..., classes), and "
                "probabilities as targets need a loss of your own, a function (outputs, batch)"
            )
        return logits, targets.reshape(-1)

    def _to_rows(self, x: torch.Tensor) -> torch.Tensor:
        if require_tensor(self, x).ndim < 2:
            raise ShapeError(f"cross-entropy expects logits (N, classes, ...), got shape {tuple(x.shape)}")
        return x.movedim(self.class_dim, -1).reshape(-1, x.shape[self.class_dim])

    def from_rows(self, rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The inverse of `rows`, for outputs of the shape of `like`."""
        return rows.reshape(like.movedim(self.class_dim, -1).shape).movedim(-1, self.class_dim)


class _Elementwise(LossOfTargets):
    """Losses that are sums over the entries of the outputs; a row is a sample."""

    def _targets_like(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        targets = self.targets(batch)
        if targets.shape != require_tensor(self, outputs).shape:
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
        y, weight = self._targets_like(outputs, batch), self._weight(outputs)
        # Not F.binary_cross_entropy_with_logits, whose second derivative torch.func.linearize gets wrong (torch 2.13).
        positive = y * F.logsigmoid(outputs)
        summed = -((positive if weight is None else weight * positive) + (1 - y) * F.logsigmoid(-outputs)).sum()
        return summed, torch.tensor(float(outputs.numel()), device=outputs.device)

    def hessian_product(self, outputs: torch.Tensor, batch: Any, tangent: torch.Tensor) -> torch.Tensor:
        """A σ (1 − σ) times the tangent, where A is the weight of each entry."""
        z = wide(outputs)
        return self._entry_weights(z, batch) * z.sigmoid() * (-z).sigmoid() * tangent

    def sampled_gradients(self, outputs: torch.Tensor, batch: Any, generator: torch.Generator) -> torch.Tensor:
        """√A (σ − y), with y drawn from σ."""
        z = wide(outputs)
        is_one = torch.bernoulli(z.sigmoid(), generator=generator).bool()
        return self._entry_weights(z, batch).sqrt() * torch.where(is_one, -(-z).sigmoid(), z.sigmoid())

    def _entry_weights(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        targets, weight = self._targets_like(outputs, batch), self._weight(outputs)
        return torch.ones_like(outputs) if weight is None else weight * targets + 1 - targets

    def _weight(self, outputs: torch.Tensor) -> torch.Tensor | None:
        return None if self.pos_weight is None else self.pos_weight.to(outputs)
