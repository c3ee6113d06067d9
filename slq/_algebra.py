"""Floor 1: sums of operators and of multiples of them, lazily: `shift`, `scale`, `add`."""

import math
import numbers
from typing import Any

import numpy as np

from slq._arrays import (
    Array,
    detach,
    device_of,
    is_array,
    is_complex,
    library_name,
    namespace,
    promote_inexact,
    real,
    recurrence_like,
    same_place,
    to_host,
)
from slq._multiply import as_dtype, multiply
from slq._operators import aslinearoperator
from slq._products import LinearOperator, workspace
from slq._wrappers import Wrapper
from slq.errors import DtypeError, PlacementError, RequestError, ShapeError

__all__ = ["Derived", "add", "real_diagonal", "require_one_place", "scale", "shift"]


class Derived(Wrapper):
    """An operator made of another, in the same space: it keeps the optional members of its operand."""

    def __init__(self, operand: LinearOperator) -> None:
        self.shape = (int(operand.shape[0]), int(operand.shape[1]))
        self.like = operand.like
        self._source = operand
        for name in ("vecdot", "index", "put"):
            if hasattr(operand, name):
                setattr(self, name, getattr(operand, name))

    def workspace(self, rows: int) -> int:
        """Bytes that a product takes for itself: those of the operand; one vector more is in every forecast."""
        return workspace(self._source, rows)


class _Shift(Derived):
    """A + sigma I."""

    def __init__(self, operand: LinearOperator, sigma: float) -> None:
        super().__init__(operand)
        self._operand, self._sigma = operand, sigma

    def matvec(self, x: Array, /) -> Array:
        """Multiply each row of x."""
        return multiply(self._operand, x) + self._sigma * x


class _ShiftDiagonal(Derived):
    """A + D of a real diagonal D."""

    def __init__(self, operand: LinearOperator, diagonal: Array) -> None:
        super().__init__(operand)
        self._operand, self._diagonal = operand, diagonal

    def matvec(self, x: Array, /) -> Array:
        """Multiply each row of x."""
        product = multiply(self._operand, x)
        return as_dtype(product + self._diagonal * x, product.dtype)


class _Scale(Derived):
    """A real multiple of an operator."""

    def __init__(self, operand: LinearOperator, factor: float) -> None:
        super().__init__(operand)
        self._operand, self._factor = operand, factor

    def matvec(self, x: Array, /) -> Array:
        """Multiply each row of x."""
        return self._factor * multiply(self._operand, x)


class _Add(Derived):
    """A sum of operators."""

    def __init__(self, operands: list[LinearOperator]) -> None:
        super().__init__(next((A for A in operands if hasattr(A, "put")), operands[0]))
        self._operands = operands

    def matvec(self, x: Array, /) -> Array:
        """Multiply each row of x."""
        first, *rest = self._operands
        total = multiply(first, x)
        if rest:
            total = namespace(x).asarray(total, copy=True)  # the next operand may return the same buffer
        for A in rest:
            total = total + multiply(A, x)
        return total

    def workspace(self, rows: int) -> int:
        """Bytes that a product takes for itself: those of the largest operand, as one follows the other."""
        return max(workspace(A, rows) for A in self._operands)


def shift(A: Any, sigma: float | Array) -> LinearOperator:
    """Add a multiple of the identity, A + sigma I, whose eigenvalues are those of A plus `sigma`; or a real diagonal.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    sigma : float or (n,) array
        A real number; or the entries of a real diagonal, of the operator's library and device, such as a weight decay
        that differs by parameter.

    Returns
    -------
    LinearOperator
        Lazy: it stores A and `sigma`. Of a generalised problem (`generalized`), it is B⁻¹A + sigma I.

    Raises
    ------
    RequestError
        If `sigma` is not real and finite: the sum would not be Hermitian. If it is a diagonal, and A has an inner
        product of its own or holds a part of the vectors.
    ShapeError, PlacementError
        If a diagonal does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> shift(np.eye(2), 3.0).matvec(np.ones(2))
    array([4., 4.])
    >>> shift(np.eye(2), np.asarray([0.0, 3.0])).matvec(np.ones(2))
    array([1., 4.])
    """
    A = aslinearoperator(A)
    if is_array(sigma) and sigma.ndim > 0:  # type: ignore[union-attr]
        diagonal = real_diagonal("sigma=", sigma, A)
        return _ShiftDiagonal(A, namespace(diagonal).asarray(diagonal, copy=True))  # what the caller does to it later
    return _Shift(A, _real_number("sigma", sigma))


def scale(A: Any, factor: float) -> LinearOperator:
    """Multiply an operator by a real number.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    factor : float
        A real number.

    Returns
    -------
    LinearOperator
        Lazy: it stores A and `factor`.

    Raises
    ------
    RequestError
        If `factor` is not a finite real number: the multiple would not be Hermitian.
    """
    return _Scale(aslinearoperator(A), _real_number("factor", factor))


def add(*operators: Any) -> LinearOperator:
    """Add operators of one shape, library, dtype and device.

    Parameters
    ----------
    *operators : operator
        One or more of anything that `aslinearoperator` takes.

    Returns
    -------
    LinearOperator
        Lazy: each product is one of each operand.

    Raises
    ------
    RequestError
        If there is no operand, or they have different inner products or hold different parts of the vectors.
    ShapeError
        If their shapes differ.
    PlacementError
        If their libraries or devices differ.
    DtypeError
        If their dtypes differ.

    Examples
    --------
    >>> import numpy as np
    >>> add(np.eye(2), np.ones((2, 2))).matvec(np.asarray([1.0, 2.0]))
    array([4., 5.])
    """
    if not operators:
        raise RequestError("add expects at least one operator, got none")
    operands = [aslinearoperator(A) for A in operators]
    first = operands[0]
    for A in operands[1:]:
        if tuple(A.shape) != tuple(first.shape):
            raise ShapeError(
                f"add expects operators of one shape, got {tuple(first.shape)} and {tuple(A.shape)}; "
                "restrict the larger, or pad the smaller"
            )
        require_one_place("an operator", A.like, first.like)
        if A.like.dtype != first.like.dtype:
            raise DtypeError(
                f"add expects operators of one dtype, got {first.like.dtype} and {A.like.dtype}; convert one of them"
            )
        _require_one_space(first, A)
    return _Add(operands)


def require_one_place(what: str, x: Array, like: Array) -> None:
    """Raise unless `x` is of the library and on the device of `like`."""
    if not is_array(x) or library_name(x) != library_name(like):
        found = f"of {library_name(x)}" if is_array(x) else f"a {type(x).__name__}"
        raise PlacementError(f"{what} is {found}, but the operator is of {library_name(like)}; convert it")
    if not same_place(x, like):
        raise PlacementError(f"{what} is on {device_of(x)}, but the operator is on {device_of(like)}; move it there")


def real_diagonal(what: str, diagonal: Any, A: LinearOperator, *, positive: bool = False) -> Array:
    """The finite real diagonal of a matrix to combine with A, in the real dtype in which A's vectors are combined."""
    require_one_place(what, diagonal, A.like)
    if hasattr(A, "vecdot") or getattr(A, "index", None) is not None:
        raise RequestError(
            f"{what} is a diagonal in the plain inner product, but the operator has its own or holds part of the "
            "vectors; apply it inside the operator"
        )
    if tuple(diagonal.shape) != (int(A.shape[0]),):
        raise ShapeError(f"{what} expects shape ({A.shape[0]},), got {tuple(diagonal.shape)}")
    if is_complex(diagonal):
        raise RequestError(f"{what} expects real entries, got dtype {diagonal.dtype}; take their real part")
    diagonal = promote_inexact(detach(diagonal))
    wide = real(recurrence_like(A.like)).dtype
    with np.errstate(over="ignore", under="ignore"):  # what leaves the range is infinite or zero, and refused
        diagonal = diagonal if diagonal.dtype == wide else namespace(diagonal).astype(diagonal, wide)
    values = to_host(diagonal)
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0 if positive else True)))
    if bad.size:
        raise RequestError(
            f"{what} expects {'positive ' if positive else ''}finite entries, but {bad.size} are not, the first at "
            f"{bad[0]}: {values[bad[0]]}; {'take absolute values, or add a small number' if positive else 'replace it'}"
        )
    return diagonal


def _require_one_space(A: LinearOperator, B: LinearOperator) -> None:
    """Raise unless both are self-adjoint in one inner product, and hold the same part of the vectors."""
    parts = [getattr(operator, "index", None) for operator in (A, B)]
    if any(part is None for part in parts):
        same_part = parts[0] is parts[1]
    else:
        one, other = (_coordinates(part, int(A.shape[0])) for part in parts)
        same_part = np.array_equal(one, other)
    if not same_part:
        raise RequestError(
            "add expects operators that hold the same part of the vectors, but their `index` differ; "
            "shard them in the same way"
        )
    # Operators that hold parts reduce over processes, each in its own method, to the same plain inner product.
    if parts[0] is None and getattr(A, "vecdot", None) != getattr(B, "vecdot", None):
        raise RequestError(
            "add expects operators of one inner product, but their `vecdot` differ, so that the sum is self-adjoint in "
            "neither; add before generalized(), e.g. generalized(add(A1, A2), B)"
        )


def _coordinates(index: Any, n: int) -> np.ndarray:
    if isinstance(index, slice):
        return np.arange(n)[index]
    return to_host(index) if is_array(index) else np.asarray(index)


def _real_number(name: str, value: Any) -> float:
    if is_array(value) and value.ndim == 0:
        value = to_host(value)[()]
    if not isinstance(value, numbers.Real) or isinstance(value, bool | np.bool_) or not math.isfinite(value):
        raise RequestError(
            f"{name}= expects a finite real number, got {value!r}; with another the operator would not be Hermitian"
        )
    return float(value)
