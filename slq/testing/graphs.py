"""Graphs: adjacency matrices, and Laplacians where the name says so.

The functions return a `Problem`, which has the formula and its source.
Sizes and parameters for which the formula does not hold raise RequestError.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import scipy.fft

from slq.testing._kronecker import kronecker_sum
from slq.testing._problem import Problem, ones, require
from slq.testing.structured import fwht

__all__ = [
    "complete_bipartite",
    "complete_laplacian",
    "cycle_laplacian",
    "grid_laplacian",
    "hamming",
    "hypercube",
    "johnson",
    "kneser",
    "paley",
    "path_laplacian",
    "star_laplacian",
    "torus_laplacian",
]

_SPECTRA_OF_GRAPHS = "Brouwer and Haemers, Spectra of Graphs, Springer 2012"


def path_laplacian(n: int) -> Problem:
    """Make the Laplacian of a path of n vertices: 2 on the diagonal (1 at the ends), -1 beside it."""

    def product(x: np.ndarray) -> np.ndarray:
        step = np.diff(x, axis=-1)
        y = np.zeros_like(x)
        y[..., :-1] -= step
        y[..., 1:] += step
        return y

    return Problem(
        name=f"path Laplacian, n={n}",
        n=n,
        product=product,
        levels=lambda: (4 * np.sin(np.pi * np.arange(n) / (2 * n)) ** 2, ones(n)),
        formula="2 − 2cos(πk/n), k = 0…n−1",
        source="Strang, The discrete cosine transform, SIAM Review 41 (1999)",
        hard_for="the lower edge, where values crowd as k²/n²; the smallest is exactly zero",
        family="graph",
        modes=lambda x: scipy.fft.dct(x, norm="ortho"),
    )


def cycle_laplacian(n: int) -> Problem:
    """Make the Laplacian of a cycle of n vertices."""
    return Problem(
        name=f"cycle Laplacian, n={n}",
        n=n,
        product=lambda x: 2 * x - np.roll(x, 1, axis=-1) - np.roll(x, -1, axis=-1),
        levels=lambda: (4 * np.sin(np.pi * np.arange(n) / n) ** 2, ones(n)),
        formula="2 − 2cos(2πk/n), k = 0…n−1",
        source=_SPECTRA_OF_GRAPHS,
        hard_for="counting: inner eigenvalues are double, and a single vector sees one of each",
        family="graph",
        modes=lambda x: scipy.fft.fft(x, norm="ortho"),
    )


def grid_laplacian(*shape: int) -> Problem:
    """Make the Laplacian of a grid of this shape with free boundaries."""
    return kronecker_sum(
        [path_laplacian(m) for m in shape],
        name=f"grid Laplacian, {' x '.join(map(str, shape))}",
        formula="sums over the axes of 2 − 2cos(πk/m), k = 0…m−1",
        source=_SPECTRA_OF_GRAPHS,
        hard_for="memory at large n; symmetric axes repeat each value up to d! times",
        family="graph",
    )


def torus_laplacian(*shape: int) -> Problem:
    """Make the Laplacian of a grid of this shape that is periodic along every axis."""
    return kronecker_sum(
        [cycle_laplacian(m) for m in shape],
        name=f"torus Laplacian, {' x '.join(map(str, shape))}",
        formula="sums over the axes of 2 − 2cos(2πk/m), k = 0…m−1",
        source=_SPECTRA_OF_GRAPHS,
        hard_for="counting: high multiplicities",
        family="graph",
    )


def hypercube(d: int) -> Problem:
    """Make the adjacency matrix of the hypercube of 2ᵈ vertices."""
    n = 2**d

    def product(x: np.ndarray) -> np.ndarray:
        y = np.zeros_like(x)
        for j in range(d):
            shape = (*x.shape[:-1], 2**j, 2, n >> (j + 1))
            u, v = x.reshape(shape), y.reshape(shape)
            v[..., 0, :] += u[..., 1, :]
            v[..., 1, :] += u[..., 0, :]
        return y

    return Problem(
        name=f"hypercube, d={d}",
        n=n,
        product=product,
        levels=lambda: (d - 2.0 * np.bitwise_count(np.arange(n)), ones(n)),
        formula="d − 2j with multiplicity C(d, j), j = 0…d",
        source=_SPECTRA_OF_GRAPHS,
        hard_for="breakdown: d + 1 values, whatever n; the outer ones have mass 2⁻ᵈ",
        family="graph",
        modes=lambda x: fwht(x) / math.sqrt(n),
    )


def hamming(d: int, q: int) -> Problem:
    """Make the adjacency matrix of the Hamming graph: words of d letters out of q, joined if they differ in one."""
    require(d >= 1, "d >= 1", d=d)
    j = np.arange(d + 1)

    def product(x: np.ndarray) -> np.ndarray:
        u = x.reshape(*x.shape[:-1], *(q,) * d)
        y = sum(u.sum(axis=-1 - axis, keepdims=True) - u for axis in range(d))
        return np.reshape(y, x.shape)

    counts = np.array([math.comb(d, i) * (q - 1) ** i for i in j])
    values = d * (q - 1.0) - q * j
    return Problem(
        name=f"Hamming graph, d={d}, q={q}",
        n=q**d,
        product=product,
        levels=lambda: (values, counts),
        formula="d(q−1) − qj with multiplicity C(d, j)(q−1)ʲ, j = 0…d",
        source=_SPECTRA_OF_GRAPHS,
        hard_for="breakdown; the largest value is simple, the smallest the most frequent",
        family="graph",
    )


def johnson(n: int, k: int) -> Problem:
    """Make the adjacency matrix of the Johnson graph: k-subsets of n ≥ 2k, joined if they share k − 1 elements."""
    return _subsets(
        n,
        k,
        lambda overlap: overlap == k - 1,
        lambda j: (k - j) * (n - k - j) - j,
        name=f"Johnson graph, n={n}, k={k}",
        formula="(k−j)(n−k−j) − j with multiplicity C(n, j) − C(n, j−1), j = 0…k",
    )


def kneser(n: int, k: int) -> Problem:
    """Make the adjacency matrix of the Kneser graph: k-subsets of n ≥ 2k, joined if disjoint."""
    return _subsets(
        n,
        k,
        lambda overlap: overlap == 0,
        lambda j: (-1) ** j * math.comb(n - k - j, k - j),
        name=f"Kneser graph, n={n}, k={k}",
        formula="(−1)ʲ C(n−k−j, k−j) with multiplicity C(n, j) − C(n, j−1), j = 0…k",
    )


def _subsets(
    n: int,
    k: int,
    joined: Callable[[np.ndarray], np.ndarray],
    value: Callable[[int], int],
    *,
    name: str,
    formula: str,
) -> Problem:
    require(k >= 1 and 2 * k <= n, "1 <= k <= n/2", n=n, k=k)
    members = np.array([[i in subset for i in range(n)] for subset in itertools.combinations(range(n), k)], dtype=int)
    A = joined(members @ members.T).astype(float)
    values = np.array([float(value(j)) for j in range(k + 1)])
    counts = np.array([math.comb(n, j) - (math.comb(n, j - 1) if j else 0) for j in range(k + 1)])
    return Problem(
        name=name,
        n=len(A),
        product=lambda x: x @ A,
        levels=lambda: (values, counts),
        formula=formula,
        source=_SPECTRA_OF_GRAPHS,
        hard_for="breakdown: k + 1 values with very unequal multiplicities",
        family="graph",
    )


def complete_laplacian(n: int) -> Problem:
    """Make the Laplacian of the complete graph of n vertices: n − 1 on the diagonal, -1 elsewhere."""
    require(n >= 2, "n >= 2", n=n)
    return Problem(
        name=f"complete graph Laplacian, n={n}",
        n=n,
        product=lambda x: n * x - x.sum(axis=-1, keepdims=True),
        levels=lambda: (np.array([0.0, n]), np.array([1, n - 1])),
        formula="0 once, n with multiplicity n − 1",
        source=_SPECTRA_OF_GRAPHS,
        hard_for="breakdown at the second step",
        family="graph",
    )


def complete_bipartite(a: int, b: int) -> Problem:
    """Make the adjacency matrix of the complete bipartite graph of a and b vertices."""

    def product(x: np.ndarray) -> np.ndarray:
        y = np.empty_like(x)
        y[..., :a] = x[..., a:].sum(axis=-1, keepdims=True)
        y[..., a:] = x[..., :a].sum(axis=-1, keepdims=True)
        return y

    return Problem(
        name=f"complete bipartite graph, {a} and {b}",
        n=a + b,
        product=product,
        levels=lambda: (math.sqrt(a * b) * np.array([-1.0, 0.0, 1.0]), np.array([1, a + b - 2, 1])),
        formula="±√(ab) once each, 0 with multiplicity a + b − 2",
        source=_SPECTRA_OF_GRAPHS,
        hard_for="breakdown at the third step; error bars of rank two",
        family="graph",
    )


def star_laplacian(n: int) -> Problem:
    """Make the Laplacian of a star: vertex 0 joined to the n − 1 others."""
    require(n >= 3, "n >= 3", n=n)

    def product(x: np.ndarray) -> np.ndarray:
        y = x - x[..., :1]
        y[..., 0] = n * x[..., 0] - x.sum(axis=-1)
        return y

    return Problem(
        name=f"star Laplacian, n={n}",
        n=n,
        product=product,
        levels=lambda: (np.array([0.0, 1.0, n]), np.array([1, n - 2, 1])),
        formula="0 once, 1 with multiplicity n − 2, n once",
        source=_SPECTRA_OF_GRAPHS,
        hard_for="breakdown at the third step; an outlier that lies on one coordinate",
        family="graph",
    )


def paley(q: int) -> Problem:
    """Make the adjacency matrix of the Paley graph: numbers modulo q, joined if they differ by a square.

    q is a prime with remainder 1 modulo 4; RequestError otherwise.
    """
    require(q > 1 and q % 4 == 1 and all(q % d for d in range(2, math.isqrt(q) + 1)), "a prime q = 4m + 1", q=q)
    squares = np.zeros(q)
    squares[np.arange(1, q) ** 2 % q] = 1.0
    A = squares[np.subtract.outer(np.arange(q), np.arange(q)) % q]
    root = math.sqrt(q)
    return Problem(
        name=f"Paley graph, q={q}",
        n=q,
        product=lambda x: x @ A,
        levels=lambda: (
            np.array([(q - 1) / 2, (root - 1) / 2, (-root - 1) / 2]),
            np.array([1, (q - 1) // 2, (q - 1) // 2]),
        ),
        formula="(q−1)/2 once, (−1 ± √q)/2 with multiplicity (q−1)/2 each",
        source=_SPECTRA_OF_GRAPHS,
        hard_for="intuition: its entries look random, its spectrum is three points",
        family="graph",
    )
