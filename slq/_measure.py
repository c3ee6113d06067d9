"""Floor 2: the result. A `SpectralMeasure` holds the recurrence coefficients and answers every later question."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slq import _storage, _summary, _unions
from slq._answers import Answers

__all__ = ["SpectralMeasure", "concatenate"]


@dataclass(frozen=True, eq=False, repr=False)
class SpectralMeasure(Answers):
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
            If there are none, they differ in kind (block runs of one size join those of that size only), or a probe
            occurs twice.
        """
        parts = list(measures)
        changes = _unions.union(parts)
        return parts[0].changed(**changes)

    def deflate(self) -> "SpectralMeasure":
        """The measure in which eigenvalues that the probes have found have their exact mass instead of a random one.

        A node that has converged in every probe, and is isolated, is an eigenvalue: it has the mass 1/n, and the other
        weights are scaled to what is left. The sampling error is then that of the remainder alone. Take runs with full
        reorthogonalisation, whose nodes are not copies of each other.

        Returns
        -------
        SpectralMeasure
            With ``deflated`` set and the same coefficients; ``undeflated`` gives this one back.

        Notes
        -----
        Guards: the residual of a node must be below 3 % of its gap to whatever its neighbours may be, and its mass
        within what random probes show of eigenvalues of its multiplicity in 99.9 % of all cases (χ²); likewise the
        masses of all that half of the probes have found, beyond which nothing is deflated. What some of the probes have
        not found stays random in all: they are those that see little of it. The b probes of a block
        run have up to b copies of a multiple eigenvalue; with b copies there may be more, and it is left alone.
        Independent probes see one copy only: a few double eigenvalues among many simple ones pass for simple ones with
        few probes (with 10, 92 % of them; with 50, 17 %).

        Raises
        ------
        RequestError
            If this is the measure of given vectors: theirs are no random masses.

        References
        ----------
        Bhattacharjee, Jayaram, C. Musco, Ch. Musco and Ray, Improved spectral density estimation via explicit and
        implicit deflation, SODA 2025.
        """
        self._require_trace("deflate()")
        return self.changed(deflated=True)

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
        return _summary.summary(self)

    def __repr__(self) -> str:
        shape = f"n={self.n}, num_probes={self.num_probes}, num_steps={self.num_steps}"
        return f"SpectralMeasure({shape}, sampler={self.sampler!r})"


concatenate = SpectralMeasure.concatenate
