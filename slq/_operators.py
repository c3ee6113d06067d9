"""Floor 1: anything that multiplies becomes a `LinearOperator`; `aslinearoperator` is the one door."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import LinearOperator as ScipyOperator

from slq._arrays import Array, empty_like, is_array, is_sparse, promote_inexact
from slq._foreign import warn_converted, wrap_foreign, wrap_pydata, wrap_torch_sparse
from slq._products import LinearOperator, describe
from slq._scipy import scipy_operator
from slq._wrappers import Function, Matrix, SparseMatrix
from slq.errors import DtypeError, OperatorError, ShapeError

__all__ = ["aslinearoperator", "to_scipy", "wrap"]


def aslinearoperator(A: Any, *, n: int | None = None, like: Array = None, batched: bool = False) -> LinearOperator:
    """Make a `LinearOperator` of anything that multiplies.

    Parameters
    ----------
    A : operator
        One of

        * a square 2-D array of any Array API library (NumPy, CuPy, PyTorch, JAX, …);
        * a sparse matrix of SciPy, CuPy, PyData ``sparse``, PyTorch or JAX, of any format;
        * a ``LinearOperator`` of SciPy, CuPy or PyLops, or an operator of linear_operator, CoLA, lineax, curvlinops or
          hessian-eigenthings, or one like them: ``shape``, ``dtype``, and ``matmat``, ``@`` or ``matvec``;
        * a function;
        * something that already satisfies `LinearOperator`, which is returned unchanged.
    n : int, optional
        The dimension. Needed for a function whose `like` is not an example vector; else checked.
    like : array, optional
        For a function: an example vector (or an array of size 0, with `n`). For an operator of another package: the
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

    Warns
    -----
    DtypeWarning
        If a matrix of integers or booleans was converted.

    Notes
    -----
    Matrices and operators that can multiply a block do so in one call for all probes.

    Examples
    --------
    >>> import numpy as np
    >>> aslinearoperator(lambda x: 2 * x, like=np.zeros(3)).matvec(np.ones(3))
    array([2., 2., 2.])
    """
    operator = wrap(A, n=n, like=like, batched=batched)
    shape = tuple(int(size) for size in operator.shape)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ShapeError(
            f"expected a square operator, got shape {shape}; for the singular values of a rectangular A "
            "use slq.singular_measure(A), or slq.gram(A), which is AᴴA"
        )
    if shape[0] == 0:
        raise ShapeError("expected at least one dimension, got an operator of shape (0, 0)")
    if n is not None and n != shape[0]:
        raise ShapeError(f"n={n} was given, but the operator has shape {shape}; leave n out or correct it")
    return operator


def to_scipy(A: Any) -> ScipyOperator:
    """Make a `scipy.sparse.linalg.LinearOperator` of an operator of any library.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator
        It takes and returns NumPy arrays, which each product moves to the operator's device and back. Vectors are
        columns, as everywhere in SciPy. `rmatvec` is the operator's own, or the product itself, as A is Hermitian; an
        operator with another inner product than the plain one has none.

    Raises
    ------
    OperatorError
        What `aslinearoperator` raises.
    RequestError
        If each process holds only a part of the vectors.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse.linalg import eigsh
    >>> round(float(eigsh(to_scipy(np.diag([1.0, 2.0, 5.0])), k=1, return_eigenvectors=False)[0]), 6)
    5.0
    """
    return scipy_operator(aslinearoperator(A))


def wrap(A: Any, *, n: int | None = None, like: Array = None, batched: bool = False) -> LinearOperator:
    """`aslinearoperator` without its look at the shape, which may be rectangular."""
    if isinstance(A, LinearOperator):
        if not is_array(A.like):
            raise OperatorError(
                f"the operator's `like` is {describe(A.like)}; expected an array of size 0, which carries the library, "
                "dtype and device of its vectors"
            )
        return A
    if scipy.sparse.issparse(A):
        return _sparse(A)
    if is_array(A):
        return _array(A)
    foreign = wrap_foreign(A, like)
    if foreign is not None:
        return foreign
    if callable(A):
        return _function(A, n, like, batched)
    raise OperatorError(
        f"cannot make an operator of {type(A).__name__}: expected a matrix, an object with `shape` and `@`, "
        "or a function with like= an example vector"
    )


def _array(A: Array) -> LinearOperator:
    if A.ndim != 2:
        raise ShapeError(f"expected a matrix with 2 dimensions, got an array of shape {tuple(A.shape)}")
    if isinstance(A, np.ma.MaskedArray):
        raise OperatorError("a masked array has no product that respects its mask; fill it first, e.g. A.filled(0)")
    if is_sparse(A):
        return wrap_torch_sparse(A)
    if hasattr(A, "fill_value") and hasattr(A, "nnz"):
        return wrap_pydata(A)
    A = np.asarray(A) if isinstance(A, np.matrix) else A
    inexact = promote_inexact(A)
    if inexact is not A:
        warn_converted(A.dtype, inexact.dtype)
    return Matrix(inexact)


def _sparse(A: Any) -> LinearOperator:
    if A.ndim != 2:
        raise ShapeError(f"expected a matrix with 2 dimensions, got an array of shape {tuple(A.shape)}")
    if A.dtype.kind not in "fc":
        if A.dtype.kind not in "iub":
            raise DtypeError(f"expected a numeric matrix, got dtype {A.dtype}; convert it to floating point first")
        warn_converted(A.dtype, "float64")
        A = A.astype(np.float64)
    return SparseMatrix(A)


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
    return Function(A, (n, n), empty_like(promote_inexact(like)), batched)
