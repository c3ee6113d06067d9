"""Floor 3: stochastic Lanczos quadrature, from an operator to a measure."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from slq._arrays import Array, is_complex
from slq._batches import Batches, clipped, memory_needed, require_directions, require_memory, warn_if_clipped
from slq._block_lanczos import run_block
from slq._check_operator import quick_check
from slq._estimate import Estimate
from slq._functions import try_function
from slq._ghosts import ghost_warning
from slq._lanczos import run
from slq._measure import SpectralMeasure, concatenate
from slq._operators import aslinearoperator
from slq._probes import Sampler, sphere
from slq._products import Products, complexified
from slq._source import SAMPLERS, count, source_of
from slq.errors import RequestError

__all__ = ["extend", "logdet", "memory_forecast", "spectral_measure", "spectral_sum"]


def spectral_measure(
    A: Any,
    *,
    num_probes: int = 10,
    num_steps: int = 80,
    rng: Any = 0,
    probes: Sampler | Array = sphere,
    first_probe: int = 0,
    reorthogonalize: bool | int = True,
    block: bool = False,
    basis_dtype: Any = None,
    batch_size: int | None = None,
    check: bool | Mapping[str, str] = True,
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
    block : bool
        Give all probes one Krylov space (`block_lanczos`) instead of one each: as many products find several times as
        many eigenvalues, which `SpectralMeasure.deflate` then takes out of the sampling error. It takes more work per
        product, each new vector being made orthogonal to all others, and the same memory.
    basis_dtype : {None, "float32", "bfloat16", "host"}
        See `lanczos`.
    batch_size : int, optional
        How many probes run together; all by default. Less memory, the same probes. With `block`, how many share a
        space, which must divide `num_probes`; the results depend on it.
    check : bool or mapping of str to str
        First multiply ten random vectors to see whether A is repeatable, linear and symmetric (`check_operator`), then
        watch its symmetry during the run, which takes no product. A mapping names the checks that may fail, each with
        the reason. False: neither.
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
    SymmetryWarning, NoiseWarning, PrecisionWarning
        If A is a little asymmetric, noisy or nonlinear.
    GhostWarning
        If many steps went into copies of converged values, for want of reorthogonalisation.
    DependentProbesWarning
        If a sampler of the user's own repeats itself or is not of mean square one.
    ClippedStepsWarning
        If a run was cut at the dimension, beyond which there is nothing to find.
    OutOfMemoryWarning
        If memory ran out in the middle: the probes of that batch ran again, half as many at a time.

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
    num_steps, asked = clipped(num_steps, A.shape[0], reorthogonalize), num_steps
    source = source_of(probes, num_probes, rng, first_probe)
    if source.is_complex and not is_complex(A.like):
        A = complexified(A)
    rows = source.num_probes if batch_size is None else min(source.num_probes, count("batch_size", batch_size))
    watch = check is not False
    _require_block(block, reorthogonalize, source.num_probes, rows)
    require_memory(
        A,
        block=block,
        num_probes=source.num_probes,
        batch_size=rows,
        num_steps=num_steps,
        reorthogonalize=reorthogonalize,
        basis_dtype=basis_dtype,
        check=watch,
    )
    require_directions(A, source, rows)
    products = Products(A)
    if watch:
        expected = check if isinstance(check, Mapping) else None
        products.eps, watch = quick_check(A, products, expected_failures=expected, batch_size=rows)
    method = run_block if block else functools.partial(run, reorthogonalize=reorthogonalize)
    batches = Batches(
        products,
        source,
        lambda v, report: method(products, v, num_steps, basis_dtype=basis_dtype, check=watch, progress=report),
        reorthogonalize=reorthogonalize,
        block=block,
    )
    batches.add_all(rows, progress)
    measure = batches.measure()
    ghosts = None if reorthogonalize is True else ghost_warning(measure)
    if ghosts is not None:
        warnings.warn(ghosts, stacklevel=2)
    warn_if_clipped(measure, asked, num_steps)
    return measure


def _require_block(block: Any, reorthogonalize: Any, num_probes: int, rows: int) -> None:
    if not isinstance(block, bool | np.bool_):
        raise RequestError(f"block= expects True or False, got {block!r}")
    if block and reorthogonalize is not True:
        raise RequestError(
            f"block=True makes each new vector orthogonal to all others, but reorthogonalize={reorthogonalize!r} was "
            "asked for; leave it out, or take block=False"
        )
    if block and num_probes % rows:
        raise RequestError(
            f"block=True expects a batch_size= that divides the number of probes, got {rows} for {num_probes}: all "
            "blocks of a measure have one size"
        )


def memory_forecast(
    A: Any,
    *,
    num_probes: int = 10,
    num_steps: int = 80,
    reorthogonalize: bool | int = True,
    basis_dtype: Any = None,
    batch_size: int | None = None,
    check: Any = True,
) -> int:
    """Bytes that `spectral_measure` with these options takes where the operator's vectors live.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes. What its product takes for itself is known of operators with a method
        ``workspace(rows)`` only, as those of models are.
    num_probes, num_steps, reorthogonalize, basis_dtype, batch_size, check
        Those of `spectral_measure`.

    Returns
    -------
    int
        Measured on NumPy, a run takes no more than 5 % above it, and no less than two thirds of it.

    Raises
    ------
    RequestError
        If an argument is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> memory_forecast(np.eye(1000), num_probes=1, num_steps=50, check=False)
    432800
    """
    return memory_needed(
        aslinearoperator(A),
        num_probes=count("num_probes", num_probes),
        num_steps=num_steps,
        reorthogonalize=reorthogonalize,
        basis_dtype=basis_dtype,
        batch_size=None if batch_size is None else count("batch_size", batch_size),
        check=check,
    )


def extend(measure: SpectralMeasure, A: Any, num_probes: int, **options: Any) -> SpectralMeasure:
    """See `SpectralMeasure.extend`."""
    if measure.singular:
        raise RequestError(
            "a measure of singular values is not extended; compute another with singular_measure(..., first_probe=) "
            "and join it with concatenate"
        )
    if measure.sampler not in SAMPLERS or len(set(measure.seeds)) != 1:
        raise RequestError(
            f"only a measure of one seed and a built-in sampler can be extended, not {measure.sampler!r} with "
            f"{len(set(measure.seeds))} seed(s); compute another measure and join it with concatenate"
        )
    if measure.is_block:
        options = {"block": True, "batch_size": measure.shared_by, **options}
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
    return concatenate([measure, more.deflate() if measure.deflated else more])


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
        What `spectral_measure` and `SpectralMeasure.trace` raise. What f returns is looked at before the first product.
    """
    try_function(f)
    return spectral_measure(A, **options).trace(f)


def logdet(A: Any, *, lower: float | None = None, allow_singular: bool = False, **options: Any) -> Estimate:
    """Estimate log det A of a positive definite operator.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    lower, allow_singular
        See `SpectralMeasure.logdet`.
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
    return spectral_measure(A, **options).logdet(lower=lower, allow_singular=allow_singular)
