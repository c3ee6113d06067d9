"""Floor 2: distances between spectra: a measure, or exact eigenvalues, against another."""

from typing import Any

import numpy as np

from slq._coefficients import Coefficients
from slq._density import adaptive_grid, gaussian_kernel, smooth
from slq.errors import RequestError

__all__ = ["density_l1", "ks", "wasserstein"]


def wasserstein(p: Any, q: Any) -> float:
    """The Wasserstein-1 distance ∫|F − G| of two spectra, in units of the eigenvalues.

    Parameters
    ----------
    p, q : SpectralMeasure or (n,) array
        A measure (the mean over its probes), or eigenvalues of equal mass.

    Returns
    -------
    float

    Raises
    ------
    RequestError
        If an argument is neither, is empty or is not finite.
    """
    x, f, g = _distributions(p, q)
    return float(np.sum(np.abs(f - g)[:-1] * np.diff(x)))


def ks(p: Any, q: Any) -> float:
    """The Kolmogorov-Smirnov distance max|F − G| of two spectra; see `wasserstein`.

    Meaningful for continuous spectra: two atoms a rounding apart are at distance one.
    """
    _, f, g = _distributions(p, q)
    return float(np.abs(f - g).max())


def density_l1(p: Any, q: Any, width: float) -> float:
    """The L1 distance ∫|φ − ψ| of two densities after the same Gaussian smoothing; between 0 and 2.

    Parameters
    ----------
    p, q : SpectralMeasure or (n,) array
        As for `wasserstein`.
    width : float
        Standard deviation of the Gaussian, in units of the eigenvalues.

    Returns
    -------
    float

    Raises
    ------
    RequestError
        As for `wasserstein`; WidthError if the width is not positive or below the precision of the eigenvalues.
    """
    rules = [_atoms(p), _atoms(q)]
    x = adaptive_grid(np.concatenate([nodes for nodes, _ in rules]), width)
    first, second = (smooth(x, nodes[None], weights[None], width, gaussian_kernel)[0, 0] for nodes, weights in rules)
    return float(np.trapezoid(np.abs(first - second), x / width))


def _atoms(p: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sorted positions and masses, which sum to one."""
    if isinstance(p, Coefficients):
        used = p.weights > 0
        nodes, weights = p.nodes[used], p.weights[used] / p.num_probes
    else:
        nodes = np.asarray(p)
        if nodes.ndim != 1 or nodes.size == 0 or nodes.dtype.kind not in "fiu" or not np.isfinite(nodes).all():
            raise RequestError(
                f"expected a SpectralMeasure or a one-dimensional array of finite real eigenvalues, "
                f"got {type(p).__name__} of shape {nodes.shape} and dtype {nodes.dtype}"
            )
        weights = np.full(nodes.size, 1 / nodes.size)
    order = np.argsort(nodes)
    return nodes[order].astype(np.float64), weights[order] / weights.sum()


def _distributions(p: Any, q: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All positions, and both distribution functions there."""
    (x, u), (y, v) = _atoms(p), _atoms(q)
    positions = np.unique(np.concatenate([x, y]))
    f, g = (
        np.concatenate([[0.0], masses.cumsum()])[np.searchsorted(nodes, positions, side="right")]
        for nodes, masses in ((x, u), (y, v))
    )
    return positions, f, g
