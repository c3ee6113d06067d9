"""Floor 2: certified bands of the distribution function."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from slq._coefficients import Coefficients
from slq._distribution import interlacing_bounds
from slq.errors import RequestError

__all__ = ["Bands", "cdf_band", "count_band"]


@dataclass(frozen=True, eq=False, repr=False)
class Bands(Coefficients):
    """The bands that coefficients answer with."""

    def cdf_band(self, x: Any, confidence: float = 0.95) -> tuple[Any, Any]:
        """Bounds that hold the distribution function at all x at once, with this confidence at least.

        Parameters
        ----------
        x : float or array
        confidence : float
            Between 0 and 1.

        Returns
        -------
        low, high : float or array
            The averaged interlacing bounds, ± √(ln(2n/δ)/(k(n+2))) for k real probes, ± √(ln(2n/δ)/(2k(n+1))) for
            complex ones; δ = 1 − confidence.

        Raises
        ------
        RequestError
            If the probes are not sphere probes or share a space, this is a measure of singular values, x contains NaN,
            or the confidence is not strictly between 0 and 1.

        References
        ----------
        Chen, Trogdon and Ubaru, Analysis of stochastic Lanczos quadrature for spectrum approximation, ICML 2021.
        Marchal and Arbel, On the sub-Gaussianity of the Beta and Dirichlet distributions, Electron. Commun. Probab. 22
        (2017), theorem 1.
        """
        return cdf_band(self, x, confidence)

    def count_band(self, low: float = -np.inf, high: float = np.inf, confidence: float = 0.95) -> tuple[float, float]:
        """Bounds of the number of eigenvalues in [low, high], for all such intervals at once: those of `cdf_band`.

        Raises
        ------
        RequestError
            If low > high, or as for `cdf_band`.
        """
        return count_band(self, low, high, confidence)


def cdf_band(measure: Coefficients, x: Any, confidence: float) -> tuple[Any, Any]:
    """Bounds of the fraction of eigenvalues <= x, for all x at once."""
    measure = measure.undeflated
    half = _half_width(measure, "cdf_band", confidence)
    x = np.asarray(x, dtype=np.float64)
    if np.isnan(x).any():
        raise RequestError("cdf_band(x) met NaN in x; remove it")
    lower, upper = _averaged(measure, x)
    return np.maximum(lower - half, 0.0)[()], np.minimum(upper + half, 1.0)[()]


def count_band(measure: Coefficients, low: float, high: float, confidence: float) -> tuple[float, float]:
    """Bounds of the number of eigenvalues in [low, high], for all intervals at once."""
    measure = measure.undeflated
    half = _half_width(measure, "count_band", confidence)
    if not low <= high:
        raise RequestError(f"count_band(low, high) expects low <= high, got {low!r} and {high!r}")
    ends = np.array([np.nextafter(low, -np.inf), high])  # Φ(high) − Φ(low−): an eigenvalue at low counts
    lower, upper = _averaged(measure, ends)
    lower, upper = np.maximum(lower - half, 0.0), np.minimum(upper + half, 1.0)
    lower[np.isinf(ends)] = upper[np.isinf(ends)] = (ends[np.isinf(ends)] > 0).astype(float)
    n, rounding = measure.n, 1e-12 * measure.n  # of the sums of weights, before a count is cut to an integer
    least = np.ceil(n * (lower[1] - upper[0]) - rounding)
    most = np.floor(n * (upper[1] - lower[0]) + rounding)
    return float(max(least, 0)), float(min(most, n))


def _averaged(measure: Coefficients, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the mean of the probes' own distribution functions, where rounding may have moved nodes either way."""
    # Those of `cdf` take nodes within rounding above x for x.
    return interlacing_bounds(measure, x - 2 * measure.rounding)[0], interlacing_bounds(measure, x)[1]


def _half_width(measure: Coefficients, question: str, confidence: float) -> float:
    """The ε with P(sup |Φ − mean of the probes' Ψ| > ε) ≤ δ = 1 − confidence, for sphere probes.

    The mass Ψ of one probe below a point with r of n eigenvalues below it is Beta(r/2, (n−r)/2), which is sub-Gaussian
    with parameter 1/(4(n/2 + 1)) (Marchal and Arbel 2017); Φ takes n values, and each has two sides:
    δ = 2n exp(−k(n+2)ε²).
    Complex probes: Beta(r, n−r), and 2n exp(−2k(n+1)ε²).
    """
    if measure.sampler != "sphere":
        raise RequestError(
            f"{question} is certified for sphere probes, but these are {measure.sampler!r}; compute the measure with "
            "probes=slq.sphere, or ask cdf and count, whose intervals hold for single points"
        )
    if measure.is_block:
        raise RequestError(
            f"{question} rests on interlacing, which is no theorem for probes that share a space; compute the measure "
            "with block=False, or ask cdf and count"
        )
    if measure.singular:
        raise RequestError(f"{question} is for eigenvalues, but this is a measure of singular values; ask cdf or count")
    if not 0 < confidence < 1:
        raise RequestError(f"confidence= expects a number between 0 and 1, got {confidence!r}; 0.95 means 95 %")
    n, k = measure.n, measure.num_probes
    rate = 2 * k * (n + 1) if measure.is_complex else k * (n + 2)
    return float(np.sqrt(np.log(2 * n / (1 - confidence)) / rate))
