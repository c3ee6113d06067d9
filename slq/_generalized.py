"""Floor 1: the generalised problem A x = λ B x as one operator, B⁻¹A in the inner product of B."""

from typing import Any

import numpy as np
import scipy.sparse

from slq._algebra import require_one_place
from slq._arrays import (
    Array,
    dot,
    is_array,
    is_complex,
    is_sparse,
    itemsize,
    library_name,
    precision,
    promote_inexact,
    recurrence_like,
    to_host,
)
from slq._inner_products import Dense, Diagonal, PositiveDefinite, Sparse
from slq._multiply import as_dtype, multiply
from slq._operators import aslinearoperator
from slq._products import LinearOperator, put, workspace
from slq._wrappers import Wrapper
from slq.errors import DtypeError, OperatorError, PlacementError, RequestError, ShapeError

__all__ = ["generalized"]


class _Generalized(Wrapper):
    """B⁻¹A, self-adjoint in ⟨x, y⟩ = xᴴBy."""

    def __init__(self, operand: LinearOperator, metric: PositiveDefinite) -> None:
        self.shape = (int(operand.shape[0]), int(operand.shape[1]))
        self.like = operand.like
        self._operand, self._metric = operand, metric
        self._wide = recurrence_like(operand.like).dtype

    def matvec(self, x: Array, /) -> Array:
        """Multiply each row of x by A, then by B⁻¹."""
        product = multiply(self._operand, x)
        return as_dtype(self._metric.solve(as_dtype(product, self._wide)), product.dtype)

    def vecdot(self, x: Array, y: Array) -> Array:
        """The inner product xᴴBy of rows."""
        return dot(x, self._metric.multiply(y))

    def workspace(self, rows: int) -> int:
        """Bytes that a product takes for itself: those of A, and three vectors for the inner products (measured)."""
        return workspace(self._operand, rows) + 3 * rows * self.shape[0] * itemsize(self.like)

    def put(self, block: np.ndarray) -> Array:
        """L⁻ᴴz of each row z: isotropic z become isotropic in the inner product of B."""
        white = self._metric.whiten(block)
        return put(self._operand, to_host(white), white) if hasattr(self._operand, "put") else white


def generalized(A: Any, B: Any) -> LinearOperator:
    """Make one operator of the generalised eigenvalue problem A x = λ B x, B positive definite.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    B : (n,) array, (n, n) array, or (n, n) SciPy sparse matrix
        Hermitian positive definite: its diagonal, or a matrix. Arrays are of the library and on the device of A; sparse
        matrices go with operators of NumPy.

    Returns
    -------
    LinearOperator
        B⁻¹A, self-adjoint in the inner product xᴴBy, which Lanczos then uses (``vecdot``). Its eigenvalues are the λ.
        Probes z are placed as L⁻ᴴz, where B = LLᴴ (``put``), so that traces are those of f(B⁻¹A).

    Raises
    ------
    NotPositiveDefiniteError
        If B is not positive definite beyond rounding.
    NotSymmetricError
        If B is not Hermitian or not finite.
    ShapeError
        If B has not the shape of A.
    PlacementError
        If B is of another library or on another device than A.
    DtypeError
        If B is complex and A real.
    RequestError
        If A has an inner product of its own, or holds only a part of the vectors.
    OperatorError
        If B is none of the above.

    Notes
    -----
    B is factored once, on the host in double precision: a matrix by Cholesky, whose inverse factor each product then
    uses (n² operations per vector); a sparse one by SuperLU with a minimum-degree order, which fills in. `put` maps
    isotropic vectors; start vectors that you give (``probes=`` an array) are taken as they are.

    References
    ----------
    Parlett, The symmetric eigenvalue problem (1998), chapter 15.

    Examples
    --------
    >>> import numpy as np
    >>> generalized(np.diag([2.0, 6.0]), np.asarray([1.0, 2.0])).matvec(np.ones(2))
    array([2., 3.])
    """
    A = aslinearoperator(A)
    special = [name for name in ("index", "vecdot") if hasattr(A, name)]
    if special:
        raise RequestError(
            f"A has {' and '.join(special)}: vectors in parts, or an inner product of its own; generalized needs whole "
            "vectors and the plain inner product"
        )
    return _Generalized(A, _metric(A, B))


def _metric(A: LinearOperator, B: Any) -> PositiveDefinite:
    like, n = recurrence_like(A.like), int(A.shape[0])
    sparse = scipy.sparse.issparse(B)
    if sparse and library_name(like) != "numpy":
        raise PlacementError(
            f"B is a SciPy sparse matrix, but A is of {library_name(like)}; give B as an array of that library, "
            "or A as an operator of NumPy"
        )
    if not sparse:
        if not is_array(B) or is_sparse(B) or hasattr(B, "nnz"):
            raise OperatorError(
                "B= expects a one-dimensional array (a diagonal), a two-dimensional one, or a SciPy sparse matrix, "
                f"got {type(B).__name__}; convert it"
            )
        require_one_place("B", B, like)
        B = promote_inexact(B)
    if tuple(B.shape) not in ((n, n), (n,)):
        raise ShapeError(f"B= expects shape ({n}, {n}) or ({n},), as A has dimension {n}, got {tuple(B.shape)}")
    if is_complex(np.empty(0, dtype=B.dtype) if sparse else B) and not is_complex(like):
        raise DtypeError(f"B is complex, but the operator works in {A.like.dtype}; give A in a complex dtype")
    if sparse:
        return Sparse(B, like, float(np.finfo(np.promote_types(B.dtype, np.float32)).eps))
    return Diagonal(to_host(B), like) if B.ndim == 1 else Dense(to_host(B), like, precision(B))
