"""Floor 1: an error that is asked for, beside the one that an estimate states."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from slq._estimate import Estimate
from slq.errors import RequestError

__all__ = ["FEW", "Tolerance", "tolerance_of"]

# Student's t is asked for its word from so many probes on.
FEW = 8

# Stopping as soon as the spread of the probes is small enough favours spreads that came out small. Measured on normal
# numbers, 8000 runs, looks at 8 and then at most twice the probes, the forecast in between: 94.6 % of nominal 95 %
# intervals hold the mean (30 probes needed); where looks spend 0.8 of the 5 %, 95.8 % and more (10 to 100 needed), and
# likewise for 80 and 99 %. The plug-in error of sphere probes varies less, but takes part, for a margin: without
# it 94.2 % of 500 runs held on a two-point spectrum, which one standard error cannot tell from 95.
_SPENT = 0.8


@dataclass(frozen=True)
class Tolerance:
    """max(atol, rtol·|value|), to be met at a confidence by the sum of all errors.

    Attributes
    ----------
    rtol, atol : float
    confidence : float
    """

    rtol: float
    atol: float
    confidence: float

    def allowed(self, estimate: Estimate) -> float:
        """The error that an estimate may have."""
        return max(self.atol, self.rtol * abs(float(estimate.value)))

    def error(self, estimate: Estimate, *, doubled: bool = False) -> float:
        """The error that it states; with twice the sampling error where `doubled`."""
        if estimate.stderr is None:
            return math.inf
        sampling = self._quantile(estimate.dof) * estimate.stderr
        return float((1 + doubled) * sampling + estimate.truncation + estimate.rounding)

    def probes_needed(self, estimate: Estimate, num_probes: int, *, truncation: float | None = None) -> float:
        """How many probes like these `num_probes` bring the error within the tolerance; inf: no number of them does.

        With another quadrature error, if `truncation` is given.
        """
        truncation = estimate.truncation if truncation is None else truncation
        room = self.allowed(estimate) - truncation - estimate.rounding
        if estimate.stderr == 0:
            return 1.0 if room >= 0 else math.inf
        if estimate.stderr is None or not room > 0:
            return math.inf
        ratio = estimate.stderr * np.sqrt(num_probes) / room
        needed = (self._quantile(np.inf) * ratio) ** 2
        if np.isfinite(estimate.dof):  # Student's quantile falls with the number that it leads to
            for _ in range(3):
                needed = (self._quantile(max(needed - 1, FEW - 1.0)) * ratio) ** 2
        return float(np.ceil(needed)) if needed < 1e300 else math.inf

    def unmet(self, estimate: Estimate, reason: str) -> str:
        """What to say of an estimate that does not meet it."""
        text = (
            f"the tolerance {self.allowed(estimate):.3g} (rtol={self.rtol:g}, atol={self.atol:g}) is not met: the "
            f"error at confidence {self.confidence:g} is {self.error(estimate):.3g}, {estimate.products} products. "
            f"{reason[0].upper()}{reason[1:]}"
        )
        near_zero = self.atol == 0 and abs(float(estimate.value)) < self.error(estimate)
        return text + (", or give an atol=, as the value may be zero" if near_zero else ", or a larger tolerance")

    def _quantile(self, dof: Any) -> float:
        tail = _SPENT * (1 - self.confidence) / 2
        return float(stats.norm.isf(tail) if np.isinf(dof) else stats.t.isf(tail, dof))


def tolerance_of(rtol: Any, atol: Any, confidence: Any) -> Tolerance | None:
    """The tolerance that arguments describe; None if neither rtol nor atol is given.

    Raises
    ------
    RequestError
        If one of them is out of range.
    """
    if not _is_number(confidence) or not 0 < confidence < 1:
        raise RequestError(f"confidence= expects a number between 0 and 1, got {confidence!r}; 0.95 means 95 %")
    if rtol is None and atol is None:
        return None
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not (_is_number(value) and 0 <= value < math.inf):
            raise RequestError(f"{name}= expects a number >= 0, got {value!r}")
    if not (rtol or 0) + (atol or 0) > 0:
        raise RequestError("rtol= and atol= are both zero, which no random probes reach; make one of them positive")
    return Tolerance(float(rtol or 0), float(atol or 0), float(confidence))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
