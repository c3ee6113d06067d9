"""Floor 1: where a density is evaluated: grids that users give, and grids by name."""

from typing import Any

import numpy as np

from slq.errors import AliasingWarning, GridWarning, SlqWarning, WidthError

__all__ = ["checked_grid", "judge_grid", "named_grid"]

_NAMES = ("linear", "log", "symlog")
_POINTS = 400  # of a named grid, besides those that the width needs
_FAR = 8.0  # distances in units of the steps that do: a Gaussian has nothing eight widths away from all nodes


def checked_grid(x: Any) -> tuple[np.ndarray, list[SlqWarning]]:
    """A grid in increasing order, and what to say if it was not."""
    x = np.asarray(x)
    if x.ndim != 1 or x.size < 2:
        raise WidthError(_refusal(x, "it needs two points or more in one dimension"))
    if x.dtype.kind not in "fiu" or not np.isfinite(x).all():
        raise WidthError(_refusal(x, "it needs finite real numbers"))
    x = x.astype(np.float64)
    steps = np.diff(x)
    if (steps < 0).all():
        said = "the grid x= is descending: the density is returned in increasing order, as its x says; give x[::-1]"
        return x[::-1], [GridWarning(said)]
    if not (steps > 0).all():
        raise WidthError(_refusal(x, f"{np.count_nonzero(steps <= 0)} steps are not upwards"))
    return x, []


def _refusal(x: np.ndarray, reason: str) -> str:
    return (
        f"x= expects a one-dimensional, finite, increasing grid, got an array of shape {x.shape} and dtype {x.dtype}: "
        f"{reason}; sort it and remove repeats and NaN, or leave it out for a grid that fits"
    )


def named_grid(name: str, num: Any, nodes: np.ndarray, width: float, fine: np.ndarray) -> np.ndarray:
    """`num` points evenly spaced on a linear, logarithmic or symmetric logarithmic scale over the smoothed nodes.

    Without `num`: some, and between them those of the `fine` grid, so that nothing falls between two points. The
    symmetric logarithm is arsinh(x/width): linear within a width of zero, where the density has no structure left.
    """
    if name not in _NAMES:
        raise WidthError(f"x= expects a grid, or one of the names {', '.join(map(repr, _NAMES))}, got {name!r}")
    if num is not None and (not isinstance(num, int | np.integer) or isinstance(num, bool) or num < 2):
        raise WidthError(f"num= expects an integer >= 2, the number of points of the grid {name!r}, got {num!r}")
    low, high, count = fine[0], fine[-1], _POINTS if num is None else int(num)
    if name == "log":
        least = float(nodes.min())
        if least <= 0:
            raise WidthError(f"a log grid cannot hold the Ritz value {least:.6g}; use x='symlog', which has both signs")
        # What a kernel wider than its distance to zero smooths across it cannot be shown: `judge_grid` says how much.
        low = low if low > 0 else min(least, width) / 10
        x = np.geomspace(low, high, count)
    elif name == "symlog":
        x = width * np.sinh(np.linspace(np.arcsinh(low / width), np.arcsinh(high / width), count))
    else:
        x = np.linspace(low, high, count)
    x[[0, -1]] = low, high  # to the bit, whatever the powers round to
    return np.unique(x) if num is not None else np.union1d(x, fine[(fine >= low) & (fine <= high)])


def judge_grid(
    x: np.ndarray,
    widths: np.ndarray,
    n: int,
    nodes: np.ndarray,
    weights: np.ndarray,
    fine: tuple[np.ndarray, np.ndarray],
) -> list[SlqWarning]:
    """What a grid does not show.

    Parameters
    ----------
    x : (g,) array
        The grid, increasing.
    widths : (g,) array
        The width of the kernel at each point.
    n : int
        The dimension: one eigenvalue is worth mentioning.
    nodes, weights : (k, m) array
    fine : two (h,) arrays
        A grid that misses nothing, and the density there. What a kernel with tails has beyond it cannot be shown.
    """
    total = np.concatenate([[0.0], np.cumsum(np.diff(fine[0]) * (fine[1][1:] + fine[1][:-1]) / 2)])
    smoothed = np.diff(np.interp(x, fine[0], total))  # the mass in each step of the grid
    steps = np.searchsorted(x, nodes, side="right") - 1  # the step in which each node lies; the ends lie on the grid
    steps = np.where(nodes == x[-1], x.size - 2, steps)
    inside = (steps >= 0) & (steps < x.size - 1)
    said: list[SlqWarning] = []

    outside = float(total[-1] - smoothed.sum())
    beyond = max(1 - float(total[-1]), 0.0)
    if _matters(outside, weights.sum(where=~inside) / len(weights), n):
        outside, all_of_it = outside + beyond, f"all but {beyond:.2g}" if beyond > 1e-3 else "all"
        said.append(
            GridWarning(
                f"the grid from {x[0]:.6g} to {x[-1]:.6g} leaves out {outside:.3g} of the mass; the density is not "
                f"rescaled, so it integrates to {1 - outside:.3g}. Extend it to [{fine[0][0]:.6g}, {fine[0][-1]:.6g}] "
                f"to see {all_of_it}"
            )
        )
    local = np.minimum(widths[1:], widths[:-1])
    # Far from all nodes a density has no peaks, but tails that grow smoother with the distance.
    coarse = np.diff(x) > np.maximum(local, _distances(x, nodes[weights > 0]) / _FAR) * (1 + 1e-9)
    missed = weights.sum(where=inside & coarse[np.clip(steps, 0, x.size - 2)]) / len(weights)
    between = float(smoothed[coarse].sum())
    if _matters(between, missed, n):
        width = float(local[coarse].min())
        needed = int(np.ceil((x[-1] - x[0]) / width)) + 1
        said.append(
            AliasingWarning(
                f"{between:.3g} of the mass lies between points that are farther apart than the width {width:.3g}, so "
                f"that peaks can fall between them: {needed:,} even points are needed. Leave x= out for a grid that is "
                "fine where there is mass, or take histogram(edges), whose masses are exact"
            )
        )
    return said


def _distances(x: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """How far each step of a grid is from the nearest node: zero if it holds one."""
    nodes = np.sort(nodes)
    after = np.append(nodes, np.inf)[np.searchsorted(nodes, x[:-1])] - x[1:]
    before = x[:-1] - np.insert(nodes, 0, -np.inf)[np.searchsorted(nodes, x[1:], side="right")]
    return np.maximum(np.minimum(after, before), 0.0)


def _matters(smoothed: float, bare: float, n: int) -> bool:
    """Whether a missed mass is worth a warning: a hundredth of the smoothed, or the nodes of one eigenvalue.

    Probes see one eigenvalue with a random mass around 1/n; below a tenth are four in a hundred means of three.
    """
    return smoothed > 0.01 or bare > 0.1 / n
