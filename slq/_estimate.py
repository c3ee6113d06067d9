"""Floor 1: an estimate and what is known of its error."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from slq.errors import RequestError

__all__ = ["Density", "Estimate", "Sampling", "Spikes"]


@dataclass(frozen=True)
class Sampling:
    """How the probes were drawn, as far as the error of their mean depends on it.

    Attributes
    ----------
    n : int
        Dimension of the probes.
    kind : str
        ``"sphere"``; ``"fixed"`` for given vectors, whose mean has no sampling error; ``"dependent"`` for probes whose
        spread says nothing about it; anything else is judged by the spread of the probes alone.
    is_complex : bool
        Complex probes have half the variance of real ones.
    """

    n: int
    kind: str
    is_complex: bool

    def error(self, forms: np.ndarray, variance: np.ndarray) -> tuple[Any, Any]:
        """Standard error of the mean of `forms` over axis 0, and its degrees of freedom (inf: normal).

        `forms` holds ∫f dμᵢ for each probe i, `variance` that of f over the spectrum, φ(f²) − φ(f)². For sphere probes
        the variance of one form is 2/(n+2) times that, which comes from the same nodes: an error bar from one probe.
        It falls short when the probes missed what matters, so the sample error takes over (with Student's t) where it
        exceeds the χ² 99 % point of the plug-in. A single probe of another kind, and dependent ones, have no error
        bar: None.
        """
        k = forms.shape[0]
        if self.kind == "dependent":
            return None, np.inf
        if self.kind == "fixed":
            return np.zeros(forms.shape[1:]), np.inf
        sample = forms.var(axis=0, ddof=1) / k if k > 1 else None
        if self.kind != "sphere":
            return (None, np.inf) if sample is None else (np.sqrt(sample), float(k - 1))
        factor = 1 / (self.n + 1) if self.is_complex else 2 / (self.n + 2)
        plug_in = factor * variance / k
        if sample is None:
            return np.sqrt(plug_in), np.inf
        surprising = sample > plug_in * stats.chi2.ppf(0.99, k - 1) / (k - 1)
        return np.sqrt(np.where(surprising, sample, plug_in)), np.where(surprising, float(k - 1), np.inf)

    def variance(self, total: Any, first: Any, second: Any) -> Any:
        """What `error` wants for its `variance`, of a part of the measure: its mass and sums of wf and wf².

        Where the rest is known, the probes are those of the sphere in the remaining r·n dimensions, r being the mass.
        """
        shift = 1 if self.is_complex else 2
        centred = np.maximum(second - first**2 / np.where(total > 0, total, 1.0), 0.0)
        return total * (self.n + shift) / (self.n * total + shift) * centred


@dataclass(frozen=True)
class Estimate:
    """A number (or an array of numbers) with its errors.

    Attributes
    ----------
    value : float or array
        The estimate.
    stderr : float or array, or None
        Standard error from the random probes; None if it cannot be known (one probe that is not a sphere probe, or
        probes that depend on each other).
    truncation : float or array
        Estimated quadrature error from the finite number of Lanczos steps: the change against four fifths of the steps.
    rounding : float or array
        A floor for the error, from the precision of the products; it includes what f makes of eigenvalues that rounding
        cannot tell from zero.
    dof : float or array
        Degrees of freedom of `stderr` (Student's t); inf for the normal distribution.
    products : int
        How many operator-vector products the estimate rests on.
    bounds : (float, float)
        What the true value cannot leave; intervals are cut there.

    Notes
    -----
    ``float(e)`` is the value; ``str(e)`` shows value ± standard error, or rounding where that is larger.
    """

    value: Any
    stderr: Any
    truncation: Any
    rounding: Any
    dof: Any
    products: int
    bounds: tuple[float, float] = (-np.inf, np.inf)

    def interval(self, confidence: float = 0.95) -> tuple[Any, Any]:
        """Lower and upper end: sampling quantile, plus quadrature error, plus rounding.

        Parameters
        ----------
        confidence : float
            Between 0 and 1.

        Returns
        -------
        low, high : float or array
            Within `bounds`, which is all that is left where the sampling error is unknown.

        Raises
        ------
        RequestError
            If `confidence` is not strictly between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise RequestError(f"confidence= expects a number between 0 and 1, got {confidence!r}; 0.95 means 95 %")
        if self.stderr is None:
            half = np.full(np.shape(self.value), np.inf)[()]
        else:
            tail = (1 + confidence) / 2
            quantile = np.where(np.isinf(self.dof), stats.norm.ppf(tail), stats.t.ppf(tail, self.dof))
            half = (quantile * self.stderr + self.truncation + self.rounding)[()]
        return np.maximum(self.value - half, self.bounds[0])[()], np.minimum(self.value + half, self.bounds[1])[()]

    @property
    def converged(self) -> bool:
        """Whether the quadrature error is at most half the sampling error, or at rounding level."""
        sampling = np.inf if self.stderr is None else self.stderr
        return bool(np.all(self.truncation <= np.maximum(sampling / 2, self.rounding)))

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        if np.ndim(self.value):
            return f"{type(self).__name__} of {np.size(self.value)} values"
        if np.isinf(self.value):  # a logarithm of zero: no error bar could be added
            return f"{self.value:g}"
        error = None if self.stderr is None else max(self.stderr, self.rounding)
        text = f"{self.value:.6g} ± ?" if error is None else _with_error(self.value, error)
        return text if self.converged else f"{text} (quadrature ± {self.truncation:.2g}: more steps)"


def _with_error(value: float, error: float) -> str:
    """`value ± error`, both down to the second digit of the error where plain decimals can show it."""
    if not (0 < error < np.inf and 1e-4 <= abs(value) < 1e7):
        return f"{value:.6g} ± {error:.2g}"
    decimals = 1 - int(np.floor(np.log10(error)))
    shown = int(np.clip(decimals, 0, 14 - np.floor(np.log10(abs(value)))))
    return f"{value:.{shown}f} ± " + (f"{error:.{shown}f}" if 1e-4 <= error < 1e7 else f"{error:.2g}")


class Spikes(NamedTuple):
    """Eigenvalues that a density shows apart.

    Attributes
    ----------
    values : (r,) array
        In decreasing order.
    masses : (r,) array
        Multiples of 1/n.
    """

    values: np.ndarray
    masses: np.ndarray


@dataclass(frozen=True)
class Density(Estimate):
    """An `Estimate` of the smoothed spectral density, with where it was evaluated.

    Attributes
    ----------
    x : (g,) array
        The grid.
    width : float
        The width of the smoothing kernel in units of the eigenvalues, as used: the standard deviation of a Gaussian and
        (in the middle of the interval) of a Jackson kernel, half the width at half maximum of a Lorentzian.
    kernel : str
        Its name; ``"custom"`` for a function.
    outside : float
        The part of the smoothed mass that lies outside of the grid: the integral over x falls short of one by it. NaN
        for a function, whose tails are not known.
    spikes : Spikes or None
        The eigenvalues that were asked for apart (``spikes=True``); their masses are not in the values.
    """

    x: Any = None
    width: float = np.nan
    kernel: str = "gaussian"
    outside: float = np.nan
    spikes: Spikes | None = None

    def __str__(self) -> str:
        text = super().__str__()
        # The first that a percentage of one digit shows.
        return f"{text}, {self.outside:.1%} of its mass outside of them" if self.outside >= 5e-4 else text
