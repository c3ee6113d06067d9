"""Spectra and functions on which `benchmarks.coverage` counts how often intervals hold the true value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from slq.testing import spectra

N = 300

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "trace": lambda t: t,
    "log": np.log,
    "exp": np.exp,
    "abs": np.abs,
    "inverse": lambda t: 1 / t,
    "sqrt": lambda t: np.sqrt(np.abs(t)),
}


@dataclass(frozen=True)
class Case:
    """Eigenvalues, the functions whose sum over them is asked for, and two numbers of steps.

    `few` steps leave a quadrature error beside the sampling error, or as many as that takes where none would.
    """

    name: str
    eigenvalues: np.ndarray
    functions: tuple[str, ...]
    few: int
    many: int = 30
    dtype: str = "float64"

    @property
    def stored(self) -> np.ndarray:
        """The eigenvalues as the operator holds them."""
        return self.eigenvalues.astype(self.dtype)

    def values(self, function: str) -> np.ndarray:
        """f at every eigenvalue, in float64."""
        return FUNCTIONS[function](self.stored.astype(np.float64))

    def ask(self, measure: Any, function: str) -> Any:
        """The estimate: by the question of that name where there is one."""
        if function == "trace":
            return measure.trace()
        return measure.logdet() if function == "log" else measure.trace(FUNCTIONS[function])


def effective_ranks(values: np.ndarray) -> tuple[float, float]:
    """(Σ|f|)²/Σf², and the number of equal eigenvalues of the same skewness, (Σg²)³/(Σg³)² with g = f − mean.

    The first is tr(f)²/‖f‖_F² for f >= 0. The second is what an interval of a sphere-probe mean depends on: adding a
    constant to f changes neither its error nor its skewness. Infinite for symmetric spectra.
    """
    g = values - values.mean()
    cubes = (g**3).sum()
    squares = (g**2).sum()
    skewed = squares**3 / cubes**2 if abs(cubes) > 1e-12 * (np.abs(g) ** 3).sum() else np.inf
    return float(np.abs(values).sum() ** 2 / (values**2).sum()), float(skewed)


def plain_deviation(values: np.ndarray, num_probes: int) -> float:
    """The exact standard deviation of the mean of `num_probes` sphere probes, without quadrature error."""
    n = values.size
    return float(np.sqrt(2 * n**2 / ((n + 2) * num_probes) * values.var()))


def _with_zeros(*values: float) -> np.ndarray:
    return np.concatenate([np.asarray(values, dtype=float), np.zeros(N - len(values))])


def _cases() -> list[Case]:
    normal = stats.norm.ppf((np.arange(N) + 0.5) / N)
    path = 2 - 2 * np.cos(np.pi * np.arange(N) / N)
    hessian = spectra.hessian_like(N)
    return [
        Case("uniform", spectra.uniform(N), ("log", "trace"), few=3),
        Case("Hessian-like", hessian, ("log", "trace"), few=10),
        Case("Hessian-like, float32", hessian, ("log", "trace"), few=10, dtype="float32"),
        Case("rank 1", _with_zeros(1.0), ("trace",), few=2),
        Case("rank 3", _with_zeros(3.0, 2.0, 1.0), ("trace", "sqrt"), few=2),
        Case("rank 20", _with_zeros(*[1.0] * 20), ("trace",), few=2),
        Case("rank 40", _with_zeros(*np.linspace(1.0, 2.0, 40)), ("trace", "sqrt"), few=3),
        Case("Strakoš", spectra.strakos(N), ("log", "inverse"), few=6),
        Case("indefinite", spectra.indefinite(N), ("abs", "exp"), few=3),
        Case("symmetric pair", _with_zeros(1.0, -1.0), ("trace", "abs"), few=2),
        Case("two-value", spectra.two_point(N), ("log",), few=1),
        Case("lognormal", np.exp(2 * normal), ("trace", "log"), few=8),
        Case("negative logdet", np.geomspace(1e-4, 1e-1, N), ("log",), few=4),
        Case("Laplacian", path + 1e-2, ("log", "inverse"), few=6),
        Case("clusters and outliers", _clusters(), ("log", "trace"), few=3),
    ]


def _clusters() -> np.ndarray:
    return np.concatenate([spectra.clustered(N - 5, width=1e-3), [20.0, 30.0, 50.0, 70.0, 100.0]])


CASES = {case.name: case for case in _cases()}
