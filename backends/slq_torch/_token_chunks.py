"""What a chunk of tokens adds to the cross-entropy of a linear layer's outputs, and to its first two derivatives."""

import functools
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
        return total + (self._mass * z.exp().sum(dim=1, keepdim=True).log()).sum()

    def derivative(self) -> tuple[Tensor, Tensor]:
        """δ and p, (c, V) each."""
        p = self.logits.softmax(dim=1)
        delta = (p * self._mass).scatter_add(1, self._labels, -self._own)
        return delta if self._spread is None else delta - self._spread, p

    def direction(self, weight: Tensor, u: Tensor | None, U: Tensor | None, u_bias: Tensor | None) -> Tensor:
        """How the logits change, a = W u + U h + u_b, with the hidden states, weight and bias; not all are None."""
        parts = [] if u is None else [F.linear(u, weight)]
        parts += [] if U is None else [F.linear(self.hidden, U)]
        parts += [] if u_bias is None else [u_bias.to(weight.dtype).expand_as(self.logits)]
        return functools.reduce(torch.add, parts)

    def curvature(self, p: Tensor, a: Tensor) -> Tensor:
        """The derivative of δ along `a`, q = τ (diag(p) − p pᵀ) a; (c, V) each."""
        a = a - (p * a).sum(dim=1, keepdim=True)
        return a.mul_(p).mul_(self._mass)


class Sums:
    """Derivatives by hidden states, weight and bias, as the chunks add to them.

    Sums are not written in place, which `torch.func.linearize` gets silently wrong and batched gradients refuse.
    """

    def __init__(self, needed: tuple) -> None:
        self._needed = needed  # which of the three
        self._hidden: list[Tensor] = []
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None

    def add(self, *terms: tuple[Tensor, Tensor | None, Tensor | None]) -> None:
        """Add a chunk's share: terms of derivatives by z = W h + b, with the W and h that they are to be taken with."""
        by_hidden, by_weight, by_bias = self._needed
        if by_hidden:
            self._hidden.append(functools.reduce(torch.add, [d @ W for d, W, _ in terms if W is not None]))
        for d, _, h in terms:
            if by_weight and h is not None:
                self._weight = d.T @ h if self._weight is None else torch.addmm(self._weight, d.T, h)
        if by_bias:
            part = terms[0][0].sum(dim=0)  # b stands beside W, not beside a direction of it
            self._bias = part if self._bias is None else self._bias + part

    def rounded(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor | None, ...]:
        """In the precisions of what they are derivatives by; None for those that are not needed."""
        sums = (torch.cat(self._hidden) if self._hidden else None, self._weight, self._bias)
        return tuple(
            None if not needed or like is None else torch.zeros_like(like) if x is None else x.to(like.dtype)
            for needed, x, like in zip(self._needed, sums, (hidden, weight, bias), strict=True)
        )


def widened(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in the precision of the computation: at least float32."""
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    return weight.to(dtype), None if bias is None else bias.to(dtype)
