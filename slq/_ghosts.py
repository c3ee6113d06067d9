"""Floor 2: copies of converged Ritz values, as runs without full reorthogonalisation make them."""

import numpy as np

from slq._coefficients import Coefficients
from slq.errors import GhostWarning
from slq.metrics import wasserstein

__all__ = ["ghost_warning", "ghosts"]

# Measured without reorthogonalisation, 20 to 200 steps: dropping a fifth of the steps moves the distribution by at most
# a quarter of a rounding once all is found (degenerate and clustered spectra, float32 and float64), and by at least 80
# where ghosts delay the rest (Hessian-like, Strakoš, Laplacians).
_SETTLED = 8.0
_WORTH_SAYING = 0.1  # of the steps


def ghosts(measure: Coefficients) -> np.ndarray:
    """The number of ghosts in each run: converged Ritz values that came back as copies.

    Parameters
    ----------
    measure : SpectralMeasure

    Returns
    -------
    (k,) array of int
        Each ghost cost its run a step. Zero after full reorthogonalisation, and where the distribution has settled to
        rounding: nothing was left to be delayed.

    Notes
    -----
    Two Ritz values are copies if both have converged to rounding and the intervals around them, in each of which lies
    an eigenvalue, meet: an unreduced tridiagonal matrix has no equal eigenvalues unless orthogonality was lost. A run
    with copies has more of them on their way: Ritz values of no mass, though its start vector was random. Alone they
    prove nothing, as exact runs have them in the gaps between tight clusters.

    Measured on a Hessian-like spectrum (n = 1000, against the copies of its known outliers): 55 of 57 in float64 and 50
    of 64 in float32 after 100 steps, 12 of 18 and 16 of 20 after 50.

    References
    ----------
    Paige, Accuracy and effectiveness of the Lanczos algorithm for the symmetric eigenproblem, Linear Algebra Appl. 34
    (1980).
    """
    copies = np.zeros(measure.num_probes, dtype=int)
    if measure.provenance.get("reorthogonalize") is True or _settled(measure):
        return copies
    for i, length in enumerate(measure.lengths):
        theta, weight, residual = (x[i, :length] for x in (measure.nodes, measure.weights, measure.residuals))
        massless = weight <= measure.eps**2
        converged = ~massless & (residual <= measure.rounding)
        values, reach = theta[converged], residual[converged]
        meeting = np.count_nonzero(np.diff(values) <= reach[1:] + reach[:-1] + measure.rounding)
        copies[i] = meeting + np.count_nonzero(massless) if meeting else 0
    return copies


def ghost_warning(measure: Coefficients) -> GhostWarning | None:
    """What to warn about a measure in which ghosts took a tenth of the steps or more; None if they did not."""
    lost = float(ghosts(measure).mean())
    if lost < _WORTH_SAYING * measure.num_steps:
        return None
    return GhostWarning(
        f"converged values came back as copies, which took about {lost:.0f} of the {measure.num_steps} steps of each "
        f"probe: about {lost:.0f} more are needed to reach what {measure.num_steps} orthogonal ones reach. No answer "
        "is wrong, but what converges last is delayed; use reorthogonalize=s with s twice the number of outliers, or "
        "reorthogonalize=True"
    )


def _settled(measure: Coefficients) -> bool:
    shorter = measure.shorter
    return shorter is None or wasserstein(measure, shorter) <= _SETTLED * measure.eps * measure.scale
