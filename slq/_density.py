"""Floor 1: smoothing a quadrature rule into a density."""

from collections.abc import Callable

import numpy as np

from slq.errors import WidthError

__all__ = ["adaptive_grid", "default_width", "gaussian_kernel", "moved_mass", "smooth"]

Kernel = Callable[[np.ndarray], np.ndarray]

_REACH = 8.0  # widths; a Gaussian has 1e-15 of its mass beyond
_POINTS_PER_WIDTH = 5  # the trapezoidal rule on a Gaussian is then exact to 1e-10


def gaussian_kernel(z: np.ndarray) -> np.ndarray:
    """The standard normal density at `z`, distances in units of the width."""
    return np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


def smooth(x: np.ndarray, nodes: np.ndarray, weights: np.ndarray, width: float, kernel: Kernel) -> np.ndarray:
    """Σⱼ wᵢⱼ K((x − θᵢⱼ)/s) of each run i on a sorted grid, and of K²: (2, k, g).

    Densities in units of 1/s: their squares neither overflow nor vanish, whatever the scale of the eigenvalues.
    """
    result = np.zeros((2, nodes.shape[0], x.size))
    reach = _REACH * width if kernel is gaussian_kernel else np.inf
    low, high = np.searchsorted(x, nodes - reach), np.searchsorted(x, nodes + reach, side="right")
    for i, j in zip(*np.nonzero(weights), strict=True):
        part = slice(low[i, j], high[i, j])
        values = kernel((x[part] - nodes[i, j]) / width)
        result[0, i, part] += weights[i, j] * values
        result[1, i, part] += weights[i, j] * values * values
    return result


def adaptive_grid(centres: np.ndarray, width: float) -> np.ndarray:
    """A grid that is fine within reach of the centres and skips the gaps between: small for any range and width."""
    if not (np.isfinite(width) and width > 0):
        raise WidthError(f"width= expects a positive number in units of the eigenvalues, got {width!r}")
    centres = np.unique(centres)
    if width < 64 * np.spacing(np.abs(centres).max()):
        raise WidthError(
            f"width={width:g} is below the precision of eigenvalues near {np.abs(centres).max():g}; use a larger width"
        )
    # A step beyond the reach, where the density is zero: no mass of its own in the gap that follows.
    reach = (_REACH + 1 / _POINTS_PER_WIDTH) * width
    starts = np.flatnonzero(np.diff(centres, prepend=-np.inf) > 2 * reach)
    ends = np.append(starts[1:], centres.size) - 1
    pieces = []
    for low, high in zip(centres[starts] - reach, centres[ends] + reach, strict=True):
        pieces.append(np.linspace(low, high, int(np.ceil((high - low) / width * _POINTS_PER_WIDTH)) + 2))
    return np.unique(np.concatenate(pieces))


def default_width(rule: tuple[np.ndarray, np.ndarray], shorter: tuple[np.ndarray, np.ndarray], scale: float) -> float:
    """The smallest width, out of range/8 · 2⁻ʲ, at which a fifth of the steps more or less moves < 1 % of the mass."""
    support = np.ptp(rule[0])
    if support <= 1e-12 * scale:
        return (scale or 1.0) * 1e-3  # a single atom: any width shows it
    width = support / 8
    for _ in range(10):
        x = adaptive_grid(np.concatenate([rule[0].ravel(), shorter[0].ravel()]), width / 2)
        if moved_mass(x, rule, shorter, width / 2) > 0.01:
            break
        width /= 2
    return width


def moved_mass(
    x: np.ndarray, rule: tuple[np.ndarray, np.ndarray], shorter: tuple[np.ndarray, np.ndarray], width: float
) -> float:
    """½∫|φ − φ'| of the mean densities of two sets of rules: the mass that sits elsewhere."""
    difference = [smooth(x, *r, width, gaussian_kernel)[0].mean(axis=0) for r in (rule, shorter)]
    return float(np.trapezoid(np.abs(difference[0] - difference[1]), x / width) / 2)
