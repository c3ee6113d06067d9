"""Floor 3: stochastic Lanczos quadrature, from an operator to a measure."""

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from slq._arrays import Array, is_complex, library_name, precision, recurrence_like
from slq._basis import storage_for
from slq._estimate import Estimate
from slq._lanczos import Tridiagonal, basis_size, run, start
from slq._measure import SpectralMeasure, concatenate
from slq._memory import forecast, require
from slq._operators import aslinearoperator
from slq._probes import Sampler, sphere
from slq._products import LinearOperator, complexified
from slq._quadrature import run_lengths
from slq._source import SAMPLERS, count, source_of
from slq._version import __version__
from slq.errors import ClippedStepsWarning, NonFiniteError, ProductError, RequestError

__all__ = ["extend", "logdet", "spectral_measure", "spectral_sum"]


def spectral_measure(
    A: Any,
    *,
    num_probes: int = 10,
    num_steps: int = 80,
    rng: Any = 0,
    probes: Sampler | Array = sphere,
    first_probe: int = 0,
    reorthogonalize: bool | int = True,
    basis_dtype: Any = None,
    batch_size: int | None = None,
    check: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> SpectralMeasure:
    """Estimate the spectral measure of a symmetric or Hermitian operator by stochastic Lanczos quadrature.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    num_probes : int
        The number k of random probes. Sampling errors fall as 1/√(k n).
    num_steps : int
        The number m of Lanczos steps of each probe. Resolution grows with m; the cost is k·m products.
    rng : int, None or numpy Generator
        The seed. Equal seeds give equal probes on every library, device and batch size; None draws a fresh seed, which
        the result records.
    probes : sampler or (k, n) array
        `sphere` (default), `rademacher`, `gaussian`, `steinhaus`, or a function like them; or given vectors, one per
        row, of any length but zero: the result is then the measure of those vectors, without trace estimates.
    first_probe : int
        Number of the first probe: runs of one seed with disjoint numbers can be joined with `concatenate`.
    reorthogonalize : bool or int
        See `lanczos`.
    basis_dtype : {None, "float32", "bfloat16", "host"}
        See `lanczos`.
    batch_size : int, optional
        How many probes run together; all by default. Less memory, the same probes.
    check : bool
        Examine the first products for asymmetry (no extra products).
    progress : callable, optional
        Called as ``progress(products done, products in all)``.

    Returns
    -------
    SpectralMeasure

    Raises
    ------
    RequestError
        If an argument is out of range.
    OperatorError
        If A or one of its products is not usable; the subclass and the message say why. What was computed before, and
        the probes that are not affected, are kept in ``partial`` of a `NonFiniteError` or `ProductError`.
    MemoryForecastError
        If the run would take more memory than is free; the message names the options that fit.

    Warns
    -----
    DependentProbesWarning
        If a sampler of the user's own repeats itself or is not of mean square one.
    ClippedStepsWarning
        If a run was cut at the dimension, beyond which there is nothing to find.

    References
    ----------
    Ghorbani, Krishnan and Xiao, An investigation into neural net optimization via Hessian eigenvalue density, ICML
    2019.
    Ubaru, Chen and Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, SIMAX 38 (2017).

    Examples
    --------
    >>> import numpy as np
    >>> measure = spectral_measure(np.diag([1.0, 2.0, 3.0]), num_probes=4, num_steps=3)
    >>> round(measure.support[1], 6)
    3.0
    """
    A = aslinearoperator(A)
    num_steps, asked = _clipped(count("num_steps", num_steps), A.shape[0], reorthogonalize), num_steps
    source = source_of(probes, num_probes, rng, first_probe)
    if source.is_complex and not is_complex(A.like):
        A = complexified(A)
    rows = source.num_probes if batch_size is None else min(source.num_probes, count("batch_size", batch_size))
    _require_memory(A, source.num_probes, rows, num_steps, reorthogonalize, basis_dtype)
    options = {"reorthogonalize": reorthogonalize, "basis_dtype": basis_dtype, "check": bool(check)}
    measured = _Parts(A, source, num_steps, {"reorthogonalize": _plain(reorthogonalize)})
    for low in range(0, source.num_probes, rows):
        high = min(low + rows, source.num_probes)
        report = None if progress is None else _scaled(progress, low, high - low, source.num_probes)
        measured.add(low, high, options, report)
    measure = measured.measure()
    if asked > num_steps and run_lengths(measure.beta).max() == num_steps:
        warnings.warn(
            f"num_steps={asked} exceeds the dimension: {num_steps} steps are exact for every probe",
            ClippedStepsWarning,
            stacklevel=2,
        )
    return measure


class _Parts:
    """The batches of a measure, as far as they are done."""

    def __init__(self, A: LinearOperator, source: Any, num_steps: int, options: dict[str, Any]) -> None:
        self._operator, self._source, self._num_steps = A, source, num_steps
        self._provenance = {
            "slq": __version__,
            "library": library_name(A.like),
            "dtype": str(A.like.dtype).removeprefix("torch."),
            **options,
        }
        self._eps = precision(A.like)
        self._probes: list[int] = []
        self._runs: list[Tridiagonal] = []
        self._norms: list[np.ndarray] = []

    def add(self, low: int, high: int, options: dict[str, Any], progress: Callable[[int, int], None] | None) -> None:
        """Run the probes number low to high; what is lost with an error, and what is not, is told by the error."""
        v, lengths = start(self._operator, self._source.draw(self._operator, low, high))
        norms = self._source.squared_norms(self._operator.shape[0], lengths)
        try:
            done, eps = run(self._operator, v, self._num_steps, first_row=low, progress=progress, **options)
        except (NonFiniteError, ProductError) as error:
            lost = set(error.probes) if isinstance(error, NonFiniteError) else set()
            kept = [i for i in range(low, high) if i not in lost]
            if error.partial is not None and (not self._runs or lost):
                self._keep(kept, error.partial, norms[[i - low for i in kept]])
            error.partial = self.measure() if self._runs else None
            raise
        self._eps = max(self._eps, eps)
        self._keep(list(range(low, high)), done, norms)

    def _keep(self, probes: list[int], runs: Tridiagonal, norms: np.ndarray) -> None:
        self._probes += probes
        self._runs.append(runs)
        self._norms.append(norms)

    def measure(self) -> SpectralMeasure:
        """What is done so far."""
        source, probes = self._source, self._probes
        return SpectralMeasure(
            np.concatenate([runs.alpha for runs in self._runs]),
            np.concatenate([runs.beta for runs in self._runs]),
            int(self._operator.shape[0]),
            sampler=source.sampler,
            seeds=() if source.seed is None else (source.seed,) * len(probes),
            probe_ids=() if source.probe_ids is None else tuple(source.probe_ids[i] for i in probes),
            squared_norms=np.concatenate(self._norms),
            is_complex=is_complex(self._operator.like),
            eps=self._eps,
            provenance=self._provenance,
        )


def _require_memory(
    A: LinearOperator, num_probes: int, rows: int, num_steps: int, reorthogonalize: bool | int, basis_dtype: Any
) -> None:
    """Refuse what does not fit into memory, naming what would."""
    like = recurrence_like(A.like)
    n, index = A.shape[0], getattr(A, "index", None)
    if index is not None:
        n = len(range(n)[index]) if isinstance(index, slice) else len(index)
    keep = basis_size(reorthogonalize, num_steps)
    itemsize = storage_for(None, like).itemsize

    def needed(rows: int = rows, keep: int = keep, basis_dtype: Any = basis_dtype) -> int:
        coefficients = 16 * num_probes * num_steps
        return coefficients + forecast(
            rows, n, keep, itemsize, storage_for(basis_dtype if keep else None, like).itemsize
        )

    options = {"batch_size=1": needed(rows=1)} if rows > 1 else {}
    if keep:
        options["reorthogonalize=False"] = needed(keep=0)
        if keep > 40:
            options["reorthogonalize=40"] = needed(keep=40)
        for kind in ("bfloat16", "host"):
            with contextlib.suppress(RequestError):  # not every library has it
                options[f"basis_dtype={kind!r}"] = needed(basis_dtype=kind)
        options["batch_size=1, reorthogonalize=False"] = needed(rows=1, keep=0)
    require(like, needed(), options)


def _clipped(num_steps: int, n: int, reorthogonalize: bool | int) -> int:
    # Without orthogonality, more steps than dimensions still gain accuracy.
    return min(num_steps, n) if reorthogonalize is True else num_steps


def _plain(option: bool | int) -> bool | int:
    return bool(option) if isinstance(option, bool | np.bool_) else int(option)


def _scaled(progress: Callable[[int, int], None], done: int, rows: int, all_rows: int) -> Callable[[int, int], None]:
    """Steps of a batch as products of the whole."""
    return lambda step, steps: progress(done * steps + rows * step, all_rows * steps)


def extend(measure: SpectralMeasure, A: Any, num_probes: int, **options: Any) -> SpectralMeasure:
    """See `SpectralMeasure.extend`."""
    if measure.sampler not in SAMPLERS or len(set(measure.seeds)) != 1:
        raise RequestError(
            f"only a measure of one seed and a built-in sampler can be extended, not {measure.sampler!r} with "
            f"{len(set(measure.seeds))} seed(s); compute another measure and join it with concatenate"
        )
    more = spectral_measure(
        A,
        num_probes=num_probes,
        num_steps=measure.num_steps,
        rng=measure.seeds[0],
        probes=SAMPLERS[measure.sampler],
        first_probe=max(measure.probe_ids) + 1,
        reorthogonalize=measure.provenance.get("reorthogonalize", True),
        **options,
    )
    return concatenate([measure, more])


def spectral_sum(A: Any, f: Callable[[np.ndarray], Any], **options: Any) -> Estimate:
    """Estimate tr f(A) of a symmetric or Hermitian operator.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    f : callable
        Acts element by element on a NumPy array of Ritz values.
    **options
        Those of `spectral_measure`; keep a measure instead to ask it several questions.

    Returns
    -------
    Estimate

    Raises
    ------
    SlqError
        What `spectral_measure` and `SpectralMeasure.trace` raise.
    """
    return spectral_measure(A, **options).trace(f)


def logdet(A: Any, **options: Any) -> Estimate:
    """Estimate log det A of a positive definite operator.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    **options
        Those of `spectral_measure`.

    Returns
    -------
    Estimate

    Raises
    ------
    NotPositiveDefiniteError
        If a Ritz value is negative, or (SingularError) rounding cannot tell it from zero.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(logdet(4 * np.eye(10), num_steps=5)), 6)  # 10 log 4
    13.862944
    """
    return spectral_measure(A, **options).logdet()
