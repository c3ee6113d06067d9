"""Floor 1: smoothing a quadrature rule into a density."""

from collections.abc import Callable

import numpy as np

from slq.errors import WidthError

__all__ = ["adaptive_grid", "default_width", "gaussian_kernel", "smooth"]

Kernel = Callable[[np.ndarray], np.ndarray]

_REACH = 8.0  # widths; a Gaussian has 1e-15 of its mass beyond
_POINTS_PER_WIDTH = 5  # the trapezoidal rule on a Gaussian is then exact to 1e-10


def gaussian_kernel(z: np.ndarray) -> np.ndarray:
    """The standard normal density at `z`, distances in units of the width."""
    return np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


def smooth(x: np.ndarray, nodes: np.ndarray, weights: np.ndarray, width: float, kernel: Kernel) -> np.ndarray:
    """The densities Σⱼ wᵢⱼ K((x − θᵢⱼ)/s)/s of each run i on a sorted grid, and of the squared kernels: (2, k, g)."""
    result = np.zeros((2, nodes.shape[0], x.size))
    reach = _REACH * width if kernel is gaussian_kernel else np.inf
    low, high = np.searchsorted(x, nodes - reach), np.searchsorted(x, nodes + reach, side="right")
    for i, j in zip(*np.nonzero(weights), strict=True):
        part = slice(low[i, j], high[i, j])
        values = kernel((x[part] - nodes[i, j]) / width) / width
        result[0, i, part] += weights[i, j] * values
        result[1, i, part] += weights[i, j] * values * values
    return result


def adaptive_grid(centres: np.ndarray, width: float) -> np.ndarray:
    """A grid that is fine within reach of the centres and skips the gaps between: small for any range and width."""
    if not (np.isfinite(width) and width > 0):
        raise WidthError(f"width= expects a positive number in units of the eigenvalues, got {width!r}")
    centres = np.unique(centres)
    starts = np.flatnonzero(np.diff(centres, prepend=-np.inf) > 2 * _REACH * width)
    ends = np.append(starts[1:], centres.size) - 1
    pieces = []
    for low, high in zip(centres[starts] - _REACH * width, centres[ends] + _REACH * width, strict=True):
        pieces.append(np.linspace(low, high, int(np.ceil((high - low) / width * _POINTS_PER_WIDTH)) + 1))
    x = np.unique(np.concatenate(pieces))
    if x.size < 2 * _REACH * _POINTS_PER_WIDTH:  # steps below the spacing of floating-point numbers
        raise WidthError(
            f"width={width:g} is below the precision of eigenvalues near {np.abs(centres).max():g}; use a larger width"
        )
    return x


def default_width(rule: tuple[np.ndarray, np.ndarray], shorter: tuple[np.ndarray, np.ndarray], scale: float) -> float:
    """The smallest width, out of range/8 · 2⁻ʲ, at which a fifth of the steps more or less moves < 1 % of the mass."""
    support = np.ptp(rule[0])
    if support <= 1e-12 * scale:
        return max(scale, np.finfo(float).tiny) * 1e-3  # a single atom: any width shows it
    width = support / 8
    for _ in range(10):
        x = adaptive_grid(np.concatenate([rule[0].ravel(), shorter[0].ravel()]), width / 2)
        if l1_change(x, rule, shorter, width / 2) > 0.01:
            break
        width /= 2
    return width


def l1_change(
    x: np.ndarray, rule: tuple[np.ndarray, np.ndarray], shorter: tuple[np.ndarray, np.ndarray], width: float
) -> float:
    """∫|φ − φ'| of the mean densities of two sets of rules."""
    difference = [smooth(x, *r, width, gaussian_kernel)[0].mean(axis=0) for r in (rule, shorter)]
    return float(np.trapezoid(np.abs(difference[0] - difference[1]), x))
