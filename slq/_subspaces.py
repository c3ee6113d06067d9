"""Floor 1: an operator on a part of its space: `restrict` to coordinates, `deflate` known directions."""

from typing import Any

import numpy as np
import scipy.linalg

from slq._algebra import Derived, require_one_place
from slq._arrays import (
    Array,
    detach,
    device_of,
    from_host,
    fused,
    is_array,
    is_complex,
    itemsize,
    matmul,
    namespace,
    precision,
    promote_inexact,
    recurrence_like,
    to_host,
)
from slq._multiply import as_dtype, conj, multiply
from slq._operators import aslinearoperator
from slq._products import LinearOperator, describe, local_size, put, workspace
from slq._wrappers import Wrapper
from slq.errors import RequestError, ShapeError

__all__ = ["deflate", "restrict"]


class _Restriction(Wrapper):
    """The rows and columns of an operator at some positions."""

    def __init__(self, operand: LinearOperator, positions: np.ndarray) -> None:
        n, m = int(operand.shape[0]), positions.size
        self.shape = (m, m)
        self.like = operand.like
        self._operand = operand
        self._at = positions
        self._low = int(positions[0])
        self._contiguous = bool(np.array_equal(positions, np.arange(self._low, self._low + m)))
        if not self._contiguous:
            source = np.full(n, m)  # where each coordinate comes from; the others from a zero put behind the last
            source[positions] = np.arange(m)
            xp, device = namespace(self.like), device_of(self.like)
            self._positions, self._source = (xp.asarray(part, device=device) for part in (positions, source))
        if hasattr(operand, "put"):
            self.put = self._put

    def matvec(self, x: Array, /) -> Array:
        """Multiply each row of x."""
        return self._gather(multiply(self._operand, self._scatter(x)))

    def workspace(self, rows: int) -> int:
        """Bytes that a product takes for itself: those of the operand, and what whole vectors take more."""
        more = int(self._operand.shape[0]) - self.shape[0]
        return workspace(self._operand, rows) + 2 * rows * more * itemsize(self.like)

    def _put(self, block: np.ndarray) -> Array:
        whole = np.zeros((block.shape[0], int(self._operand.shape[0])), dtype=block.dtype)
        whole[:, self._at] = block
        return self._gather(put(self._operand, whole, self.like))

    def _scatter(self, x: Array) -> Array:
        """Put the entries of x at their positions, among zeros; no array is written into, as JAX's cannot be."""
        xp = namespace(x)

        def zeros(size: int) -> Array:
            return xp.zeros((*x.shape[:-1], size), dtype=x.dtype, device=device_of(x))

        if self._contiguous:
            rest = self._operand.shape[0] - self._low - self.shape[0]
            return xp.concat([zeros(self._low), x, zeros(rest)], axis=-1)
        return xp.take(xp.concat([x, zeros(1)], axis=-1), self._source, axis=-1)

    def _gather(self, y: Array) -> Array:
        if self._contiguous:
            return y[..., self._low : self._low + self.shape[0]]
        return namespace(y).take(y, self._positions, axis=-1)


def restrict(A: Any, index: Any) -> LinearOperator:
    """Restrict an operator to some coordinates: its principal sub-block A[index][:, index].

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    index : slice, (m,) array of int, or (n,) array of bool
        Which coordinates, in which order.

    Returns
    -------
    LinearOperator
        Lazy, (m, m): each product scatters its vectors into zeros, multiplies by A, and gathers.

    Raises
    ------
    RequestError
        If `index` is out of range, repeats a coordinate or selects none; if A holds only a part of the vectors; or if
        A has an inner product of its own, in which the sub-block would not be self-adjoint.

    Examples
    --------
    >>> import numpy as np
    >>> restrict(np.diag([1.0, 2.0, 3.0]), [0, 2]).matvec(np.ones(2))
    array([1., 3.])
    """
    A = aslinearoperator(A)
    _require_whole("restrict", A)
    if hasattr(A, "vecdot"):
        raise RequestError(
            "a sub-block of an operator with its own inner product is not self-adjoint; restrict A and B before "
            "generalized(A, B)"
        )
    return _Restriction(A, _positions(index, int(A.shape[0])))


class _Deflation(Derived):
    """(I − QQᴴ) A (I − QQᴴ), rows of `basis` being orthonormal in the inner product of A."""

    def __init__(self, operand: LinearOperator, basis: Array) -> None:
        super().__init__(operand)
        self._operand, self._basis = operand, basis
        self._vecdot = getattr(operand, "vecdot", None)

    def matvec(self, x: Array, /) -> Array:
        """Multiply each row of x."""
        product = multiply(self._operand, self._project(as_dtype(x, self._basis.dtype)))
        return as_dtype(self._project(as_dtype(product, self._basis.dtype)), product.dtype)

    def workspace(self, rows: int) -> int:
        """Bytes that a product takes for itself: those of the operand, and another block of vectors."""
        return super().workspace(rows) + rows * local_size(self) * itemsize(self.like)

    def _project(self, x: Array) -> Array:
        if self._vecdot is None:
            return _project_out(x, self._basis)
        return x - matmul(_components(self._basis, x, self._vecdot), self._basis)


@fused  # eagerly, JAX would copy the transpose
def _project_out(x: Array, basis: Array) -> Array:
    return x - matmul(conj(matmul(conj(x), basis.T)), basis)


def deflate(A: Any, vectors: Array) -> LinearOperator:
    """Remove known directions from an operator: (I − QQᴴ) A (I − QQᴴ), Q spanning `vectors`.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    vectors : (r, n) array
        Directions, one per row, of the library and on the device of A; such as eigenvectors of outliers. They need not
        be orthonormal.

    Returns
    -------
    LinearOperator
        Lazy; `vectors` turn into eigenvectors of eigenvalue zero. Two products of the block with Q per product.

    Raises
    ------
    ShapeError
        If `vectors` is not (r, n) with 1 <= r <= n.
    PlacementError
        If `vectors` is of another library or device.
    RequestError
        If `vectors` depend on each other, are not finite, or are complex for a real A; or if A holds only a part of the
        vectors.

    Examples
    --------
    >>> import numpy as np
    >>> deflate(np.diag([1.0, 2.0, 3.0]), np.asarray([[0.0, 0.0, 1.0]])).matvec(np.ones(3))
    array([1., 2., 0.])
    """
    A = aslinearoperator(A)
    _require_whole("deflate", A)
    require_one_place("vectors", vectors, A.like)
    vectors, n = vectors[None, ...] if vectors.ndim == 1 else vectors, int(A.shape[0])
    if vectors.ndim != 2 or vectors.shape[1] != n or not 1 <= vectors.shape[0] <= n:
        raise ShapeError(
            f"vectors= expects shape (r, {n}) with 1 <= r <= {n}, each row a direction, got {describe(vectors)}"
        )
    if is_complex(vectors) and not is_complex(A.like):
        raise RequestError(f"vectors are complex, but the operator works in {A.like.dtype}; give real directions")
    wide = namespace(vectors).astype(promote_inexact(detach(vectors)), recurrence_like(A.like).dtype)
    basis = _orthonormal(wide)
    if hasattr(A, "vecdot"):
        for _ in range(2):  # once leaves an error of cond(B)·eps
            basis = _orthonormal_in(A.vecdot, basis)
    return _Deflation(A, basis)


def _components(basis: Array, x: Array, vecdot: Any) -> Array:
    """⟨q, x⟩ of each row q of the basis and each vector of x: (..., r)."""
    xp = namespace(x)
    columns = [xp.astype(vecdot(basis[j, ...], x), x.dtype) for j in range(basis.shape[0])]
    return xp.stack(columns, axis=-1)


def _orthonormal(vectors: Array) -> Array:
    xp = namespace(vectors)
    if not bool(xp.all(xp.isfinite(vectors))):
        raise RequestError("vectors= contain NaN or infinity; leave those directions out")
    q, r = xp.linalg.qr(vectors.T)
    r = np.abs(to_host(r)).astype(np.float64)
    # Column j of r holds the length of vector j; its diagonal entry the part outside the span of those before it,
    # which is rounding, at most of order n·eps (Higham 2002, theorem 19.4), if it depends on them.
    dependent = np.flatnonzero(np.diag(r) <= vectors.shape[1] * precision(vectors) * np.linalg.norm(r, axis=0))
    if dependent.size:
        raise RequestError(
            f"vectors= {dependent.tolist()} are zero or depend on those before them; leave them out, or give another "
            "basis of their span"
        )
    return q.T


def _orthonormal_in(vecdot: Any, basis: Array) -> Array:
    """Orthonormalise in another inner product, by the Cholesky factor of the basis's Gram matrix."""
    gram = to_host(_components(basis, basis, vecdot)).T  # ⟨qᵢ, qⱼ⟩
    gram = (gram + gram.conj().T).conj() / 2
    size = basis.shape[0]
    try:
        factor = scipy.linalg.cholesky(gram, lower=True)
    except np.linalg.LinAlgError:
        raise RequestError(
            "vectors= depend on each other in the operator's inner product; is it positive definite?"
        ) from None
    change = scipy.linalg.solve_triangular(factor, np.eye(size), lower=True)
    return matmul(from_host(change.astype(gram.dtype), basis), basis)


def _require_whole(name: str, A: LinearOperator) -> None:
    if hasattr(A, "index"):
        raise RequestError(
            f"{name} needs whole vectors, but each process holds only a part of them (`index`); {name} the operator "
            "before it is sharded"
        )


def _positions(index: Any, n: int) -> np.ndarray:
    """`index` as positions, checked."""
    if not isinstance(index, slice):
        index = to_host(index) if is_array(index) else np.asarray(index)
        if index.ndim != 1 or index.dtype.kind not in "iub":
            raise RequestError(
                "index= expects a slice, integers or booleans in one dimension, got "
                f"{index.ndim} dimension(s) of {index.dtype}"
            )
    try:
        positions = np.ascontiguousarray(np.arange(n)[index])  # torch takes no negative strides
    except IndexError as error:
        raise RequestError(f"index= does not fit an operator of dimension {n}: {error}") from None
    if positions.size == 0:
        raise RequestError(f"index= selects none of the {n} coordinates; it must select one or more")
    if np.unique(positions).size != positions.size:
        raise RequestError("index= repeats a coordinate; name each once")
    return positions
