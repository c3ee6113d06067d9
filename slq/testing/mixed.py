"""Matrices with given eigenvalues and spread eigenvectors, and random matrices with a limit law."""

from typing import Any

import numpy as np

from slq._probes import gaussian
from slq.testing._problem import Problem, ones
from slq.testing.spectra import mix, unmix

__all__ = ["goe", "mixed", "wishart"]


def mixed(
    eigenvalues: Any,
    name: str,
    *,
    formula: str,
    hard_for: str,
    source: str = "derived: the matrix is Q D Qᴴ with D given and Q orthogonal (unitary)",
    is_complex: bool = False,
    seed: int = 0,
) -> Problem:
    """Make Q D Qᴴ, with D the diagonal matrix of `eigenvalues` and Q of signs (phases) and transforms.

    Parameters
    ----------
    eigenvalues : (n,) array
    name, formula, hard_for, source : str
        As in `Problem`.
    is_complex : bool
        A complex Hermitian matrix.
    seed : int
        Of Q: see `spectra.mix`.

    Returns
    -------
    Problem
        Its product takes O(n log n) operations.
    """
    values = np.array(eigenvalues, dtype=float)
    dtype = complex if is_complex else float

    def modes(x: np.ndarray) -> np.ndarray:
        if is_complex or not np.iscomplexobj(x):
            return unmix(x.astype(dtype, copy=False), seed)
        return unmix(x.real, seed) + 1j * unmix(x.imag, seed)  # a real Q keeps real and imaginary parts apart

    def product(x: np.ndarray) -> np.ndarray:
        coordinates = modes(x) * values
        if is_complex or not np.iscomplexobj(x):
            return mix(coordinates, seed)
        return mix(coordinates.real, seed) + 1j * mix(coordinates.imag, seed)

    return Problem(
        name=name,
        n=values.size,
        product=product,
        levels=lambda: (values, ones(values.size)),
        formula=formula,
        source=source,
        hard_for=hard_for,
        is_complex=is_complex,
        family="mixed",
        modes=modes,
    )


def goe(n: int, seed: int = 0) -> Problem:
    """Make a matrix of the Gaussian orthogonal ensemble, scaled to the semicircle on [-1, 1]."""
    G = gaussian(seed, range(n), None, n, np.empty(0))
    A = (G + G.T) / np.sqrt(8 * n)
    return _dense(
        A,
        f"Gaussian orthogonal ensemble, n={n}",
        formula="computed densely; as n grows, the density 2√(1 − λ²)/π on [-1, 1]",
        source="Wigner, On the distribution of the roots of certain symmetric matrices, Ann. Math. 67 (1958)",
        hard_for="smoothing: square-root edges without outliers",
        family="random",
    )


def wishart(n: int, seed: int = 0) -> Problem:
    """Make X Xᵀ/(2n) of a Gaussian X with n rows and 2n columns."""
    X = gaussian(seed, range(n), None, 2 * n, np.empty(0))
    return _dense(
        X @ X.T / (2 * n),
        f"Wishart, {n} x {2 * n}",
        formula="computed densely; as n grows, the density √((b − λ)(λ − a))/(πλ) on [a, b] = (1 ∓ 1/√2)²",
        source=(
            "Marchenko and Pastur, Distribution of eigenvalues for some sets of random matrices, "
            "Math. USSR Sbornik 1 (1967)"
        ),
        hard_for="smoothing: a skewed bulk whose lower edge carries the logarithm",
        family="random",
    )


def _dense(A: np.ndarray, name: str, **about: Any) -> Problem:
    values, vectors = np.linalg.eigh(A)
    return Problem(
        name=name,
        n=len(A),
        product=lambda x: x @ A.T,
        levels=lambda: (values, ones(len(A))),
        modes=lambda x: x @ vectors,
        **about,
    )
