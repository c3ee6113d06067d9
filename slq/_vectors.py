"""Floor 1: the vector work of a Lanczos step: three-term recurrence, inner products, normalisation, projection.

`open` makes w = y − β v₋ of a product y, and ⟨v, w⟩; `close` subtracts α v and makes ‖w‖²; `normalise` makes the next
vector. `open` writes into the buffer of v₋, which is needed no more, where the library lets it: the recurrence then
lives in two buffers and the product's own, and never writes into what a product returned.

Passes over memory of a step, in vectors of length n read (r) and written (w), without projections:

=========  ============  =========  =========
kind       `open`        `close`    `normalise`
=========  ============  =========  =========
blocks     3r 1w         2r 1w      1r 1w      NumPy: what follows a read stays in the cache
in place   5r 3w         4r 1w      1r 1w      PyTorch, CuPy: one pass per operation
functions  5r 3w         4r 2w      1r 1w      others; JAX compiles `open` to 3r 1w and `close` to 2r 1w
=========  ============  =========  =========
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.linalg.blas import get_blas_funcs

from slq._arrays import (
    Array,
    dot,
    fused,
    is_complex,
    is_numpy,
    is_torch,
    project_out,
    scale_rows,
    subtract_components,
    subtract_rows,
)
from slq._products import LinearOperator, Products

__all__ = ["Vectors", "vectors_for"]

_BLOCK = 1 << 15  # numbers per block: three blocks of float64 stay in a second-level cache of 1 MB


def vectors_for(A: LinearOperator, v: Array) -> "Vectors":
    """The fastest vector work there is for an operator and blocks like `v`."""
    own_dot = getattr(A, "vecdot", None)
    if own_dot is None and is_numpy(v):
        return _Blocks(v)
    if own_dot is None and is_torch(v):
        return _InPlace()
    return Vectors(own_dot)


class Vectors:
    """Vector work in functions of the Array API, for any library and any inner product.

    Attributes
    ----------
    on_host : bool
        Numbers can be looked at without stalling a device.
    dot : callable
        The inner product of each row.
    """

    on_host = False

    def __init__(self, own_dot: Callable[[Array, Array], Array] | None = None) -> None:
        self._own_dot = own_dot
        self.dot = dot if own_dot is None else own_dot

    def multiply_and_open(
        self, products: Products, unit: float, before: Array, b: Array, v: Array, compare: bool
    ) -> tuple[Array, Array, Array]:
        """`open` of `unit` times the product with `v`."""
        y = products(v)
        return self.open(y if unit == 1.0 else y * unit, before, b, v, compare)

    def open(self, y: Array, before: Array | None, b: Array, v: Array, compare: bool) -> tuple[Array, Array, Array]:
        """Make w = y − b before, ⟨v, w⟩, and ⟨before, y⟩ if `compare` (else None); `before` may be overwritten."""
        if self._own_dot is None:
            if before is None:
                return y, dot(v, y), None
            return _open_and_compare(y, before, b, v) if compare else (*_open(y, before, b, v), None)
        returned = self._own_dot(before, y) if compare and before is not None else None
        w = y if before is None else subtract_rows(y, b, before)
        return w, self._own_dot(v, w), returned

    def close(self, w: Array, a: Array, v: Array) -> tuple[Array, Array]:
        """Make w − a v and its squared length; `w` may be overwritten."""
        if self._own_dot is None:
            return _close(w, a, v)
        w = subtract_rows(w, a, v)
        return w, self._own_dot(w, w)

    def normalise(self, w: Array, factors: Array) -> Array:
        """Row i of `w` times factors[i]; `w` may be overwritten."""
        return scale_rows(w, factors)

    def project(self, rows: Array, w: Array) -> Array:
        """`w` minus its components along the orthonormal (k, r, n) `rows`; `w` may be overwritten."""
        if self._own_dot is None:
            return project_out(rows, w)
        return subtract_components(rows, self._own_dot(rows, w[:, None, :]), w)


@fused
def _open(y: Array, before: Array, b: Array, v: Array) -> tuple[Array, Array]:
    w = subtract_rows(y, b, before)
    return w, dot(v, w)


@fused
def _open_and_compare(y: Array, before: Array, b: Array, v: Array) -> tuple[Array, Array, Array]:
    return (*_open(y, before, b, v), dot(before, y))


@fused
def _close(w: Array, a: Array, v: Array) -> tuple[Array, Array]:
    w = subtract_rows(w, a, v)
    return w, dot(w, w)


class _InPlace(Vectors):
    """PyTorch: element-wise operations in place, so that no step allocates a vector."""

    def open(self, y: Array, before: Array | None, b: Array, v: Array, compare: bool) -> tuple[Array, Array, Array]:
        if before is None:
            w = y.clone()
            return w, dot(v, w), None
        returned = dot(before, y) if compare else None
        w = before.mul_(-b.to(before.dtype)[:, None]).add_(y)
        return w, dot(v, w), returned

    def close(self, w: Array, a: Array, v: Array) -> tuple[Array, Array]:
        w.addcmul_(v, -a.to(w.dtype)[:, None])
        return w, dot(w, w)

    def normalise(self, w: Array, factors: Array) -> Array:
        return w.mul_(factors.to(w.dtype)[:, None])


class _Blocks(Vectors):
    """NumPy: in place, and block by block, so that memory is passed over once for several operations."""

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
        for rows, columns in _blocks(w.shape):
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


def _blocks(shape: tuple[int, int]) -> Iterator[tuple[Any, slice]]:
    """Index pairs that cover (k, n): parts of single rows where rows are long, several rows together where short."""
    k, n = shape
    if n >= _BLOCK // 2:
        for row in range(k):
            for low in range(0, n, _BLOCK):
                yield row, slice(low, low + _BLOCK)
        return
    together = max(1, _BLOCK // n)
    for low in range(0, k, together):
        yield slice(low, low + together), slice(None)
