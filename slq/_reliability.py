"""Floor 2: when the error bar of a spectral sum cannot be taken at its word."""

import numpy as np
from scipy import stats

from slq._coefficients import Coefficients
from slq._estimate import Estimate
from slq._outliers import outliers
from slq.errors import HeavyTailWarning, PrecisionWarning, QuadratureWarning, SlqWarning

__all__ = ["effective_rank", "reservations"]

# Measured (see `slq._truncation`): from here on almost nothing is missed in silence whose bias is half a standard error
# or more, one cell of 210; of the sums with a bias below a fiftieth 7 % are warned about.
_DOMINANT = 1.0

# See `effective_rank`: where an interval of 95 % holds in less than 92.5 %.
_FEW = 72.0

_TOLERANCE = 1e-6  # of the norm: nodes nearer than this to a converged eigenvalue are that eigenvalue


def reservations(measure: Coefficients, centred: np.ndarray, estimate: Estimate, noise: float) -> list[SlqWarning]:
    """What to warn about a sum.

    Parameters
    ----------
    measure : Coefficients
    centred : (k, m) array
        f minus its mean, at the nodes, in any unit; zero where there is no weight.
    estimate : Estimate
    noise : float
        The part of its rounding that comes from nodes which rounding cannot tell from zero.
    """
    if measure.sampler == "fixed":
        return []
    said: list[SlqWarning] = []
    sampling = 0.0 if estimate.stderr is None else estimate.stderr
    plain = 0.0 if np.isinf(noise) else estimate.rounding - noise
    if noise > sampling + estimate.truncation + plain:
        said.append(
            PrecisionWarning(
                f"f varies by {noise:.2g} over Ritz values that rounding ({measure.rounding:.2g} for this precision "
                "and norm) cannot tell from zero, more than all other errors; this is in `rounding`. Add a shift to A, "
                "give f one value near zero, or use products of higher precision"
            )
        )
    if estimate.stderr is None:
        return said
    if estimate.truncation > max(_DOMINANT * sampling, 10 * estimate.rounding):
        bound = estimate.truncation_kind == "bracket"
        size, more = ("at most", "") if bound else ("about", ", and the true error may be larger still")
        said.append(
            QuadratureWarning(
                f"the quadrature error, {size} {estimate.truncation:.2g}, exceeds the sampling error "
                f"{sampling:.2g}: {measure.num_steps} steps are too few for this f{more}; "
                "use more steps rather than more probes"
            )
        )
    seen = sampling > 10 * estimate.rounding  # else the spread is that of rounding
    few = measure.num_probes * effective_rank(measure, centred) if seen else np.inf
    if few < _FEW:
        said.append(
            HeavyTailWarning(
                f"about {few / measure.num_probes:.2g} eigenvalues carry the answer: with {measure.num_probes} "
                "probe(s) its distribution is skewed, and an interval can miss more often than its level says; use "
                "more probes, or deflate the outliers"
            )
        )
    return said


def effective_rank(measure: Coefficients, centred: np.ndarray) -> float:
    """The number of equal eigenvalues whose sum, over random probes, would be as skewed as this one.

    A form is a sum of gⱼ(χ² − 1), gⱼ = f(λⱼ) − mean, of squared skewness 8 (Σgⱼ³)²/(Σgⱼ²)³: 8/r for r equal values.
    By the Edgeworth expansion of a studentised mean of k forms, a 95 % interval loses about 1.8/(k r) of its coverage,
    so that 72 means 2.5 points. On the sphere of a small space the skewness is less; complex probes have half of it.

    The sums are those over the nodes, n Σ w g². The weight of a node is as random as the form, but where all probes
    found an eigenvalue and their weights agree with multiplicity one, it is known to be 1/n.
    """
    weights = measure.random_weights
    per_probe = 2 if measure.is_complex else 1
    most = stats.chi2.ppf(0.999, measure.num_probes * per_probe) / (measure.num_probes * per_probe)
    for value in outliers(measure, _TOLERANCE).values:
        same = np.abs(measure.nodes - value) <= 2 * _TOLERANCE * measure.scale
        multiplicity = measure.n * weights[same].sum() / measure.num_probes
        if 0 < multiplicity <= most:
            weights[same] /= multiplicity
    squares, cubes = (measure.n * (weights * centred**p).sum() / measure.num_probes for p in (2, 3))
    n = measure.n
    shape = n * (n + 2) / (n + 4) ** 2 if measure.sampler == "sphere" else 1.0
    return float(per_probe * squares**3 / (cubes**2 * shape)) if cubes**2 > 0 else np.inf
