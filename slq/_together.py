"""Floor 3: measures of several operators, in step where these share their products."""

import functools
import threading
import warnings
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from slq._arrays import Array
from slq._measure import SpectralMeasure
from slq._memory import require
from slq._operators import aslinearoperator
from slq._products import LinearOperator
from slq._slq import memory_forecast, spectral_measure

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
        Each as `spectral_measure` of this operator alone gives it.

    Raises
    ------
    SlqError
        What `spectral_measure` raises; a note names the operator, and ``partial`` is the dict of the measures that
        were finished, as those of the other operators are.

    Examples
    --------
    >>> import numpy as np
    >>> measures = spectral_measures({"a": np.eye(3), "b": 2 * np.eye(4)}, num_steps=2)
    >>> [round(float(m.trace())) for m in measures.values()]
    [3, 8]
    """
    named = {name: aslinearoperator(A) for name, A in operators.items()}
    report = _Progress(options.pop("progress", None), len(named))
    matvecs = getattr(operators, "matvecs", None)
    if matvecs is not None and named:
        rows = options.get("batch_size") or options.get("num_probes", 10)
        own = [A.workspace(rows) if hasattr(A, "workspace") else 0 for A in named.values()]
        forecasts = [memory_forecast(A, **_forecast_options(options)) for A in named.values()]
        needed = sum(forecasts) - sum(own) + max(own)  # the products are made one after the other
        require(next(iter(named.values())).like, needed, {})
    found: dict[str, SpectralMeasure] = {}
    failed: list[Exception] = []
    if matvecs is None:
        for name, A in named.items():
            run = functools.partial(spectral_measure, A, progress=report(name), **options)
            _note(name, run, found, failed)
    else:
        runs = {name: _Run(A, {**options, "progress": report(name)}) for name, A in named.items()}
        _advance_together(runs, matvecs, found, failed)
    if failed:
        failed[0].partial = found  # type: ignore[attr-defined]
        raise failed[0]
    return {name: found[name] for name in operators}


def _forecast_options(options: dict[str, Any]) -> dict[str, Any]:
    known = ("num_probes", "num_steps", "reorthogonalize", "basis_dtype", "batch_size", "check")
    return {name: value for name, value in options.items() if name in known}


def _note(name: str, work: Callable[[], Any], found: dict[str, Any], failed: list[Exception]) -> None:
    try:
        found[name] = work()
    except Exception as error:
        error.add_note(f"in the run of operator {name!r}")
        failed.append(error)


def _advance_together(
    runs: "dict[str, _Run]", matvecs: Callable[[dict[str, Array]], Mapping[str, Array]], found: Any, failed: Any
) -> None:
    """Let each run go to its next product, make all products at once, and so on until all have ended."""
    asked: dict[str, Array] = {}

    def advance(name: str, product: Any) -> None:
        kind, value = runs[name].advance(product)
        if kind == "product":
            asked[name] = value
        else:
            _note(name, value, found, failed)

    try:
        for name in runs:
            advance(name, None)
        while asked:
            blocks = asked
            asked = {}
            try:
                products: Mapping[str, Any] = matvecs(blocks)
            except Exception as error:  # each run says what it had before
                products = dict.fromkeys(blocks, error)
            for name in blocks:
                advance(name, products[name])
    finally:
        for run in runs.values():
            run.end()


class _Cancelled(BaseException):
    """Ends the thread of a run that is not to go on."""


class _Run:
    """A run of `spectral_measure` that stops at each product until it is given.

    In a thread of its own, which only moves while `advance` waits for it: never two at once.
    """

    def __init__(self, A: LinearOperator, options: dict[str, Any]) -> None:
        self._given: SimpleQueue[Any] = SimpleQueue()
        self._events: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(_Waiting(A, self._wait), options), daemon=True)

    def advance(self, product: Any) -> tuple[str, Any]:
        """Go on with a product: ("product", the next block to multiply), or ("end", a function giving the result)."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if self._thread.ident is None:
                self._thread.start()
            else:
                self._given.put(product)
            event = self._events.get()
        for warning in caught:
            warnings.warn(str(warning.message), warning.category, stacklevel=5)
        return event

    def end(self) -> None:
        """Give up, if the run has not ended."""
        if self._thread.is_alive():
            self._given.put(_Cancelled())
            self._thread.join()

    def _work(self, A: "_Waiting", options: dict[str, Any]) -> None:
        try:
            measure = spectral_measure(A, **options)
        except _Cancelled:
            return
        except Exception as error:
            self._events.put(("end", _raising(error)))
        else:
            self._events.put(("end", lambda: measure))

    def _wait(self, x: Array) -> Array:
        self._events.put(("product", x))
        product = self._given.get()
        if isinstance(product, BaseException):
            raise product
        return product


class _Waiting:
    """An operator whose products come from elsewhere."""

    def __init__(self, A: LinearOperator, matvec: Callable[[Array], Array]) -> None:
        self.shape, self.like, self.matvec = A.shape, A.like, matvec
        for name in ("vecdot", "index", "put"):
            if hasattr(A, name):
                setattr(self, name, getattr(A, name))


def _raising(error: Exception) -> Callable[[], SpectralMeasure]:
    def result() -> SpectralMeasure:
        raise error

    return result


class _Progress:
    """The products of all runs as one number."""

    def __init__(self, progress: Callable[[int, int], None] | None, runs: int) -> None:
        self._progress, self._runs = progress, runs
        self._done: dict[str, tuple[int, int]] = {}

    def __call__(self, name: str) -> Callable[[int, int], None] | None:
        if self._progress is None:
            return None

        def report(done: int, of: int) -> None:
            self._done[name] = done, of
            mean = sum(total for _, total in self._done.values()) / len(self._done)
            self._progress(sum(d for d, _ in self._done.values()), round(mean * self._runs))  # type: ignore[misc]

        return report
