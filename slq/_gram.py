"""Floor 1: rectangular operators and their adjoints, and `gram`, AᴴA or AAᴴ without forming it."""

from typing import Any, Protocol

import numpy as np

from slq._algebra import Derived
from slq._arrays import Array, empty_like, is_array, promote_inexact
from slq._multiply import check_size
from slq._operators import wrap
from slq._products import LinearOperator, describe
from slq._wrappers import Function
from slq.errors import DtypeError, OperatorError, RequestError, ShapeError

__all__ = ["Rectangular", "gram", "rectangular"]


class Rectangular(Protocol):
    """An operator from n to p dimensions and its adjoint.

    Attributes
    ----------
    shape : (p, n)
    like : array of size 0
        Library, dtype and device of the vectors on both sides.
    """

    shape: tuple[int, int]
    like: Array

    def matvec(self, x: Array, /) -> Array:
        """Multiply each row of x by A: (..., n) -> (..., p)."""
        ...

    def rmatvec(self, y: Array, /) -> Array:
        """Multiply each row of y by Aᴴ: (..., p) -> (..., n)."""
        ...


class _SelfAdjoint(Derived):
    """An operator that satisfies `LinearOperator`, hence is its own adjoint in its own inner product."""

    def __init__(self, operand: LinearOperator) -> None:
        super().__init__(operand)
        self.matvec = self.rmatvec = operand.matvec


class _Gram(Derived):
    """AᴴA, or AAᴴ if `left`."""

    def __init__(self, operand: Rectangular, left: bool) -> None:
        p, n = operand.shape
        super().__init__(operand)
        self.shape = (p, p) if left else (n, n)
        self._inner = n if left else p
        self._first, self._second = (operand.rmatvec, operand.matvec) if left else (operand.matvec, operand.rmatvec)

    def matvec(self, x: Array, /) -> Array:
        """Multiply each row of x."""
        between = self._first(x)
        check_size(between, x, self._inner)
        if between.dtype != x.dtype:
            raise DtypeError(
                f"the first of the two products returned dtype {between.dtype} for an input of {x.dtype}; "
                "convert it inside the product"
            )
        try:
            return self._second(between)
        except NotImplementedError as error:
            raise OperatorError(_NO_ADJOINT) from error


_NO_ADJOINT = (
    "the operator does not know its adjoint (rmatvec), which AᴴA needs; define it, or give both products as functions: "
    "gram((matvec, rmatvec), shape=(p, n), like=...)"
)


def gram(
    A: Any, *, left: bool = False, shape: tuple[int, int] | None = None, like: Array = None, batched: bool = False
) -> LinearOperator:
    """Multiply an operator by its adjoint, without forming the product: AᴴA, or AAᴴ.

    Its eigenvalues are the squared singular values of A, and zeros where A has fewer.

    Parameters
    ----------
    A : (p, n) operator or pair of functions
        Rectangular or square, symmetric or not: a matrix, dense or sparse; an operator with an adjoint (``rmatvec``);
        or ``(matvec, rmatvec)``, the products with A, (n,) -> (p,), and with its conjugate transpose, (p,) -> (n,).
    left : bool
        AAᴴ, (p, p), instead of AᴴA, (n, n). The smaller of the two has fewer zero eigenvalues.
    shape : (p, n), optional
        Needed for functions.
    like : array, optional
        For functions, needed: an array that tells library, dtype and device of the vectors; its size does not matter.
        For an operator of another package as in `aslinearoperator`.
    batched : bool
        The functions take (k, n) and (k, p) blocks, each row a vector, instead of one vector at a time.

    Returns
    -------
    LinearOperator
        Lazy: each product is one with A and one with Aᴴ. Squaring halves the digits of small singular values: those
        below √eps ‖A‖ are lost, which is 3e-4 ‖A‖ in single precision.

    Raises
    ------
    OperatorError
        If the adjoint is not known, or what `aslinearoperator` raises.
    RequestError
        If functions come without `shape` or `like`.
    ShapeError
        If `shape` is not that of an operator, or a product has another.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.asarray([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    >>> gram(A).matvec(np.ones(2))
    array([1., 4.])
    """
    return _Gram(rectangular(A, shape=shape, like=like, batched=batched), bool(left))


def rectangular(
    A: Any, *, shape: tuple[int, int] | None = None, like: Array = None, batched: bool = False
) -> Rectangular:
    """Make an operator with an adjoint of `A`; see `gram` for what it may be."""
    if isinstance(A, tuple | list) and len(A) == 2 and all(callable(part) for part in A):
        return _pair(A, shape, like, batched)
    if callable(A) and not hasattr(A, "shape") and not hasattr(A, "matvec") and not hasattr(A, "mv"):
        raise OperatorError(_NO_ADJOINT)
    operator = wrap(A, like=like)
    if len(operator.shape) != 2 or 0 in tuple(operator.shape):
        raise ShapeError(f"expected a (p, n) operator with p, n >= 1, got shape {tuple(operator.shape)}")
    if shape is not None and tuple(shape) != tuple(operator.shape):
        raise ShapeError(f"shape={tuple(shape)} was given, but the operator has {tuple(operator.shape)}; leave it out")
    special = [name for name in ("vecdot", "index", "put") if hasattr(operator, name)]
    if special and operator.shape[0] != operator.shape[1]:
        raise RequestError(
            f"a rectangular operator with {', '.join(special)} does not tell on which side they act; leave them out"
        )
    if hasattr(operator, "rmatvec"):
        return operator  # type: ignore[return-value]
    if operator is not A or operator.shape[0] != operator.shape[1]:
        raise OperatorError(_NO_ADJOINT)
    return _SelfAdjoint(operator)


def _pair(functions: Any, shape: Any, like: Array, batched: bool) -> Rectangular:
    if shape is None or like is None:
        raise RequestError(
            "functions need shape=(p, n) and like= an array, which tells library, dtype and device: "
            "gram((matvec, rmatvec), shape=(p, n), like=np.empty(0))"
        )
    if len(shape) != 2 or not all(isinstance(size, int | np.integer) and size >= 1 for size in shape):
        raise ShapeError(f"shape= expects two integers (p, n) >= 1, got {shape!r}")
    if not is_array(like):
        raise OperatorError(f"like= expects an array, got {describe(like)}")
    matvec, rmatvec = functions
    sizes = (int(shape[0]), int(shape[1]))
    return Function(matvec, sizes, empty_like(promote_inexact(like)), batched, adjoint=rmatvec)
