"""Lists of eigenvalues that are hard for Lanczos, and the transform that spreads eigenvectors over all coordinates."""

import numpy as np
import scipy.fft

__all__ = [
    "clustered",
    "geometric",
    "hessian_like",
    "indefinite",
    "mix",
    "near_singular",
    "one_small",
    "rank_deficient",
    "strakos",
    "two_point",
    "uniform",
    "unmix",
]


def mix(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Multiply `rows` by an orthogonal (unitary, for complex rows) matrix whose entries are all of order 1/√n.

    Sign, cosine transform, sign, cosine transform (phases and Fourier transforms for complex rows). Products of random
    reflectors would leave the eigenvectors localised, and Rademacher probes would look too good.

    Parameters
    ----------
    rows : (..., n) array
    seed : int
        Of the signs or phases.

    Returns
    -------
    (..., n) array
    """
    is_complex = np.iscomplexobj(rows)
    for factors in _factors(rows.shape[-1], seed, is_complex):
        rows = rows * factors
        rows = scipy.fft.fft(rows, norm="ortho") if is_complex else scipy.fft.dct(rows, norm="ortho")
    return rows


def unmix(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Undo `mix`."""
    is_complex = np.iscomplexobj(rows)
    for factors in reversed(_factors(rows.shape[-1], seed, is_complex)):
        rows = scipy.fft.ifft(rows, norm="ortho") if is_complex else scipy.fft.idct(rows, norm="ortho")
        rows = rows * factors.conj()
    return rows


def _factors(n: int, seed: int, is_complex: bool) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.exp(2j * np.pi * rng.random(n)) if is_complex else rng.choice([-1.0, 1.0], n) for _ in range(2)]


def uniform(n: int) -> np.ndarray:
    """Evenly spread in [1, 3], well conditioned: (n,) array."""
    return np.linspace(1.0, 3.0, n)


def indefinite(n: int) -> np.ndarray:
    """Evenly spread in [-1, 2], on both sides of zero: (n,) array."""
    return np.linspace(-1.0, 2.0, n)


def hessian_like(n: int, outliers: int = 20) -> np.ndarray:
    """A few large outliers (geometric, 1 to 100) above a bulk near zero, shifted to be positive: (n,) array."""
    bulk = np.random.default_rng(7).chisquare(1, n - outliers) * 1e-2
    return np.concatenate([bulk, np.geomspace(1.0, 100.0, outliers)]) + 1e-3


def strakos(n: int, low: float = 1e-3, rho: float = 0.9) -> np.ndarray:
    """Crowded at the lower end, on which Lanczos loses orthogonality (Strakoš 1991): (n,) array, up to 1."""
    i = np.arange(1, n + 1)
    return low + (i - 1) / (n - 1) * (1.0 - low) * rho ** (n - i)


def geometric(n: int, low: float = 1e-8) -> np.ndarray:
    """Evenly spread in the logarithm, from `low` to 1: (n,) array."""
    return np.geomspace(low, 1.0, n)


def clustered(n: int, clusters: int = 4, width: float = 1e-14) -> np.ndarray:
    """Clusters at 1, 2, 3, …, each `width` wide in all: (n,) array."""
    return 1.0 + np.arange(n) % clusters + width * np.linspace(-0.5, 0.5, n)


def one_small(n: int, low: float = 1e-6) -> np.ndarray:
    """All ones but one: (n,) array."""
    return np.append(np.ones(n - 1), low)


def two_point(n: int) -> np.ndarray:
    """Two eigenvalues, 1 and 5, of equal multiplicity (if n is even): (n,) array."""
    return np.where(np.arange(n) % 2 == 0, 1.0, 5.0)


def rank_deficient(n: int, rank: int = 3) -> np.ndarray:
    """1, 2, …, `rank`, and zeros: (n,) array."""
    return np.append(np.arange(1.0, rank + 1), np.zeros(n - rank))


def near_singular(n: int, low: float = 1e-12) -> np.ndarray:
    """Evenly spread in [1, 2] but for one eigenvalue `low`: (n,) array."""
    return np.append(np.linspace(1.0, 2.0, n - 1), low)
