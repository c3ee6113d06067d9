"""What a chunk of tokens adds to the cross-entropy of a linear layer's outputs, and to its first two derivatives."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

__all__ = ["Problem", "Sums", "widened"]

Tensor = torch.Tensor


@dataclass(frozen=True)
class Problem:
    """What the derivatives take as given: labels (t,), class weights (V,) or None, and how many tokens at a time."""

    labels: Tensor
    class_weights: Tensor | None
    label_smoothing: float
    chunk_size: int

    def chunks(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator["Chunk"]:
        """The tokens and their logits, some at a time, in the precision of `weight`."""
        weighing = None if self.class_weights is None else self.class_weights.to(weight)
        for low in range(0, len(self.labels), self.chunk_size):
            rows = slice(low, low + self.chunk_size)
            with torch.autocast(weight.device.type, enabled=False):
                h = hidden[rows].to(weight.dtype)
                yield Chunk(rows, h, F.linear(h, weight, bias), self.labels[rows, None], weighing, self.label_smoothing)


class Chunk:
    """Some of the tokens: where they are, their hidden states (c, d), their logits (c, V), their targets.

    The distribution t of a token has the mass `own` on its label, and `spread` on every class; `mass` is the sum, τ.
    """

    def __init__(
        self, rows: slice, hidden: Tensor, logits: Tensor, labels: Tensor, weighing: Tensor | None, smoothing: float
    ) -> None:
        self.rows, self.hidden, self.logits, self._labels = rows, hidden, logits, labels
        classes = logits.shape[1]
        weighing = logits.new_ones(classes) if weighing is None else weighing
        self._own = (1 - smoothing) * weighing[labels]
        self._spread = smoothing / classes * weighing if smoothing else None
        self._mass = self._own if self._spread is None else self._own + self._spread.sum()

    def loss(self) -> Tensor:
        """The sum over the tokens of τ log Σ eᶻ − tᵀz."""
        z = self.logits - self.logits.amax(dim=1, keepdim=True)  # which leaves the loss as it is
        total = -(self._own * z.gather(1, self._labels)).sum()
        if self._spread is not None:
            total -= (z @ self._spread).sum()
        return total + (self._mass * z.exp_().sum(dim=1, keepdim=True).log()).sum()

    def derivative(self) -> tuple[Tensor, Tensor]:
        """δ and p, (c, V) each."""
        p = self.logits.softmax(dim=1)
        delta = (p * self._mass).scatter_add_(1, self._labels, -self._own)
        return delta if self._spread is None else delta.sub_(self._spread), p

    def curvature(self, p: Tensor, a: Tensor) -> Tensor:
        """The derivative of δ along `a`, q = τ (diag(p) − p pᵀ) a, written over `a`; (c, V) each."""
        a -= torch.einsum("cv,cv->c", p, a)[:, None]
        return a.mul_(p).mul_(self._mass)


class Sums:
    """Derivatives by hidden states, weight and bias as they build up; None for those that are not needed."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: tuple) -> None:
        self._hidden = torch.zeros_like(hidden, dtype=weight.dtype) if needed[0] else None
        self._weight = torch.zeros_like(weight) if needed[1] else None
        self._bias = torch.zeros_like(bias) if bias is not None and needed[2] else None

    def add(self, rows: slice, by_logits: Tensor, weight: Tensor, hidden: Tensor) -> None:
        """The share of a chunk with these derivatives by its logits, z = W h + b."""
        self.add_crosswise(rows, by_logits, weight, hidden)
        if self._bias is not None:
            self._bias += by_logits.sum(dim=0)

    def add_crosswise(self, rows: slice, by_logits: Tensor, weight: Tensor | None, hidden: Tensor | None) -> None:
        """That of a product z = W h of which one factor or both are given."""
        if self._hidden is not None and weight is not None:
            self._hidden[rows].addmm_(by_logits, weight)
        if self._weight is not None and hidden is not None:
            self._weight.addmm_(by_logits.T, hidden)

    def rounded(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor | None, ...]:
        """In the precisions of what they are derivatives by."""
        sums = (self._hidden, self._weight, self._bias)
        return tuple(
            None if x is None or like is None else x.to(like.dtype)
            for x, like in zip(sums, (hidden, weight, bias), strict=True)
        )


def widened(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in the precision of the computation: at least float32."""
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    return weight.to(dtype), None if bias is None else bias.to(dtype)
