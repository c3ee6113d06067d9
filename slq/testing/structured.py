"""Matrices of linear algebra and signal processing with products in O(n) or O(n log n).

The functions return a `Problem`, which has the formula and its source.
Sizes and parameters for which the formula does not hold raise RequestError.
"""

import math
from collections.abc import Mapping

import numpy as np
import scipy.fft
import scipy.signal

from slq.testing._kronecker import kronecker_product
from slq.testing._problem import Problem, ones, require

__all__ = [
    "KAC_MURDOCK_SZEGO",
    "circulant",
    "clement",
    "fwht",
    "hadamard",
    "kms",
    "min_matrix",
    "rank_one_update",
    "real_fourier",
    "toeplitz",
    "toeplitz_product",
]

KAC_MURDOCK_SZEGO = (
    "Kac, Murdock and Szegő, On the eigenvalues of certain Hermitian forms, J. Rational Mech. Anal. 2 (1953)"
)


def fwht(x: np.ndarray) -> np.ndarray:
    """Multiply each row by the Sylvester-Hadamard matrix, whose entry (i, j) is (−1)^(number of common bits).

    Parameters
    ----------
    x : (..., n) array
        n a power of two.

    Returns
    -------
    (..., n) array
    """
    n = x.shape[-1]
    require(n > 0 and n & (n - 1) == 0, "rows whose length is a power of two", n=n)
    y = x.copy()
    for j in range(n.bit_length() - 1):
        u = y.reshape(*x.shape[:-1], -1, 2, 2**j)
        total = u[..., 0, :] + u[..., 1, :]
        u[..., 1, :] = u[..., 0, :] - u[..., 1, :]
        u[..., 0, :] = total
    return y


def toeplitz(n: int, a: float = 2.5, b: float = -1.0) -> Problem:
    """Make the tridiagonal matrix with a on the diagonal and b beside it."""

    def product(x: np.ndarray) -> np.ndarray:
        y = a * x
        y[..., 1:] += b * x[..., :-1]
        y[..., :-1] += b * x[..., 1:]
        return y

    return Problem(
        name=f"tridiagonal Toeplitz, n={n}, a={a:g}, b={b:g}",
        n=n,
        product=product,
        levels=lambda: (a + 2 * b * np.cos(np.arange(1, n + 1) * np.pi / (n + 1)), ones(n)),
        formula="a + 2b cos(πk/(n+1)), k = 1…n; determinant bⁿ Uₙ(a/2b) (Chebyshev)",
        source=(
            "Noschese, Pasquini and Reichel, Tridiagonal Toeplitz matrices: properties and novel applications, "
            "Numer. Linear Algebra Appl. 20 (2013)"
        ),
        hard_for="nothing: the first that must be right",
        family="structured",
        modes=lambda x: scipy.fft.dst(x, type=1, norm="ortho"),
    )


def toeplitz_product(n: int, m: int) -> Problem:
    """Make the Kronecker product of two tridiagonal Toeplitz matrices, one positive definite and one not."""
    return kronecker_product(
        [toeplitz(n), toeplitz(m, 0.3, 1.0)],
        name=f"Kronecker product of Toeplitz matrices, {n} x {m}",
        formula="(5/2 − 2cos(πj/(n+1))) (3/10 + 2cos(πk/(m+1)))",
        source="Horn and Johnson, Topics in Matrix Analysis, Cambridge 1991",
        hard_for="grids: uneven density, many values near zero on both sides",
        family="structured",
    )


def hadamard(k: int) -> Problem:
    """Make the Sylvester-Hadamard matrix of dimension 2ᵏ, k ≥ 1."""
    require(k >= 1, "k >= 1", k=k)
    n = 2**k
    return Problem(
        name=f"Sylvester-Hadamard, n={n}",
        n=n,
        product=fwht,
        levels=lambda: (math.sqrt(n) * np.array([-1.0, 1.0]), np.array([n // 2, n // 2])),
        formula="±2^(k/2), with equal multiplicities",
        source="derived: H² = 2ᵏ I, and tr H = 0 for k > 0",
        hard_for="breakdown at the second step of a matrix without zeros",
        family="structured",
    )


def real_fourier(n: int) -> Problem:
    """Make the real part of the unitary discrete Fourier transform, cos(2πjk/n)/√n."""
    plus, minus = n // 4 + 1, (n + 2) // 4
    return Problem(
        name=f"real part of the Fourier matrix, n={n}",
        n=n,
        product=lambda x: _keep_real(x, (scipy.fft.fft(x, norm="ortho") + scipy.fft.ifft(x, norm="ortho")) / 2),
        levels=lambda: (np.array([-1.0, 0.0, 1.0]), np.array([minus, n - plus - minus, plus])),
        formula="1 with multiplicity ⌊n/4⌋ + 1, −1 with ⌊(n+2)/4⌋, else 0",
        source=(
            "McClellan and Parks, Eigenvalue and eigenvector decomposition of the discrete Fourier transform, "
            "IEEE Trans. Audio Electroacoust. 20 (1972)"
        ),
        hard_for="breakdown at the third step of a dense matrix",
        family="structured",
    )


def _keep_real(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return y if np.iscomplexobj(x) else y.real


def circulant(n: int, coefficients: Mapping[int, complex] | None = None) -> Problem:
    """Make the Hermitian circulant matrix of entries c(j − k): c(m) given for m ≥ 0, c(−m) its conjugate."""
    given = {0: 2.0, 1: 1.0 + 0.5j, 3: -0.25j} if coefficients is None else coefficients
    entries = dict(given) | {-m: np.conj(c) for m, c in given.items() if m}

    def product(x: np.ndarray) -> np.ndarray:
        return np.sum([c * np.roll(x, m, axis=-1) for m, c in entries.items()], axis=0)

    def levels() -> tuple[np.ndarray, np.ndarray]:
        column = np.zeros(n, dtype=complex)
        for m, c in entries.items():
            column[m % n] += c
        return scipy.fft.fft(column).real, ones(n)

    return Problem(
        name=f"Hermitian circulant, n={n}",
        n=n,
        product=product,
        levels=levels,
        formula="the Fourier transform of the first column",
        source="Davis, Circulant Matrices, Wiley 1979",
        hard_for="inner products that do not conjugate, products with the transpose",
        is_complex=True,
        family="structured",
        modes=lambda x: scipy.fft.fft(x, norm="ortho"),
    )


def clement(n: int) -> Problem:
    """Make the Clement (Kac) matrix: tridiagonal, zero diagonal, √(j(n−j)) beside it."""
    off = np.sqrt(np.arange(1.0, n) * np.arange(n - 1.0, 0, -1))

    def product(x: np.ndarray) -> np.ndarray:
        y = np.zeros_like(x)
        y[..., 1:] += off * x[..., :-1]
        y[..., :-1] += off * x[..., 1:]
        return y

    return Problem(
        name=f"Clement, n={n}",
        n=n,
        product=product,
        levels=lambda: (np.arange(1.0 - n, n, 2.0), ones(n)),
        formula="−(n−1), −(n−3), …, n−1",
        source="Clement, A class of triple-diagonal matrices for test purposes, SIAM Review 1 (1959)",
        hard_for="steps: evenly spaced integers from entries that are none; the edges' eigenvectors are binomial",
        family="structured",
    )


def min_matrix(n: int) -> Problem:
    """Make the matrix with entry min(i, j), i, j = 1…n: the covariance of a random walk."""

    def product(x: np.ndarray) -> np.ndarray:
        return np.cumsum(np.cumsum(x[..., ::-1], axis=-1)[..., ::-1], axis=-1)

    angle = (2 * np.arange(1, n + 1) - 1) * np.pi / (2 * (2 * n + 1))
    return Problem(
        name=f"min(i, j), n={n}",
        n=n,
        product=product,
        levels=lambda: (1 / (4 * np.sin(angle) ** 2), ones(n)),
        formula="1/(4 sin²((2k−1)π/(4n+2))), k = 1…n; determinant 1",
        source="derived: the inverse is the second difference with one free end, a tridiagonal matrix",
        hard_for="log-determinants: condition n², one value carries the trace",
        family="structured",
    )


def kms(n: int, r: float = 0.5) -> Problem:
    """Make the Kac-Murdock-Szegő matrix with entry r^|i−j|, 0 < r < 1: the covariance of an autoregression."""
    require(0 < r < 1, "0 < r < 1", r=r)

    def product(x: np.ndarray) -> np.ndarray:
        forward = scipy.signal.lfilter([1.0], [1.0, -r], x, axis=-1)
        backward = scipy.signal.lfilter([1.0], [1.0, -r], x[..., ::-1], axis=-1)[..., ::-1]
        return forward + backward - x

    def levels() -> tuple[np.ndarray, np.ndarray]:
        return (1 - r**2) / (1 - 2 * r * np.cos(_kms_angles(n, r)) + r**2), ones(n)

    return Problem(
        name=f"Kac-Murdock-Szegő, n={n}, r={r:g}",
        n=n,
        product=product,
        levels=levels,
        formula=(
            "(1−r²)/(1 − 2r cos t + r²) at the roots t of sin((n+1)t) − 2r sin(nt) + r² sin((n−1)t), "
            "one in each ((i−1)π/(n+1), iπ/(n+1)); determinant (1−r²)^(n−1)"
        ),
        source=KAC_MURDOCK_SZEGO,
        hard_for="densities that grow at both edges",
        family="structured",
    )


def _kms_angles(n: int, r: float) -> np.ndarray:
    """Roots by bisection, all at once; t = 0 is a root too, but belongs to no eigenvalue."""
    low = np.arange(n) * np.pi / (n + 1)
    high = low + np.pi / (n + 1)
    sign = np.where(np.arange(n) % 2 == 0, 1.0, -1.0)  # of the function at the lower end of each interval
    for _ in range(60):
        t = (low + high) / 2
        below = sign * (np.sin((n + 1) * t) - 2 * r * np.sin(n * t) + r**2 * np.sin((n - 1) * t)) > 0
        low, high = np.where(below, t, low), np.where(below, high, t)
    return (low + high) / 2


def rank_one_update(n: int, a: float = 1.0, b: float = 0.01) -> Problem:
    """Make a I + b u uᵀ with u = (1, 2, …, n)."""
    u = np.arange(1.0, n + 1)
    return Problem(
        name=f"rank-one update, n={n}",
        n=n,
        product=lambda x: a * x + b * (x @ u)[..., None] * u,
        levels=lambda: (np.array([a, a + b * n * (n + 1) * (2 * n + 1) / 6]), np.array([n - 1, 1])),
        formula="a with multiplicity n − 1, a + b n(n+1)(2n+1)/6",
        source="derived: u is an eigenvector, and so is every vector orthogonal to it",
        hard_for="error bars: one eigenvalue carries the trace, so that the estimate is skewed",
        family="structured",
    )
