"""Floor 1: smoothing a quadrature rule into a density."""

import numpy as np

from slq._chebyshev import Jackson
from slq._kernels import GAUSSIAN, Function, Kernel, Shape, gaussian_kernel, named
from slq.errors import WidthError

__all__ = [
    "Kernel",
    "adaptive_grid",
    "default_width",
    "fine_grid",
    "gaussian_kernel",
    "mass_outside",
    "moved_mass",
    "require_width",
    "smooth",
]

_REACH = 8.0  # widths; a Gaussian has 1e-15 of its mass beyond
_POINTS_PER_WIDTH = 5  # the trapezoidal rule on a Gaussian is then exact to 1e-10
_FAR = 100.0  # widths that a grid follows a kernel with tails: a Lorentzian has 0.6 % of its mass beyond
_GROWTH = 1.1  # of the distance, from one point of a tail to the next


def smooth(
    x: np.ndarray, nodes: np.ndarray, weights: np.ndarray, width: float, kernel: Shape | Jackson | Function
) -> np.ndarray:
    """Σⱼ wᵢⱼ K((x − θᵢⱼ)/s) of each run i on a sorted grid, and of K²: (2, k, g).

    Densities in units of 1/s: their squares neither overflow nor vanish, whatever the scale of the eigenvalues.
    """
    result = np.zeros((2, nodes.shape[0], x.size))
    shape = kernel if isinstance(kernel, Shape | Jackson) else named(kernel)
    reach = shape.reach * width
    low, high = np.searchsorted(x, nodes - reach), np.searchsorted(x, nodes + reach, side="right")
    for i, j in zip(*np.nonzero(weights), strict=True):
        part = slice(low[i, j], high[i, j])
        values = shape.values(x[part], nodes[i, j], width)
        result[0, i, part] += weights[i, j] * values
        result[1, i, part] += weights[i, j] * values * values
    return result


def require_width(width: float, centres: np.ndarray) -> None:
    """Raise unless the width is a positive number that eigenvalues of this size can have."""
    if not (np.isfinite(width) and width > 0):
        raise WidthError(f"width= expects a positive number in units of the eigenvalues, got {width!r}")
    if width < 64 * np.spacing(np.abs(centres).max()):
        raise WidthError(
            f"width={width:g} is below the precision of eigenvalues near {np.abs(centres).max():g}; use a larger width"
        )


def fine_grid(centres: np.ndarray, width: float, kernel: Shape | Jackson) -> np.ndarray:
    """A grid on which nothing of a kernel's density falls between two points."""
    if isinstance(kernel, Jackson):
        return kernel.grid()
    grid = adaptive_grid(centres, width)
    return _with_tails(grid, width) if kernel.has_tails else grid


def _with_tails(grid: np.ndarray, width: float) -> np.ndarray:
    """The grid continued beyond its ends and through its gaps, in steps that grow with the distance from the nodes."""
    count = np.log(_FAR / _REACH) / np.log(_GROWTH)
    away = _REACH * width * _GROWTH ** np.arange(1, int(np.ceil(count)) + 1)
    pieces = [grid, grid[0] + _REACH * width - away, grid[-1] - _REACH * width + away]
    gaps = np.flatnonzero(np.diff(grid) > 2 * width)
    for low, high in zip(grid[gaps], grid[gaps + 1], strict=True):
        count = np.log1p((high - low) / (2 * _REACH * width)) / np.log(_GROWTH)
        away = _REACH * width * (_GROWTH ** np.arange(1, int(np.ceil(count)) + 1) - 1)
        away = away[away < (high - low) / 2]
        pieces += [low + away, high - away]
    return np.unique(np.concatenate(pieces))


def adaptive_grid(centres: np.ndarray, width: float) -> np.ndarray:
    """A grid that is fine within reach of the centres and skips the gaps between: small for any range and width."""
    require_width(width, centres)
    centres = np.unique(centres)
    # A step beyond the reach, where the density is zero: no mass of its own in the gap that follows.
    reach = (_REACH + 1 / _POINTS_PER_WIDTH) * width
    starts = np.flatnonzero(np.diff(centres, prepend=-np.inf) > 2 * reach)
    ends = np.append(starts[1:], centres.size) - 1
    pieces = []
    for low, high in zip(centres[starts] - reach, centres[ends] + reach, strict=True):
        pieces.append(np.linspace(low, high, int(np.ceil((high - low) / width * _POINTS_PER_WIDTH)) + 2))
    return np.unique(np.concatenate(pieces))


def default_width(
    rule: tuple[np.ndarray, np.ndarray],
    shorter: tuple[np.ndarray, np.ndarray],
    scale: float,
    kernel: Shape | Jackson = GAUSSIAN,
) -> float:
    """The smallest width, out of range/8 · 2⁻ʲ, at which a fifth of the steps more or less moves < 1 % of the mass."""
    support = np.ptp(rule[0])
    if support <= 1e-12 * scale:
        return (scale or 1.0) * 1e-3  # a single atom: any width shows it
    width = support / 8
    for _ in range(10):
        x = fine_grid(np.concatenate([rule[0].ravel(), shorter[0].ravel()]), width / 2, kernel)
        if moved_mass(x, rule, shorter, width / 2, kernel) > 0.01:
            break
        width /= 2
    return width


def moved_mass(
    x: np.ndarray,
    rule: tuple[np.ndarray, np.ndarray],
    shorter: tuple[np.ndarray, np.ndarray],
    width: float,
    kernel: Shape | Jackson = GAUSSIAN,
) -> float:
    """½∫|φ − φ'| of the mean densities of two sets of rules: the mass that sits elsewhere."""
    difference = [smooth(x, *r, width, kernel)[0].mean(axis=0) for r in (rule, shorter)]
    return float(np.trapezoid(np.abs(difference[0] - difference[1]), x / width) / 2)


def mass_outside(x: np.ndarray, nodes: np.ndarray, weights: np.ndarray, width: float, kernel: Shape | Jackson) -> float:
    """The part of the smoothed mass that lies outside of the grid: NaN for a kernel whose integral is not known."""
    if isinstance(kernel, Jackson) and {x[0], x[-1]} == {*kernel.grid()[[0, -1]]}:
        return 0.0  # the trapezoidal rule on Chebyshev's points counts what lies between them and the ends
    low, high = (kernel.below(float(end), nodes, width) for end in (x[0], x[-1]))
    if low is None or high is None:
        return np.nan
    return float(np.clip((weights * (low + (1 - high))).sum() / len(weights), 0.0, 1.0))
