"""Floor 2: Golub-Kahan bidiagonalisation: singular values without squaring the operator."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from slq._arrays import (
    Array,
    dot,
    is_numpy,
    largest_entry,
    namespace,
    precision,
    real,
    scale_rows,
    subtract_rows,
    to_host,
)
from slq._basis import Basis, storage_for
from slq._checks import prescale
from slq._gram import Rectangular, rectangular
from slq._host_vectors import host_vectors
from slq._lanczos import basis_size, start
from slq._products import product_error, workspace
from slq._quadrature import singular_run_lengths
from slq._source import count
from slq._vectors import Vectors, breakdown, length_of
from slq._wrappers import check_size
from slq.errors import NonFiniteError, OperatorError, SlqError

__all__ = ["Bidiagonal", "RightSpace", "bidiagonalize", "golub_kahan"]

_ADJOINT = 1e-6  # ⟨Aᴴu, v⟩ and ⟨u, Av⟩ differ by rounding, or by their own size


class Bidiagonal(NamedTuple):
    """Coefficients of k Golub-Kahan runs of m steps: A Vᵢ = Uᵢ Bᵢ and Aᴴ Uᵢ = Vᵢ Bᵢᵀ + βᵢₘ vᵢ,ₘ₊₁ eₘᵀ.

    Attributes
    ----------
    alpha, beta : (k, m) array of float64
        Diagonals and superdiagonals of the upper bidiagonal Bᵢ, on the host, none negative. The last column of beta is
        the residual norm. A zero ends a run; what follows is zero.
    """

    alpha: np.ndarray
    beta: np.ndarray


def golub_kahan(
    A: Any,
    V: Array,
    num_steps: int,
    *,
    reorthogonalize: bool | int = True,
    progress: Callable[[int, int], None] | None = None,
) -> Bidiagonal:
    """Bidiagonalise a rectangular operator from each row of a block of right start vectors.

    Parameters
    ----------
    A : (p, n) operator
        With an adjoint; anything that `gram` takes, but functions: make them ``matvec`` and ``rmatvec`` of an object
        with ``shape`` and ``like``.
    V : (k, n) or (n,) array
        Start vectors, one per row, of any length but zero.
    num_steps : int
        The number m of steps; each costs a product with A and one with its adjoint.
    reorthogonalize : bool or int
        As for `lanczos`, on both sides: memory k·m·(n + p).
    progress : callable, optional
        Called as ``progress(steps done, num_steps)``.

    Returns
    -------
    Bidiagonal
        BᵀB is the tridiagonal matrix that `lanczos` would find for AᴴA; but small singular values keep their digits.

    Raises
    ------
    OperatorError
        If A has no adjoint, or one that does not fit, or a product is not usable.
    RequestError
        If `num_steps` or `reorthogonalize` is out of range, or a start vector is zero or not finite.

    References
    ----------
    Golub and Kahan, Calculating the singular values and pseudo-inverse of a matrix, SIAM J. Numer. Anal. B 2 (1965).
    """
    A = rectangular(A)
    num_steps = count("num_steps", num_steps)
    basis_size(reorthogonalize, num_steps)
    return bidiagonalize(A, start(RightSpace(A), V)[0], num_steps, reorthogonalize=reorthogonalize, progress=progress)


class RightSpace:
    """The vectors that a rectangular operator multiplies, as far as `start` and samplers want to know."""

    def __init__(self, A: Rectangular) -> None:
        self.shape = (A.shape[1], A.shape[1])
        self.like = A.like
        self.matvec = A.matvec
        self._operator = A

    def workspace(self, rows: int) -> int:
        """Bytes that a product takes for itself, as the operator tells."""
        return workspace(self._operator, rows)


class _Side:
    """One of the two spaces: its basis, and products that lead to it."""

    def __init__(self, product: Callable[[Array], Array], size: int, like: Array, keep: int) -> None:
        self._product, self._size, self._like = product, size, like
        self._basis = Basis(keep, storage_for(None, like))
        self._work: Vectors | None = None
        self.unit = 1.0

    def multiply(self, x: Array, step: int) -> Array:
        """The product with x, checked, brought to order one; a copy."""
        xp = namespace(x)
        argument = x if x.dtype == self._like.dtype else xp.astype(x, self._like.dtype)
        try:
            y = self._product(argument)
        except (SlqError, MemoryError):
            raise
        except Exception as error:
            raise product_error(error, step, argument.shape) from error
        check_size(y, argument, self._size)
        return xp.astype(y, x.dtype) * self.unit

    def close(self, w: Array) -> tuple[Array, Array]:
        """`w` orthogonal to the earlier vectors of this side, and its squared length."""
        if self._basis.size:
            if self._work is None:
                self._work = host_vectors(None, w, True) if is_numpy(w) else Vectors()
            w = self._basis.remove_from(self._basis.remove_from(w, self._work), self._work)
        return w, real(dot(w, w))

    def keep(self, v: Array) -> None:
        self._basis.append(v)


def bidiagonalize(
    A: Rectangular,
    v: Array,
    num_steps: int,
    *,
    reorthogonalize: bool | int = True,
    progress: Callable[[int, int], None] | None = None,
    first_row: int = 0,
) -> Bidiagonal:
    """`golub_kahan` from unit vectors; errors count the rows from `first_row`."""
    keep = basis_size(reorthogonalize, num_steps)
    left, right = _Side(A.matvec, A.shape[0], A.like, keep), _Side(A.rmatvec, A.shape[1], A.like, keep)
    xp, rounding = namespace(v), breakdown(v)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        u = left.multiply(v, 0)
        sizes = to_host(largest_entry(u)).astype(np.float64)
        unit = left.unit = right.unit = prescale(sizes, v)
        u = u * unit
        b = norm_seen = xp.zeros_like(real(v[:, 0]))
        alphas, betas = [], []
        for j in range(num_steps):
            if j:
                u = subtract_rows(left.multiply(v, j), b, u)
            u, squared = left.close(u)
            a, factors, norm_seen = length_of(squared, b, xp.zeros_like(b), norm_seen, rounding)
            alphas.append(a + 0 * squared)  # what is not finite ends a run like a zero, but must be seen
            u = scale_rows(u, factors)
            left.keep(u)
            right.keep(v)
            y = right.multiply(u, j)
            if j == 0:
                gap = xp.abs(dot(y, v) - a)
            v, squared = right.close(subtract_rows(y, a, v))
            b, factors, norm_seen = length_of(squared, a, xp.zeros_like(a), norm_seen, rounding)
            betas.append(b + 0 * squared)
            v = scale_rows(v, factors)
            if progress is not None:
                progress(j + 1, num_steps)
        rows = to_host(xp.stack([*alphas, *betas, gap])).astype(np.float64)
    return _judged(rows, num_steps, unit, precision(A.like), first_row)


def _judged(rows: np.ndarray, num_steps: int, unit: float, eps: float, first_row: int) -> Bidiagonal:
    alpha, beta, gap = rows[:num_steps].T.copy(), rows[num_steps : 2 * num_steps].T.copy(), rows[-1]
    for i, length in enumerate(singular_run_lengths(alpha, beta)):
        alpha[i, length:] = beta[i, length:] = 0.0
    finite = np.isfinite(alpha) & np.isfinite(beta)
    bad = np.flatnonzero(~finite.all(axis=1))
    if bad.size:
        step = int(finite[bad].argmin(axis=1).min())
        lost = (bad + first_row).tolist()
        raise NonFiniteError(
            f"the products of step {step} contain NaN or infinity for probes {lost}, from finite input; "
            "look for a division by zero, an overflow or bad data inside the operator or its adjoint",
            probes=lost,
            step=step,
        )
    worst = float((gap / np.maximum(alpha[:, 0], np.finfo(np.float64).tiny)).max())
    if worst > max(_ADJOINT, 1e4 * eps):
        raise OperatorError(
            f"the adjoint does not fit: uᴴ(A v) and (Aᴴu)ᴴv differ by {worst:.2g} of ‖A v‖; rmatvec must be the "
            "product with the conjugate transpose"
        )
    return Bidiagonal(alpha / unit, beta / unit)
