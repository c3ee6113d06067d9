"""Floor 3: measures of several operators, in step where these share their products."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Generator, Mapping
from typing import Any

from slq._arrays import is_complex
from slq._batches import clipped, require_memory
from slq._in_step import Result, Run, advance_together
from slq._measure import SpectralMeasure
from slq._operators import aslinearoperator
from slq._probes import sphere
from slq._products import LinearOperator, complexified
from slq._slq import spectral_measure
from slq._source import Source, count, source_of
from slq.errors import RequestError, SlqError, SlqWarning

__all__ = ["spectral_measures"]


def spectral_measures(operators: Mapping[str, Any], **options: Any) -> dict[str, SpectralMeasure]:
    """Estimate the spectral measures of several operators.

    Parameters
    ----------
    operators : mapping of str to operator
        If the mapping has a method ``matvecs``, which takes a dict of blocks (k, n) by names, of any of the operators,
        and returns their products, all runs advance in step, and each step of all of them is one call of it. The blocks
        of a Hessian (`slq_torch.layer_operators`) so share their passes over the data.
    **options
        Those of `spectral_measure`. `progress` counts the products of all operators.

    Returns
    -------
    dict of str to SpectralMeasure
        Each as `spectral_measure` of this operator alone gives it, to the bit.

    Raises
    ------
    RequestError
        If `operators` is no mapping, or an argument is out of range.
    SlqError
        What `spectral_measure` raises, after the runs of the other operators; notes name the operators that failed.
        ``partial`` is the dict of what there is: the measures that were finished, and what errors kept of others.
    MemoryForecastError
        If runs that advance in step would take more memory together than is free.

    Warns
    -----
    SlqWarning
        What `spectral_measure` warns of, with the name of the operator.

    Notes
    -----
    Runs in step are in threads of their own, one of which moves at a time; ``matvecs`` and `progress` are called in
    that of the caller. Of what libraries keep for each thread, the runs get NumPy's ``errstate``, the CUDA stream of
    PyTorch and CuPy, and JAX's ``enable_x64`` and ``default_matmul_precision``.

    Examples
    --------
    >>> import numpy as np
    >>> measures = spectral_measures({"a": np.eye(3), "b": 2 * np.eye(4)}, num_steps=2)
    >>> [round(float(m.trace())) for m in measures.values()]
    [3, 8]
    """
    if not isinstance(operators, Mapping):
        raise RequestError(f"operators= expects a mapping from names to operators, got {type(operators).__name__}")
    named = {name: aslinearoperator(A) for name, A in operators.items()}
    progress = _Progress(options.pop("progress", None), named, options)
    matvecs = getattr(operators, "matvecs", None)
    if matvecs is None or not named:
        results = _one_after_the_other(named, progress, options)
    else:
        _require_memory_of_all(named, options)
        runs = {
            name: Run(A, functools.partial(_measure, options), progress.of(name), functools.partial(_Named, name, 6))
            for name, A in named.items()
        }
        results = advance_together(runs, matvecs)
    with contextlib.closing(results):
        found = _collected(results)
    return {name: found[name] for name in operators}


def _measure(options: dict[str, Any], A: LinearOperator, progress: Callable[[int, int], None] | None) -> Any:
    return spectral_measure(A, progress=progress, **options)


def _one_after_the_other(
    named: dict[str, LinearOperator], progress: "_Progress", options: dict[str, Any]
) -> Generator[tuple[str, Result], None, None]:
    for name, A in named.items():

        def result(name: str = name, A: LinearOperator = A) -> SpectralMeasure:
            with _Named(name, 5):
                return _measure(options, A, progress.of(name))

        yield name, result


def _collected(results: Generator[tuple[str, Result], None, None]) -> dict[str, SpectralMeasure]:
    """The measures; or the first error, once all runs have ended."""
    found: dict[str, SpectralMeasure] = {}
    failed: dict[str, Exception] = {}
    for name, result in results:
        try:
            found[name] = result()
        except Exception as error:
            failed[name] = error
            kept = getattr(error, "partial", None)
            if isinstance(kept, SpectralMeasure):
                found[name] = kept
    if not failed:
        return found
    first = next(iter(failed.values()))
    for name, other in failed.items():
        also = "" if other is first else f", which failed too: {type(other).__name__}: {other}"
        first.add_note(f"in the run of operator {name!r}{also}")
    if isinstance(first, SlqError):
        first.partial = found  # type: ignore[attr-defined]
    raise first


class _Named:
    """A context whose warnings come at its end: those of slq with the name of the operator, at the caller's place."""

    def __init__(self, name: str, stacklevel: int) -> None:
        self._name, self._stacklevel = name, stacklevel
        self._catching = warnings.catch_warnings(record=True)

    def __enter__(self) -> None:
        self._caught = self._catching.__enter__()
        warnings.simplefilter("always")

    def __exit__(self, *error: Any) -> None:
        self._catching.__exit__(*error)
        for one in self._caught or ():
            if issubclass(one.category, SlqWarning):
                text = f"{one.message} (operator {self._name!r})"
                warnings.warn(text, one.category, stacklevel=self._stacklevel)
            else:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno, source=one.source)


def _source(options: dict[str, Any]) -> Source:
    """The probes that the options ask for; without a look at rng, which may be a generator that a look would change."""
    return source_of(options.get("probes", sphere), options.get("num_probes", 10), 0, options.get("first_probe", 0))


def _require_memory_of_all(named: dict[str, LinearOperator], options: dict[str, Any]) -> None:
    source, batch_size = _source(options), options.get("batch_size")
    operators = [complexified(A) if source.is_complex and not is_complex(A.like) else A for A in named.values()]
    require_memory(
        *operators,
        num_probes=source.num_probes,
        num_steps=count("num_steps", options.get("num_steps", 80)),
        reorthogonalize=options.get("reorthogonalize", True),
        basis_dtype=options.get("basis_dtype"),
        batch_size=None if batch_size is None else count("batch_size", batch_size),
        check=options.get("check", True),
    )


class _Progress:
    """The products of all runs as one number."""

    def __init__(
        self, progress: Callable[[int, int], None] | None, named: dict[str, LinearOperator], options: dict[str, Any]
    ) -> None:
        steps, reorthogonalize = options.get("num_steps", 80), options.get("reorthogonalize", True)
        self._progress = progress
        self._done = dict.fromkeys(named, 0)
        self._all = sum(clipped(steps, A.shape[0], reorthogonalize) for A in named.values())
        self._all *= _source(options).num_probes

    def of(self, name: str) -> Callable[[int, int], None] | None:
        """What the run of one operator is to call."""
        if self._progress is None:
            return None

        def report(done: int, of: int) -> None:  # noqa: ARG001
            self._done[name] = done
            self._progress(sum(self._done.values()), self._all)  # type: ignore[misc]

        return report
