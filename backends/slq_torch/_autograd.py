"""Spectral sums and log-determinants that take part in autograd."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import slq
from slq.adapters import warn_user
from slq.errors import RequestError, ShapeError

__all__ = ["logdet", "spectral_sum"]


def spectral_sum(
    A: Any,
    f: Callable[[Any], Any],
    *,
    like: torch.Tensor | None = None,
    batched: bool = False,
    derivative: Callable[[Any], Any] | None = None,
    **options: Any,
) -> torch.Tensor:
    """Estimate tr f(A) as a tensor whose gradient reaches whatever A is made of.

    Parameters
    ----------
    A : (n, n) tensor, function or operator
        Real symmetric or complex Hermitian. Of a tensor the Hermitian part is used. A function multiplies a vector by
        differentiable operations; gradients reach the parameters it closes over. Of an operator of slq it is the
        ``matvec``.
    f : callable
        An elementwise function of torch, as ``torch.exp``, or of NumPy. It has no gradient of its own.
    like : (n,) tensor
        An example vector, where A is a function: its length, dtype and device are those of the vectors.
    batched : bool
        The function multiplies blocks, (k, n) -> (k, n), each row a vector; else one vector, (n,) -> (n,).
    derivative : callable, optional
        f′. Default: by autograd, or as in `slq.spectral_sum_gradient` for functions of NumPy.
    **options
        ``num_probes``, ``num_steps``, ``rng``, ``probes``, ``reorthogonalize``, ``batch_size``, ``check`` and others of
        `slq.spectral_sum_gradient`.

    Returns
    -------
    () tensor
        Real. Its error is that of `slq.spectral_sum` with the same options; its gradient is the unbiased estimate of
        `slq.spectral_sum_gradient`.

    Raises
    ------
    RequestError
        If A is a function without `like`, f depends on tensors that require gradients, or a derivative of the gradient
        is asked for.
    ShapeError
        If A is a tensor that is not square.
    SlqError
        As `slq.spectral_sum_gradient`.

    Notes
    -----
    The recurrence runs twice, without a graph, and keeps no basis. What backward needs is f′(A) x and the graph of one
    product with all probes. Where no gradient is wanted the recurrence runs once.

    Examples
    --------
    >>> import torch
    >>> scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    >>> value = spectral_sum(lambda x: scale * x, torch.square, like=torch.ones(5, dtype=torch.float64), num_steps=3)
    >>> value.backward()
    >>> round(value.item(), 6), round(scale.grad.item(), 6)  # 5·2², 5·2·2
    (20.0, 20.0)
    """
    product = _product(A, like, batched)
    f, derivative = _on_host(f, derivative)
    if not product.moves():
        with torch.no_grad(), _warning_the_user():
            return product.scalar(float(_value(product, f, options)))
    multiplied: list[torch.Tensor] = []
    slopes: list[torch.Tensor] = []

    def vjp(u: torch.Tensor, v: torch.Tensor) -> float:
        with torch.enable_grad():
            multiplied.append(product.matvec(v))
        slopes.append(u)
        return 0.0

    with torch.no_grad(), _warning_the_user():
        found = slq.spectral_sum_gradient(product, f, vjp, derivative=derivative, **options)
    k = sum(len(u) for u in slopes)
    value = product.scalar(float(found.value))
    return _Linked.apply(value, k, *slopes, *multiplied)


def logdet(A: Any, **options: Any) -> torch.Tensor:
    """Estimate log det A of a positive definite A as a tensor whose gradient reaches whatever A is made of.

    Parameters
    ----------
    A, **options
        See `spectral_sum`.

    Returns
    -------
    () tensor

    Raises
    ------
    NotPositiveDefiniteError
        If a Ritz value is negative, or (SingularError) rounding cannot tell it from zero.
    SlqError
        As `spectral_sum`.

    References
    ----------
    Dong, Eriksson, Nickisch, Bindel and Wilson, Scalable log determinants for Gaussian process kernel learning, NeurIPS
    2017.

    Examples
    --------
    >>> import torch
    >>> A = torch.eye(4, dtype=torch.float64, requires_grad=True)
    >>> logdet(2 * A, num_probes=400, num_steps=2).backward()
    >>> round(A.grad.trace().item(), 6)  # tr A⁻¹
    4.0
    """
    return spectral_sum(A, np.log, **options)


class _Product:
    """An operator of slq whose products have a graph where gradients are on."""

    def __init__(self, matvec: Callable[[torch.Tensor], torch.Tensor], n: int, like: torch.Tensor) -> None:
        self._matvec = matvec
        self.shape = (n, n)
        self.like = torch.empty(0, dtype=like.dtype, device=like.device)

    def matvec(self, x: torch.Tensor, /) -> torch.Tensor:
        return self._matvec(x.to(self.like.dtype))

    def moves(self) -> bool:
        """Whether products depend on something that requires a gradient."""
        if not torch.is_grad_enabled():
            return False
        return bool(self._matvec(self.like.new_zeros(1, self.shape[0])).requires_grad)

    def scalar(self, value: float) -> torch.Tensor:
        dtype = torch.promote_types(self.like.dtype.to_real(), torch.float32)
        return torch.tensor(value, dtype=dtype, device=self.like.device)


def _product(A: Any, like: torch.Tensor | None, batched: bool) -> _Product:
    if isinstance(A, torch.Tensor):
        if A.ndim != 2 or A.shape[0] != A.shape[1]:
            raise ShapeError(f"A expects a square matrix, got shape {tuple(A.shape)}")
        matrix = (A + A.mH) / 2
        return _Product(lambda x: x @ matrix.mT, A.shape[0], A)
    if hasattr(A, "matvec") and hasattr(A, "shape"):
        return _Product(A.matvec, A.shape[0], A.like)
    if not callable(A):
        raise RequestError(f"A expects a square tensor, a function or an operator, got {type(A).__name__}")
    if not isinstance(like, torch.Tensor) or like.ndim != 1:
        raise RequestError("A is a function, whose vectors nothing tells: pass like=, an example vector of shape (n,)")
    if batched:
        return _Product(A, len(like), like)
    return _Product(lambda x: torch.stack([A(row) for row in x]), len(like), like)


def _value(product: _Product, f: Callable, options: dict[str, Any]) -> slq.Estimate:
    """The value alone: one pass, by the same recurrence."""
    options = {"reorthogonalize": False} | options
    measure = slq.spectral_measure(product, **options)
    if measure.sampler == "fixed":
        measure = measure.changed(sampler="dependent")
    return measure.logdet() if f is np.log else measure.trace(f)


def _on_host(f: Callable, derivative: Callable | None) -> tuple[Callable, Callable | None]:
    """Both f and f′ as functions of NumPy arrays, f′ None where slq finds it by itself."""
    if f in (np.log, torch.log) and derivative is None:
        return np.log, None
    if isinstance(f, np.ufunc) or not callable(f):
        return f, derivative
    returned = _of_tensor(f)
    if returned is None:
        return f, derivative
    if returned.grad_fn is None or derivative is not None:
        slope = derivative if derivative is None or _of_tensor(derivative) is None else _detached(derivative)
    else:
        slope = _slope(f)
    if getattr(f(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)), "requires_grad", False):
        raise RequestError(
            "f depends on tensors that require gradients, which would get none: detach them, or put them into A"
        )
    return _detached(f), slope


def _of_tensor(f: Callable) -> torch.Tensor | None:
    """What a function of torch makes of three points; None of one that is NumPy's, which such tensors refuse."""
    try:
        with torch.enable_grad():
            returned = f(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True))
    except Exception:  # whatever it raises
        return None
    return returned if isinstance(returned, torch.Tensor) else None


def _detached(f: Callable) -> Callable[[np.ndarray], np.ndarray]:
    return lambda t: f(torch.from_numpy(t)).detach().numpy()


def _slope(f: Callable) -> Callable[[np.ndarray], np.ndarray]:
    def call(t: np.ndarray) -> np.ndarray:
        with torch.enable_grad():
            points = torch.tensor(t, requires_grad=True)
            (slope,) = torch.autograd.grad(f(points).sum(), points)
        return slope.numpy()

    return call


@contextlib.contextmanager
def _warning_the_user() -> Iterator[None]:
    """What slq warns of inside is warned of at the user's line."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        yield
    for warning in heard:
        warn_user(str(warning.message), warning.category)


class _Linked(torch.autograd.Function):
    """A value whose gradient reaches A through the products A x of its probes: ∂/∂(A x) = f′(A) x / k."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, k: int, *tensors: torch.Tensor) -> torch.Tensor:
        ctx.k = k
        ctx.save_for_backward(*tensors)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad: torch.Tensor) -> Any:
        half = len(ctx.saved_tensors) // 2
        slopes, multiplied = ctx.saved_tensors[:half], ctx.saved_tensors[half:]
        pulled = [_Once.apply((grad[0] / ctx.k * u).to(y.dtype), y) for u, y in zip(slopes, multiplied, strict=True)]
        return None, None, *([None] * half), *pulled


class _Once(torch.autograd.Function):
    """A gradient that has no derivative: f′(A) x depends on A in a way that no graph knows."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
        del ctx, product
        return gradient.clone()

    @staticmethod
    def backward(*_: Any) -> Any:
        raise RequestError(
            "logdet and spectral_sum have first derivatives only, got a request for a derivative of their gradient; "
            "take finite differences of the gradient instead"
        )
