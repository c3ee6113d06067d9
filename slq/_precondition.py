"""Floor 1: an operator scaled from both sides by a diagonal."""

from typing import Any

import numpy as np

from slq._algebra import Derived, require_one_place
from slq._arrays import Array, is_complex, namespace, to_host
from slq._multiply import multiply
from slq._operators import aslinearoperator
from slq._products import LinearOperator
from slq.errors import RequestError, ShapeError

__all__ = ["precondition"]


class _Precondition(Derived):
    """F A F of a diagonal F."""

    def __init__(self, operand: LinearOperator, factors: Array) -> None:
        super().__init__(operand)
        self._operand, self._factors = operand, factors

    def matvec(self, x: Array, /) -> Array:
        """Multiply each row of x."""
        return self._factors * multiply(self._operand, self._factors * x)


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
    require_one_place("diagonal=", diagonal, A.like)
    if hasattr(A, "vecdot") or getattr(A, "index", None) is not None:
        raise RequestError(
            "diagonal= is one in the plain inner product, but the operator has its own or holds part of the vectors; "
            "apply it inside the operator"
        )
    if tuple(diagonal.shape) != (int(A.shape[0]),):
        raise ShapeError(f"diagonal= expects shape ({A.shape[0]},), got {tuple(diagonal.shape)}")
    values = to_host(diagonal)
    bad = [0] if np.iscomplexobj(values) else np.flatnonzero(~((values > 0) & np.isfinite(values)))
    if len(bad):
        raise RequestError(
            f"diagonal= expects positive finite entries, but {len(bad)} are not, the first at {bad[0]}: "
            f"{values[bad[0]]}; add a small number"
        )
    xp = namespace(diagonal)
    if not is_complex(A.like):
        diagonal = xp.astype(diagonal, A.like.dtype)
    return _Precondition(A, 1 / xp.sqrt(diagonal))
