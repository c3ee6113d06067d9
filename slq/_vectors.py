"""Floor 1: the vector work of a Lanczos step: three-term recurrence, inner products, normalisation, projection.

`open` makes w = y − β v₋ of a product y, and ⟨v, w⟩; `close` subtracts α v and makes ‖w‖²; `normalise` makes the next
vector. `open` writes into the buffer of v₋, which is needed no more, where the library lets it: the recurrence then
lives in two buffers and the product's own, and never writes into what a product returned.

Passes over memory of a step, in vectors of length n read (r) and written (w), without projections:

=========  ============  =========  ===========  ==============================================================
kind       `open`        `close`    `normalise`
=========  ============  =========  ===========  ==============================================================
blocks     3r 1w         2r 1w      1r 1w        NumPy (`slq._host_vectors`): what follows a read is in the cache
CSR        2r 1w         2r 1w      none         SciPy: the product is made inside `open` and never stored
in place   6r 2w         4r 1w      1r 1w        PyTorch: one pass per operation
kernels    5r 1w         4r 1w      1r 1w        CuPy
functions  5r 2w         4r 2w      1r 1w        others; JAX compiles all between two products to 6r 3w
=========  ============  =========  ===========  ==============================================================
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

from slq._arrays import (
    Array,
    as_written,
    dot,
    fused,
    is_complex,
    library_name,
    matmul,
    namespace,
    precision,
    real,
    scale_rows,
    subtract_rows,
)
from slq._products import LinearOperator, Products

__all__ = ["Vectors", "breakdown", "device_vectors", "length_of"]

# A residual of fewer roundings than this of the norm seen so far is an invariant subspace. Measured where it should be
# zero (2 to 6 distinct eigenvalues, dense, n up to 2000): up to 640. Missing one does no harm, as the run goes on with
# tiny weights; ending a run too early would, and in float32 the bulk below outliers is not far above ten.
_BREAKDOWN = {True: 1000.0, False: 10.0}


def device_vectors(A: LinearOperator, v: Array) -> "Vectors":
    """The fastest vector work there is for arrays that are not NumPy's, or an inner product of the operator's own."""
    own_dot = getattr(A, "vecdot", None)
    if own_dot is not None:
        return Vectors(own_dot)
    library = library_name(v)
    kinds = {"torch": _InPlace, "cupy": _Kernels, "jax": _Jitted}
    return kinds.get(library, Vectors)()


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

    def adopt(self, v: Array) -> Array:
        """Start vectors in the layout that this work prefers."""
        return v

    def largest(self, v: Array, row: int) -> float:
        """The largest entry of a vector; on the host only."""
        return float(abs(v[row]).max())

    def multiply_and_open(
        self, products: Products, unit: float, before: Array, b: Array, v: Array, compare: bool
    ) -> tuple[Array, Array, Array]:
        """`open` of `unit` times the product with `v`."""
        y = products(v)
        return self.open(y if unit == 1.0 else y * unit, before, b, v, compare)

    def begin(
        self, products: Products, unit: float, before: Array, b: Array, v: Array, compare: bool
    ) -> tuple[Array, Array, Array, Array]:
        """`multiply_and_open` and `close`: w, ⟨v, ·⟩ of it before `close`, ⟨before, y⟩ if `compare`, ‖w‖²."""
        w, a, returned = self.multiply_and_open(products, unit, before, b, v, compare)
        w, squared = self.close(w, real(a), v)
        return w, a, returned, squared

    def finish(
        self, w: Array, squared: Array, a: Array, b: Array, norm_seen: Array, rounding: float
    ) -> tuple[Array, Array, Array]:
        """The next vector, its β, and the norm seen so far (see `length_of`)."""
        b, factors, norm_seen = length_of(squared, a, b, norm_seen, rounding)
        return self.normalise(w, factors), b, norm_seen

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
            return _project_out(rows, w)
        return _subtract_components(rows, self._own_dot(rows, w[:, None, :]), w)


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


@fused
def _project_out(rows: Array, vectors: Array) -> Array:
    """Vector i of (k, n) minus its components along the orthonormal `rows[i]`, (k, r, n) in all.

    Vectors stand on the left of each product: torch's batched product with single columns is 2-20 times slower.
    """
    xp = namespace(vectors)
    conj = xp.conj if is_complex(vectors) else (lambda x: x)  # conjugates vectors, never the rows
    v = vectors[:, None, :]
    return _subtract_components(rows, conj(matmul(conj(v), xp.matrix_transpose(rows)))[:, 0, :], vectors)


@fused
def _subtract_components(rows: Array, components: Array, vectors: Array) -> Array:
    """Vector i of (k, n) minus Σᵣ components[i, r] rows[i, r]."""
    xp = namespace(vectors)
    return vectors - matmul(xp.astype(components, vectors.dtype)[:, None, :], rows)[:, 0, :]


def breakdown(v: Array) -> float:
    """How small a residual is zero, relative to the norm seen so far."""
    return _BREAKDOWN[bool(namespace(v).finfo(v.dtype).bits > 32)] * precision(v)


@fused
def length_of(
    squared: Array, a: Array, b_before: Array, norm_seen: Array, rounding: float
) -> tuple[Array, Array, Array]:
    """β, what makes w the next vector, and the norm seen so far; where w is rounding, the run ends with zeros."""
    xp = namespace(squared)
    b = xp.sqrt(real(squared))
    norm_seen = xp.maximum(xp.abs(a) + b_before + b, norm_seen)
    alive = b > rounding * norm_seen  # false for NaN too, which the last look finds in alpha
    zero = xp.zeros_like(b)
    return xp.where(alive, b, zero), xp.where(alive, 1 / xp.where(alive, b, xp.ones_like(b)), zero), norm_seen


class _Jitted(Vectors):
    """JAX: all that lies between a product and the projections, or between these and the next product, is one call."""

    def begin(
        self, products: Products, unit: float, before: Array, b: Array, v: Array, compare: bool
    ) -> tuple[Array, Array, Array, Array]:
        y = products(v)
        y = y if unit == 1.0 else y * unit
        return _begin_and_compare(y, before, b, v) if compare else _begin(y, before, b, v)

    def finish(
        self, w: Array, squared: Array, a: Array, b: Array, norm_seen: Array, rounding: float
    ) -> tuple[Array, Array, Array]:
        return _finish(w, squared, a, b, norm_seen, rounding)


@fused
def _begin(y: Array, before: Array, b: Array, v: Array) -> tuple[Array, Array, None, Array]:
    w, a = _open(y, before, b, v)
    w, squared = _close(w, real(a), v)
    return w, a, None, squared


@fused
def _begin_and_compare(y: Array, before: Array, b: Array, v: Array) -> tuple[Array, Array, Array, Array]:
    w, a, _, squared = _begin(y, before, b, v)
    return w, a, dot(before, y), squared


@fused
def _finish(
    w: Array, squared: Array, a: Array, b: Array, norm_seen: Array, rounding: float
) -> tuple[Array, Array, Array]:
    b, factors, norm_seen = length_of(squared, a, b, norm_seen, rounding)
    return scale_rows(w, factors), b, norm_seen


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

    def project(self, rows: Array, w: Array) -> Array:
        conj = (lambda x: x.conj()) if is_complex(w) else (lambda x: x)  # of vectors, never of the rows
        v = w[:, None, :]
        with as_written(w):
            components = conj(conj(v) @ rows.mT)
            v.baddbmm_(components, rows, alpha=-1)
        return w


class _Kernels(_InPlace):
    """CuPy: each element-wise operation is one kernel, whose result takes the place of a vector."""

    def open(self, y: Array, before: Array | None, b: Array, v: Array, compare: bool) -> tuple[Array, Array, Array]:
        if before is None:
            w = namespace(y).asarray(y, copy=True)
            return w, dot(v, w), None
        returned = dot(before, y) if compare else None
        w = _cupy_subtract()(y, b.astype(y.dtype)[:, None], before, before)
        return w, dot(v, w), returned

    def close(self, w: Array, a: Array, v: Array) -> tuple[Array, Array]:
        _cupy_subtract()(w, a.astype(w.dtype)[:, None], v, w)
        return w, dot(w, w)

    def normalise(self, w: Array, factors: Array) -> Array:
        w *= factors.astype(w.dtype)[:, None]
        return w

    def project(self, rows: Array, w: Array) -> Array:
        return _project_out(rows, w)


@functools.cache
def _cupy_subtract() -> Callable[..., Array]:
    cupy: Any = sys.modules["cupy"]  # loaded, since a CuPy array came
    return cupy.ElementwiseKernel("T y, T b, T x", "T w", "w = y - b * x", "slq_subtract")
