"""Floor 2: the Lanczos recurrence on a block of vectors, on the device where the operator lives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from slq import _checks
from slq._arrays import (
    Array,
    device_of,
    empty_like,
    fused,
    has_one_shape,
    is_array,
    is_complex,
    library_name,
    namespace,
    norm,
    precision,
    project_out,
    real,
    recurrence_like,
    scale_rows,
    set_row,
    subtract_components,
    subtract_rows,
    to_host,
)
from slq._operators import aslinearoperator
from slq._products import LinearOperator, apply, inner
from slq._quadrature import run_lengths
from slq.errors import PlacementError, RequestError, ShapeError

__all__ = ["Tridiagonal", "lanczos", "positive_int"]

_ROWS = 16  # basis vectors per chunk: memory grows with the run, and JAX compiles for one shape only

# A residual of fewer roundings than this of the norm seen so far is an invariant subspace. Measured where it should be
# zero (2 to 6 distinct eigenvalues, dense, n up to 2000): up to 640. Missing one does no harm, as the run goes on with
# tiny weights; ending a run too early would, and in float32 the bulk below outliers is not far above ten.
_BREAKDOWN = {True: 1000.0, False: 10.0}


class Tridiagonal(NamedTuple):
    """Recurrence coefficients of k runs of m steps: A Vᵢ = Vᵢ Tᵢ + βᵢₘ vᵢ,ₘ₊₁ eₘᵀ.

    Attributes
    ----------
    alpha, beta : (k, m) array of float64
        Diagonals and off-diagonals of the Tᵢ, on the host. The last column of beta is the residual norm. A zero in beta
        ends a run: its Krylov space is invariant, what follows is zero.
    basis : (k, m, n) array or None
        The Lanczos vectors, in the library and on the device of the operator.
    """

    alpha: np.ndarray
    beta: np.ndarray
    basis: Array | None = None


def lanczos(
    A: Any,
    V: Array,
    num_steps: int,
    *,
    reorthogonalize: bool | int = True,
    return_basis: bool = False,
    check: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Tridiagonal:
    """Run the Lanczos recurrence from each row of a block of start vectors.

    Parameters
    ----------
    A : operator
        Real symmetric or complex Hermitian; anything that `aslinearoperator` takes.
    V : (k, n) or (n,) array
        Start vectors, one per row, of any length but zero; of the operator's library, dtype and device.
    num_steps : int
        The number m of steps; each costs one product with the block.
    reorthogonalize : bool or int
        True: against all earlier vectors, Gram-Schmidt twice (memory k·m·n). An integer s: against the first
        s. False: the three-term recurrence alone, for cheap products and huge n; converged Ritz values then come in
        copies, which delays the rest of the spectrum but never spoils a converged answer.
    return_basis : bool
        Also return the Lanczos vectors.
    check : bool
        Examine the first products for asymmetry; this takes no further product.
    progress : callable, optional
        Called as ``progress(steps done, num_steps)`` after each step is issued.

    Returns
    -------
    Tridiagonal

    Raises
    ------
    RequestError
        If `num_steps` or `reorthogonalize` is out of range, or a start vector is zero or not finite.
    OperatorError
        If a product has the wrong shape, dtype, library or device, is not finite, or A is not symmetric.

    Notes
    -----
    Nothing is read back from the device between the first product and the last. The order of operations is that of
    Paige 1972 (A1), the most accurate of the four he compared.

    References
    ----------
    Paige, Computational variants of the Lanczos method for the eigenproblem, J. Inst. Maths Applics 10 (1972).
    """
    A = aslinearoperator(A)
    num_steps = positive_int("num_steps", num_steps)
    keep = _basis_size(reorthogonalize, num_steps)
    with np.errstate(over="ignore", invalid="ignore"):
        v = _start(A, V)
    basis = _Basis(keep)
    everything = _Basis(num_steps) if return_basis and keep < num_steps else basis
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # found in the coefficients, and named
        alpha, beta = _recurrence(A, v, num_steps, basis, everything, check, progress)
    lengths = run_lengths(beta)
    for i, length in enumerate(lengths):
        _checks.require_finite(alpha[i, :length], beta[i, :length], probe=i)
        alpha[i, length:] = beta[i, length:] = 0.0
    return Tridiagonal(alpha, beta, everything.array() if return_basis else None)


def positive_int(name: str, value: Any) -> int:
    """`value` if it is an integer >= 1, else an error that names the argument."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise RequestError(f"{name}= expects an integer >= 1, got {value!r}")
    return int(value)


def _basis_size(reorthogonalize: bool | int, num_steps: int) -> int:
    if isinstance(reorthogonalize, bool | np.bool_):
        return num_steps if reorthogonalize else 0
    if not isinstance(reorthogonalize, int | np.integer) or reorthogonalize < 0:
        raise RequestError(f"reorthogonalize= expects True, False or an integer >= 0, got {reorthogonalize!r}")
    return min(int(reorthogonalize), num_steps)


def _start(A: LinearOperator, V: Array) -> Array:
    """The rows of V scaled to length one, in the dtype of the recurrence."""
    if not is_array(V) or library_name(V) != library_name(A.like):
        found = library_name(V) if is_array(V) else type(V).__name__
        raise PlacementError(
            f"the operator multiplies arrays of {library_name(A.like)}, but V is of {found}; convert V"
        )
    xp = namespace(V)
    if device_of(V) != device_of(A.like):
        raise PlacementError(f"V is on {device_of(V)} but the operator multiplies on {device_of(A.like)}; move V there")
    V = V if V.ndim != 1 else V[None, ...]
    n_local = A.shape[0] if not hasattr(A, "index") else V.shape[-1]
    if V.ndim != 2 or V.shape[0] == 0 or V.shape[1] != n_local:
        raise ShapeError(f"V expects shape (k, {n_local}) with k >= 1, each row a start vector, got {tuple(V.shape)}")
    like = recurrence_like(A.like)
    if is_complex(V) and not is_complex(like):
        raise RequestError(f"V is complex but the operator works in {A.like.dtype}; give real start vectors")
    V = V if V.dtype == like.dtype else xp.astype(V, like.dtype)
    if not hasattr(A, "vecdot"):  # a part of a vector does not know the largest entry of the whole
        # Division by the largest entry first keeps the squares of extreme vectors finite.
        V = V / _nonzero(xp.max(xp.abs(V), axis=-1))[:, None]
    length = norm(inner(A)(V, V))
    on_host = to_host(length)
    bad = np.flatnonzero(~(np.isfinite(on_host) & (on_host > 0)))
    if bad.size:
        raise RequestError(f"start vectors {bad.tolist()} are zero or not finite; a start vector needs a direction")
    return scale_rows(V, 1 / length)


def _nonzero(x: Array) -> Array:
    xp = namespace(x)
    return xp.where(x > 0, x, xp.ones_like(x))


class _Basis:
    """The first Lanczos vectors of every probe, in chunks (k, rows, n) whose unused rows are zero."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._chunks: list[Array] = []

    def append(self, v: Array) -> None:
        if self._size == self._capacity:
            return
        row = self._size % _ROWS
        if row == 0:
            xp = namespace(v)
            rows = _ROWS if has_one_shape(v) else min(_ROWS, self._capacity - self._size)
            self._chunks.append(xp.zeros((v.shape[0], rows, v.shape[1]), dtype=v.dtype, device=v.device))
        self._chunks[-1] = set_row(self._chunks[-1], row, v)
        self._size += 1

    def remove_from(self, w: Array, vecdot: Callable[[Array, Array], Array] | None) -> Array:
        """`w` without its components along the basis: Gram-Schmidt, classical in a chunk, modified between chunks."""
        for i, chunk in enumerate(self._chunks):
            used = min(_ROWS, self._size - i * _ROWS)
            rows = chunk if has_one_shape(chunk) else chunk[:, :used, :]
            if vecdot is None:
                w = project_out(rows, w)
                continue
            # the operator's own inner product, which may reduce over processes
            w = subtract_components(rows, vecdot(rows, w[:, None, :]), w)
        return w

    def array(self) -> Array:
        return namespace(self._chunks[0]).concat(self._chunks, axis=1)[:, : self._size, :]


def _recurrence(
    A: LinearOperator,
    v: Array,
    num_steps: int,
    basis: _Basis,
    everything: _Basis,
    check: bool,
    progress: Callable[[int, int], None] | None,
) -> tuple[np.ndarray, np.ndarray]:
    xp, dot, like = namespace(v), inner(A), empty_like(v)
    rounding = _BREAKDOWN[bool(xp.finfo(v.dtype).bits > 32)] * precision(like)
    alphas: list[Array] = []
    betas: list[Array] = []
    own_dot = getattr(A, "vecdot", None)
    v_before = returned = None
    norm_seen: Any = 0.0
    unit = 1.0
    for j in range(num_steps):
        before = xp.asarray(v, copy=True) if check and j == 0 else None
        w = apply(A, v, like=A.like)
        if j == 0:
            unit = _checks.look_at_first_product(A, v, w, before)
        if unit != 1.0:
            w = w * unit
        if j == 1:  # v₀ᴴA v₁ = conj(v₁ᴴA v₀) = α₀ v₀ᴴv₁ + β₀ if A is Hermitian: judged when all is read
            returned = xp.abs(dot(v_before, w) - alphas[0] * dot(v_before, v))
        if v_before is not None:
            w = subtract_rows(w, betas[-1], v_before)
        a = real(dot(v, w))
        w = subtract_rows(w, a, v)
        basis.append(v)
        if everything is not basis:
            everything.append(v)
        w = basis.remove_from(basis.remove_from(w, own_dot), own_dot)
        b_before = betas[-1] if betas else xp.zeros_like(a)
        v_before = v
        v, b, norm_seen = _close_step(w, a, real(dot(w, w)), b_before, norm_seen, rounding)
        alphas.append(a)
        betas.append(b)
        if progress is not None:
            progress(j + 1, num_steps)
    rows = to_host(xp.stack([*alphas, *betas, *([] if returned is None else [returned])])).astype(np.float64)
    alpha, beta = rows[:num_steps].T, rows[num_steps : 2 * num_steps].T
    if check and returned is not None:
        _checks.judge_second_product(alpha[:, 1], beta[:, :2], rows[-1], precision(A.like))
    return alpha / unit, beta / unit


@fused
def _close_step(
    w: Array, a: Array, squared: Array, b_before: Array, norm_seen: Array, rounding: float
) -> tuple[Array, Array, Array]:
    """Normalise w to the next vector; where it is no more than rounding, the run ends: vector and beta are zero."""
    xp = namespace(w)
    b = xp.sqrt(squared)
    norm_seen = xp.maximum(xp.abs(a) + b_before + b, xp.zeros_like(b) + norm_seen)
    alive = b > rounding * norm_seen  # false for NaN too, which the last look finds in alpha
    b = xp.where(alive, b, xp.zeros_like(b))
    return scale_rows(w, xp.where(alive, 1 / _nonzero(b), xp.zeros_like(b))), b, norm_seen
