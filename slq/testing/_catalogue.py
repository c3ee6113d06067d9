"""The catalogue: one or two members of each family, and the choice among them."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import slq.testing.graphs as graphs
import slq.testing.models as models
import slq.testing.physics as physics
import slq.testing.spectra as spectra
import slq.testing.structured as structured
from slq.errors import RequestError
from slq.testing._problem import TAGS, Problem
from slq.testing.mixed import goe, mixed, wishart

__all__ = ["problems"]

_STRAKOS = "Strakoš, On the real convergence rate of the conjugate gradient method, Linear Algebra Appl. 154-156 (1991)"


def problems(*, size: str = "small", tags: str | Iterable[str] | None = None) -> list[Problem]:
    """Return operators with exact spectra.

    Parameters
    ----------
    size : {"small", "large"}
        ``"small"``: dimensions 16 to 256, to compare with dense computations. ``"large"``: 5 million and more, of
        which nothing is formed but the vectors.
    tags : str or iterable of str, optional
        Only problems that carry all of these, such as ``"complex"`` or ``"positive definite"``; `TAGS` explains them.

    Returns
    -------
    list of Problem

    Raises
    ------
    RequestError
        If the size or a tag is unknown.

    Examples
    --------
    >>> import slq, slq.testing
    >>> for problem in slq.testing.problems(tags=["complex", "few levels"]):
    ...     print(problem.name, problem.distinct()[0].size)
    complex two-point 2
    """
    lists = {"small": _small, "large": _large}
    if size not in lists:
        raise RequestError(f'size= expects "small" or "large", got {size!r}')
    wanted = {tags} if isinstance(tags, str) else set(tags or ())
    unknown = wanted - set(TAGS)
    if unknown:
        raise RequestError(f"tags= expects some of {sorted(TAGS)}, got {sorted(unknown)}")
    return [problem for problem in lists[size]() if not wanted or wanted <= problem.tags]  # tags need the spectrum


def _small() -> list[Problem]:
    return [*_graphs(), *_structured(), *_physics(), *_mixed(), *_models()]


def _graphs() -> list[Problem]:
    return [
        graphs.path_laplacian(40),
        graphs.cycle_laplacian(41),
        graphs.grid_laplacian(6, 6),
        graphs.grid_laplacian(3, 4, 5),
        graphs.torus_laplacian(4, 4, 4),
        graphs.hypercube(6),
        graphs.hypercube(7),
        graphs.hamming(3, 4),
        graphs.johnson(8, 3),
        graphs.kneser(8, 3),
        graphs.complete_laplacian(24),
        graphs.complete_bipartite(7, 12),
        graphs.star_laplacian(30),
        graphs.paley(37),
    ]


def _structured() -> list[Problem]:
    return [
        structured.toeplitz(50),
        structured.toeplitz_product(7, 9),
        structured.hadamard(6),
        structured.real_fourier(30),
        structured.real_fourier(33),
        structured.circulant(36),
        structured.clement(32),
        structured.min_matrix(48),
        structured.kms(45),
        structured.kms(20, 0.9),
        structured.rank_one_update(25),
    ]


def _physics() -> list[Problem]:
    return [
        physics.flux_ring(24),
        physics.ssh_ring(20),
        physics.honeycomb(4, 5),
        physics.hofstadter(1, 3, 3, 5),
        physics.hofstadter(2, 5, 2, 4),
        physics.ising(6),
        physics.xy_chain(6),
    ]


# name, eigenvalues, formula, what it is hard for
_MIXED: list[tuple[str, Callable[[], Any], str, str]] = [
    ("uniform", lambda: spectra.uniform(32), "1 + 2(i−1)/(n−1)", "nothing: smooth and well conditioned"),
    ("indefinite", lambda: spectra.indefinite(32), "−1 + 3(i−1)/(n−1)", "logarithms, which must be refused"),
    (
        "geometric",
        lambda: spectra.geometric(32),
        "10^(−8 + 8(i−1)/(n−1))",
        "log-determinants: condition 10⁸, half of the logarithm below rounding of single precision",
    ),
    (
        "clustered",
        lambda: spectra.clustered(32),
        "1, 2, 3, 4, each a cluster of width 1e-14",
        "breakdown: whether to stop is a matter of rounding, and dividing by the residual is one of 0/0",
    ),
    (
        "Hessian-like",
        lambda: spectra.hessian_like(96, outliers=8),
        "0.001 + 0.01·(fixed χ² sample), and 8 outliers, geometric in 1…100",
        "orthogonality: without it, outliers come back as copies and the bulk is late",
    ),
    ("one small", lambda: spectra.one_small(32), "1 with multiplicity n − 1, 1e-6", "one value carries the logarithm"),
    ("two-point", lambda: spectra.two_point(32), "1 and 5, n/2 each", "breakdown at the second step"),
    ("rank three", lambda: spectra.rank_deficient(32), "1, 2, 3, else 0", "error bars of rank three; zero in f"),
    (
        "near singular",
        lambda: spectra.near_singular(32),
        "1 + (i−1)/(n−2), and 1e-12",
        "inverses: a value that rounding of the norm moves by 1e-4 of itself",
    ),
    (
        "tiny",
        lambda: 1e-150 * spectra.uniform(32),
        "1e-150·(1 + 2(i−1)/(n−1))",
        "absolute thresholds, and squares that underflow",
    ),
]


def _mixed() -> list[Problem]:
    real = [mixed(values(), name, formula=formula, hard_for=hard_for) for name, values, formula, hard_for in _MIXED]
    twins = {"uniform", "Hessian-like", "two-point"}
    return [
        *real,
        *(
            mixed(values(), f"complex {name}", formula=formula, hard_for=f"{hard_for}; conjugation", is_complex=True)
            for name, values, formula, hard_for in _MIXED
            if name in twins
        ),
        mixed(
            spectra.strakos(48),
            "Strakoš",
            formula="λ₁ + (i−1)/(n−1) (1 − λ₁) 0.9^(n−i), λ₁ = 0.001",
            source=_STRAKOS,
            hard_for="orthogonality: the lower end is crowded, the upper converges early",
        ),
        goe(60),
        wishart(60),
    ]


def _models() -> list[Problem]:
    return [
        models.linear_regression(16, 6, 3),
        models.logistic_regression(32, 16),
        models.softmax_regression(16, 7, 4),
        models.deep_linear(4, 5, 3),
        models.deep_linear(5, 2, 4),
        models.deep_linear_scaled(3, 4),
    ]


def _large() -> list[Problem]:
    return [
        graphs.grid_laplacian(215, 215, 215),
        graphs.hypercube(23),
        physics.ising(23),
        mixed(
            np.geomspace(1e-3, 1.0, 10**4).repeat(1000),
            "geometric, n=10⁷",
            formula="10^(−3 + 3(i−1)/(10⁴−1)), i = 1…10⁴, each with multiplicity 1000",
            hard_for="memory and time",
        ),
    ]
