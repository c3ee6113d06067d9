"""Matrices of fractions whose determinant has a closed form."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from slq.testing.structured import KAC_MURDOCK_SZEGO

__all__ = ["Determinant", "determinants"]


@dataclass(frozen=True, eq=False)
class Determinant:
    """A positive definite matrix with rational entries, and the exact logarithm of its determinant.

    Attributes
    ----------
    name : str
    n : int
    entry : callable
        (i, j) -> the exact entry, counted from 1.
    determinant : Fraction
        Exact.
    formula, source : str
        Of the determinant.
    """

    name: str
    n: int
    entry: Callable[[int, int], Fraction]
    determinant: Fraction
    formula: str
    source: str

    def fractions(self) -> list[list[Fraction]]:
        """The exact entries, row by row."""
        numbers = range(1, self.n + 1)
        return [[Fraction(self.entry(i, j)) for j in numbers] for i in numbers]

    def matrix(self) -> np.ndarray:
        """The entries rounded to double precision: (n, n) array."""
        return np.array(self.fractions(), dtype=float)

    def logdet(self) -> float:
        """The logarithm of the determinant, to rounding."""
        return math.log(self.determinant.numerator) - math.log(self.determinant.denominator)


def determinants() -> list[Determinant]:
    """Return seven matrices with closed log-determinants, all rational, so that no rounding is hidden in them."""
    half = Fraction(1, 2)
    return [
        Determinant(
            "Kac-Murdock-Szegő, r=1/2",
            24,
            lambda i, j: half ** abs(i - j),
            Fraction(3, 4) ** 23,
            "(1 − r²)^(n−1)",
            KAC_MURDOCK_SZEGO,
        ),
        Determinant(
            "min(i, j)",
            24,
            lambda i, j: Fraction(min(i, j)),
            Fraction(1),
            "1",
            "derived: L Lᵀ with L the lower triangle of ones",
        ),
        Determinant(
            "Pascal",
            8,
            lambda i, j: Fraction(math.comb(i + j - 2, i - 1)),
            Fraction(1),
            "1",
            "Edelman and Strang, Pascal matrices, Amer. Math. Monthly 111 (2004)",
        ),
        Determinant(
            "Lehmer",
            20,
            lambda i, j: Fraction(min(i, j), max(i, j)),
            Fraction(math.factorial(40), 2**20 * math.factorial(20) ** 3),
            "(2n)!/(2ⁿ n!³)",
            "derived: elimination leaves the pivots (2k − 1)/k²",
        ),
        Determinant(
            "greatest common divisor",
            20,
            lambda i, j: Fraction(math.gcd(i, j)),
            Fraction(math.prod(_totient(k) for k in range(1, 21))),
            "φ(1) φ(2) … φ(n), Euler's totients",
            "Smith, On the value of a certain arithmetical determinant, Proc. London Math. Soc. 7 (1876)",
        ),
        Determinant(
            "complete graph Laplacian less one row and column",
            20,
            lambda i, j: Fraction(20 if i == j else -1),
            Fraction(21) ** 19,
            "(n+1)^(n−1): the spanning trees of the complete graph of n + 1 vertices (Cayley)",
            "Brouwer and Haemers, Spectra of Graphs, Springer 2012",
        ),
        Determinant(
            "Hilbert",
            8,
            lambda i, j: Fraction(1, i + j - 1),
            Fraction(_superfactorial(8) ** 4, _superfactorial(16)),
            "cₙ⁴/c₂ₙ, cₙ = 1! 2! … (n−1)!",
            "Choi, Tricks or treats with the Hilbert matrix, Amer. Math. Monthly 90 (1983)",
        ),
    ]


def _totient(k: int) -> int:
    return sum(math.gcd(i, k) == 1 for i in range(1, k + 1))


def _superfactorial(n: int) -> int:
    return math.prod(math.factorial(k) for k in range(1, n))
