"""Floor 3: stochastic Lanczos quadrature, from an operator to a measure."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from slq._arrays import Array, is_array, is_complex, library_name, precision, recurrence_like, to_host
from slq._estimate import Estimate
from slq._lanczos import lanczos, positive_int
from slq._measure import SpectralMeasure, concatenate
from slq._operators import aslinearoperator
from slq._probes import Sampler, gaussian, rademacher, seed_of, sphere, steinhaus
from slq._products import LinearOperator, inner, put
from slq._quadrature import run_lengths
from slq._version import __version__
from slq.errors import ClippedStepsWarning, RequestError, ShapeError

__all__ = ["extend", "logdet", "spectral_measure", "spectral_sum"]

_UNIT_ENTRIES = (sphere, rademacher, steinhaus)  # probes with ‖x‖² = n exactly


def spectral_measure(
    A: Any,
    *,
    num_probes: int = 10,
    num_steps: int = 80,
    rng: Any = 0,
    probes: Sampler | Array = sphere,
    first_probe: int = 0,
    reorthogonalize: bool | int = True,
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
        If A or one of its products is not usable; the subclass and the message say why.

    Warns
    -----
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
    num_steps, asked = _clipped(positive_int("num_steps", num_steps), A.shape[0], reorthogonalize), num_steps
    if is_array(probes):
        draw, k = _given(probes), _count_rows(probes)
        identity: dict[str, Any] = {"sampler": "fixed"}
    else:
        if not callable(probes):
            raise RequestError(
                f"probes= expects a sampler such as slq.sphere, or a (k, n) array, got {type(probes).__name__}"
            )
        k, seed = positive_int("num_probes", num_probes), seed_of(rng)
        ids = range(_first(first_probe), _first(first_probe) + k)
        draw = _drawn(A, probes, seed, ids)
        identity = {
            "sampler": getattr(probes, "__name__", "custom"),
            "seeds": (seed,) * k,
            "probe_ids": tuple(ids),
        }
    step = max(k, 1) if batch_size is None else positive_int("batch_size", batch_size)
    parts = []
    for low in range(0, k, step):
        V = draw(low, min(low + step, k))
        report = None if progress is None else _scaled(progress, low, int(V.shape[0]), k)
        run = lanczos(A, V, num_steps, reorthogonalize=reorthogonalize, check=check, progress=report)
        parts.append((run.alpha, run.beta, _squared_norms(A, V, probes)))
    alpha, beta, norms = (np.concatenate(column) for column in zip(*parts, strict=True))
    if asked > num_steps and run_lengths(beta).max() == num_steps:
        warnings.warn(
            f"num_steps={asked} exceeds the dimension: {num_steps} steps are exact for every probe",
            ClippedStepsWarning,
            stacklevel=2,
        )
    return SpectralMeasure(
        alpha,
        beta,
        int(A.shape[0]),
        **identity,
        squared_norms=norms,
        is_complex=is_complex(A.like),
        eps=precision(A.like),
        provenance={
            "slq": __version__,
            "library": library_name(A.like),
            "dtype": str(A.like.dtype).removeprefix("torch."),
            "reorthogonalize": _plain(reorthogonalize),
        },
    )


def _clipped(num_steps: int, n: int, reorthogonalize: bool | int) -> int:
    # Without orthogonality, more steps than dimensions still gain accuracy.
    return min(num_steps, n) if reorthogonalize is True else num_steps


def _plain(option: bool | int) -> bool | int:
    return bool(option) if isinstance(option, bool | np.bool_) else int(option)


def _first(first_probe: Any) -> int:
    if not isinstance(first_probe, int | np.integer) or isinstance(first_probe, bool) or first_probe < 0:
        raise RequestError(f"first_probe= expects an integer >= 0, got {first_probe!r}")
    return int(first_probe)


def _count_rows(vectors: Array) -> int:
    if vectors.ndim not in (1, 2) or 0 in vectors.shape:
        raise ShapeError(f"probes= expects a (k, n) array, each row a start vector, got shape {tuple(vectors.shape)}")
    return int(vectors.shape[0]) if vectors.ndim == 2 else 1


def _given(vectors: Array) -> Callable[[int, int], Array]:
    rows = vectors if vectors.ndim == 2 else vectors[None, ...]
    return lambda low, high: rows[low:high, ...]  # `lanczos` checks their shape and place


def _drawn(A: LinearOperator, sampler: Sampler, seed: int, ids: range) -> Callable[[int, int], Array]:
    """Blocks of probes; drawn on the host and placed by the operator if it knows better where they belong."""
    like, index, n = recurrence_like(A.like), getattr(A, "index", None), A.shape[0]
    if not hasattr(A, "put"):
        return lambda low, high: sampler(seed, ids[low:high], index, n, like)
    host_like = np.empty(0, dtype=to_host(like).dtype)
    return lambda low, high: put(A, sampler(seed, ids[low:high], index, n, host_like), like)


def _squared_norms(A: LinearOperator, V: Array, probes: Any) -> np.ndarray:
    if any(probes is sampler for sampler in _UNIT_ENTRIES):
        return np.full(V.shape[0], float(A.shape[0]))
    return to_host(inner(A)(V, V)).real.astype(np.float64).reshape(-1)


def _scaled(progress: Callable[[int, int], None], done: int, rows: int, all_rows: int) -> Callable[[int, int], None]:
    """Steps of a batch as products of the whole."""
    return lambda step, steps: progress(done * steps + rows * step, all_rows * steps)


def extend(measure: SpectralMeasure, A: Any, num_probes: int, **options: Any) -> SpectralMeasure:
    """See `SpectralMeasure.extend`."""
    samplers = {sampler.__name__: sampler for sampler in (sphere, rademacher, gaussian, steinhaus)}
    if measure.sampler not in samplers or len(set(measure.seeds)) != 1:
        raise RequestError(
            f"only a measure of one seed and a built-in sampler can be extended, not {measure.sampler!r} with "
            f"{len(set(measure.seeds))} seed(s); compute another measure and join it with concatenate"
        )
    more = spectral_measure(
        A,
        num_probes=num_probes,
        num_steps=measure.num_steps,
        rng=measure.seeds[0],
        probes=samplers[measure.sampler],
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
