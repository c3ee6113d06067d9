"""Floor 3: the quantities of Ghorbani, Krishnan and Xiao (2019)."""

from dataclasses import replace
from typing import Any

import numpy as np

from slq._arrays import Array, is_array, to_host
from slq._estimate import Estimate
from slq._measure import SpectralMeasure
from slq._questions import spectral_mean
from slq.errors import RequestError

__all__ = ["gradient_concentration", "negative_energy", "outlier_ratio"]


def outlier_ratio(values: Any, K: int) -> float:
    """λ₁/λ_K: how far the largest eigenvalue stands out from the K-th.

    Parameters
    ----------
    values : (r,) array
        Eigenvalues, at least K of them, in any order.
    K : int
        Usually the number of classes.

    Returns
    -------
    float

    Raises
    ------
    RequestError
        If there are fewer than K values, or the K-th is zero.
    """
    values = np.sort(np.asarray(values, dtype=np.float64))[::-1]
    if not 1 <= K <= values.size:
        raise RequestError(f"outlier_ratio expects 1 <= K <= {values.size} eigenvalues, got K={K!r}")
    if values[K - 1] == 0:
        raise RequestError(f"the eigenvalue number {K} is zero, so the ratio does not exist; choose a smaller K")
    return float(values[0] / values[K - 1])


def gradient_concentration(pairs: Any, g: Array, K: int) -> float:
    """‖P g‖²/‖g‖²: the share of a gradient in the span of the first K eigenvectors.

    Parameters
    ----------
    pairs : Eigenpairs or (r, n) array
        What `eigenpairs` returned, or orthonormal eigenvectors, one per row, leading first.
    g : (n,) array
        The gradient.
    K : int
        How many eigenvectors to use.

    Returns
    -------
    float
        Between 0 and 1; about K/n for a random g.

    Raises
    ------
    RequestError
        If the shapes do not fit, K is out of range, or the gradient is zero.
    """
    vectors = getattr(pairs, "vectors", pairs)
    rows, vector = (to_host(x) if is_array(x) else np.asarray(x) for x in (vectors, g))
    if rows.ndim != 2 or vector.shape != rows.shape[1:]:
        raise RequestError(f"expected vectors (r, n) and g (n,), got shapes {rows.shape} and {vector.shape}")
    if not 1 <= K <= rows.shape[0]:
        raise RequestError(f"gradient_concentration expects 1 <= K <= {rows.shape[0]} eigenvectors, got K={K!r}")
    length = np.linalg.norm(vector)
    if length == 0:
        raise RequestError("the gradient is zero: its share in a subspace does not exist")
    return float(np.linalg.norm(rows[:K].conj() @ (vector / length)) ** 2)


def negative_energy(measure: SpectralMeasure, p: int = 1) -> Estimate:
    """∫_{t<0}|t|ᵖ φ dt / ∫|t|ᵖ φ dt, from the quadrature and never from a smoothed curve, which is biased.

    Parameters
    ----------
    measure : SpectralMeasure
    p : int
        1 for the "L1 energy", 2 for the "L2 energy".

    Returns
    -------
    Estimate
        Its standard error treats numerator and denominator together (delta method).

    Raises
    ------
    RequestError
        If p is not positive, or the operator is zero.
    """
    if not p > 0:
        raise RequestError(f"negative_energy expects p > 0, got {p!r}")
    n = float(measure.n)
    whole = spectral_mean(measure, lambda t: np.abs(t) ** p, n)  # parts of the answer: only the whole may warn
    if whole.value == 0:
        raise RequestError("the operator is zero: its negative energy does not exist")
    negative = spectral_mean(measure, lambda t: np.where(t < 0, np.abs(t) ** p, 0.0), n)
    share = negative.value / whole.value
    # The ratio's error is, to first order, that of the sum of (1[t<0] − share)·|t|ᵖ over the whole.
    error = measure.trace(lambda t: (np.where(t < 0, 1.0, 0.0) - share) * np.abs(t) ** p)
    return replace(
        error,
        value=share,
        stderr=None if error.stderr is None else error.stderr / whole.value,
        truncation=error.truncation / whole.value,
        rounding=error.rounding / whole.value,
        bounds=(0.0, 1.0),
    )
