"""Floor 3: measure an operator that changes, step by step, into a history."""

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slq._arrays import Array, from_host, namespace, to_host
from slq._eigen import Eigenpairs, eigenpairs
from slq._estimate import Estimate
from slq._files import write_atomically
from slq._history import SpectralHistory
from slq._measure import SpectralMeasure
from slq._operators import aslinearoperator
from slq._products import LinearOperator, local_size
from slq._slq import spectral_measure
from slq._source import count
from slq.analysis import negative_energy
from slq.errors import SlqWarning

__all__ = ["Forecast", "Tracker"]

Logger = Callable[[int, Mapping[str, Any]], object]
_PILOT = 5  # steps that are timed for a forecast


class Forecast(NamedTuple):
    """What a tracked step costs.

    Attributes
    ----------
    products : int
        Vectors that are multiplied.
    seconds : float
    """

    products: int
    seconds: float


class Tracker:
    """Measures the operators of a training, step by step, always with the same probes.

    The intervals of the recorded estimates contain their errors; warnings about them are left to those who ask the
    stored measures.

    Parameters
    ----------
    history : SpectralHistory or path
        Receives the steps; those that it has are not measured again.
    num_probes, num_steps, rng, batch_size
        As for `spectral_measure`.
    top : int
        How many of the largest eigenvalues to find with their eigenvectors, warm-started from those of the step before.
    tol : float
        As for `eigenpairs`: errors of eigenvalues are of the order of its square.
    loggers : sequence of callables
        Called as ``logger(step, numbers)`` with a mapping of names to floats and arrays, when the step is stored.

    Attributes
    ----------
    history : SpectralHistory
        With the series ``largest`` and ``smallest`` (ends of the spectrum as the probes saw it), ``mean``,
        ``negative_energy_1``, ``negative_energy_2``; of operators that have a loss, ``loss``; and if `top` is K,
        ``eigenvalues`` (K,), ``outlier_ratio`` λ₁/λ_K and, with a gradient g, ``gradient_norm`` and ``concentration``
        (K,), ‖P g‖²/‖g‖² for the first 1 … K eigenvectors.
    seconds : float
        What the last tracked step took.

    Notes
    -----
    The checks of `spectral_measure` run at the first step of a history, and later ones take the precision of products
    from it. The eigenvectors are searched from the sum of those before; where the probes have seen an eigenvalue that
    such a search has not found, a new search with verification takes its place.

    References
    ----------
    Ghorbani, Krishnan and Xiao, An investigation into neural net optimization via Hessian eigenvalue density, ICML
    2019.

    Examples
    --------
    >>> tracker = Tracker(SpectralHistory(), num_steps=10, top=2)
    >>> for step in range(3):
    ...     measure = tracker.track(step, np.diag(np.linspace(0.0, 1.0 + step, 30)))
    >>> tracker.history.series("eigenvalues").values[:, 0].round(6).tolist()
    [1.0, 2.0, 3.0]
    """

    def __init__(
        self,
        history: SpectralHistory | str | os.PathLike[str],
        *,
        num_probes: int = 1,
        num_steps: int = 80,
        rng: Any = 0,
        top: int = 0,
        tol: float = 1e-4,
        batch_size: int | None = None,
        loggers: Sequence[Logger] = (),
    ) -> None:
        self.history = history if isinstance(history, SpectralHistory) else SpectralHistory(history)
        self._options = {"num_probes": num_probes, "num_steps": num_steps, "rng": rng, "batch_size": batch_size}
        self._top, self._tol = count("top", top, 0), tol
        self._loggers = tuple(loggers)
        self._start: tuple[int, np.ndarray] | None = None  # a step, and the sum of its eigenvectors
        self._products_of_pairs: int | None = None
        self.seconds = np.nan

    def track(
        self, step: int, A: Any, *, gradient: Array | None = None, scalars: Mapping[str, Any] | None = None
    ) -> SpectralMeasure:
        """Measure the operator of a step and store the result; of a step that is there, return what is stored.

        Parameters
        ----------
        step : int
        A : operator
            Anything that `aslinearoperator` takes; its ``gradient()`` and ``loss()`` are used where it has them.
        gradient : (n,) array, optional
            In place of ``A.gradient()``; needs `top`.
        scalars : mapping, optional
            More numbers to record; see `SpectralHistory.append`.

        Returns
        -------
        SpectralMeasure

        Raises
        ------
        RequestError, OperatorError
            As for `spectral_measure`, `eigenpairs` and `SpectralHistory.append`; the history is then as it was.
        """
        if step in self.history:
            return self.history[step]
        begin = time.perf_counter()
        A = aslinearoperator(A)
        measure = self._measured(A)
        found = _of_measure(measure)
        if hasattr(A, "loss"):
            found["loss"] = float(A.loss())
        if self._top:
            pairs = self._pairs(step, A, measure)
            if gradient is None and hasattr(A, "gradient"):
                gradient = A.gradient()
            found |= _of_pairs(pairs, gradient)
            self._keep(step, pairs)
        self.history.append(step, measure, found | dict(scalars or {}))
        self._forget_before(step)
        self.seconds = time.perf_counter() - begin
        numbers = {k: v.value if isinstance(v, Estimate) else v for k, v in (found | dict(scalars or {})).items()}
        for logger in self._loggers:
            logger(step, numbers)
        return measure

    def forecast(self, A: Any) -> Forecast:
        """What a tracked step will cost, from a few timed steps on this operator.

        How many products the eigenpairs take is that of the last tracked step; before the first, as many as are kept
        between restarts.
        """
        A = aslinearoperator(A)
        pilot = {**self._options, "num_steps": min(_PILOT, self._options["num_steps"]), "check": False}
        spectral_measure(A, **pilot)  # compilation and first use are no part of a step
        begin = time.perf_counter()
        done = spectral_measure(A, **pilot).products
        per_product = (time.perf_counter() - begin) / done
        products = self._options["num_probes"] * min(self._options["num_steps"], A.shape[0])
        if self._top:
            products += self._products_of_pairs or min(A.shape[0], max(2 * self._top + 20, 80)) + self._top
        return Forecast(products, products * per_product)

    def _measured(self, A: LinearOperator) -> SpectralMeasure:
        first = next(iter(self.history), None)
        measure = spectral_measure(A, **self._options, check=first is None)
        return measure if first is None else measure.changed(eps=self.history[first].eps)

    def _pairs(self, step: int, A: LinearOperator, measure: SpectralMeasure) -> Eigenpairs:
        start = self._start_for(step, A)
        verify = start is None
        pairs = eigenpairs(A, self._top, tol=self._tol, v0=start, rng=self._options["rng"], verify=verify, check=False)
        self._products_of_pairs = pairs.products
        if not verify and _missed(pairs, measure, self._tol):
            pairs = eigenpairs(A, self._top, tol=self._tol, rng=self._options["rng"], check=False)
            self._products_of_pairs += pairs.products
        return pairs

    # The start vector of the next step: beside the history, so that a run that is resumed goes on as it would have

    def _start_for(self, step: int, A: LinearOperator) -> Array | None:
        before = max((s for s in self.history if s < step), default=None)
        if before is None or local_size(A) != A.shape[0]:
            return None
        if self._start is None or self._start[0] != before:
            file = self._file(before)
            if file is None or not file.exists():
                return None
            self._start = before, np.load(file, allow_pickle=False)
        return from_host(self._start[1], A.like)

    def _keep(self, step: int, pairs: Eigenpairs) -> None:
        xp = namespace(pairs.vectors)
        self._start = step, to_host(xp.sum(pairs.vectors, axis=0))
        file = self._file(step)
        if file is not None:
            with write_atomically(file) as out:
                np.save(out, self._start[1])

    def _forget_before(self, step: int) -> None:
        if self.history.path is not None:
            for file in self.history.path.glob("vectors-*.npy"):
                if file != self._file(step):
                    with contextlib.suppress(FileNotFoundError):  # another process was faster
                        file.unlink()

    def _file(self, step: int) -> Path | None:
        return None if self.history.path is None else self.history.path / f"vectors-{step:010d}.npy"


def _of_measure(measure: SpectralMeasure) -> dict[str, Any]:
    low, high = measure.support
    found: dict[str, Any] = {"largest": high, "smallest": low, "mean": measure.moment(1)}
    if low or high:  # the energies of the zero operator do not exist
        with warnings.catch_warnings(action="ignore", category=SlqWarning):  # every step would say the same
            found |= {f"negative_energy_{p}": negative_energy(measure, p) for p in (1, 2)}
    return found


def _of_pairs(pairs: Eigenpairs, gradient: Array | None) -> dict[str, Any]:
    found: dict[str, Any] = {"eigenvalues": pairs.values}
    if pairs.values[-1] != 0:
        found["outlier_ratio"] = pairs.values[0] / pairs.values[-1]
    if gradient is None:
        return found
    g = to_host(gradient)
    found["gradient_norm"] = norm = float(np.linalg.norm(g))
    if norm:
        found["concentration"] = np.cumsum(np.abs(to_host(pairs.vectors).conj() @ (g / norm)) ** 2)
    return found


def _missed(pairs: Eigenpairs, measure: SpectralMeasure, tol: float) -> bool:
    """Whether the probes have seen an eigenvalue that belongs among the pairs and is not there."""
    slack = tol * measure.scale
    seen = measure.outliers().values
    seen = seen[seen > pairs.values[-1] + slack]
    return bool((np.abs(seen[:, None] - pairs.values).min(axis=1, initial=np.inf) > slack).any())
