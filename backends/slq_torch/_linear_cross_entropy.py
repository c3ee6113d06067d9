"""Cross-entropy of a linear layer's outputs, twice differentiable, without ever holding all of its logits."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from slq.errors import DtypeError, OperatorError, RequestError, ShapeError
from slq_torch._token_chunks import Problem, Sums, widened

__all__ = ["linear_cross_entropy"]

Tensor = torch.Tensor


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    chunk_size: int = 1024,
) -> tuple[Tensor, Tensor]:
    """Sum the cross-entropies of the logits ``hidden @ weight.T + bias``, as ``(sum, weight)`` for a loss function.

    What is as large as tokens times V (logits, probabilities, their derivatives) exists for `chunk_size` tokens at a
    time, in the forward pass, in the gradient and in its derivative alike; each computes the logits anew.

    Parameters
    ----------
    hidden : (..., d) tensor
        A row for each token, usually the last hidden states of a language model.
    weight : (V, d) tensor
        Of the layer that gives the logits of V classes.
    targets : (...) tensor of int
        The right class of each token, 0 to V − 1, or `ignore_index`.
    bias : (V,) tensor, optional
    ignore_index : int
        Tokens of this target do not count; what their hidden states are, NaN included, does not matter.
    label_smoothing : float
        The part, 0 to 1, of the target's probability that is spread over all classes.
    class_weights : (V,) tensor, optional
        A factor for each class, as ``weight`` of `torch.nn.functional.cross_entropy`; not differentiated.
    chunk_size : int
        Tokens per chunk: each pass takes up to six arrays of ``chunk_size * V`` numbers at once.

    Returns
    -------
    sum, weight : () tensor
        The sum over the tokens that count and their number (with class weights: the sum of those of their targets).
        Their quotient is the mean that `torch.nn.functional.cross_entropy` returns. No token counts: both are zero.

    Raises
    ------
    ShapeError, DtypeError
        If the tensors do not fit together.
    RequestError
        If a target is out of range, or an option is.
    OperatorError
        By a third derivative.

    Notes
    -----
    With the target distribution t of mass τ, z = W h + b and p = softmax(z), a token's loss is τ log Σ eᶻ − tᵀz. Its
    derivative by z is δ = τ p − t, that in a direction a of z is q = τ (diag(p) − p pᵀ) a. Half-precision inputs are
    converted to float32 first (one such copy of `weight` exists during a pass), and only the derivatives rounded.

    Examples
    --------
    >>> hidden, weight = torch.randn(2, 5, 8), torch.randn(100, 8)
    >>> total, number = linear_cross_entropy(hidden, weight, torch.randint(100, (2, 5)))
    >>> int(number)
    10
    """
    _require_fitting(hidden, weight, targets, bias, class_weights)
    if not 0 <= label_smoothing <= 1:
        raise RequestError(f"label_smoothing= expects a number between 0 and 1, got {label_smoothing!r}")
    if not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1:
        raise RequestError(f"chunk_size= expects an integer >= 1, got {chunk_size!r}")
    labels = targets.reshape(-1)
    counting = (labels != ignore_index).nonzero()[:, 0]
    labels = labels.index_select(0, counting).long()
    _require_in_range(labels, weight.shape[0], ignore_index)
    problem = Problem(labels, class_weights, float(label_smoothing), chunk_size)
    rows = hidden.reshape(-1, hidden.shape[-1]).index_select(0, counting)
    total = _Loss.apply(rows, weight, bias, problem)
    return total, counting.new_tensor(len(labels)) if class_weights is None else class_weights[labels].sum()


def _without_autocast(forward: Callable) -> Callable:
    """Keep autocast from rounding the factors of the products; they are as wide as they are to be."""

    @functools.wraps(forward)
    def in_full(*args: Any) -> Any:
        device = next(x.device.type for x in args if isinstance(x, Tensor))
        with torch.autocast(device, enabled=False):
            return forward(*args)

    return in_full


def _one_by_one(function: type[torch.autograd.Function], info: Any, in_dims: tuple, args: tuple) -> tuple:
    """What `vmap` is to return: the results of one element after another, so that memory stays that of one."""
    results = [
        function.apply(*(x.select(d, i) if isinstance(d, int) else x for x, d in zip(args, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    stacked = tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, tuple(None if x is None else 0 for x in stacked)


class _Loss(torch.autograd.Function):
    """The sum of the losses, as a function of hidden states, weight and bias."""

    @staticmethod
    @_without_autocast
    def forward(hidden: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem) -> Tensor:
        weight, bias = widened(hidden, weight, bias)
        total = weight.new_zeros(())
        for chunk in problem.chunks(hidden, weight, bias):
            total = total + chunk.loss()
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.problem = inputs
        ctx.dtype = output.dtype
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def jvp(ctx: Any, *directions: Tensor | None) -> Tensor:
        given = tuple(u is not None for u in directions[:3])
        one = ctx.saved_tensors[0].new_ones((), dtype=ctx.dtype)
        gradient = _Gradient.apply(one, *ctx.saved_tensors, ctx.problem, given)
        parts = [(g * u).sum().to(one.dtype) for g, u in zip(gradient, directions, strict=False) if u is not None]
        return functools.reduce(torch.add, parts)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return _one_by_one(_Loss, info, in_dims, args)

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple:
        needed = tuple(ctx.needs_input_grad[:3])
        return *_Gradient.apply(scale, *ctx.saved_tensors, ctx.problem, needed), None


class _Gradient(torch.autograd.Function):
    """`scale` times the derivatives by hidden states, weight and bias; None for those that are not needed."""

    @staticmethod
    @_without_autocast
    def forward(
        scale: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem, needed: tuple
    ) -> tuple:
        W, b = widened(hidden, weight, bias)
        sums = Sums(needed)
        for chunk in problem.chunks(hidden, W, b):
            delta, _ = chunk.derivative()
            sums.add((delta * scale, W, chunk.hidden))
        return sums.rounded(hidden, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:  # noqa: ARG004 - torch's signature
        *tensors, ctx.problem, ctx.needed = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)  # no products with zeros

    @staticmethod
    def backward(ctx: Any, *directions: Tensor | None) -> tuple:
        if all(u is None for u in directions):
            return (None,) * 6
        needed = tuple(ctx.needs_input_grad[:4])
        return *_Curvature.apply(*directions, *ctx.saved_tensors, ctx.problem, needed), None, None

    @staticmethod
    def jvp(ctx: Any, u_scale: Tensor | None, *directions: Any) -> tuple:
        curved = _Curvature.apply(*directions[:3], *ctx.saved_tensors, ctx.problem, (False, *ctx.needed))[1:]
        if u_scale is None:
            return curved
        scaled = _Gradient.apply(u_scale, *ctx.saved_tensors[1:], ctx.problem, ctx.needed)
        return tuple(None if c is None else c + g for c, g in zip(curved, scaled, strict=True))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return _one_by_one(_Gradient, info, in_dims, args)


class _Curvature(torch.autograd.Function):
    """The derivatives of ⟨gradient, directions⟩ by scale, hidden states, weight and bias."""

    @staticmethod
    @_without_autocast
    def forward(
        u_hidden: Tensor | None,
        u_weight: Tensor | None,
        u_bias: Tensor | None,
        scale: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        problem: Problem,
        needed: tuple,
    ) -> tuple:
        W, b = widened(hidden, weight, bias)
        U = None if u_weight is None else u_weight.to(W.dtype)
        sums = Sums(needed[1:])
        by_scale = W.new_zeros(())
        for chunk in problem.chunks(hidden, W, b):
            delta, p = chunk.derivative()
            u = None if u_hidden is None else u_hidden[chunk.rows].to(W.dtype)
            a = chunk.direction(W, u, U, u_bias)
            if needed[0]:
                by_scale = by_scale + (delta * a).sum()
            sums.add((chunk.curvature(p, a) * scale, W, chunk.hidden), (delta * scale, U, u))
        return by_scale if needed[0] else None, *sums.rounded(hidden, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return _one_by_one(_Curvature, info, in_dims, args)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor) -> tuple:  # noqa: ARG004 - torch's signature
        raise OperatorError(
            "linear_cross_entropy has two derivatives, and a third was asked for; use "
            "torch.nn.functional.cross_entropy of the logits for more"
        )


def _require_fitting(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, class_weights: Tensor | None
) -> None:
    if hidden.ndim < 1 or weight.ndim != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"linear_cross_entropy expects hidden (..., d) and weight (V, d), got {tuple(hidden.shape)} and "
            f"{tuple(weight.shape)}"
        )
    if targets.shape != hidden.shape[:-1]:
        raise ShapeError(
            f"targets expect one class for each row of hidden, shape {tuple(hidden.shape[:-1])}, "
            f"got {tuple(targets.shape)}"
        )
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise DtypeError(f"targets expect integers, got {targets.dtype}; probabilities are not supported")
    for name, tensor in {"hidden": hidden, "weight": weight, "bias": bias, "class_weights": class_weights}.items():
        if tensor is not None and not tensor.is_floating_point():
            raise DtypeError(f"{name} expects real floating-point numbers, got {tensor.dtype}")
    for name, tensor in {"bias": bias, "class_weights": class_weights}.items():
        if tensor is not None and tensor.shape != weight.shape[:1]:
            raise ShapeError(
                f"{name} expects one number for each of the {weight.shape[0]} classes, got {tuple(tensor.shape)}"
            )
    if class_weights is not None and class_weights.requires_grad:
        raise RequestError("class_weights are not differentiated; pass class_weights.detach()")


def _require_in_range(labels: Tensor, classes: int, ignore_index: int) -> None:
    if not len(labels):
        return
    low, high = torch.stack(labels.aminmax()).tolist()
    if low < 0 or high >= classes:
        raise RequestError(
            f"targets expect classes 0 to {classes - 1}, or ignore_index={ignore_index}, got {low if low < 0 else high}"
        )
