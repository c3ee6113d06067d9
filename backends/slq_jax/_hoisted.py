"""Functions with the arrays that they close over as arguments, for rules of differentiation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slq.errors import DtypeError, RequestError

__all__ = ["array", "hoist", "no_second_derivative"]


def hoist(function: Callable, like: jax.ShapeDtypeStruct) -> tuple[Callable, list[Any], list[Any], Any]:
    """`function` as ``moved(arrays, fixed, x)``; what it closes over that has gradients, and the rest; its output.

    Not by `jax.closure_convert`: that keeps every array it met alive in a cache, and leaves integers traced by an outer
    `jax.jit` where a rule of differentiation must not find them.
    """
    traced, out = jax.make_jaxpr(lambda x: function(x), return_shape=True)(like)
    moving = [jnp.issubdtype(jax.typeof(c).dtype, jnp.inexact) for c in traced.consts]
    arrays = [c for c, moves in zip(traced.consts, moving, strict=True) if moves]
    fixed = [c for c, moves in zip(traced.consts, moving, strict=True) if not moves]
    jaxpr = traced.jaxpr  # without `traced`, which would hold the arrays

    def moved(arrays: list[Any], fixed: list[Any], x: jax.Array) -> jax.Array:
        sources = {True: iter(arrays), False: iter(fixed)}
        return jax.core.eval_jaxpr(jaxpr, [next(sources[moves]) for moves in moving], x)[0]

    return moved, arrays, fixed, out


def array(name: str, x: Any) -> jax.Array:
    """`x` as a JAX array, if it is in single or double precision and stays so."""
    dtype = np.result_type(x) if not hasattr(x, "dtype") else x.dtype
    if not jnp.issubdtype(dtype, jnp.inexact) or jnp.finfo(dtype).bits < 32:
        raise DtypeError(f"{name} expects float32, float64, complex64 or complex128, got {dtype}; convert it (astype)")
    if dtype in (np.float64, np.complex128) and not jax.config.read("jax_enable_x64"):
        raise DtypeError(
            f"{name} is {dtype}, which JAX would silently make single precision; call "
            "jax.config.update('jax_enable_x64', True) first, or convert it yourself"
        )
    return jnp.asarray(x)


def no_second_derivative(*_: Any) -> Any:
    """The rule of differentiation of a gradient."""
    raise RequestError(
        "lanczos, quadratic_forms, logdet and spectral_sum have first derivatives only (jax.grad, jax.vjp), got a "
        "request for a derivative of their gradient; take finite differences of the gradient instead"
    )
