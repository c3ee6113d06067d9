"""Floor 1: an operator scaled from both sides by a diagonal."""

from typing import Any

from slq._algebra import Derived, real_diagonal
from slq._arrays import Array, namespace
from slq._multiply import as_dtype, multiply
from slq._operators import aslinearoperator
from slq._products import LinearOperator

__all__ = ["precondition"]


class _Precondition(Derived):
    """F A F of a diagonal F."""

    def __init__(self, operand: LinearOperator, factors: Array) -> None:
        super().__init__(operand)
        self._operand, self._factors = operand, factors

    def matvec(self, x: Array, /) -> Array:
        """Multiply each row of x."""
        product = multiply(self._operand, as_dtype(self._factors * x, x.dtype))
        return as_dtype(self._factors * product, product.dtype)


def precondition(A: Any, diagonal: Array) -> LinearOperator:
    """Scale an operator from both sides: D^-1/2 A D^-1/2 for a positive diagonal D.

    Its eigenvalues are those of D⁻¹A, and of the pencil (A, D). With √v̂ + ε of Adam for D (`slq_torch.adam_diagonal`),
    they are the curvatures that the optimiser meets.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    diagonal : (n,) array
        Positive; of the operator's library and device.

    Returns
    -------
    LinearOperator
        Lazy: it stores A and D^-1/2.

    Raises
    ------
    RequestError
        If an entry is not positive and finite, or A has an inner product of its own.
    ShapeError, PlacementError
        If the diagonal does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> precondition(np.diag([2.0, 12.0]), np.asarray([1.0, 4.0])).matvec(np.ones(2))
    array([2., 3.])
    """
    A = aslinearoperator(A)
    diagonal = real_diagonal("diagonal=", diagonal, A, positive=True)
    return _Precondition(A, 1 / namespace(diagonal).sqrt(diagonal))
