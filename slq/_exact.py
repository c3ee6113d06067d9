"""Floor 2: the whole spectrum, from one product with each unit vector: what n products buy."""

from collections.abc import Callable

import numpy as np
from scipy.linalg import eigvalsh

from slq._arrays import is_complex, recurrence_like, to_host
from slq._measure import SpectralMeasure
from slq._memory import available
from slq._products import Products, put

__all__ = ["exact_measure", "is_feasible"]

# `eigvalsh` of this dimension took 48 s on two shared cores (measured once), and the matrix takes 134 MB.
_LARGEST = 4096
_COPIES = 3  # of the matrix: itself, its adjoint, and the workspace of LAPACK

_ROWS = 64  # products at a time


def is_feasible(products: Products) -> bool:
    """Whether the matrix fits on the host and its eigenvalues are those that a trace of f sums.

    Not where a process holds a part of the vectors, nor in an inner product of the operator's own.
    """
    A, n = products.operator, products.operator.shape[0]
    if n > _LARGEST or hasattr(A, "vecdot") or hasattr(A, "index"):
        return False
    free = available(np.empty(0))
    return free is None or _COPIES * n**2 * _dtype(products).itemsize <= free


def exact_measure(products: Products, rows: int | None, progress: Callable[[int], None]) -> SpectralMeasure:
    """The measure of the eigenvectors: n runs of one step that end there, so that their mean is exact.

    Parameters
    ----------
    products : Products
    rows : int, optional
        How many unit vectors are multiplied at a time.
    progress : callable
        Called with the number of products made.
    """
    A, n = products.operator, products.operator.shape[0]
    like, dtype = recurrence_like(A.like), _dtype(products)
    matrix = np.empty((n, n), dtype=dtype)
    step = _ROWS if rows is None else min(rows, _ROWS)
    for low in range(0, n, step):
        high = min(low + step, n)
        unit = np.zeros((high - low, n), dtype=to_host(like).dtype)
        unit[np.arange(high - low), np.arange(low, high)] = 1
        matrix[low:high] = to_host(products(put(A, unit, like)))
        progress(high)
    values = eigvalsh((matrix + matrix.conj().T) / 2, overwrite_a=True)
    return SpectralMeasure(
        values[:, None], np.zeros((n, 1)), n, sampler="fixed", is_complex=is_complex(A.like), eps=products.eps
    )


def _dtype(products: Products) -> np.dtype:
    return np.dtype(np.complex128 if is_complex(products.operator.like) else np.float64)
