"""Floor 2: a function of an operator times a block of vectors, in two passes of the recurrence or from a basis."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from slq._arrays import Array, from_host, fused, matmul, namespace, real, scale_rows
from slq._basis import Basis, storage_for
from slq._lanczos import run
from slq._products import Products
from slq._quadrature import run_lengths, tridiagonal_eigenpairs
from slq._recurrence import Recurrence, Tridiagonal
from slq.errors import NoiseWarning, NotRepeatableError, SymmetryWarning

__all__ = ["apply_function", "components"]

# Relative differences between the components that the coefficients of the two passes give: nothing, if the products
# are repeatable to the bit. Sampling errors are a thousandth and more.
_SUSPECT, _WRONG = 1e-4, 1e-2

Values = Callable[[np.ndarray, np.ndarray], np.ndarray]
Progress = Callable[[int, int], None] | None


def apply_function(
    products: Products,
    v: Array,
    num_steps: int,
    f: Callable[[Tridiagonal], Values],
    *,
    reorthogonalize: bool,
    check: bool,
    progress: Progress = None,
) -> tuple[Tridiagonal, Array]:
    """The runs from unit vectors `v`, (k, n), which stay as they are, and f(A) v ≈ V f(T) e₁.

    Parameters
    ----------
    f : callable
        Told the runs, it returns the function, of Ritz values and their weights.
    reorthogonalize : bool
        True: one pass, which keeps the basis (memory k·m·n). False: the recurrence runs twice, the second time to add
        up its vectors, and keeps none.

    Notes
    -----
    The second pass is the first one again, to the bit: the same calls in the same order. To make its vectors with the
    coefficients of the first would save inner products, but different rounding in the two then grows without bound once
    a Ritz value has converged (measured: to lengths of 6e3 in float32, 150 steps, ten outliers). Products that do not
    repeat themselves show in the coefficients: what these change of f(T) e₁ was, measured, the error of f(A) v.

    References
    ----------
    Borici, Fast methods for computing the Neuberger operator, hep-lat/0001019 (2000).
    """
    xp = namespace(v)
    start = xp.asarray(v, copy=True)
    if reorthogonalize:
        runs = run(products, start, num_steps, return_basis=True, check=check, progress=progress)
        return Tridiagonal(runs.alpha, runs.beta), _combined(runs.basis, components(runs, f(runs)))

    def report(done: int) -> Progress:
        return None if progress is None else lambda step, steps: progress(done + step, 2 * steps)

    runs = _pass(products, start, num_steps, _Nothing(), check, report(0))
    weights = components(runs, f(runs))
    total = _Sum(weights, v)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SymmetryWarning)  # said in the first pass
        again = _pass(products, xp.asarray(v, copy=True), num_steps, total, check, report(num_steps))
    if not (np.array_equal(runs.alpha, again.alpha) and np.array_equal(runs.beta, again.beta)):
        _judge(weights, components(again, f(runs)))
    return runs, total.value


def components(runs: Tridiagonal, f: Values) -> np.ndarray:
    """f(T) e₁ of each run, (k, m): the components of f(A) v along the Lanczos vectors."""
    found = np.zeros(runs.alpha.shape)
    for i, length in enumerate(run_lengths(runs.beta)):
        nodes, vectors = tridiagonal_eigenpairs(runs.alpha[i, :length], runs.beta[i, : length - 1])
        weights = vectors[0] ** 2
        used = weights > 0
        values = f(nodes[used], weights[used])
        found[i, :length] = vectors[:, used] @ (values * vectors[0, used])
    return found


class _Nothing:
    """What a pass does with its vectors that only makes coefficients."""

    capacity = 1  # not zero: the vectors are then normalised, and the work the same in both passes

    def append(self, v: Array) -> None:
        pass


class _Sum(_Nothing):
    """Σⱼ weights[i, j] vᵢⱼ."""

    def __init__(self, weights: np.ndarray, like: Array) -> None:
        with np.errstate(over="ignore"):
            self._rows = from_host(np.ascontiguousarray(weights.T), real(like))
        self._step = 0
        self.value: Any = None

    def append(self, v: Array) -> None:
        row = self._rows[self._step, :]
        self.value = scale_rows(v, row) if self._step == 0 else _add(v, row, self.value)
        self._step += 1


@fused
def _add(v: Array, factors: Array, total: Array) -> Array:
    return total + scale_rows(v, factors)


def _pass(products: Products, v: Array, num_steps: int, vectors: Any, check: bool, progress: Progress) -> Tridiagonal:
    """The three-term recurrence; `vectors` is told each of its vectors, and `v` written over."""
    none = Basis(0, storage_for(None, v))
    recurrence = Recurrence(products, v, none, vectors, check=check, passes=1)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # found in the coefficients, and named
        return Tridiagonal(*recurrence.coefficients(v, num_steps, progress))


def _combined(basis: Array, weights: np.ndarray) -> Array:
    """Σⱼ weights[i, j] basis[i, j] of a (k, m, n) basis: (k, n)."""
    weights = weights[:, : basis.shape[1]]  # fewer vectors, if all runs ended
    rows = namespace(basis).astype(from_host(weights, real(basis[:, 0, :])), basis.dtype)
    return matmul(rows[:, None, :], basis)[:, 0, :]


def _judge(first: np.ndarray, second: np.ndarray) -> None:
    """Warn of, or refuse, components of two passes that differ, as the vectors of the two do."""
    difference = float(np.linalg.norm(first - second) / (np.linalg.norm(first) or 1.0))
    if difference <= _SUSPECT:
        return
    said = (
        f"the products are not repeatable: the two passes of the recurrence differ by {difference:.2g} of f′(A) x; "
        "pass reorthogonalize=True, which takes one pass, or make the operator repeatable"
    )
    if not difference <= _WRONG:
        raise NotRepeatableError(said)
    warnings.warn(said, NoiseWarning, stacklevel=2)
