"""Floor 1: what a positive definite B = LLᴴ does to rows; B is a diagonal, a matrix, or sparse."""

from typing import Any, Protocol

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.sparse.linalg import splu

from slq._arrays import Array, from_host, is_complex
from slq._wrappers import Matrix
from slq.errors import NotPositiveDefiniteError, NotSymmetricError

__all__ = ["Dense", "Diagonal", "PositiveDefinite", "Sparse"]

_MEND = "B must be Hermitian positive definite; add a small multiple of the identity, or swap A and B"


class PositiveDefinite(Protocol):
    """What a positive definite B = LLᴴ does to rows."""

    def multiply(self, x: Array) -> Array:
        """B x."""
        ...

    def solve(self, x: Array) -> Array:
        """B⁻¹ x."""
        ...

    def whiten(self, z: np.ndarray) -> Array:
        """L⁻ᴴ z of a block on the host, placed."""
        ...


class Diagonal:
    """B = diag(b)."""

    def __init__(self, diagonal: np.ndarray, like: Array) -> None:
        _require_hermitian(float(np.abs(diagonal.imag).max()), float(np.abs(diagonal).max()), 0.0)
        _require_pivots(diagonal.real, np.zeros(diagonal.size))
        self._diagonal = from_host(diagonal.real, like)
        self._root = from_host(np.sqrt(diagonal.real), like)
        self._like = like

    def multiply(self, x: Array) -> Array:
        """B x."""
        return x * self._diagonal

    def solve(self, x: Array) -> Array:
        """B⁻¹ x."""
        return x / self._diagonal

    def whiten(self, z: np.ndarray) -> Array:
        """L⁻ᴴ z."""
        return from_host(z, self._like) / self._root


class Dense:
    """A matrix. L is inverted once, on the host in double precision: the Array API solves no triangular systems.

    Products with L⁻¹ and its adjoint make a Hermitian B⁻¹ = L⁻ᴴL⁻¹ to the last digit, as an inverse of B would not.
    """

    def __init__(self, matrix: np.ndarray, like: Array, eps: float) -> None:
        wide = matrix.astype(np.complex128 if np.iscomplexobj(matrix) else np.float64)
        with np.errstate(invalid="ignore"):
            _require_hermitian(float(np.abs(wide - wide.conj().T).max()), float(np.abs(wide).max()), eps)
        try:
            factor = scipy.linalg.cholesky(wide, lower=True)
        except np.linalg.LinAlgError as error:
            raise NotPositiveDefiniteError(f"B is not positive definite ({error}); {_MEND}") from None
        _require_pivots(np.diag(factor).real ** 2, np.diag(wide).real)
        inverse = scipy.linalg.solve_triangular(factor, np.eye(len(wide)), lower=True)
        self._matrix, self._inverse = Matrix(from_host(wide, like)), Matrix(from_host(inverse, like))
        self._like = like

    def multiply(self, x: Array) -> Array:
        """B x."""
        return self._matrix.matvec(x)

    def solve(self, x: Array) -> Array:
        """B⁻¹ x."""
        return self._inverse.rmatvec(self._inverse.matvec(x))

    def whiten(self, z: np.ndarray) -> Array:
        """L⁻ᴴ z."""
        return self._inverse.rmatvec(from_host(z, self._like))


class Sparse:
    """A SciPy sparse matrix on the host, factored in double precision by SuperLU in its symmetric mode.

    With pivots on the diagonal only, PBPᵀ = L D Lᴴ with positive D, and U = D Lᴴ. The order is of minimum degree.
    """

    def __init__(self, matrix: Any, like: np.ndarray, eps: float) -> None:
        self._dtype = np.dtype(np.complex128 if is_complex(like) else np.float64)
        wide = scipy.sparse.csc_array(matrix, dtype=self._dtype)
        _require_hermitian(_largest(wide - wide.conj().T), _largest(wide), eps)
        try:
            self._factors = splu(
                wide, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            )
        except RuntimeError as error:  # exactly singular
            raise NotPositiveDefiniteError(f"B is not positive definite ({error}); {_MEND}") from None
        order, pivots = self._factors.perm_r, self._factors.U.diagonal().real
        if not np.array_equal(order, self._factors.perm_c):
            raise NotPositiveDefiniteError(f"B is not positive definite: a pivot on its diagonal is zero; {_MEND}")
        diagonal = np.empty(pivots.size)
        diagonal[order] = wide.diagonal().real
        _require_pivots(pivots, diagonal)
        self._matrix = wide.tocsr()
        self._root = (self._factors.L @ scipy.sparse.diags_array(np.sqrt(pivots))).tocsr()[order]  # B = root rootᴴ
        self._like = like

    def multiply(self, x: np.ndarray) -> np.ndarray:
        """B x."""
        return self._by_columns(self._matrix.__matmul__, x)

    def solve(self, x: np.ndarray) -> np.ndarray:
        """B⁻¹ x."""
        return self._by_columns(self._factors.solve, x)

    def whiten(self, z: np.ndarray) -> np.ndarray:
        """L⁻ᴴ z = B⁻¹ L z."""
        return self.solve(self._by_columns(self._root.__matmul__, z)).astype(self._like.dtype, copy=False)

    def _by_columns(self, product: Any, x: np.ndarray) -> np.ndarray:
        columns = x.reshape(-1, x.shape[-1]).T.astype(self._dtype)
        return product(columns).T.reshape(x.shape).astype(x.dtype, copy=False)


def _largest(matrix: Any) -> float:
    return float(np.abs(matrix.data).max()) if matrix.nnz else 0.0


def _require_hermitian(difference: float, largest: float, eps: float) -> None:
    # An assembled matrix differs from its adjoint by the rounding of sums taken in another order: a few eps.
    if not difference <= 100 * eps * largest:  # nor where there is a NaN
        raise NotSymmetricError(
            "B is not Hermitian, or not finite: its entries differ from those of its adjoint by up to "
            f"{difference:.2g}; {_MEND}"
        )


def _require_pivots(pivots: np.ndarray, diagonal: np.ndarray) -> None:
    """Raise unless all pivots are positive beyond rounding, n·eps of the entry of B that they are the rest of."""
    bad = ~((pivots > pivots.size * np.finfo(np.float64).eps * diagonal) & np.isfinite(pivots))
    if bad.any():
        raise NotPositiveDefiniteError(
            f"B is not positive definite beyond rounding: {bad.sum()} of its {pivots.size} pivots are not positive, "
            f"the least being {np.min(pivots):.2g}; {_MEND}"
        )
