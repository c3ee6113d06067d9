"""The Lanczos recurrence as one compiled loop, behind `slq.lanczos` for operators whose product is a pure function.

Steps run in a `while` loop on the device, some seconds of them in each call: between calls progress is told and an
interrupt heard. The numbers of the first and the last step are arguments, so that all calls, and all runs of the same
shapes and loss, share one compilation. The state is donated from call to call: the basis is never copied.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import slq
from slq.adapters import breakdown, length_of
from slq.errors import ProductError, SlqError

__all__ = ["Linear", "lanczos"]

# The basis is a tuple of blocks, of which the full and the begun ones are multiplied, the others skipped: a static
# shape without work on rows that are not there. More blocks mean less idle work in the begun one, and more to compile.
_BLOCKS, _FEWEST_ROWS = 10, 8

# As the loop of the core: where a projection takes more than half of ‖w‖², a second one is due (Daniel, Gragg, Kaufman
# and Stewart 1976).
_DROP = 0.5

_SECONDS = 1.0  # of steps between two looks at the host

# Squares of products beyond these binary exponents overflow or lose digits: the loop of the core scales them.
_SAFE_EXPONENT = {True: 300, False: 20}


_Across = Callable[[jax.Array], jax.Array]


def _same(x: jax.Array) -> jax.Array:
    return x


class Linear(NamedTuple):
    """A product as a pure function, so that it can be part of a compiled loop.

    Attributes
    ----------
    function : callable
        ``function(arguments, x)`` is the product with each row of `x`, (k, n) -> (k, n). Hashable, and equal for
        operators that differ in their arguments only.
    arguments : tree of arrays
    sharded : Sharded or None
        How vectors are sharded; None: they are on one device.
    """

    function: Callable[[Any, jax.Array], jax.Array]
    arguments: Any
    sharded: Any = None


class Run(NamedTuple):
    """What `slq.register_driver` asks for."""

    alpha: np.ndarray
    beta: np.ndarray
    returned: np.ndarray
    basis: jax.Array | None


class _State(NamedTuple):
    v: jax.Array
    before: jax.Array
    b: jax.Array
    norm_seen: jax.Array
    alpha: jax.Array  # (num_steps, k), as the others below
    beta: jax.Array
    returned: jax.Array
    blocks: tuple[jax.Array, ...]  # (k, rows, n) each


@dataclass(frozen=True)
class _Plan:
    function: Callable[[Any, jax.Array], jax.Array]
    sharded: Any
    dtype: Any  # of products
    num_steps: int
    keep: int
    rows: int
    basis_dtype: Any
    rounding: float

    @property
    def num_blocks(self) -> int:
        return -(-self.keep // self.rows) if self.keep else 0


def lanczos(
    A: Any,
    V: jax.Array,
    num_steps: int,
    *,
    reorthogonalize: bool | int = True,
    return_basis: bool = False,
    basis_dtype: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Run | None:
    """The recurrence of an operator with a method ``linear()``, from unit vectors; None where it is left to the core.

    That is for operators without such a method, or whose data do not fit on the device; a basis on the host, or one
    that is asked for but not kept in full; and products whose squares would overflow or underflow.
    """
    every = isinstance(reorthogonalize, bool | np.bool_)
    keep = num_steps * bool(reorthogonalize) if every else min(int(reorthogonalize), num_steps)
    if not hasattr(A, "linear") or str(basis_dtype) == "host" or (return_basis and keep < num_steps):
        return None
    linear: Linear | None = A.linear()
    if linear is None:
        return None
    rows = max(_FEWEST_ROWS, -(-keep // _BLOCKS))
    kept = V.dtype if basis_dtype is None else jnp.dtype(basis_dtype)
    plan = _Plan(linear.function, linear.sharded, jnp.dtype(A.like.dtype), num_steps, keep, rows, kept, breakdown(V))
    found = _run(plan, linear.arguments, V, progress)
    if found is None:
        return None
    (alpha, beta, returned), state = found
    basis = jnp.concatenate(state.blocks, axis=1)[:, :num_steps] if return_basis else None
    return Run(alpha, beta, returned, basis)


def _run(plan: _Plan, arguments: Any, V: jax.Array, progress: Any) -> tuple[tuple[np.ndarray, ...], _State] | None:
    state = _start(plan, V)
    seen: Any = None
    done, steps = 0, 1
    while done < plan.num_steps:
        last, begun = min(done + steps, plan.num_steps), time.perf_counter()
        try:
            state = _advance(plan, arguments, state, done, last)
            seen = tuple(np.asarray(x, dtype=np.float64).T for x in (state.alpha, state.beta, state.returned))
        except SlqError:
            raise
        except Exception as error:
            raise _failure(error, seen, done, V.shape) from error
        if done == 0 and not _in_range(seen, V):
            return None
        if done > 0:  # the first call may compile
            steps = max(1, int(_SECONDS * (last - done) / (time.perf_counter() - begun)))
            if plan.sharded:
                steps = int(plan.sharded.least(steps))
        done = last
        if progress is not None:
            progress(done, plan.num_steps)
    return seen, state


def _in_range(seen: tuple[np.ndarray, ...], V: jax.Array) -> bool:
    """Whether the first product has a size whose square is a number, or is zero."""
    size = np.hypot(seen[0][:, 0], seen[1][:, 0]).max()
    wide = bool(jnp.finfo(V.dtype).bits > 32)
    return bool(np.isfinite(size)) and abs(int(np.frexp(size)[1])) <= _SAFE_EXPONENT[wide]


def _failure(error: Exception, seen: tuple[np.ndarray, ...] | None, step: int, shape: tuple[int, ...]) -> ProductError:
    said = str(error).strip()
    if "Traceback" in said:  # of a callback, whose frames are mostly JAX's
        said = said.splitlines()[-1]
    failed = ProductError(
        f"the product of step {step}, or of one soon after it, raised {type(error).__name__} for a block of shape "
        f"{tuple(shape)}, each row a vector: {said}; what was computed before is kept in `.partial` of this error"
    )
    failed.step = step
    if seen is not None and step:
        failed.partial = slq.Tridiagonal(seen[0][:, :step], seen[1][:, :step])
    return failed


@partial(jax.jit, static_argnums=0)
def _start(plan: _Plan, V: jax.Array) -> _State:
    k = V.shape[0]
    real = jnp.zeros(k, jnp.finfo(V.dtype).dtype)
    column = jnp.zeros((plan.num_steps, k), real.dtype)

    def place(V: jax.Array) -> tuple[Any, ...]:
        shape = (V.shape[0], plan.rows, V.shape[1])
        return V, jnp.zeros_like(V), *(jnp.zeros(shape, plan.basis_dtype) for _ in range(plan.num_blocks))

    v, before, *blocks = plan.sharded.start(place, V, plan.num_blocks) if plan.sharded else place(V)
    return _State(v, before, real, real, column, column, column, tuple(blocks))


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advance(plan: _Plan, arguments: Any, state: _State, first: Any, last: Any) -> _State:
    """Steps `first` to `last`, or fewer if all runs end."""

    def go_on(carry: tuple[Any, _State]) -> Any:
        step, state = carry
        return (step < last) & ((step == 0) | jnp.any(state.b > 0))

    def advance(carry: tuple[Any, _State]) -> tuple[Any, _State]:
        step, state = carry
        y = plan.function(arguments, state.v.astype(plan.dtype)).astype(state.v.dtype)
        work = partial(_step, plan)
        return step + 1, plan.sharded.step(work, y, step, state) if plan.sharded else work(y, step, state)

    return lax.while_loop(go_on, advance, (first, state))[1]


def _step(
    plan: _Plan, y: jax.Array, step: Any, state: _State, reduce: _Across = _same, gather: _Across = _same
) -> _State:
    """What a step does with its product, in the order of the core.

    `reduce` sums over the devices of a vector, `gather` puts together what belongs to all vectors.
    """

    def dot(x: jax.Array, y: jax.Array) -> jax.Array:
        return reduce(jnp.vecdot(x, y))

    v, blocks = state.v, state.blocks
    w = y - state.b[:, None] * state.before
    a = jnp.real(dot(v, w))
    returned = jnp.real(dot(state.before, y))
    w = w - a[:, None] * v
    squared = jnp.real(dot(w, w))
    if plan.keep:
        blocks = _append(plan, blocks, step, v)
        w = _remove(plan, blocks, step, w, reduce)
        left = jnp.real(dot(w, w))
        # What a rounded basis leaves is more than rounding.
        again = jnp.any(left < _DROP * squared) | (plan.basis_dtype != v.dtype)

        def twice(w: jax.Array, _: jax.Array) -> tuple[jax.Array, jax.Array]:
            w = _remove(plan, blocks, step, w, reduce)
            return w, jnp.real(dot(w, w))

        w, squared = lax.cond(again, twice, lambda w, left: (w, left), w, left)
    b, factors, norm_seen = length_of(squared, a, state.b, state.norm_seen, plan.rounding)
    return _State(
        w * factors[:, None],
        v,
        b,
        norm_seen,
        state.alpha.at[step].set(gather(a)),
        state.beta.at[step].set(gather(b)),
        state.returned.at[step].set(gather(returned)),
        blocks,
    )


def _append(plan: _Plan, blocks: tuple[jax.Array, ...], step: Any, v: jax.Array) -> tuple[jax.Array, ...]:
    kept = v.astype(plan.basis_dtype)[:, None]

    def write(block: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(block, kept, step % plan.rows, 1)

    here = jnp.where(step < plan.keep, step // plan.rows, -1)
    return tuple(lax.cond(here == i, write, lambda block: block, block) for i, block in enumerate(blocks))


def _remove(plan: _Plan, blocks: tuple[jax.Array, ...], step: Any, w: jax.Array, reduce: Any) -> jax.Array:
    """`w` without its components along the basis: Gram-Schmidt, classical in a block, modified between."""

    def project(w: jax.Array, block: jax.Array) -> jax.Array:
        rows = block.astype(w.dtype)
        components = reduce(jnp.einsum("krn,kn->kr", rows.conj(), w))
        return w - jnp.einsum("kr,krn->kn", components, rows)

    for i, block in enumerate(blocks):
        w = lax.cond(step >= i * plan.rows, project, lambda w, _: w, w, block)
    return w
