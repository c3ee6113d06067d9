"""Floor 1: vector work on the host, block by block, so that memory is passed over once for several operations.

With numba installed (the extra ``fast``), large blocks take compiled loops instead: one pass with nothing in between.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse
from scipy.linalg.blas import get_blas_funcs

from slq._arrays import is_complex
from slq._products import LinearOperator, Products
from slq._vectors import Vectors
from slq._wrappers import SparseMatrix

__all__ = ["compiled", "host_vectors"]

_BLOCK = 1 << 15  # numbers per block: three blocks of float64 stay in a second-level cache of 1 MB
_COMPILED = 1 << 17  # numbers from which a compiled loop is worth its loading
_DRIFT = 40  # binary orders by which vectors that are not normalised may leave order one: far from overflow in float32
_FEW = 4  # probes below which vectors stay rows: the innermost loops along interleaved ones would be too short


def host_vectors(A: LinearOperator | None, v: np.ndarray, projecting: bool) -> Vectors:
    """The fastest vector work for NumPy arrays; `projecting` if there is a basis to remove."""
    fast = compiled() if v.size >= _COMPILED and not is_complex(v) else None
    matrix = A.matrix if isinstance(A, SparseMatrix) else None  # a user's own operator may mean another thing by it
    if (
        isinstance(matrix, scipy.sparse.csr_array | scipy.sparse.csr_matrix)
        and matrix.dtype == v.dtype
        and not is_complex(v)
        and len(v) >= _FEW
        and not projecting
    ):
        return _CompiledCsr(matrix, v, fast) if fast else _Csr(matrix, v)
    return _CompiledBlocks(v, fast) if fast else _Blocks(v)


@functools.cache
def compiled() -> Any:
    """The module of compiled loops, or None without numba (or without a place where it can keep what it compiled)."""
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        return importlib.import_module("slq._compiled")
    except (ImportError, RuntimeError):
        return None


class _Blocks(Vectors):
    """Blocks of rows."""

    on_host = True

    def __init__(self, v: np.ndarray) -> None:
        super().__init__()
        self._wide = np.complex128 if is_complex(v) else np.float64
        self._double = v.dtype == self._wide
        self._scratch = np.empty(_BLOCK, dtype=v.dtype)
        self._axpy, self._gemv = get_blas_funcs(("axpy", "gemv"), dtype=v.dtype)

    def open(
        self, y: np.ndarray, before: np.ndarray | None, b: np.ndarray, v: np.ndarray, compare: bool
    ) -> tuple[Any, Any, Any]:
        a = np.zeros(len(v), dtype=self._wide)
        returned = np.zeros_like(a) if compare and before is not None else None
        w = np.empty_like(v) if before is None else before
        for rows, columns in _blocks(w.shape, together=not y.flags.c_contiguous):
            part, product = w[rows, columns], y[rows, columns]
            if before is None:
                part[...] = product
            else:
                if returned is not None:
                    returned[rows] += self._dot(part, product)
                np.multiply(part, _along(b[rows], part), out=part)
                np.subtract(product, part, out=part)
            a[rows] += self._dot(v[rows, columns], part)
        return w, a, returned

    def close(self, w: np.ndarray, a: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        squared = np.zeros(len(v))
        for rows, columns in _blocks(w.shape):
            part = w[rows, columns]
            if part.ndim == 1:
                self._axpy(v[rows, columns], part, a=-a[rows])
            else:
                scratch = self._scratch[: part.size].reshape(part.shape)
                np.multiply(v[rows, columns], _along(a[rows], part), out=scratch)
                np.subtract(part, scratch, out=part)
            squared[rows] += self._dot(part, part).real
        return w, squared

    def normalise(self, w: np.ndarray, factors: np.ndarray) -> np.ndarray:
        return np.multiply(w, _along(factors, w), out=w)

    def project(self, rows: np.ndarray, w: np.ndarray) -> np.ndarray:
        for basis, x in zip(rows, w, strict=True):
            components = basis.conj() @ x if is_complex(x) else basis @ x
            self._gemv(-1.0, basis.T, components, beta=1.0, y=x, overwrite_y=True)
        return w

    def _dot(self, x: np.ndarray, y: np.ndarray) -> Any:
        """⟨x, y⟩ of each row, summed in double precision."""
        if not self._double:
            x, y = x.astype(self._wide), y.astype(self._wide)
        return np.vdot(x, y) if x.ndim == 1 else np.vecdot(x, y)


def _along(factors: Any, rows: np.ndarray) -> Any:
    """One factor for each row, in the dtype of the rows."""
    return factors if rows.ndim == 1 else factors.astype(rows.dtype)[:, None]


def _blocks(shape: tuple[int, int], *, together: bool = False) -> Iterator[tuple[Any, slice]]:
    """Index pairs that cover (k, n): parts of single rows where rows are long, several rows together where short.

    `together`: all rows in each block, for a product that comes with its rows interleaved.
    """
    k, n = shape
    if n >= _BLOCK // 2 and not (together and k > 1):
        for row in range(k):
            for low in range(0, n, _BLOCK):
                yield row, slice(low, low + _BLOCK)
        return
    rows = k if together else max(1, _BLOCK // n)
    columns = max(1, _BLOCK // rows) if together else n
    for low in range(0, k, rows):
        for left in range(0, n, columns):
            yield slice(low, low + rows), slice(left, left + columns)


class _CompiledBlocks(_Blocks):
    """Rows in compiled loops."""

    def __init__(self, v: np.ndarray, fast: Any) -> None:
        super().__init__(v)
        self._fast = fast

    def open(
        self, y: np.ndarray, before: np.ndarray | None, b: np.ndarray, v: np.ndarray, compare: bool
    ) -> tuple[Any, Any, Any]:
        if before is None or not y.flags.c_contiguous:
            return super().open(y, before, b, v, compare)
        a, returned = self._fast.open_rows(y, before, b, v)
        return before, a, returned if compare else None

    def close(self, w: np.ndarray, a: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return w, self._fast.close_rows(w, a, v)


class _Interleaved(Vectors):
    """Vectors of a CSR matrix that lie interleaved, as (n, k) arrays; seen from outside, transposed, they are (k, n).

    Each vector is kept up to a factor, that of its probe, which saves the pass that would normalise it: nobody else
    sees them, since the product is made here.
    """

    on_host = True

    # Of (n, k) arrays: write `unit` A v − b before into `before`, make ⟨v, ·⟩ of it, and ⟨before, unit A v⟩ if asked;
    # subtract a v from w and make the squared lengths; scale the columns.
    _open: Callable[[float, np.ndarray, np.ndarray, np.ndarray, bool], tuple[np.ndarray, np.ndarray]]
    _close: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    _scale: Callable[[np.ndarray, np.ndarray], None]

    def __init__(self, k: int) -> None:
        super().__init__()
        self._factor, self._factor_before = np.ones(k), np.ones(k)

    def adopt(self, v: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(v.T).T

    def open(
        self, y: np.ndarray, before: np.ndarray | None, b: np.ndarray, v: np.ndarray, compare: bool
    ) -> tuple[Any, Any, Any]:
        w = np.ascontiguousarray(y.T).T  # the first product, which is SciPy's own and need not be copied
        return w, self.dot(v, w), None

    def multiply_and_open(
        self, products: Products, unit: float, before: np.ndarray, b: np.ndarray, v: np.ndarray, compare: bool
    ) -> tuple[Any, Any, Any]:
        ratio = self._factor_before / self._factor
        a, returned = self._open(unit, before.T, b * ratio, v.T, compare)
        return before, a * self._factor**2, returned * self._factor * self._factor_before if compare else None

    def close(self, w: np.ndarray, a: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return w, self._close(w.T, a, v.T) * self._factor**2

    def normalise(self, w: np.ndarray, factors: np.ndarray) -> np.ndarray:
        self._factor_before, self._factor = self._factor, self._factor * factors
        ended = factors == 0
        if ended.any():
            w[ended] = 0.0
            self._factor[ended] = 1.0
        exponents = np.frexp(self._factor)[1]
        if np.abs(exponents).max() > _DRIFT:  # by powers of two, which round nothing
            self._scale(w.T, np.ldexp(1.0, exponents))
            self._factor = np.ldexp(self._factor, -exponents)
        return w

    def largest(self, v: np.ndarray, row: int) -> float:
        return super().largest(v, row) * float(self._factor[row])


class _Csr(_Interleaved):
    """The product in parts, by SciPy, each used up while it is in the cache.

    The numbers that belong to a probe are repeated to the length of a part: NumPy is slow where the innermost loop is
    short.
    """

    def __init__(self, matrix: Any, v: np.ndarray) -> None:
        k, n = v.shape
        super().__init__(k)
        self._rows = max(64, 4 * _BLOCK // k // 64 * 64)
        self._scratch = np.empty((self._rows, k), dtype=v.dtype)
        self._parts = []
        for low in range(0, n, self._rows):
            high = min(low + self._rows, n)
            first, last = matrix.indptr[low], matrix.indptr[high]
            triple = (matrix.data[first:last], matrix.indices[first:last], matrix.indptr[low : high + 1] - first)
            self._parts.append((slice(low, high), scipy.sparse.csr_array(triple, shape=(high - low, n))))
        self.dot = lambda x, y: np.sum([self._dot(x.T[rows], y.T[rows]) for rows, _ in self._parts], axis=0)

    def _open(self, unit: float, before: np.ndarray, b: np.ndarray, v: np.ndarray, compare: bool) -> tuple[Any, Any]:
        a, returned = np.zeros(v.shape[1]), np.zeros(v.shape[1])
        repeated = self._repeated(b)
        for rows, part in self._parts:
            w, product = before[rows], part @ v
            if unit != 1.0:
                product *= unit
            if compare:
                returned += self._dot(w, product)
            np.multiply(w, repeated[: len(w)], out=w)
            np.subtract(product, w, out=w)
            a += self._dot(v[rows], w)
        return a, returned

    def _close(self, w: np.ndarray, a: np.ndarray, v: np.ndarray) -> np.ndarray:
        squared = np.zeros(v.shape[1])
        repeated = self._repeated(a)
        for rows, _ in self._parts:
            part = w[rows]
            scratch = self._scratch[: len(part)]
            np.multiply(v[rows], repeated[: len(part)], out=scratch)
            np.subtract(part, scratch, out=part)
            squared += self._dot(part, part)
        return squared

    def _scale(self, w: np.ndarray, factors: np.ndarray) -> None:
        np.multiply(w, factors.astype(w.dtype), out=w)

    def _repeated(self, numbers: np.ndarray) -> np.ndarray:
        return np.broadcast_to(numbers.astype(self._scratch.dtype), self._scratch.shape).copy()

    def _dot(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """⟨x, y⟩ of each column; long rows of several coordinates are added up first."""
        products = np.multiply(x, y, out=self._scratch[: len(x)])
        even = len(x) // 64 * 64
        sums = products[:even].reshape(-1, 64 * x.shape[1]).sum(axis=0, dtype=np.float64)
        return sums.reshape(64, -1).sum(axis=0) + products[even:].sum(axis=0, dtype=np.float64)


class _CompiledCsr(_Interleaved):
    """The product inside the loop that uses it up."""

    def __init__(self, matrix: Any, v: np.ndarray, fast: Any) -> None:
        super().__init__(len(v))
        self._open = functools.partial(fast.open_csr, matrix.indptr, matrix.indices, matrix.data)
        self._close = fast.close_columns
        self._scale = fast.scale_columns
        self.dot = lambda x, y: fast.dot_columns(x.T, y.T)
