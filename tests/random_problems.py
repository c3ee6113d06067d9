"""Random small problems for the laws, with their exact measures."""

from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from hypothesis import strategies as st

import slq

__all__ = ["SAMPLERS", "Case", "any_kind", "cases", "distance", "matrices", "seeds"]

SAMPLERS = (slq.sphere, slq.rademacher, slq.gaussian, slq.steinhaus)

seeds = st.integers(0, 2**64)
any_kind = st.one_of(st.booleans(), st.integers(0, 9))  # of reorthogonalize=

# Integers over eight: repeats and zeros, and gaps that are known; and any others, but none so small that at the least
# scale the entries of a matrix are subnormal: they have lost digits.
_eighths = st.integers(-8, 8).map(lambda i: i / 8)
_eigenvalue = st.one_of(_eighths, _eighths, st.floats(-1, 1).map(lambda x: x if abs(x) > 2.0**-60 else 0.0))
_exponents = st.integers(-900, 900)


class Case(NamedTuple):
    """A Hermitian matrix times 2^exponent, and start vectors.

    Attributes
    ----------
    eigenvalues : (n,) array
        Of the matrix of order one, increasing.
    vectors : (n, n) array
        Its eigenvectors, one per row.
    x : (k, n) array
        Start vectors.
    exponent : int
    """

    eigenvalues: np.ndarray
    vectors: np.ndarray
    x: np.ndarray
    exponent: int

    @property
    def n(self) -> int:
        return self.eigenvalues.size

    @property
    def unit(self) -> float:
        """The power of two that multiplies the matrix of order one."""
        return float(np.ldexp(1.0, self.exponent))

    @property
    def matrix(self) -> np.ndarray:
        A = (self.vectors.T * self.eigenvalues) @ self.vectors.conj()
        return (A + A.conj().T) / 2 * self.unit

    @property
    def masses(self) -> np.ndarray:
        """(k, n): the mass that each start vector gives to each eigenvalue."""
        masses = np.abs(self.x @ self.vectors.conj().T) ** 2
        return masses / masses.sum(axis=1, keepdims=True)

    def means(self, f: Any) -> np.ndarray:
        """vᵢᴴf(A)v of each start vector scaled to length one, f of eigenvalues of order one."""
        return self.masses @ f(self.eigenvalues)


@st.composite
def cases(draw: Any, *, most: int = 8, is_complex: Any = None, scales: Any = _exponents) -> Case:
    """Hermitian matrices of dimension 1 to `most`: repeated and zero eigenvalues, any rank, any scale.

    Start vectors are random, or meet few eigenvectors: then runs end early.
    """
    eigenvalues = np.sort(draw(st.lists(_eigenvalue, min_size=1, max_size=most)))
    n = eigenvalues.size
    rng = np.random.default_rng(draw(seeds))
    kind = complex if (draw(st.booleans()) if is_complex is None else is_complex) else float
    vectors = np.eye(n, dtype=kind)
    if draw(st.integers(0, 3)):  # else a diagonal matrix
        vectors = _orthonormal(rng, n, kind)
    x = _normal(rng, (draw(st.integers(1, 4)), n), kind)
    if draw(st.booleans()):
        some = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n))
        x = x[:, some] @ vectors[some]
    return Case(eigenvalues, vectors, x * 2.0 ** draw(st.integers(-60, 60)), draw(scales))


@st.composite
def matrices(draw: Any, *, scales: Any = _exponents) -> np.ndarray:
    """Rectangular matrices (p, n), 1 to 6 each, of any rank, real or complex."""
    p, n = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    values = np.asarray(draw(st.lists(_eigenvalue, min_size=min(p, n), max_size=min(p, n))))
    rng = np.random.default_rng(draw(seeds))
    kind = complex if draw(st.booleans()) else float
    left, right = _orthonormal(rng, p, kind), _orthonormal(rng, n, kind)
    return (left[:, : values.size] * values) @ right[: values.size] * np.ldexp(1.0, draw(scales))


def distance(nodes: np.ndarray, masses: np.ndarray, other: np.ndarray, other_masses: np.ndarray) -> float:
    """∫|F − G| of two discrete measures of mass one: unlike nodes and weights, never ill conditioned."""
    return float(scipy.stats.wasserstein_distance(nodes, other, masses, other_masses))


def _normal(rng: np.random.Generator, shape: tuple[int, ...], kind: type) -> np.ndarray:
    x = rng.normal(size=shape)
    return x + 1j * rng.normal(size=shape) if kind is complex else x


def _orthonormal(rng: np.random.Generator, n: int, kind: type) -> np.ndarray:
    return np.linalg.qr(_normal(rng, (n, n), kind))[0]
