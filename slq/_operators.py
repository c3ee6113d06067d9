"""Floor 1: anything that multiplies becomes a `LinearOperator`; `aslinearoperator` is the one door."""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse

from slq._arrays import Array, empty_dense, empty_like, is_array, is_sparse, namespace, promote_inexact
from slq._products import LinearOperator, check_product, describe
from slq.errors import DtypeError, DtypeWarning, OperatorError, ShapeError

__all__ = ["aslinearoperator"]


class _Matrix:
    """A two-dimensional array."""

    def __init__(self, matrix: Array) -> None:
        inexact = promote_inexact(matrix)
        if inexact is not matrix:
            warnings.warn(
                f"matrix of dtype {matrix.dtype} converted to {inexact.dtype}; convert it yourself to be silent",
                DtypeWarning,
                stacklevel=3,
            )
        self.shape = tuple(inexact.shape)
        self.like = empty_like(inexact)
        self._transposed = inexact.T

    def matvec(self, x: Array, /) -> Array:
        return x @ self._transposed


class _ColumnProduct:
    """An object whose own product takes vectors as columns: SciPy sparse and `LinearOperator`, and their kin."""

    def __init__(self, multiply: Callable[[Array], Array], shape: tuple[int, int], like: Array) -> None:
        self.shape = shape
        self.like = like
        self._multiply = multiply

    def matvec(self, x: Array, /) -> Array:
        return self._multiply(x[:, None])[:, 0] if x.ndim == 1 else self._multiply(x.T).T


class _Function:
    """A function of one vector, or of a (k, n) block if `batched`."""

    def __init__(self, function: Callable[[Array], Array], n: int, like: Array, batched: bool) -> None:
        self.shape = (n, n)
        self.like = like
        self._function = function
        self._batched = batched

    def matvec(self, x: Array, /) -> Array:
        if x.ndim == 1:
            return self._function(x[None, :])[0, ...] if self._batched else self._function(x)
        if self._batched:
            return self._function(x)
        products = [self._function(x[i, ...]) for i in range(x.shape[0])]
        for y in products:
            check_product(y, x[0, ...])  # before stacking, which would hide which row went wrong
        return namespace(x).stack(products)


def aslinearoperator(A: Any, *, n: int | None = None, like: Array = None, batched: bool = False) -> LinearOperator:
    """Make a `LinearOperator` of anything that multiplies.

    Parameters
    ----------
    A : operator
        A square 2-D array of any Array API library (NumPy, CuPy, PyTorch, JAX, …); a SciPy sparse matrix or array; a
        SciPy ``LinearOperator`` or an object like it (``shape``, ``dtype``, and ``matmat`` or ``@``); a function; or
        something that already satisfies `LinearOperator`, which is returned unchanged.
    n : int, optional
        The dimension. Needed for a function whose `like` is not an example vector; else checked.
    like : array, optional
        For a function: an example vector (or an array of size 0, with `n`). For an object with columns products: the
        library, dtype and device of its vectors, where its ``dtype`` does not tell.
    batched : bool
        The function takes a (k, n) block, each row a vector, instead of one vector at a time.

    Returns
    -------
    LinearOperator

    Raises
    ------
    ShapeError
        If A is not square, or `n` contradicts it.
    DtypeError
        If A holds no numbers.
    OperatorError
        If A is nothing that multiplies, or a function without `like`.

    Examples
    --------
    >>> import numpy as np
    >>> aslinearoperator(lambda x: 2 * x, like=np.zeros(3)).matvec(np.ones(3))
    array([2., 2., 2.])
    """
    operator = _wrap(A, n, like, batched)
    shape = tuple(int(size) for size in operator.shape)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ShapeError(
            f"expected a square operator, got shape {shape}; for the singular values of a rectangular A "
            "use AᵀA, e.g. aslinearoperator(lambda x: A.T @ (A @ x), like=x)"
        )
    if shape[0] == 0:
        raise ShapeError("expected at least one dimension, got an operator of shape (0, 0)")
    if n is not None and n != shape[0]:
        raise ShapeError(f"n={n} was given, but the operator has shape {shape}; leave n out or correct it")
    return operator


def _wrap(A: Any, n: int | None, like: Array, batched: bool) -> LinearOperator:
    if isinstance(A, LinearOperator):
        return A
    if scipy.sparse.issparse(A):
        return _sparse(A)
    if is_array(A):
        if A.ndim != 2:
            raise ShapeError(f"expected a matrix with 2 dimensions, got an array of shape {tuple(A.shape)}")
        if is_sparse(A):
            return _ColumnProduct(lambda x: A @ x, A.shape, empty_dense(A))
        return _Matrix(np.asarray(A) if isinstance(A, np.matrix) else A)
    if hasattr(A, "shape") and (hasattr(A, "matmat") or hasattr(A, "__matmul__")):
        like = _guess_like(A) if like is None else empty_like(like)
        return _ColumnProduct(A.matmat if hasattr(A, "matmat") else A.__matmul__, A.shape, like)
    if callable(A):
        return _function(A, n, like, batched)
    raise OperatorError(
        f"cannot make an operator of {type(A).__name__}: expected a matrix, an object with `shape` and `@`, "
        "or a function with like= an example vector"
    )


def _sparse(A: Any) -> LinearOperator:
    if A.dtype.kind not in "fc":
        if A.dtype.kind not in "iub":
            raise DtypeError(f"expected a numeric matrix, got dtype {A.dtype}; convert it to floating point first")
        warnings.warn(f"matrix of dtype {A.dtype} converted to float64", DtypeWarning, stacklevel=4)
        A = A.astype(np.float64)
    operator = _ColumnProduct(lambda x: A @ x, A.shape, np.empty(0, dtype=A.dtype))
    operator.matrix = A  # type: ignore[attr-defined]
    return operator


def _function(A: Callable[[Array], Array], n: int | None, like: Array, batched: bool) -> LinearOperator:
    if like is None:
        raise OperatorError(
            "a function needs like= an example vector, which tells the dimension, library, dtype and device: "
            "aslinearoperator(f, like=np.zeros(n))"
        )
    if not is_array(like) or like.ndim != 1:
        raise OperatorError(f"like= expects a one-dimensional array, got {describe(like)}")
    if n is None:
        n = int(like.shape[0])
        if n == 0:
            raise OperatorError("like= has size 0 and does not tell the dimension; give n= as well")
    return _Function(A, n, empty_like(promote_inexact(like)), batched)


def _guess_like(A: Any) -> Array:
    """The vectors of a foreign operator, told from its dtype and module; its library is loaded already if it exists."""
    dtype = getattr(A, "dtype", None)
    if type(dtype).__module__ == "torch":
        return sys.modules["torch"].empty(0, dtype=dtype, device=getattr(A, "device", None))
    for module in ("cupy", "jax"):
        if type(A).__module__.startswith(module):
            name = {"cupy": "cupy", "jax": "jax.numpy"}[module]
            return sys.modules[name].empty(0, dtype=dtype)
    try:
        numpy_dtype = np.dtype(np.float64 if dtype is None else dtype)
    except TypeError:
        raise OperatorError(
            f"cannot tell which vectors {type(A).__name__} multiplies (dtype {dtype!r}); give like= an example vector"
        ) from None
    return promote_inexact(np.empty(0, dtype=numpy_dtype))
