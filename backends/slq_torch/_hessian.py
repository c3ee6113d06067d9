"""The Hessian of a mean loss over a data set."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from slq.adapters import Batches, weigh
from slq.errors import OperatorError, RequestError, ShapeError, UnusedParameterWarning
from slq_torch._guard import require_twice_differentiable, untouched
from slq_torch._parameters import Parameters

__all__ = ["HessianOperator", "hessian_operator"]

LossFunction = Callable[[torch.nn.Module, Any], Any]


def hessian_operator(
    model: torch.nn.Module, loss_fn: LossFunction, data: Any, *, params: Iterable[str] | None = None
) -> "HessianOperator":
    """Make the Hessian of the mean loss over `data`, with respect to the model's parameters, an operator.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode to be studied, usually after ``model.eval()``. It is left as it is.
    loss_fn : callable
        ``loss_fn(model, batch)`` returns a scalar, the mean over the samples of the batch (its leading dimension), or
        ``(sum, weight)``, for example the sum over valid tokens and their number.
    data : batch or iterable of batches or callable
        A tensor, tuple or dict is one batch; a list, DataLoader or other re-iterable holds batches; a function returns
        a fresh iterable for each pass. However the samples are batched, the operator is that of the whole set.
    params : iterable of str, optional
        Names of the parameters to differentiate; default: all that require gradients.

    Returns
    -------
    HessianOperator
        Of shape (n, n), in float64 if a parameter is, else in float32; its vectors lie on the parameters' device.

    Raises
    ------
    DataError
        If the data are empty or can be read only once, a loss is not finite, or a scalar loss is no mean over samples.
    OperatorError
        If no parameter requires gradients, the loss is random (dropout), or a function in it has no second derivative.
        A product raises it if the loss does not depend on the parameters, or if these, the data or the model's mode
        changed since.

    Notes
    -----
    One pass over the data serves a whole block of vectors: the gradient's graph is built once per batch and
    differentiated once per vector (reverse over reverse; Pearlmutter 1994).

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(3, 1)
    >>> x, y = torch.randn(8, 3), torch.randn(8, 1)
    >>> loss = lambda model, batch: ((model(batch[0]) - batch[1]) ** 2).mean()
    >>> hessian_operator(model, loss, (x, y)).shape
    (4, 4)
    """
    return HessianOperator(model, loss_fn, data, params)


class HessianOperator:
    """The operator that `hessian_operator` makes.

    Attributes
    ----------
    shape : (n, n)
        n is the number of parameters.
    like : (0,) tensor
        Dtype and device of the vectors.
    """

    def __init__(
        self, model: torch.nn.Module, loss_fn: LossFunction, data: Any, params: Iterable[str] | None = None
    ) -> None:
        self._model = model
        self._loss_fn = loss_fn
        self._batches = Batches(data)
        self._parameters = Parameters(model, params)
        self.shape = (self._parameters.n, self._parameters.n)
        self.like = self._parameters.like
        eps = max(torch.finfo(p.dtype).eps for p in self._parameters.tensors)
        self._rtol = eps**0.5
        self._modes = _modes(model)
        self._unused: set[str] | None = set(self._parameters.named)  # None once a pass has looked at all batches
        with untouched(model):
            self._require_repeatable(eps)
            self._weighed = weigh(self._batches, self._evaluate, _size, _cut, self._rtol)
        self._confirmed = False  # that a second pass reads the same

    @torch.inference_mode(False)
    def matvec(self, x: torch.Tensor, /) -> torch.Tensor:
        """The product of the Hessian with each row of `x`: (..., n) -> (..., n), one pass over the data."""
        if x.ndim == 0 or x.shape[-1] != self.shape[0]:
            raise ShapeError(f"matvec expects vectors of shape (..., {self.shape[0]}), got {tuple(x.shape)}")
        vectors = (x.clone() if x.is_inference() else x).reshape(-1, self.shape[0])
        product = torch.zeros_like(vectors, memory_format=torch.contiguous_format)
        for loss in self._losses():
            gradient = self._differentiate(loss, create_graph=True)
            connected = {i: g for i, g in enumerate(gradient) if g is not None and g.requires_grad}
            for row, v in enumerate(vectors):
                if not connected:
                    break  # the loss of this batch is linear in the parameters
                parts = self._parameters.split(v)
                product[row] += self._parameters.join(
                    torch.autograd.grad(
                        list(connected.values()),
                        self._parameters.tensors,
                        [parts[i] for i in connected],
                        retain_graph=row + 1 < len(vectors),
                        allow_unused=True,  # second derivatives that are identically zero
                    )
                )
        return (product / self._weighed.weight).reshape(x.shape)

    @torch.inference_mode(False)
    def gradient(self) -> torch.Tensor:
        """The gradient of the mean loss, flat, in the order of `named_parameters`."""
        total = torch.zeros(self.shape[0], dtype=self.like.dtype, device=self.like.device)
        for loss in self._losses():
            total += self._parameters.join(self._differentiate(loss, create_graph=False))
        return total / self._weighed.weight

    def loss(self) -> float:
        """The mean loss over the data."""
        return self._weighed.loss

    def unravel(self, v: torch.Tensor) -> dict[str, torch.Tensor]:
        """A flat (n,) vector as tensors by parameter names."""
        return self._parameters.unravel(v)

    def ravel(self, tree: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Tensors by parameter names as a flat (n,) vector."""
        return self._parameters.ravel(tree)

    def _losses(self) -> Iterator[torch.Tensor]:
        """The summed loss of each batch, with its graph; afterwards, the pass is compared with the first one."""
        self._parameters.require_unchanged()
        if _modes(self._model) != self._modes:
            raise OperatorError("train() or eval() was called after the operator was built; build a new operator")
        number, samples = 0, 0.0
        summed: Any = 0.0
        with untouched(self._model):
            for batch in self._batches:
                loss, weight = _sum_and_weight(self._loss_fn(self._model, batch))
                number += 1
                if self._weighed.any_ignored and weight is not None and float(weight) == 0:
                    continue
                if weight is None:
                    size = float(_size(batch) or 1)
                    samples, loss = samples + size, loss * size
                summed = summed + loss.detach()
                yield loss
        self._weighed.require_same_size(number, samples or None)
        if not self._confirmed:  # once: reading a number from the device waits for it
            self._weighed.require_same_loss(float(summed), self._rtol)
            self._confirmed = True
        if self._unused:
            names = ", ".join(name for name in self._parameters.named if name in self._unused)
            warnings.warn(f"the loss does not depend on {names}: zero rows", UnusedParameterWarning, stacklevel=3)
        self._unused = None

    def _differentiate(self, loss: torch.Tensor, *, create_graph: bool) -> tuple[torch.Tensor | None, ...]:
        if not loss.requires_grad:
            raise OperatorError(
                "the loss does not depend on the parameters: look for detach(), .item(), no_grad or NumPy in the loss"
            )
        gradient = torch.autograd.grad(loss, self._parameters.tensors, create_graph=create_graph, allow_unused=True)
        if self._unused:
            self._unused -= {name for name, g in zip(self._parameters.named, gradient, strict=True) if g is not None}
        return gradient

    def _evaluate(self, batch: Any) -> tuple[float, float | None]:
        loss, weight = _sum_and_weight(self._loss_fn(self._model, batch))
        return float(loss.detach()), None if weight is None else float(weight)

    def _require_repeatable(self, eps: float) -> None:
        """Differentiate the first batch twice: dropout and augmentation show as different gradients."""
        for batch in self._batches:
            first, second = (self._first_gradient(batch) for _ in range(2))
            difference, size = float((first - second).norm()), float(first.norm())
            # Atomic additions on a GPU change a few last digits, random numbers the first; half precision has only two.
            if difference > size * min(1e3 * eps, 0.1):
                raise OperatorError(
                    f"the loss is random: two gradients of one batch differ by {difference / size:.2g} of their "
                    "length; call model.eval(), or fix the random numbers inside the loss"
                )
            return

    def _first_gradient(self, batch: Any) -> torch.Tensor:
        loss, _ = _sum_and_weight(self._loss_fn(self._model, batch))
        if not loss.requires_grad:
            return self.like.new_zeros(1)
        require_twice_differentiable(loss)
        return self._parameters.join(torch.autograd.grad(loss, self._parameters.tensors, allow_unused=True))


def _modes(model: torch.nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def _sum_and_weight(result: Any) -> tuple[torch.Tensor, Any]:
    """What a loss function returned, as (loss, None) or (sum, weight)."""
    loss, weight = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(loss, torch.Tensor):
        raise RequestError(
            f"the loss must return a scalar tensor or (sum, weight), got {type(loss).__name__}; keep it a tensor"
        )
    if loss.ndim and loss.numel() != 1:
        raise ShapeError(
            f"the loss returned a tensor of shape {tuple(loss.shape)}; reduce it: loss.mean(), "
            "or (loss.sum(), loss.numel())"
        )
    return loss.reshape(()), weight


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from _tensors(value)


def _size(batch: Any) -> int | None:
    """The leading dimension of the batch's first tensor that has one."""
    return next((t.shape[0] for t in _tensors(batch) if t.ndim), None)


def _cut(batch: Any, low: int, high: int) -> Any:
    """Samples `low` to `high`: every tensor of the full leading dimension is cut, the rest is kept."""
    size = _size(batch)

    def cut(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return x[low:high] if x.ndim and x.shape[0] == size else x
        if isinstance(x, Mapping):
            return {key: cut(value) for key, value in x.items()}
        if isinstance(x, tuple) and hasattr(x, "_fields"):
            return type(x)(*(cut(value) for value in x))
        if isinstance(x, tuple | list):
            return type(x)(cut(value) for value in x)
        return x

    return cut(batch)
