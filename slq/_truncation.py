"""Floor 2: the quadrature error of a sum over the spectrum: a bracket where there is one, else nested differences."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from slq._brackets import Ends, bracket, checked_ends
from slq._coefficients import Coefficients
from slq._functions import Function, tolerant
from slq._signs import Signs, declared, known
from slq.errors import RequestError

__all__ = [
    "BRACKET",
    "ESTIMATED",
    "EXACT",
    "INTERLACING",
    "NESTED",
    "NOTHING",
    "Prior",
    "Truncation",
    "nested",
    "prior",
    "truncation",
]

EXACT, INTERLACING, BRACKET = "exact", "interlacing", "bracket"
ESTIMATED, NESTED = "bracket with an estimated end", "nested difference"

# Measured on eight spectra (n = 400), nine functions, 2 to 60 steps, 10 probes, 150 seeds. Of the 210 cells with a bias
# of half a standard error and more, none misses in more than 8 % of the seeds and says `converged`, and one (a step, 40
# steps) without a warning; by the change of the mean alone 7 and 48 did (it warned from three standard errors). Of the
# sums with a bias below a fiftieth of a standard error 9 % are called unconverged (2 % by the change alone). Chosen on
# these seeds; on fresh ones, and on five other spectra, the same (docs/theory-errors.md).
_SPREAD, _BEFORE, _GEOMETRIC = 2.0, 3.0, 5.0
_SINGLE = 10  # steps, of which a fifth is more than one


class Truncation(NamedTuple):
    """A quadrature error.

    Attributes
    ----------
    error : float
    kind : str
        How it was found.
    rounding : float
        By what rounding may exceed it.
    """

    error: float
    kind: str
    rounding: float = 0.0


class Prior(NamedTuple):
    """What is known of f and of the spectrum before the run.

    Attributes
    ----------
    ends : Ends
    signs : Signs or None
        Of the derivatives of f.
    declared : bool
        Whether the user has said them, who then wants a bracket.
    """

    ends: Ends = Ends()
    signs: Signs | None = None
    declared: bool = False


NOTHING = Prior()


def prior(measure: Coefficients, f: Function, signs: Any, lower: Any, upper: Any) -> Prior:
    """What the user knows, checked, and what is known of f itself."""
    ends = checked_ends(measure, lower, upper)
    if signs is None:
        return Prior(ends, known(f))
    if measure.singular:
        raise RequestError("signs= is for functions of eigenvalues, but this is a measure of singular values")
    first, last = measure.support
    low = first if ends.lower is None else ends.lower
    high = last if ends.upper is None else ends.upper
    return Prior(ends, declared(f, signs, low, high), declared=True)


def truncation(
    measure: Coefficients,
    f: Function,
    forms: np.ndarray,
    forms_of: Callable[[Coefficients], np.ndarray],
    masses: Any,
    prior: Prior,
) -> Truncation:
    """The quadrature error of the mean of `forms`, which are `masses` times ∫f dμ of each probe, `forms_of(measure)`.

    A bracket is used wherever there is one, even where the nested difference is smaller: it is a bound.
    """
    if measure.exact.all():
        return Truncation(0.0, EXACT)
    found = None if prior.signs is None else bracket(measure, f, prior.signs, prior.ends, forms / masses)
    if prior.declared and measure.is_block:
        raise RequestError(
            "signs= brings a bracket of the quadrature error of independent runs, but this is a block run; leave it out"
        )
    if found is None and prior.declared:
        assert prior.signs is not None
        end = "upper=" if prior.signs.even == prior.signs.odd else "lower="
        raise RequestError(
            f"signs={tuple(prior.signs[:2])} gives a bracket with {end} alone or with both ends, but these are "
            f"lower={prior.ends.lower} and upper={prior.ends.upper}, or f is not finite there; give {end}, or leave "
            "signs= out"
        )
    if found is None:
        return Truncation(nested(measure, forms, forms_of) + _unseen(measure, f, masses), NESTED)
    low, high, rounding = (float(np.mean(masses * side)) for side in found[:3])
    if low > high + 2 * rounding:
        raise RequestError(
            f"the bounds of the mean of f contradict each other, {low:.10g} > {high:.10g}: the derivatives of f do not "
            "have the signs that signs= says, or eigenvalues lie beyond lower= or upper=; leave out what is not "
            "certain"
        )
    value = float(forms.mean())
    return Truncation(max(high - value, value - low, 0.0), ESTIMATED if found.estimated else BRACKET, rounding)


def nested(measure: Coefficients, forms: np.ndarray, forms_of: Callable[[Coefficients], np.ndarray]) -> float:
    """What the mean of the forms changes by when a fifth of the steps is dropped, and what that leaves to come.

    The largest of: the change, with its own sampling error, since it may vanish by chance; the change before that, up
    to three times (in full below ten steps); what follows in a geometric sequence with these two, up to five times.
    """
    shorter = measure.shorter
    if shorter is None:
        return float(np.inf)
    last = forms_of(shorter)
    change = _size(forms - last)
    if shorter.shorter is None or change == 0:
        return change
    steps_before = last - forms_of(shorter.shorter)
    before = _size(steps_before)
    to_come = change / (before / change - 1) if before > change else np.inf
    last_but_one = abs(float(steps_before.mean()))
    # Of single steps, one can be idle: odd ones add nothing to |t| on a symmetric spectrum.
    most = _BEFORE * change if measure.num_steps >= _SINGLE else np.inf
    return max(change, min(last_but_one, most), min(to_come, _GEOMETRIC * change))


def _size(changes: np.ndarray) -> float:
    """The size of their mean, and two standard errors."""
    spread = changes.std(ddof=1) / np.sqrt(changes.size) if changes.size > 1 else 0.0
    return float(abs(changes.mean()) + _SPREAD * spread)


def _unseen(measure: Coefficients, f: Function, masses: Any) -> float:
    """What a step of f beyond the extreme nodes can hide, where f has one value on all nodes.

    An eigenvalue lies within the residual of a node, and up to the weight of the extreme node lies beyond it.
    """
    values = np.asarray(f(measure.nodes[measure.weights > 0]), dtype=np.float64)
    if values.min() < values.max():
        return 0.0
    hidden = np.zeros(len(measure.weights))
    for column, sign in ((0, -1), (-1, +1)):
        beyond = tolerant(f, measure.nodes[:, column] + sign * measure.residuals[:, column])
        change = np.abs(np.nan_to_num(beyond, nan=values[0], posinf=np.inf, neginf=np.inf) - values[0])
        hidden += np.where(change > 0, measure.weights[:, column] * change, 0.0)
    return float((masses * hidden).mean())
