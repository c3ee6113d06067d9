"""Floor 0: the loops of a Lanczos step, compiled by numba; loaded only where numba is installed and vectors are long.

Sums run in double precision. They may be reordered (as every SIMD sum is); NaN and infinity keep their meaning.
"""

import numba
import numpy as np

__all__ = ["close_columns", "close_rows", "dot_columns", "open_csr", "open_rows", "scale_columns"]

_compile = numba.njit(fastmath={"contract", "reassoc"}, error_model="numpy", cache=True)


@_compile
def open_rows(y, before, b, v):
    """Write y − b before into `before`, by rows; ⟨v, ·⟩ of it, and ⟨before, y⟩."""
    k, n = v.shape
    a, returned = np.zeros(k), np.zeros(k)
    for i in range(k):
        factor, forward, back = v.dtype.type(b[i]), 0.0, 0.0
        for c in range(n):
            old, new = before[i, c], y[i, c]
            w = new - factor * old
            before[i, c] = w
            forward += np.float64(v[i, c]) * np.float64(w)
            back += np.float64(old) * np.float64(new)
        a[i], returned[i] = forward, back
    return a, returned


@_compile
def close_rows(w, a, v):
    """Subtract a v from w in place, by rows; the squared lengths."""
    k, n = v.shape
    squared = np.zeros(k)
    for i in range(k):
        factor, total = v.dtype.type(a[i]), 0.0
        for c in range(n):
            x = w[i, c] - factor * v[i, c]
            w[i, c] = x
            total += np.float64(x) * np.float64(x)
        squared[i] = total
    return squared


@_compile
def open_csr(indptr, indices, data, unit, before, b, v, compare):
    """`open_rows` for columns of (n, k) arrays, of `unit` times the product of a CSR matrix with v.

    The sums run in the row of `before` itself: a buffer of their own could overlap `v` for all the compiler knows.
    """
    n, k = v.shape
    a, returned, old = np.zeros(k), np.zeros(k), np.zeros(k, v.dtype)
    factors, size = b.astype(v.dtype), v.dtype.type(unit)
    for i in range(n):
        w, here = before[i], v[i]
        if compare:
            for p in range(k):
                old[p] = w[p]
        for p in range(k):
            w[p] *= -factors[p]
        for q in range(indptr[i], indptr[i + 1]):
            entry, there = data[q] * size, v[indices[q]]
            for p in range(k):
                w[p] += entry * there[p]
        for p in range(k):
            a[p] += np.float64(w[p]) * np.float64(here[p])
        if compare:
            for p in range(k):
                returned[p] += np.float64(old[p]) * np.float64(w[p] + factors[p] * old[p])
    return a, returned


@_compile
def close_columns(w, a, v):
    """`close_rows` for columns of (n, k) arrays."""
    n, k = v.shape
    squared, factors = np.zeros(k), a.astype(v.dtype)
    for i in range(n):
        row, here = w[i], v[i]
        for p in range(k):
            row[p] -= factors[p] * here[p]
            squared[p] += np.float64(row[p]) * np.float64(row[p])
    return squared


@_compile
def dot_columns(x, y):
    """⟨x, y⟩ of each column of (n, k) arrays."""
    n, k = x.shape
    sums = np.zeros(k)
    for i in range(n):
        one, other = x[i], y[i]
        for p in range(k):
            sums[p] += np.float64(one[p]) * np.float64(other[p])
    return sums


@_compile
def scale_columns(w, factors):
    """Multiply column p of w by factors[p] in place."""
    n, k = w.shape
    narrow = factors.astype(w.dtype)
    for i in range(n):
        row = w[i]
        for p in range(k):
            row[p] *= narrow[p]
