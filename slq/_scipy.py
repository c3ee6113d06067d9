"""Floor 1: any operator as a `scipy.sparse.linalg.LinearOperator`, host arrays in and out."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator as ScipyOperator

from slq._arrays import Array, from_host, is_complex, recurrence_like, to_host
from slq._multiply import as_dtype, multiply
from slq._products import LinearOperator, put
from slq.errors import RequestError

__all__ = ["scipy_operator"]


def scipy_operator(A: LinearOperator) -> ScipyOperator:
    """`A` as SciPy's `LinearOperator`; see `slq.to_scipy`."""
    if hasattr(A, "index"):
        raise RequestError(
            "this process holds only a part of each vector (`index`), and SciPy's operators know whole vectors only; "
            "gather the operator on one process first"
        )
    like = recurrence_like(A.like)  # NumPy has no bfloat16

    def place(rows: np.ndarray) -> Array:
        # an operator with an inner product of its own transforms what it places; the others only place it
        return from_host(rows, like) if hasattr(A, "vecdot") else put(A, rows, like)

    def on_host(matvec: Callable[[Array], Array]) -> Callable[[np.ndarray], np.ndarray]:
        operator: Any = SimpleNamespace(shape=A.shape, like=A.like, matvec=matvec)
        dtype = to_host(like).dtype

        def product(rows: np.ndarray) -> np.ndarray:
            return to_host(as_dtype(multiply(operator, place(rows)), like.dtype)).astype(dtype, copy=False)

        return lambda x: _by_columns(product, np.asarray(x), is_complex(like))

    members = {"matvec": on_host(A.matvec), "matmat": on_host(A.matvec)}
    adjoint = _adjoint(A)
    if adjoint is not None:
        members["rmatvec"] = members["rmatmat"] = on_host(adjoint)
    return ScipyOperator((int(A.shape[0]), int(A.shape[1])), dtype=to_host(like).dtype, **members)


def _adjoint(A: LinearOperator) -> Callable[[Array], Array] | None:
    """The product y -> Aᴴ y in the plain inner product, None where A's is another: A's own, or A itself."""
    return None if hasattr(A, "vecdot") else getattr(A, "rmatvec", A.matvec)


def _by_columns(product: Callable[[np.ndarray], np.ndarray], x: np.ndarray, takes_complex: bool) -> np.ndarray:
    """A product of rows applied to one vector, (n,) or (n, 1), or to the columns of an (n, k) matrix."""
    if np.iscomplexobj(x) and not takes_complex:
        return _by_columns(product, x.real, False) + 1j * _by_columns(product, x.imag, False)
    y = product(np.ascontiguousarray(x.T if x.ndim == 2 else x[None]))
    return y.T.reshape(y.shape[1], *x.shape[1:])
