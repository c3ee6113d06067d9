"""Is a loss a function of its arguments, and a product the derivative of its gradient? Asked at construction."""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slq.adapters import warn_user
from slq.errors import OperatorError, UnusedParameterWarning
from slq_jax._layout import Leaves
from slq_jax._objective import Objective, Piece
from slq_jax._parameters import Parameters, Tree

__all__ = ["KEPT", "require_derivative", "require_function"]

# Differences of smooth losses agree at one of the larger steps, those of ReLUs at one of the smaller. What is told from
# a product that lacks a term is of the size of the product.
_STEPS = {"float64": (1e-3, 1e-5, 1e-7), "float32": (1e-1, 1e-2, 3e-3)}
_LIMIT = {"float64": 1e-3, "float32": 0.3}


KEPT = (
    "the loss uses an array that it kept from an earlier call, which JAX traced: a list, an attribute or a variable "
    "outside holds it; return it, or keep nothing (jax.debug.callback can look at values)"
)


class _First(NamedTuple):
    trace: tuple[str, bool]
    used: tuple[bool, ...]  # by leaf


def require_function(objective: Objective, parameters: Parameters, piece: Piece) -> bool:
    """Trace the loss and compare with its first trace: JAX keeps what it compiled from that.

    Returns
    -------
    bool
        The loss has derivative rules of its own (`jax.custom_vjp`), which can be wrong.

    Raises
    ------
    OperatorError
        If the traces differ, a random key is used twice, or the loss depends on no parameter.

    Warns
    -----
    UnusedParameterWarning
        If it depends on some of them only.
    """
    p = parameters
    arguments = tuple(jax.tree.map(_struct, x) for x in (p.leaves, p.others, piece.batch))
    leaves, structure = jax.tree.flatten(arguments)
    first = _first_trace(objective, p.tree, structure, tuple(leaves))
    if _trace(objective, p.tree, arguments) != first.trace:
        raise OperatorError(
            "the loss is no function of its arguments: traced again, it is another one; look for NumPy's or Python's "
            "random numbers, the time, and variables outside that have changed; pass them in the batch or the "
            "parameters, or a random key in the batch (check=False goes on with what JAX traced first)"
        )
    unused = [name for name, used in zip(p.named, first.used, strict=True) if not used]
    if len(unused) == len(p.named):
        raise OperatorError(
            "the loss does not depend on the parameters: look for jax.lax.stop_gradient and conversions to NumPy or "
            "integers in the loss"
        )
    if unused:
        warn_user(f"the loss does not depend on {', '.join(unused)}: zero rows", UnusedParameterWarning)
    return first.trace[1]


def require_derivative(
    gradient: Callable[[Leaves], jax.Array],
    product: Callable[[jax.Array], jax.Array],
    parameters: Parameters,
) -> None:
    """Compare a product with differences of the gradient.

    Parameters
    ----------
    gradient : callable
        Leaves -> the flat gradient at them.
    product : callable
        Flat (n,) vector -> the product with it.
    parameters : Parameters

    Raises
    ------
    OperatorError
        If they differ by more than rounding and kinks explain.
    """
    layout, leaves, kind = parameters.layout, parameters.leaves, str(parameters.dtype)
    here = gradient(leaves)
    size = jnp.linalg.norm(here)
    draw = jax.jit(jax.random.normal, static_argnums=(1, 2), out_shardings=here.sharding)
    v = draw(jax.random.key(0), here.shape, here.dtype)
    v = v / jnp.linalg.norm(v)
    if kind == "float32":  # the curvature along most directions drowns in the rounding of the differences
        v = v + jnp.where(size > 0, here / jnp.where(size > 0, size, 1), 0)
        v = v / jnp.linalg.norm(v)
    expected, off = product(v), np.inf
    for step in _STEPS[kind]:
        moved = [tuple(x + s * step * t for x, t in zip(leaves, layout.split(v), strict=True)) for s in (1, -1)]
        slope = (gradient(moved[0]) - gradient(moved[1])) / (2 * step)
        noise = 100 * float(jnp.finfo(parameters.dtype).eps) * float(size) / step
        largest = max(float(jnp.linalg.norm(slope)), float(jnp.linalg.norm(expected)))
        wrong = max(float(jnp.linalg.norm(slope - expected)) - noise, 0.0)
        off = min(off, wrong / largest if largest else 0.0)
    if off > _LIMIT[kind]:
        raise OperatorError(
            f"the product is not the derivative of the gradient: finite differences differ by {off:.2g} of its size; "
            "the loss has derivative rules of its own (jax.custom_vjp): look there for what their backward pass takes "
            "as constant; check=False accepts a loss that jumps"
        )


@lru_cache(maxsize=128)
def _first_trace(objective: Objective, tree: Tree, structure: Any, leaves: Sequence[Any]) -> _First:
    arguments = jax.tree.unflatten(structure, leaves)
    return _First(_trace(objective, tree, arguments), _used(objective, tree, arguments))


def _trace(objective: Objective, tree: Tree, arguments: tuple[Any, Any, Any]) -> tuple[str, bool]:
    """A digest of the traced loss and its constants, without addresses, and whether it has reverse rules of its own."""

    def loss(leaves: Leaves, others: Leaves, batch: Any) -> Any:
        return objective.evaluate(tree.join(leaves, others), batch)

    try:
        with jax.debug_key_reuse(True):
            traced = jax.make_jaxpr(loss)(*arguments)
    except jax.errors.KeyReuseError as error:
        raise OperatorError(
            f"the loss uses a random key twice ({str(error).strip().splitlines()[0]}), so that what it draws is not "
            "independent; split the key (jax.random.split), or pass check=False if this is meant"
        ) from error
    except jax.errors.UnexpectedTracerError as error:
        raise OperatorError(KEPT) from error
    if any(isinstance(x, jax.core.Tracer) for x in traced.consts):
        raise OperatorError(KEPT)
    digests = [hashlib.sha256(np.asarray(x).tobytes()).hexdigest() for x in traced.consts if hasattr(x, "dtype")]
    text = re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr))
    return hashlib.sha256((text + "".join(digests)).encode()).hexdigest(), "custom_vjp_call" in text


def _used(objective: Objective, tree: Tree, arguments: tuple[Any, Any, Any]) -> tuple[bool, ...]:
    """Which leaves have a gradient that is not zero by construction."""
    leaves, others, batch = arguments
    used = [False] * len(leaves)

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def watch(i: int, x: jax.Array) -> jax.Array:
        del i
        return x

    def forward(i: int, x: Any) -> tuple[jax.Array, None]:
        del i
        return x.value, None

    def backward(i: int, _: None, cotangent: Any) -> tuple[Any]:
        used[i] = used[i] or not isinstance(cotangent, jax.custom_derivatives.SymbolicZero)
        return (cotangent,)

    watch.defvjp(forward, backward, symbolic_zeros=True)

    def loss(leaves: Leaves, others: Leaves, batch: Any) -> jax.Array:
        watched = [watch(i, x) for i, x in enumerate(leaves)]
        return objective.evaluate(tree.join(watched, others), batch)[0]

    jax.eval_shape(jax.grad(loss), leaves, others, batch)
    return tuple(used)


def _struct(x: Any) -> jax.ShapeDtypeStruct:
    if isinstance(x, jax.Array):  # whose dtype NumPy may not know: those of random keys
        return jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.ShapeDtypeStruct(np.shape(x), jax.dtypes.canonicalize_dtype(jnp.result_type(x)))
