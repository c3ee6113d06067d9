"""Operators whose eigenvalues and eigenvectors are known, and the exact answers about them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.fft

import slq

# One block shape for the tests that run on every library: JAX compiles each operation once per shape.
N, K, M = 24, 3, 9


def mix(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """`rows` times an orthogonal (unitary, for complex rows) matrix whose entries are all of order 1/√n.

    Sign, cosine transform, sign, cosine transform. Products of random reflectors would leave the eigenvectors
    localised, and Rademacher probes would look too good.
    """
    rng = np.random.default_rng(seed)
    n = rows.shape[-1]
    for _ in range(2):
        if np.iscomplexobj(rows):
            rows = scipy.fft.fft(rows * np.exp(2j * np.pi * rng.random(n)), norm="ortho")
        else:
            rows = scipy.fft.dct(rows * rng.choice([-1.0, 1.0], n), norm="ortho")
    return rows


class Problem(NamedTuple):
    """A symmetric or Hermitian matrix by its eigenvalues and (rows) eigenvectors."""

    eigenvalues: np.ndarray
    vectors: np.ndarray

    @property
    def matrix(self) -> np.ndarray:
        """The dense matrix."""
        A = (self.vectors.T * self.eigenvalues) @ self.vectors.conj()
        return (A + A.conj().T) / 2

    def forms(self, x: np.ndarray, f: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """xᵢᴴ f(A) xᵢ of each row of x."""
        return np.abs(x @ self.vectors.conj().T) ** 2 @ f(self.eigenvalues)


def problem(eigenvalues: Any, *, seed: int = 0, dtype: type = float) -> Problem:
    """The matrix with these eigenvalues and mixed eigenvectors."""
    eigenvalues = np.asarray(eigenvalues, dtype=float)
    return Problem(eigenvalues, mix(np.eye(eigenvalues.size, dtype=dtype), seed))


def uniform(n: int) -> np.ndarray:
    """Evenly spread, well conditioned."""
    return np.linspace(1.0, 3.0, n)


def indefinite(n: int) -> np.ndarray:
    """Evenly spread on both sides of zero."""
    return np.linspace(-1.0, 2.0, n)


def hessian_like(n: int, outliers: int = 20) -> np.ndarray:
    """A few large outliers above a bulk near zero, shifted to be positive."""
    bulk = np.random.default_rng(7).chisquare(1, n - outliers) * 1e-2
    return np.concatenate([bulk, np.geomspace(1.0, 100.0, outliers)]) + 1e-3


def strakos(n: int, low: float = 1e-3, rho: float = 0.9) -> np.ndarray:
    """Strakoš 1991: crowded at the lower end, on which Lanczos loses orthogonality."""
    i = np.arange(1, n + 1)
    return low + (i - 1) / (n - 1) * (1.0 - low) * rho ** (n - i)


def measure_of(eigenvalues: Any, *, num_probes: int = 4, num_steps: int | None = None, **options: Any) -> Any:
    """The measure of `problem(eigenvalues)`; of the whole space by default."""
    A = problem(eigenvalues)
    return slq.spectral_measure(A.matrix, num_probes=num_probes, num_steps=num_steps or len(A.eigenvalues), **options)
