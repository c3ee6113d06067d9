"""Floor 2: the result. A `SpectralMeasure` holds the recurrence coefficients and answers every later question."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from slq import _outliers, _questions, _storage
from slq._coefficients import Coefficients
from slq._density import Kernel, gaussian_kernel
from slq._estimate import Density, Estimate
from slq._outliers import Outliers
from slq.errors import NotPositiveDefiniteError, RequestError, SingularError

__all__ = ["SpectralMeasure", "concatenate"]


@dataclass(frozen=True, eq=False, repr=False)
class SpectralMeasure(Coefficients):
    """The spectral measure of an operator, as k probes see it through m Lanczos steps each.

    Probe i defines the measure μᵢ = Σⱼ wᵢⱼ δ(θᵢⱼ) with ∫f dμᵢ ≈ vᵢᴴ f(A) vᵢ, exact for polynomials of degree up to
    2m − 1 (vᵢ: the probe scaled to length one). Their mean estimates the spectral density φ = (1/n) Σ δ(λᵢ).

    See Also
    --------
    spectral_measure : computes one
    concatenate : makes one of several

    Notes
    -----
    The fields are those of `Coefficients`; ``nodes``, ``weights`` and ``residuals`` are (k, m) arrays.
    """

    # Sums over the spectrum

    def quadratic_forms(self, f: Callable[[np.ndarray], Any]) -> np.ndarray:
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
            If f returns another shape, complex numbers, NaN or infinity; the message names the Ritz value.
        """
        return _questions.quadratic_forms(self, f)

    def trace(self, f: Callable[[np.ndarray], Any] | None = None) -> Estimate:
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

        References
        ----------
        Ubaru, Chen and Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, SIMAX 38 (2017).
        """
        self._require_trace("trace(f)")
        return _questions.spectral_mean(self, (lambda t: t) if f is None else f, float(self.n))

    def logdet(self) -> Estimate:
        """Estimate log det A of a positive definite A.

        Returns
        -------
        Estimate

        Raises
        ------
        NotPositiveDefiniteError
            If a Ritz value is negative.
        SingularError
            If a Ritz value cannot be told from zero: its logarithm would have no correct digit.
        RequestError
            If this is the measure of given vectors.
        """
        self._require_trace("logdet()")
        low = float(self.nodes[self.weights > 0].min())
        rounding = 16 * self.eps * self.scale
        if low < -rounding:
            raise NotPositiveDefiniteError(
                f"logdet expects positive eigenvalues, but a Ritz value is {low:.6g}; add a shift, "
                "or use trace(lambda t: np.log(np.abs(t))) if you mean log|det A|"
            )
        if low <= rounding:
            raise SingularError(
                f"logdet met the Ritz value {low:.3g}, which rounding ({rounding:.3g} for this precision and norm) "
                "cannot tell from zero; add a shift, or use products of higher precision"
            )
        return _questions.spectral_mean(self, np.log, float(self.n))

    def moment(self, p: int) -> Estimate:
        """Estimate the p-th moment tr(Aᵖ)/n; without quadrature error if p ≤ 2m − 1.

        Raises
        ------
        RequestError
            If p is not an integer >= 0.
        """
        if not isinstance(p, int | np.integer) or isinstance(p, bool) or p < 0:
            raise RequestError(f"moment(p) expects an integer >= 0, got {p!r}; use trace(f) for other powers")
        return _questions.spectral_mean(self, lambda t: t ** int(p), 1.0)

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
        return _questions.cdf(self, x)

    def count(self, low: float = -np.inf, high: float = np.inf) -> Estimate:
        """Estimate how many eigenvalues lie in [low, high].

        Raises
        ------
        RequestError
            If low > high, one of them is NaN, or this is the measure of given vectors.
        """
        self._require_trace("count(low, high)")
        return _questions.count(self, low, high)

    def quantile(self, q: Any) -> Estimate:
        """Estimate the value below which a fraction `q` of the spectrum lies.

        The errors are those of the distribution function, carried over: half the distance between the quantiles at q
        plus and minus the error.

        Raises
        ------
        RequestError
            If q is not within [0, 1].
        """
        return _questions.quantile(self, q)

    def density(self, x: Any = None, *, width: float | None = None, kernel: Kernel = gaussian_kernel) -> Density:
        """Estimate the spectral density, smoothed to a finite resolution.

        Parameters
        ----------
        x : (g,) array, optional
            Where to evaluate, increasing. Default: a grid that is fine where there is mass.
        width : float, optional
            Width of the kernel in units of the eigenvalues (a standard deviation, never rescaled). Default: the
            smallest at which dropping a fifth of the steps moves less than 1 % of the mass.
        kernel : callable
            Density of the smoothing kernel as a function of (x − λ)/width.

        Returns
        -------
        Density

        Raises
        ------
        WidthError
            If the width is not positive or below the precision of the eigenvalues, or x is not an increasing,
            finite, one-dimensional grid.

        Warns
        -----
        ResolutionWarning
            If m steps do not resolve the width.
        """
        return _questions.density(self, x, width, kernel)

    def outliers(self, *, tol: float = 1e-6) -> Outliers:
        """Eigenvalues at the ends of the spectrum that every probe has found.

        Parameters
        ----------
        tol : float
            A node has converged when its residual is at most `tol` times the largest Ritz value in size.

        Returns
        -------
        Outliers
            Distinct values in decreasing order, from both ends inwards up to the first node that has not converged.
            Independent probes cannot see multiplicities.
        """
        return _outliers.outliers(self, tol)

    # Parts, unions, files, pictures

    def __or__(self, other: "SpectralMeasure") -> "SpectralMeasure":
        """Both measures as one; see `concatenate`."""
        return self.concatenate([self, other])

    @classmethod
    def concatenate(cls, measures: Iterable["SpectralMeasure"]) -> "SpectralMeasure":
        """Several measures of one operator as one, as if all probes had been run together.

        Parameters
        ----------
        measures : iterable of SpectralMeasure
            Of the same dimension, sampler and number of steps, and of different probes.

        Returns
        -------
        SpectralMeasure

        Raises
        ------
        RequestError
            If there are none, they differ in kind, or a probe occurs twice.
        """
        parts = list(measures)
        if not parts:
            raise RequestError("concatenate expects at least one measure, got none")
        for name in ("n", "sampler", "is_complex", "num_steps"):
            values = {getattr(m, name) for m in parts}
            if len(values) > 1:
                mend = "; truncate them to the smallest" if name == "num_steps" else "; they measure different things"
                raise RequestError(f"concatenate met different values of {name}: {sorted(values, key=str)}{mend}")
        identities = [probe for m in parts for probe in zip(m.seeds, m.probe_ids, strict=True)]
        if parts[0].sampler != "fixed" and len(set(identities)) < len(identities):
            repeated = next(p for p in identities if identities.count(p) > 1)
            raise RequestError(
                f"probe {repeated[1]} of seed {repeated[0]} occurs twice, so the errors would come out too small; "
                "use another rng=, or first_probe= to continue the numbering"
            )
        common = set.intersection(*(set(m.provenance.items()) for m in parts))
        return parts[0].changed(
            alpha=np.concatenate([m.alpha for m in parts]),
            beta=np.concatenate([m.beta for m in parts]),
            seeds=sum((m.seeds for m in parts), ()),
            probe_ids=sum((m.probe_ids for m in parts), ()),
            squared_norms=np.concatenate([m.squared_norms for m in parts]),
            eps=max(m.eps for m in parts),
            provenance=dict(common),
        )

    def extend(self, A: Any, *, num_probes: int, **options: Any) -> "SpectralMeasure":
        """Run `num_probes` more probes of the same operator and join them to these.

        Parameters
        ----------
        A : operator
            The operator this is a measure of.
        num_probes : int
        **options
            ``batch_size``, ``check`` and ``progress`` of `spectral_measure`; seed, sampler, steps and
            reorthogonalisation are those of this measure.

        Returns
        -------
        SpectralMeasure
            Equal to one run with all probes.

        Raises
        ------
        RequestError
            If the probes are not those of one seed of a built-in sampler, so that the next one is not defined.
        """
        from slq._slq import extend  # floor 3 computes; this is its door for those who hold a measure

        return extend(self, A, num_probes, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the measure to an ``.npz`` file (no pickle), replacing an old file only when all is written.

        Raises
        ------
        OSError
            If the file cannot be written; an old one is then as it was.
        """
        _storage.save(path, self.state())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SpectralMeasure":
        """Read a measure that `save` wrote.

        Raises
        ------
        FileFormatError
            If the file is not one of ours, is damaged, or was written by a newer version.
        OSError
            If it cannot be read.
        """
        return _storage.load(path, cls)

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Draw the density on a log axis with its sampling band; `slq.plotting.plot_density` lists the options.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from slq.plotting import plot_density  # floor 4, and matplotlib, only when a picture is wanted

        return plot_density(self, ax, **options)

    def summary(self) -> str:
        """The measure in words: what was computed, and the main numbers with their errors."""
        low, high = self.support
        lines = [
            f"Spectral measure of an operator of dimension {self.n:,}",
            f"{self.num_probes} {self.sampler} probe(s) x {self.num_steps} steps = {self.products} products",
            f"support of the Ritz values: [{low:.6g}, {high:.6g}]",
        ]
        if self.exact.any():
            lines.append(f"{self.exact.sum()} run(s) ended in an invariant subspace: exact for their probe")
        if self.sampler != "fixed":
            below_zero = np.nextafter(-64 * self.eps * self.scale, -np.inf)  # and not by rounding
            lines += [f"trace: {self.trace()}", f"eigenvalues below zero: {self.count(high=below_zero)}"]
        return "\n".join(lines)

    def __repr__(self) -> str:
        shape = f"n={self.n}, num_probes={self.num_probes}, num_steps={self.num_steps}"
        return f"SpectralMeasure({shape}, sampler={self.sampler!r})"

    def _require_trace(self, question: str) -> None:
        if self.sampler == "fixed":
            raise RequestError(
                f"{question} needs random probes, but this is the measure of given vectors; use quadratic_forms(f), "
                "cdf or density, or compute a measure with a sampler (slq.sphere)"
            )


concatenate = SpectralMeasure.concatenate
