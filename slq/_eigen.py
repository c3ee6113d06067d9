"""Floor 3: eigenpairs at the ends of the spectrum, with their residuals, and none missed for being a copy."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from slq._arrays import Array, has_one_shape, itemsize, namespace, norm, real, recurrence_like, to_host
from slq._check_operator import quick_check
from slq._checks import judge_asymmetry, rounding
from slq._lanczos import start
from slq._memory import require
from slq._operators import aslinearoperator
from slq._probes import seed_of, sphere
from slq._products import LinearOperator, Products, inner, local_size, workspace
from slq._source import count, source_of
from slq._thick_restart import Process
from slq._wanted import Request, search
from slq.errors import RequestError, ToleranceWarning

__all__ = ["Eigenpairs", "eigenpairs"]

_WHICH = ("LA", "SA", "LM", "BE")
_TOGETHER = 8  # vectors in one product at the end
_SPARE = 2  # rows that a run needs besides k: one to keep, one to add


class Eigenpairs(NamedTuple):
    """Eigenvalues with their vectors, in the order of `which`.

    Attributes
    ----------
    values : (k,) array of float64
        Rayleigh quotients, on the host.
    vectors : (k, n) array
        Orthonormal eigenvectors, one per row, in the library and on the device of the operator.
    residuals : (k,) array of float64
        The norms ‖A v − θ v‖, each from a product of its own. Up to rounding, an eigenvalue lies within each of its θ.
    converged : (k,) array of bool
        Which residuals are within the tolerance.
    complete : bool
        A search with random vectors in the orthogonal complement has found no eigenvalue that belongs before these.
    products : int
        How many vectors were multiplied, those of `check` not counted.
    """

    values: np.ndarray
    vectors: Array
    residuals: np.ndarray
    converged: np.ndarray
    complete: bool
    products: int


def eigenpairs(
    A: Any,
    k: int,
    *,
    which: str = "LA",
    tol: float | None = None,
    num_steps: int | None = None,
    max_products: int | None = None,
    rng: Any = 0,
    v0: Array | None = None,
    verify: bool = True,
    check: bool | Mapping[str, str] = True,
    progress: Callable[[int, int], None] | None = None,
) -> Eigenpairs:
    """Find k eigenvalues at the ends of the spectrum, and their vectors, by Lanczos with thick restarts.

    Parameters
    ----------
    A : operator
        Real symmetric or complex Hermitian; anything that `aslinearoperator` takes.
    k : int
        How many, multiple eigenvalues counted as often as they occur.
    which : {"LA", "SA", "LM", "BE"}
        The largest (first), the smallest (first), those of largest magnitude (first), or half from each end (in
        increasing order; of an odd number, one more from the high end).
    tol : float, optional
        The residual at which a pair has converged, relative to ‖A‖. By default ε^(2/3): 4e-11 in double precision,
        2e-5 in single; an error of the value is of the order of its square. Never less than the rounding of products:
        70 ε in double precision, 10 ε in single, ε in half.
    num_steps : int, optional
        How many Lanczos vectors are kept before a restart; 80 by default, and at least 2k + 20. More take fewer
        products, and memory.
    max_products : int, optional
        End after so many products, converged or not; 10 n, and at least 1000, by default.
    rng : {None, int, numpy.random.Generator}
        The seed of the start vectors.
    v0 : (n,) or (r, n) array, optional
        To start from instead: such as the vectors found at an earlier step of a training, whose sum is taken.
    verify : bool
        Search the orthogonal complement for eigenvalues that the first run cannot see: copies. See Notes.
    check : bool or mapping of str to str
        See `spectral_measure`; ten products.
    progress : callable, optional
        Called as ``progress(products done, pairs converged)`` after each step.

    Returns
    -------
    Eigenpairs

    Raises
    ------
    RequestError
        If an argument is out of range.
    OperatorError
        If A or one of its products is not usable; the subclass and the message say why.
    MemoryForecastError
        If the vectors would take more memory than is free.

    Warns
    -----
    ToleranceWarning
        If `max_products` ended the search.
    SymmetryWarning, NoiseWarning, PrecisionWarning
        If A is a little asymmetric, noisy or nonlinear.

    Notes
    -----
    Each step is orthogonalised against all vectors kept, so that no eigenvalue is found twice. A run of one vector b
    finds one eigenvector of each eigenspace, so the pairs found are locked, and a run with a new b orthogonal to them
    follows, until one finds nothing that belongs among the k. It may end when
    ∏ βᵢ / ∏ (t − θᵢ), over all its steps and all Ritz values that it has had or dropped, is so small that the b of a
    missed eigenvector, with an eigenvalue beyond t = λ_k + tol ‖A‖, had a probability below 10⁻⁴: as
    χ(A) b = ∏ βᵢ v for a unit vector v and the polynomial χ of the θᵢ, ∏ βᵢ / χ(t) bounds abs(⟨u, b⟩).
    (Of an operator with an inner product of its own, the probability may be √cond times as large.)

    The residuals are recomputed at the end, which takes k of the products: the recurrence knows them up to components
    along locked vectors.

    References
    ----------
    Wu and Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems, SIMAX 22 (2000).

    Examples
    --------
    >>> import numpy as np
    >>> eigenpairs(np.diag([5.0, 1.0, 5.0, 2.0]), 3).values.round(6)
    array([5., 5., 2.])
    """
    A = aslinearoperator(A)
    n = int(A.shape[0])
    request = _request(n, k, which)
    num_steps = _steps(num_steps, request.k, n)
    budget = _budget(max_products, request.k, n)
    seed, tolerance = seed_of(rng), _tolerance(tol)
    _require_memory(A, request.k, num_steps)
    given = None if v0 is None else _one(A, v0)
    products = Products(A)
    watch = check is not False
    if watch:
        expected = check if isinstance(check, Mapping) else None
        products.eps, watch = quick_check(A, products, expected_failures=expected, batch_size=1)
    process = Process(products, num_steps, check=watch)

    def draw(run: int) -> Array:
        return given if run == 0 and given is not None else source_of(sphere, 1, seed, run).draw(A, 0, 1)

    def limit() -> float:
        eps = products.eps
        return max(eps ** (2 / 3) if tolerance is None else tolerance, rounding(eps)) * process.norm

    complete = search(
        process, request, draw=draw, limit=limit, budget=budget - request.k, verify=verify, progress=progress
    )
    if watch:
        judge_asymmetry(process.asymmetry, products.eps)
    found = _finished(process, products, request, limit(), complete)
    _warn_unless_converged(found, budget, verify)
    return found


def _finished(process: Process, products: Products, request: Request, limit: float, complete: bool) -> Eigenpairs:
    """The pairs with products of their own."""
    vectors, dot, unit = process.vectors(), inner(products.operator), process.unit
    xp, rows = namespace(vectors), 1 if has_one_shape(vectors) else _TOGETHER
    values, residuals = [], []
    for low in range(0, request.k, rows):
        v = vectors[low : min(low + rows, request.k), :]
        w = products(v)
        w = w if unit == 1.0 else w * unit
        theta = real(dot(v, w)) / real(dot(v, v))
        rest = w - v * xp.astype(theta, v.dtype)[:, None]
        values.append(to_host(theta))
        residuals.append(to_host(norm(dot(rest, rest))))
    theta, residual = (np.concatenate(x).astype(np.float64) for x in (values, residuals))
    order = request.order(theta)
    return Eigenpairs(
        theta[order] / unit,
        xp.stack([vectors[int(i), :] for i in order]),
        residual[order] / unit,
        residual[order] <= limit,
        complete,
        process.num_products + request.k,
    )


def _warn_unless_converged(found: Eigenpairs, budget: int, verify: bool) -> None:
    missing = int((~found.converged).sum())
    if missing:
        reason = (
            f"{missing} of {found.values.size} eigenpairs have not converged (`converged` tells which; the largest "
            f"residual is {found.residuals.max():.2g})"
        )
    elif verify and not found.complete:
        reason = "the eigenpairs have converged, but it is not sure that none before them is missing"
    else:
        return
    warnings.warn(
        f"{reason} after {found.products} products; allow more max_products= (it was {budget}), more num_steps= "
        "between restarts, or a larger tol=",
        ToleranceWarning,
        stacklevel=3,
    )


def _request(n: int, k: Any, which: Any) -> Request:
    if count("k", k) > n:
        raise RequestError(f"k= expects at most the {n} eigenvalues that there are, got {k}")
    if which not in _WHICH:
        raise RequestError(
            f"which= expects {', '.join(map(repr, _WHICH))}, got {which!r}; the smallest magnitudes are the largest of "
            "the inverse"
        )
    return Request(int(k), which)


def _steps(num_steps: Any, k: int, n: int) -> int:
    least = min(n, k + _SPARE)
    if num_steps is None:
        return min(n, max(2 * k + 20, 80))
    return min(n, count("num_steps", num_steps, least))


def _budget(max_products: Any, k: int, n: int) -> int:
    if max_products is None:
        return max(10 * n, 1000)
    return count("max_products", max_products, 2 * k)


def _tolerance(tol: Any) -> float | None:
    if tol is not None and not (isinstance(tol, int | float | np.number) and 0 <= tol < 1):
        raise RequestError(f"tol= expects None or a number in [0, 1), relative to the norm of A, got {tol!r}")
    return None if tol is None else float(tol)


def _one(A: LinearOperator, v0: Array) -> Array:
    """The unit sum of the directions of some vectors."""
    units, _ = start(A, v0)
    return start(A, namespace(units).sum(units, axis=0, keepdims=True))[0]


def _require_memory(A: LinearOperator, k: int, num_steps: int) -> None:
    like = recurrence_like(A.like)
    size, n = itemsize(like), local_size(A)

    def needed(steps: int) -> int:
        # The vectors kept, what a rotation takes beside them, five of a step, and at the end the results twice.
        rotation = steps if has_one_shape(like) else -(-steps // 16)
        return n * size * (steps + max(rotation + 5, 2 * k + 3 * _TOGETHER)) + workspace(A, _TOGETHER)

    least = min(int(A.shape[0]), k + _SPARE)
    fewer = {least, max(least, num_steps // 2)}
    require(like, needed(num_steps), {f"num_steps={steps}": needed(steps) for steps in sorted(fewer, reverse=True)})
