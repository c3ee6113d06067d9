"""Operators whose eigenvalues and eigenvectors are known, and the exact answers about them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import slq
from slq.testing.spectra import hessian_like, indefinite, mix, strakos, uniform

__all__ = [
    "K",
    "M",
    "N",
    "Problem",
    "hessian_like",
    "indefinite",
    "measure_of",
    "mix",
    "problem",
    "strakos",
    "uniform",
]

# One block shape for the tests that run on every library: JAX compiles each operation once per shape.
N, K, M = 24, 3, 9


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


def measure_of(eigenvalues: Any, *, num_probes: int = 4, num_steps: int | None = None, **options: Any) -> Any:
    """The measure of `problem(eigenvalues)`; of the whole space by default."""
    A = problem(eigenvalues)
    return slq.spectral_measure(A.matrix, num_probes=num_probes, num_steps=num_steps or len(A.eigenvalues), **options)
