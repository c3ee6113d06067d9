"""Floor 2: a measure in words. `SpectralMeasure.summary` documents it."""

import numpy as np

from slq._coefficients import Coefficients
from slq._distribution import count
from slq._estimate import Estimate
from slq._questions import spectral_mean

__all__ = ["summary"]


def summary(measure: Coefficients) -> str:
    """What was computed, and the main numbers with their errors; it warns of nothing."""
    low, high = measure.support
    kind, values = ("singular value", "singular values") if measure.singular else ("spectral", "Ritz values")
    lines = [
        f"{kind.capitalize()} measure of an operator of dimension {measure.n:,}",
        f"{measure.num_probes} {measure.sampler} probe(s) x {measure.num_steps} steps = {measure.products} products",
        f"support of the {values}: [{low:.6g}, {high:.6g}]",
    ]
    if measure.exact.any():
        lines.append(f"{measure.exact.sum()} run(s) ended in an invariant subspace: exact for their probe")
    if measure.sampler == "fixed":
        return "\n".join(lines)
    n = float(measure.n)
    if measure.singular:
        squares = spectral_mean(measure, np.square, n, degree=2)
        lines += [f"sum of the singular values: {spectral_mean(measure, lambda t: t, n, degree=1)}"]
        lines += [f"sum of their squares: {squares}"]
        return "\n".join(lines)
    below_zero = np.nextafter(-64 * measure.eps * measure.scale, -np.inf)  # and not by rounding
    lines += [f"trace: {_both(spectral_mean(measure, lambda t: t, n, degree=1))}"]
    if low > measure.rounding:
        lines += [f"log-determinant (all Ritz values are positive): {_both(spectral_mean(measure, np.log, n))}"]
    lines += [f"eigenvalues below zero: {count(measure, -np.inf, below_zero)}"]
    return "\n".join(lines)


def _both(estimate: Estimate) -> str:
    """An estimate with both its errors in words."""
    if estimate.truncation_kind == "exact":
        return f"{estimate} by the probes; the steps add no error"
    said = str(estimate).partition(" (quadrature")[0]
    mend = "" if estimate.converged else ": more steps"
    return f"{said} by the probes, about {estimate.truncation:.1g} by the steps ({estimate.truncation_kind}){mend}"
