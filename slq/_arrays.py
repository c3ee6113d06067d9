"""Floor 0: the only door to the array libraries. Everything above sees arrays through these functions."""

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, is_jax_array, is_numpy_array, is_torch_array
from array_api_compat import device as device_of

from slq.errors import DtypeError

__all__ = [
    "Array",
    "as_complex",
    "as_written",
    "detach",
    "device_of",
    "dot",
    "empty_dense",
    "empty_like",
    "from_host",
    "fused",
    "give_back",
    "has_one_shape",
    "imag",
    "is_array",
    "is_complex",
    "is_numpy",
    "is_sparse",
    "itemsize",
    "largest_entry",
    "library_name",
    "matmul",
    "namespace",
    "norm",
    "on_accelerator",
    "precision",
    "promote_inexact",
    "real",
    "recurrence_like",
    "same_place",
    "scale_rows",
    "set_row",
    "subtract_rows",
    "sum_wide",
    "to_host",
]

_TOGETHER = 16
_SHORT, _LONG = 128, 1 << 16

Array: TypeAlias = Any  # the Array API has no runtime type of its own


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let JAX compile `function` where its first argument is JAX's; other libraries run it as it stands.

    Eager JAX pays 0.1 ms and more for each operation, and four times the compiled time for a batched product.
    """
    compiled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*arrays: Any) -> Any:
        nonlocal compiled
        if not is_jax_array(arrays[0]):
            return function(*arrays)
        if compiled is None:
            compiled = sys.modules["jax"].jit(function)  # loaded, since a JAX array came
        return compiled(*arrays)

    return call


def namespace(x: Array) -> Any:
    """The Array API namespace of `x`."""
    return array_namespace(x)


def is_array(x: object) -> bool:
    """Whether `x` is an array of a library that speaks the Array API."""
    try:
        array_namespace(x)
    except TypeError:
        return False
    return hasattr(x, "ndim")  # rules out NumPy scalars of libraries that accept them


def library_name(x: Array) -> str:
    """Name of the library of `x`, as users know it: numpy, torch, jax, cupy, array_api_strict."""
    name = array_namespace(x).__name__
    return name.removeprefix("array_api_compat.").split(".")[0]


def empty_like(x: Array) -> Array:
    """An array of size 0 that carries the library, dtype and device of `x`."""
    xp = array_namespace(x)
    return xp.empty((0,), dtype=x.dtype, device=device_of(x))


def on_accelerator(x: Array) -> bool:
    """Whether `x` lives in a memory of its own, not in that of the host."""
    library, device = library_name(x), device_of(x)
    if library == "jax":
        return any(d.platform != "cpu" for d in x.devices())
    return library == "cupy" or getattr(device, "type", "cpu") != "cpu"


def same_place(x: Array, y: Array) -> bool:
    """Whether two arrays of a library are on the same device; of JAX's, sharded in whatever way over the same ones."""
    return bool(x.devices() == y.devices() if is_jax_array(x) else device_of(x) == device_of(y))


def is_numpy(x: Array) -> bool:
    """Whether `x` is an array of NumPy."""
    return bool(is_numpy_array(x))


def is_sparse(x: Array) -> bool:
    """Whether `x` is one of torch's sparse tensors, which pass for arrays but support little more than a product."""
    return is_torch_array(x) and x.layout is not sys.modules["torch"].strided


def empty_dense(x: Array) -> Array:
    """`empty_like` for a sparse tensor."""
    return sys.modules["torch"].empty(0, dtype=x.dtype, device=x.device)


def detach(x: Array) -> Array:
    """`x` without its autograd history (torch); other libraries have none to drop."""
    return x.detach() if is_torch_array(x) and x.requires_grad else x


def give_back(x: Array) -> None:
    """Undo what a product did to the flags of its input: autograd (torch) lets nobody write into a marked one."""
    if getattr(x, "requires_grad", False):
        x.requires_grad_(False)


def to_host(x: Array) -> np.ndarray:
    """`x` as a NumPy array on the host."""
    if is_numpy_array(x):
        return np.asarray(x)
    if is_torch_array(x):
        return x.detach().cpu().resolve_conj().numpy()
    if hasattr(x, "get"):  # CuPy refuses implicit copies; this is its explicit one
        return x.get()
    # array-api-strict on another device refuses everything but DLPack
    return np.asarray(x) if is_jax_array(x) else np.from_dlpack(x, device="cpu")


def from_host(values: np.ndarray, like: Array) -> Array:
    """`values` in the library and dtype and on the device of `like`."""
    xp = array_namespace(like)
    placed = xp.asarray(values, device=device_of(like))
    return placed if placed.dtype == like.dtype else xp.astype(placed, like.dtype)


def is_complex(x: Array) -> bool:
    """Whether `x` has a complex dtype."""
    return bool(array_namespace(x).isdtype(x.dtype, "complex floating"))


def precision(like: Array) -> float:
    """The machine epsilon of the dtype of `like` (of its real part, if complex)."""
    return float(array_namespace(like).finfo(like.dtype).eps)


def recurrence_like(like: Array) -> Array:
    """The `like` in which the recurrence runs: float32 for half precision, else `like` itself.

    Rounding the working vector to half precision makes Ritz values of positive operators negative;
    a half-precision *product* inside a float32 recurrence does not.
    """
    xp = array_namespace(like)
    if not xp.isdtype(like.dtype, ("real floating", "complex floating")):
        raise DtypeError(
            f"expected a floating-point dtype, got {like.dtype}; convert the operator (`astype`) or give `like=` "
            "an example vector in floating point"
        )
    half = not is_complex(like) and xp.finfo(like.dtype).bits < 32
    return xp.astype(like, xp.float32) if half else like


def as_complex(like: Array) -> Array:
    """A real array in the complex dtype of its precision (single, at least)."""
    xp = array_namespace(like)
    return xp.astype(like, xp.complex128 if xp.finfo(like.dtype).bits > 32 else xp.complex64)


def promote_inexact(x: Array) -> Array:
    """`x` itself if floating, else converted to the widest real dtype of its library."""
    xp = array_namespace(x)
    if xp.isdtype(x.dtype, ("real floating", "complex floating")):
        return x
    if not xp.isdtype(x.dtype, ("integral", "bool")):
        raise DtypeError(f"expected a numeric matrix, got dtype {x.dtype}; convert it to floating point first")
    return xp.astype(x, _widest(x))


def itemsize(like: Array) -> int:
    """Bytes of a number in arrays like `like`; of one that the host does not know, in its nearest."""
    # An array of JAX may be spread over processes: none has all of it.
    return int(like.dtype.itemsize if is_jax_array(like) else to_host(like).dtype.itemsize)


def _widest(x: Array) -> Any:
    """float64, or float32 on JAX without x64 (where float64 does not exist)."""
    xp = array_namespace(x)
    return xp.asarray(0.0).dtype if is_jax_array(x) else xp.float64


@fused
def dot(x: Array, y: Array) -> Array:
    """⟨x, y⟩ along the last axis, conjugating `x`; accumulated in float64 where the library has it.

    float32 sums over 10⁷ coordinates are wrong in the third digit; the products may be rounded, their sum may not.
    """
    xp = array_namespace(x, y)
    if x.dtype in (xp.float64, xp.complex128) or is_jax_array(x):
        return xp.vecdot(x, y, axis=-1)
    if is_complex(x):
        return xp.sum(xp.conj(x) * y, axis=-1, dtype=xp.complex128)
    products = x * y
    if is_torch_array(x) and x.shape[-1] >= _LONG and not on_accelerator(x):
        # PyTorch would convert them all to float64 first; short sums lose nothing in float32.
        whole = products.shape[-1] // _SHORT * _SHORT
        short = products[..., :whole].unflatten(-1, (-1, _SHORT)).sum(-1)
        return short.sum(-1, dtype=xp.float64) + products[..., whole:].sum(-1, dtype=xp.float64)
    return xp.sum(products, axis=-1, dtype=xp.float64)


def sum_wide(x: Array) -> Array:
    """The sum along the first axis, accumulated in float64 where the library has it."""
    xp = array_namespace(x)
    if is_jax_array(x):
        return xp.sum(x, axis=0)
    return xp.sum(x, axis=0, dtype=xp.complex128 if is_complex(x) else xp.float64)


def as_written(x: Array) -> contextlib.AbstractContextManager[Any]:
    """Inside, arrays like `x` are multiplied in their own precision: torch.autocast around slq is for products only."""
    if is_torch_array(x):
        return sys.modules["torch"].autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()


def matmul(x: Array, y: Array) -> Array:
    """The product of matrices, in their own precision."""
    with as_written(x):
        return array_namespace(x, y).matmul(x, y)


def real(x: Array) -> Array:
    """The real part; `x` itself if it is real (which some libraries refuse to take the real part of)."""
    return array_namespace(x).real(x) if is_complex(x) else x


def largest_entry(x: Array) -> Array:
    """The largest absolute value in each row, without an array of absolute values where the numbers are real."""
    xp = array_namespace(x)
    if is_complex(x):
        return xp.max(xp.abs(x), axis=-1)
    if is_numpy_array(x) and x.ndim == 2 and x.flags.f_contiguous and x.shape[1] % _TOGETHER == 0:
        x = x.T.reshape(-1, _TOGETHER * x.shape[0])  # NumPy is slow along rows that lie interleaved
        both = np.stack([x.max(axis=0), -x.min(axis=0)])
        return both.reshape(2 * _TOGETHER, -1).max(axis=0)
    return xp.maximum(xp.max(x, axis=-1), -xp.min(x, axis=-1))


def imag(x: Array) -> Array:
    """The imaginary part of a complex array."""
    return array_namespace(x).imag(x)


@fused
def norm(squared: Array) -> Array:
    """The square root of an inner product ⟨x, x⟩ as `dot` returns it."""
    return array_namespace(squared).sqrt(real(squared))


@fused
def scale_rows(x: Array, factors: Array) -> Array:
    """Row i of `x` times the real number `factors[i]`, in the dtype of `x`."""
    xp = array_namespace(x)
    return x * xp.astype(factors, x.dtype)[:, None]


@fused
def subtract_rows(w: Array, factors: Array, x: Array) -> Array:
    """Row i of `w` minus `factors[i]` times row i of `x`, in the dtype of `w`."""
    return w - scale_rows(x, factors)


def has_one_shape(x: Array) -> bool:
    """Whether work on `x` should keep to one shape: JAX compiles anew for every other."""
    return bool(is_jax_array(x))


@fused
def set_row(block: Array, row: int, values: Array) -> Array:
    """`block[:, row] = values`; in place, except for JAX, whose arrays cannot change."""
    if is_jax_array(block):
        return block.at[:, row].set(values)
    block[:, row, ...] = values
    return block
