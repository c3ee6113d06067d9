"""Floor 1: which nodes are eigenvalues whose mass is known, and the weights that follow."""

from typing import NamedTuple

import numpy as np
from scipy import stats

__all__ = ["SEPARATION", "Clusters", "clusters", "deflated_weights", "exact_nodes"]

# A Ritz vector lies within residual/gap of an eigenspace, so that its eigenvalue carries all but the square of that of
# its mass. Measured on a network's Hessian (n = 15,910, 400 and 800 products): 0.1 to 0.01 give equal errors, 0.001
# leaves converged nodes out, and residuals of 1e-3 of the norm without regard to gaps are catastrophic.
SEPARATION = 0.03

# How often the masses of what is taken for eigenvalues, each alone or all together, may be as large by chance. The
# copies that a block run finds tell more, so that there, masses are only to warn of the unforeseen.
_CHANCE = {True: 1e-6, False: 1e-3}


class Clusters(NamedTuple):
    """Nodes of one rule in groups that rounding cannot tell apart.

    Attributes
    ----------
    labels : (M,) array of int
        The number of each node's cluster, in increasing order.
    converged : (M,) array of bool
        Whether the cluster is an eigenvalue: its residuals are small beside the gap to all others.
    """

    labels: np.ndarray
    converged: np.ndarray


def clusters(nodes: np.ndarray, residuals: np.ndarray, rounding: float) -> Clusters:
    """Group the increasing nodes of one rule, and see which of the groups have converged.

    An eigenvalue lies within the residual of each node, and thus of each neighbour: what is left of the distance is the
    gap.
    """
    radius = np.maximum(residuals, rounding / 4)
    labels = np.concatenate([[0], np.cumsum(np.diff(nodes) > rounding)])
    first = np.flatnonzero(np.diff(labels, prepend=-1))
    last = np.append(first[1:], nodes.size) - 1
    reach = np.maximum.reduceat(radius, first)
    below = nodes[first] - np.concatenate([[-np.inf], np.maximum.accumulate(nodes[last] + reach)[:-1]])
    above = np.concatenate([np.minimum.accumulate((nodes[first] - reach)[::-1])[-2::-1], [np.inf]]) - nodes[last]
    return Clusters(labels, (reach <= SEPARATION * np.minimum(below, above))[labels])


def exact_nodes(
    nodes: np.ndarray,
    weights: np.ndarray,
    residuals: np.ndarray,
    *,
    shared: int,
    n: int,
    rounding: float,
    is_complex: bool,
) -> np.ndarray:
    """The nodes that are eigenvalues of known multiplicity, so that each has the mass 1/n: (k, M) array of bool.

    Parameters
    ----------
    nodes, weights, residuals : (k, M) array
    shared : int
        So many rows share their Krylov space, which then has so many vectors in the space of a multiple eigenvalue;
        fewer copies than that are all there are. With one row each, a mass beyond what a simple eigenvalue shows
        tells a multiple one, and it is left alone.
    n : int
    rounding : float
        What is nearer is one.
    is_complex : bool
    """
    exact, copied = np.zeros(nodes.shape, bool), np.zeros(nodes.shape, bool)
    for low in range(0, len(nodes), shared):
        rows = slice(low, low + shared)
        used = weights[rows].any(axis=0)
        found = clusters(nodes[low, used], residuals[low, used], rounding)
        copies = np.bincount(found.labels)[found.labels]
        most = 1 if shared == 1 else shared - 1
        exact[rows, used] = found.converged & (copies <= most)
        copied[rows, used] = copies > most  # in one run: rounding has found a second vector, in another it may not
    exact &= ~_near(nodes, nodes[copied], rounding)
    per_probe = 2 if is_complex else 1
    return _without_multiple(exact, nodes, weights * (per_probe * n), rounding, per_probe, _CHANCE[shared > 1])


def _near(nodes: np.ndarray, values: np.ndarray, distance: float) -> np.ndarray:
    """Which nodes are within a distance of one of some values."""
    if not values.size:
        return np.zeros(nodes.shape, bool)
    values = np.sort(values)
    above = np.clip(np.searchsorted(values, nodes), 1, values.size) - 1
    below = np.minimum(above + 1, values.size - 1)
    return np.minimum(np.abs(nodes - values[above]), np.abs(nodes - values[below])) <= distance


def _without_multiple(
    exact: np.ndarray, nodes: np.ndarray, masses: np.ndarray, rounding: float, per_probe: int, chance: float
) -> np.ndarray:
    """`exact` without what some probes lack, or has more mass than its number of copies explains (n times: χ²)."""
    values = np.sort(nodes[exact])
    if not values.size:
        return exact
    kept, total, freedom = exact.copy(), 0.0, 0
    for group in np.split(values, np.flatnonzero(np.diff(values) > 2 * rounding) + 1):
        same = exact & (nodes >= group[0] - rounding) & (nodes <= group[-1] + rounding)
        mass, copies = float(masses[same].sum()), per_probe * int(same.sum())
        found_by = same.any(axis=1)
        too_much = mass > stats.chi2.isf(chance, copies)
        # What some probes have not found has little mass in them: an exact one in the others would bias the mean.
        if too_much or not found_by.all():
            kept &= ~same
        if not too_much and 2 * found_by.sum() >= len(same):
            total, freedom = total + mass, freedom + copies
    if freedom and total > stats.chi2.isf(chance, freedom):
        return np.zeros_like(exact)
    return kept


def deflated_weights(weights: np.ndarray, exact: np.ndarray, n: int) -> np.ndarray:
    """Weights of 1/n where `exact`, and the others scaled to what is left of one.

    A row without mass elsewhere, though there are more dimensions, stays as it is.
    """
    known = exact.sum(axis=1, keepdims=True) / n
    seen = weights.sum(axis=1, where=~exact, keepdims=True)
    fits = (known <= 1) & ((seen > 0) | (known == 1))
    rest = weights * np.where(seen > 0, (1 - known) / np.where(seen > 0, seen, 1.0), 0.0)
    return np.where(fits, np.where(exact, 1 / n, rest), weights)
