"""Floor 2: what can be asked of a measure. `SpectralMeasure` is this with its making, joining and keeping."""

import warnings
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from slq import _distribution, _logdet, _outliers, _questions, _smoothed
from slq._coefficients import Coefficients
from slq._estimate import Density, Estimate
from slq._functions import Function
from slq._kernels import Kernel
from slq._outliers import Outliers
from slq.errors import RequestError, SlqWarning

__all__ = ["Answers"]

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False, repr=False)
class Answers(Coefficients):
    """The questions that coefficients answer: free, as often as wanted."""

    # Sums over the spectrum

    def quadratic_forms(self, f: Function) -> np.ndarray:
        """xᵢᴴ f(A) xᵢ of each unscaled probe.

        Parameters
        ----------
        f : callable
            Takes a one-dimensional array of Ritz values (only those of positive weight), returns an array of its
            shape, real and finite.

        Returns
        -------
        (k,) array

        Raises
        ------
        RequestError
            If f raises an error (which is chained), or returns another shape, complex numbers, NaN or infinity; the
            message names the Ritz value.
        """
        return _questions.quadratic_forms(self, f)

    def trace(self, f: Function | None = None) -> Estimate:
        """Estimate tr f(A); without `f`, tr A.

        Parameters
        ----------
        f : callable, optional
            As for `quadratic_forms`.

        Returns
        -------
        Estimate

        Raises
        ------
        RequestError
            If this is the measure of given vectors, or f is not finite on the spectrum.

        Warns
        -----
        QuadratureWarning
            If the quadrature error is more than three times the sampling error: too few steps.
        HeavyTailWarning
            If so few eigenvalues carry the answer that its interval can miss its level.
        PrecisionWarning
            If the answer rests on what f makes of Ritz values that rounding cannot tell from zero.

        References
        ----------
        Ubaru, Chen and Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, SIMAX 38 (2017).
        """
        self._require_trace("trace(f)")
        if f is None:
            return _heard(_questions.spectral_sum(self, lambda t: t, float(self.n), degree=1))
        return _heard(_questions.spectral_sum(self, f, float(self.n)))

    def logdet(self, *, lower: float | None = None, allow_singular: bool = False) -> Estimate:
        """Estimate log det A of a positive definite A.

        Parameters
        ----------
        lower : float, optional
            A positive number that is known to be below all eigenvalues, as for a regularised matrix. Ritz values that
            rounding moved below it are moved to it; more than rounding explains is an error.
        allow_singular : bool
            Give −∞ instead of an error where a Ritz value cannot be told from zero.

        Returns
        -------
        Estimate

        Raises
        ------
        NotPositiveDefiniteError
            If a Ritz value is negative; its attributes are the smallest one, its weight and its error bound.
        SingularError
            If a Ritz value cannot be told from zero: its logarithm would have no correct digit.
        RequestError
            If this is the measure of given vectors, or `lower` is not positive or above Ritz values.

        Warns
        -----
        PrecisionWarning
            If Ritz values were moved to `lower` by more than a hundredth of it.
        QuadratureWarning, HeavyTailWarning
            As for `trace`.
        """
        self._require_trace("logdet()")
        return _heard(_logdet.logdet(self, lower, allow_singular))

    def moment(self, p: int) -> Estimate:
        """Estimate the p-th moment tr(Aᵖ)/n; without quadrature error if p ≤ 2m − 1 (singular values: even p ≤ 4m − 2).

        Raises
        ------
        RequestError
            If p is not an integer >= 0.
        """
        if not isinstance(p, int | np.integer) or isinstance(p, bool) or p < 0:
            raise RequestError(f"moment(p) expects an integer >= 0, got {p!r}; use trace(f) for other powers")
        return _questions.spectral_mean(self, lambda t: t ** int(p), 1.0, degree=int(p))

    # The distribution

    def cdf(self, x: Any) -> Estimate:
        """Estimate the fraction of eigenvalues ≤ x.

        Parameters
        ----------
        x : float or array

        Returns
        -------
        Estimate
            Of the shape of x; an x within rounding of a Ritz value includes it. The quadrature error is a bound, from
            the interlacing of nodes and eigenvalues.

        Raises
        ------
        RequestError
            If x contains NaN.

        References
        ----------
        Chen, Trogdon and Ubaru, Analysis of stochastic Lanczos quadrature for spectrum approximation, ICML 2021.
        """
        return _distribution.cdf(self, x)

    def count(self, low: float = -np.inf, high: float = np.inf) -> Estimate:
        """Estimate how many eigenvalues lie in [low, high].

        Raises
        ------
        RequestError
            If low > high, one of them is NaN, or this is the measure of given vectors.
        """
        self._require_trace("count(low, high)")
        return _distribution.count(self, low, high)

    def quantile(self, q: Any) -> Estimate:
        """Estimate the value below which a fraction `q` of the spectrum lies.

        The errors are those of the distribution function, carried over: half the distance between the quantiles at q
        plus and minus the error.

        Raises
        ------
        RequestError
            If q is not within [0, 1].
        """
        return _distribution.quantile(self, q)

    def histogram(self, edges: Any) -> Estimate:
        """Estimate the fraction of eigenvalues in each bin, unsmoothed: the masses of the nodes.

        Parameters
        ----------
        edges : (b + 1,) array
            Increasing; the first and the last may be infinite. Bins hold their lower edge, the last one both.

        Returns
        -------
        Estimate
            Of shape (b,). The quadrature error is a bound, as for `cdf`.

        Raises
        ------
        RequestError
            If the edges are fewer than two, not increasing, or NaN.
        """
        return _distribution.histogram(self, edges)

    def density(
        self,
        x: Any = None,
        *,
        width: float | None = None,
        kernel: Kernel = "gaussian",
        num: int | None = None,
        spikes: bool = False,
    ) -> Density:
        """Estimate the spectral density, smoothed to a finite resolution.

        Parameters
        ----------
        x : (g,) array or str, optional
            Where to evaluate, increasing; or ``"linear"``, ``"log"`` (positive spectra) or ``"symlog"`` for a grid
            that is even on such a scale. Default: a grid that is fine where there is mass.
        width : float, optional
            Width of the kernel in units of the eigenvalues (a standard deviation; half the width at half maximum of a
            Lorentzian), never rescaled. Default: the smallest at which dropping a fifth of the steps moves less than
            1 % of the mass; for ``"jackson"``, that of all 2m moments.
        kernel : str or callable
            ``"gaussian"``; ``"lorentzian"``, the resolvent's kernel; ``"jackson"``, the kernel polynomial method with
            moments and interval taken from the run; or a density as a function of (x − λ)/width. Jackson's kernel is
            narrower towards the ends of the interval; `width` sets its moments, N ≈ πa/width for the half range a.
        num : int, optional
            The number of points of a grid by name. Default: as many as show everything.
        spikes : bool
            Take eigenvalues that every probe has found, and the width shows as bumps of their own, out of the curve:
            they are in ``Density.spikes``, with their exact masses (those of `SpectralMeasure.deflate`).

        Returns
        -------
        Density
            Its ``x`` is increasing, whatever was given. It is never rescaled to a mass of one: ``outside`` says how
            much of it the grid leaves out, of a Lorentzian 0.6 % by default.

        Raises
        ------
        WidthError
            If the width is not positive or below the precision of the eigenvalues, x is not a finite, one-dimensional
            grid of two different points or more, unsorted, or a log grid would have to cross zero.
        RequestError
            If the kernel is neither a known name nor a function, or spikes are asked of given vectors.

        Warns
        -----
        ResolutionWarning
            If m steps do not resolve the width, or the width is larger than the spectrum. The Jackson density then has
            the width that all moments give, see ``Density.width``.
        AliasingWarning
            If mass lies between points that are farther apart than the width.
        GridWarning
            If x leaves out mass, or was descending.

        References
        ----------
        Chen, A spectrum adaptive kernel polynomial method, J. Chem. Phys. 159, 114101 (2023).
        """
        if spikes:
            self._require_trace("density(spikes=True)")
        return _heard(_smoothed.density(self, x, width, kernel, num, spikes))

    def outliers(self, *, tol: float = 1e-6) -> Outliers:
        """Eigenvalues at the ends of the spectrum that every probe has found.

        Parameters
        ----------
        tol : float
            A node has converged when its residual is at most `tol` times the largest Ritz value in size.

        Returns
        -------
        Outliers
            Distinct values in decreasing order, from both ends inwards up to the first node that has not converged,
            with their residuals, and multiplicities where a block run shows them.
        """
        return _outliers.outliers(self, tol)

    def _require_trace(self, question: str) -> None:
        if self.sampler == "fixed":
            raise RequestError(
                f"{question} needs random probes, but this is the measure of given vectors; use quadratic_forms(f), "
                "cdf or density, or compute a measure with a sampler (slq.sphere)"
            )


def _heard(answer: tuple[_T, list[SlqWarning]]) -> _T:
    """The answer, after its reservations were issued as warnings at the line that asked."""
    for reservation in answer[1]:
        warnings.warn(reservation, stacklevel=3)
    return answer[0]
