"""Floor 2: the Lanczos recurrence on a block of vectors, on the device where the operator lives."""

from collections.abc import Callable
from typing import Any

import numpy as np

from slq._arrays import (
    Array,
    device_of,
    is_array,
    is_complex,
    largest_entry,
    library_name,
    namespace,
    norm,
    recurrence_like,
    same_place,
    scale_rows,
    to_host,
)
from slq._basis import Basis, storage_for
from slq._drivers import driven
from slq._operators import aslinearoperator
from slq._products import LinearOperator, Products, complexified, inner
from slq._recurrence import Recurrence, Tridiagonal, Until
from slq._source import count
from slq.errors import PlacementError, RequestError, ShapeError

__all__ = ["basis_size", "lanczos", "run", "start"]


def lanczos(
    A: Any,
    V: Array,
    num_steps: int,
    *,
    reorthogonalize: bool | int = True,
    basis_dtype: Any = None,
    return_basis: bool = False,
    check: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Tridiagonal:
    """Run the Lanczos recurrence from each row of a block of start vectors.

    Parameters
    ----------
    A : operator
        Real symmetric or complex Hermitian; anything that `aslinearoperator` takes.
    V : (k, n) or (n,) array
        Start vectors, one per row, of any length but zero; of the operator's library and device. Complex ones
        take two products of a real operator.
    num_steps : int
        The number m of steps; each costs one product with the block.
    reorthogonalize : bool or int
        True: against all earlier vectors, by Gram-Schmidt, and once more where that took more than half of ‖w‖² (memory
        k·m·n). An integer s: against the first s. False: the three-term recurrence alone, for cheap products and huge
        n; converged Ritz values then come in copies, which delays the rest of the spectrum but never spoils a converged
        answer.
    basis_dtype : {None, "float32", "bfloat16", "host"}
        How the vectors that reorthogonalisation needs are kept, while the recurrence stays in its own precision: in
        that of the vectors (None), in single precision, in bfloat16 (half the memory of float32, and nearly its
        results), or in the memory of the host.
    return_basis : bool
        Also return the Lanczos vectors (in full precision, unless `basis_dtype` keeps them otherwise).
    check : bool
        Examine the products for asymmetry on the way; this takes no further product.
    progress : callable, optional
        Called as ``progress(steps done, num_steps)`` after each step is issued.

    Returns
    -------
    Tridiagonal

    Raises
    ------
    RequestError
        If `num_steps` or `reorthogonalize` is out of range, or a start vector is zero or not finite.
    OperatorError
        If a product has the wrong shape, dtype, library or device, is not finite, or A is not symmetric.

    Notes
    -----
    Nothing is read back from a device between the first product and the last. If the coefficients then show that a
    projection took too much to be the only one, the run is repeated with two; on the host this is seen at each step.
    The order of operations is that of Paige 1972 (A1), the most accurate of the four he compared.

    References
    ----------
    Paige, Computational variants of the Lanczos method for the eigenproblem, J. Inst. Maths Applics 10 (1972).
    """
    A = aslinearoperator(A)
    num_steps = count("num_steps", num_steps)
    basis_size(reorthogonalize, num_steps)
    if is_array(V) and is_complex(V) and not is_complex(A.like):
        A = complexified(A)
    return run(
        Products(A),
        start(A, V)[0],
        num_steps,
        reorthogonalize=reorthogonalize,
        basis_dtype=basis_dtype,
        return_basis=return_basis,
        check=check,
        progress=progress,
    )


def basis_size(reorthogonalize: bool | int, num_steps: int) -> int:
    """The number of vectors per probe that `reorthogonalize` keeps in a run of `num_steps`."""
    if isinstance(reorthogonalize, bool | np.bool_):
        return num_steps if reorthogonalize else 0
    if not isinstance(reorthogonalize, int | np.integer) or reorthogonalize < 0:
        raise RequestError(f"reorthogonalize= expects True, False or an integer >= 0, got {reorthogonalize!r}")
    return min(int(reorthogonalize), num_steps)


def start(A: LinearOperator, V: Array) -> tuple[Array, Array]:
    """The rows of V scaled to length one, in the dtype of the recurrence, and their lengths.

    A copy, which a run may write into.
    """
    if not is_array(V) or library_name(V) != library_name(A.like):
        found = library_name(V) if is_array(V) else type(V).__name__
        raise PlacementError(
            f"the operator multiplies arrays of {library_name(A.like)}, but V is of {found}; convert V"
        )
    xp = namespace(V)
    if not same_place(V, A.like):
        raise PlacementError(f"V is on {device_of(V)} but the operator multiplies on {device_of(A.like)}; move V there")
    V = V if V.ndim != 1 else V[None, ...]
    n_local = A.shape[0] if not hasattr(A, "index") else V.shape[-1]
    if V.ndim != 2 or V.shape[0] == 0 or V.shape[1] != n_local:
        raise ShapeError(f"V expects shape (k, {n_local}) with k >= 1, each row a start vector, got {tuple(V.shape)}")
    like = recurrence_like(A.like)
    V = V if V.dtype == like.dtype else xp.astype(V, like.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        largest: Any = 1.0
        length = norm(inner(A)(V, V))
        on_host = to_host(length)
        if not ((on_host > 1e-15) & (on_host < 1e15)).all() and not hasattr(A, "vecdot"):
            # Division by the largest entry first keeps the squares of extreme vectors finite. (Not where rows are parts
            # of vectors: they do not know the largest entry of the whole.)
            largest = _nonzero(largest_entry(V))
            V = V / largest[:, None]
            length = norm(inner(A)(V, V))
            on_host = to_host(length)
        bad = np.flatnonzero(~(np.isfinite(on_host) & (on_host > 0)))
        if bad.size:
            raise RequestError(f"start vectors {bad.tolist()} are zero or not finite; a start vector needs a direction")
        return scale_rows(V, 1 / length), length * largest


def _nonzero(x: Array) -> Array:
    xp = namespace(x)
    return xp.where(x > 0, x, xp.ones_like(x))


def run(
    products: Products,
    v: Array,
    num_steps: int,
    *,
    reorthogonalize: bool | int = True,
    basis_dtype: Any = None,
    return_basis: bool = False,
    check: bool = True,
    progress: Callable[[int, int], None] | None = None,
    until: Until | None = None,
) -> Tridiagonal:
    """`lanczos` from unit vectors as `start` makes them, whose buffer is used up.

    With `until`, which is asked every few steps, the loop of the core runs, as drivers know no such question.
    """
    keep = basis_size(reorthogonalize, num_steps)
    storage = storage_for(basis_dtype if keep else None, v)
    if until is None:
        found = driven(
            products,
            v,
            num_steps,
            check=check,
            reorthogonalize=reorthogonalize,
            return_basis=return_basis,
            basis_dtype=basis_dtype,
            progress=progress,
        )
        if found is not None:
            return found
    passes = 2 if storage.eps else 1  # a rounded basis cannot give the start back
    while True:
        basis = Basis(keep, storage)
        everything = Basis(num_steps, storage_for(None, v)) if return_basis and (keep < num_steps) else basis
        recurrence = Recurrence(products, v, basis, everything, check=check, passes=passes)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # found in the coefficients, and named
            alpha, beta = recurrence.coefficients(v, num_steps, progress, until)
        if not recurrence.needs_second_pass:
            break
        v, passes = basis.start(v), 2  # rare, and known only now: asking the device at each step would stall it
    return Tridiagonal(alpha, beta, everything.array() if return_basis else None)
