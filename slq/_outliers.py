"""Floor 2: the eigenvalues at the ends of the spectrum that every probe has found."""

from typing import NamedTuple

import numpy as np

from slq._coefficients import Coefficients

__all__ = ["Outliers", "outliers"]


class Outliers(NamedTuple):
    """Converged extreme eigenvalues.

    Attributes
    ----------
    values : (r,) array
        In decreasing order.
    residuals : (r,) array
        Within each of its value lies an eigenvalue; rounding is included.
    multiplicities : (r,) array of int
        How many eigenvalues lie there, to the tolerance; 0 where that is unknown: to independent probes always, and to
        a block run where there are as many as it has probes.
    """

    values: np.ndarray
    residuals: np.ndarray
    multiplicities: np.ndarray


def outliers(measure: Coefficients, tol: float) -> Outliers:
    """Distinct nodes from both ends inwards, up to the first that has not converged or on which the probes disagree."""
    high = _from_the_end(measure, tol, +1)
    low = [found for found in _from_the_end(measure, tol, -1) if not high or found[0] < high[-1][0]]
    found = np.array([*high, *reversed(low)]).reshape(-1, 3)
    return Outliers(found[:, 0], found[:, 1], found[:, 2].astype(int))


def _from_the_end(measure: Coefficients, tol: float, sign: int) -> list[tuple[float, float, int]]:
    limit = max(tol, 64 * measure.eps) * measure.scale
    massless = 1e-3 * measure.eps  # copies of converged values, as they form without reorthogonalisation
    shared = measure.shared_by
    masses = measure.weights.reshape(-1, shared, measure.weights.shape[1]).max(axis=1)
    runs = [
        _converged(sign * theta[weight > massless], residual[weight > massless], limit)
        for theta, weight, residual in zip(measure.nodes[::shared], masses, measure.residuals[::shared], strict=True)
    ]
    found = []
    for same in zip(*runs, strict=False):
        values, residuals, copies = np.array(same).T
        if np.ptp(values) > 2 * limit:
            break
        best = residuals.argmin()
        multiplicity = int(copies.max()) if copies.max() < shared else 0
        found.append((sign * values[best], max(residuals[best], 16 * measure.eps * measure.scale), multiplicity))
    return found


def _converged(values: np.ndarray, residuals: np.ndarray, limit: float) -> list[tuple[float, float, int]]:
    """The converged values of one run in decreasing order with their residuals and copies."""
    found: list[tuple[float, float, int]] = []
    for j in np.argsort(-values):
        if residuals[j] > limit:
            break
        if not found or found[-1][0] - values[j] > 2 * limit:
            found.append((values[j], residuals[j], 1))
        else:
            found[-1] = (*found[-1][:2], found[-1][2] + 1)
    return found
