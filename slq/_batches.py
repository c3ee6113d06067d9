"""Floor 2: a measure is made batch by batch; what is done is kept whatever happens to the rest."""

import contextlib
import gc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from slq._arrays import Array, is_complex, itemsize, library_name, recurrence_like
from slq._basis import storage_for
from slq._block_lanczos import BlockTridiagonal
from slq._lanczos import basis_size, start
from slq._measure import SpectralMeasure
from slq._memory import forecast, forecast_check, is_out_of_memory, out_of_memory, require
from slq._products import LinearOperator, Products, local_size, workspace
from slq._recurrence import Tridiagonal
from slq._source import count
from slq._version import __version__
from slq.errors import ClippedStepsWarning, NonFiniteError, OutOfMemoryWarning, ProductError, RequestError

__all__ = ["Batches", "clipped", "memory_needed", "require_directions", "require_memory", "warn_if_clipped"]

Runner = Callable[[Array, Callable[[int, int], None] | None], Tridiagonal | BlockTridiagonal]


class Batches:
    """The batches of a measure, as far as they are done.

    Parameters
    ----------
    products : Products
        Of the operator on whose vectors the probes live.
    source : Source
    run : callable
        (unit vectors, progress) -> coefficients.
    reorthogonalize : bool or int
        As `run` does it.
    singular : bool
        The coefficients are those of bidiagonal matrices.
    block : bool
        Each batch is one run of block Lanczos.
    """

    def __init__(
        self,
        products: Products,
        source: Any,
        run: Runner,
        *,
        reorthogonalize: bool | int,
        singular: bool = False,
        block: bool = False,
    ) -> None:
        A, kinds = products.operator, (bool, np.bool_)
        self._products, self._source, self._run, self._singular = products, source, run, singular
        self._block = block
        self._provenance = {
            "slq": __version__,
            "library": library_name(A.like),
            "dtype": str(A.like.dtype).removeprefix("torch."),
            "reorthogonalize": bool(reorthogonalize) if isinstance(reorthogonalize, kinds) else int(reorthogonalize),
        }
        self._probes: list[int] = []
        self._runs: list[Any] = []
        self._norms: list[np.ndarray] = []

    def add_all(self, rows: int, progress: Callable[[int, int], None] | None) -> None:
        """Run all probes of the source, `rows` together."""
        k, low = self._source.num_probes, 0
        while low < k:
            high = min(low + rows, k)
            try:
                self._add(low, high, None if progress is None else _scaled(progress, low, high - low, k))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if high - low == 1 or self._block:
                    raise self._no_memory(error, high - low) from error
            else:
                low = high
                continue
            # Only here, where the error and its frames, which hold the vectors, are gone.
            rows = (high - low) // 2
            gc.collect()
            warnings.warn(
                f"{high - low} probes together ran out of memory: going on with batch_size={rows}, from the same "
                "probe; pass that to begin with",
                OutOfMemoryWarning,
                stacklevel=3,
            )

    def _add(self, low: int, high: int, progress: Callable[[int, int], None] | None) -> None:
        """Run the probes number low to high; what is lost with an error, and what is not, is told by the error."""
        A = self._products.operator
        v, lengths = start(A, self._source.draw(A, low, high))
        norms = self._source.squared_norms(A.shape[0], lengths)
        self._products.first_row = low
        try:
            done = self._run(v, progress)
        except (NonFiniteError, ProductError) as error:
            if high - low > 1 and is_out_of_memory(error):
                raise  # these probes run again
            lost = set(error.probes) if isinstance(error, NonFiniteError) and not self._block else set()
            kept = [i for i in range(low, high) if i not in lost]
            if error.partial is not None and (not self._runs or lost):  # a block cut short fits no other run
                self._keep(kept, error.partial, norms[[i - low for i in kept]])
            error.partial = self.measure() if self._runs else None
            raise
        self._keep(list(range(low, high)), done, norms)

    def _no_memory(self, error: Exception, rows: int) -> Exception:
        """What to raise when so many probes are too many, and fewer are no answer."""
        store = "" if self._singular else "basis_dtype='host'"
        if self._block:
            mend = f"pass a smaller batch_size= (probes that share a space), fewer steps, or {store}"
        else:
            mend = "pass reorthogonalize=False or an integer" + (f", or {store}" if store else "")
        failed = out_of_memory(
            error,
            "with one probe alone" if rows == 1 else f"with a block of {rows} probes",
            f"{mend}, or let the operator work in smaller pieces (microbatch= of slq_torch); what was computed before "
            "is kept in `.partial` of this error",
        )
        failed.step = self._products.step
        if self._runs:
            failed.partial = self.measure()
        return failed

    def _keep(self, probes: list[int], runs: Tridiagonal | BlockTridiagonal, norms: np.ndarray) -> None:
        self._probes += probes
        self._runs.append(runs)
        self._norms.append(norms)

    def measure(self) -> SpectralMeasure:
        """What is done so far."""
        source, probes = self._source, self._probes
        join = np.stack if self._block else np.concatenate
        return SpectralMeasure(
            join([runs.alpha for runs in self._runs]),
            join([runs.beta for runs in self._runs]),
            int(self._products.operator.shape[0]),
            sampler=source.sampler,
            seeds=() if source.seed is None else (source.seed,) * len(probes),
            probe_ids=() if source.probe_ids is None else tuple(source.probe_ids[i] for i in probes),
            squared_norms=np.concatenate(self._norms),
            is_complex=is_complex(self._products.operator.like),
            eps=self._products.eps,
            singular=self._singular,
            start=join([runs.start for runs in self._runs]) if self._block else np.empty((0, 0, 0)),
            provenance=self._provenance,
        )


def _scaled(progress: Callable[[int, int], None], done: int, rows: int, all_rows: int) -> Callable[[int, int], None]:
    """Steps of a batch as products of the whole."""
    return lambda step, steps: progress(done * steps + rows * step, all_rows * steps)


def clipped(num_steps: Any, n: int, reorthogonalize: bool | int) -> int:
    """The number of steps that a run can take; more than dimensions gain accuracy without orthogonality only."""
    asked = count("num_steps", num_steps)
    return min(asked, n) if reorthogonalize is True else asked


def warn_if_clipped(measure: SpectralMeasure, asked: int, num_steps: int) -> None:
    """Say, to the caller of the caller, that a run was cut at the dimension."""
    if asked > num_steps and measure.lengths.max() == num_steps:
        warnings.warn(
            f"num_steps={asked} exceeds the dimension: {num_steps} steps are exact for every probe",
            ClippedStepsWarning,
            stacklevel=3,
        )


def require_directions(A: LinearOperator, source: Any, rows: int) -> None:
    """Refuse given vectors that no run can start from, before the first product; samplers are trusted."""
    if source.probe_ids is None:
        for low in range(0, source.num_probes, rows):
            start(A, source.draw(A, low, low + rows))


def memory_needed(*operators: LinearOperator, batch_size: int | None = None, **options: Any) -> int:
    """Bytes that runs of operators take together, whose products are made one after the other.

    The options are those of `spectral_measure`; see `require_memory` for `left`.
    """
    k, check = options["num_probes"], options["check"] is not False
    rows = k if batch_size is None else min(batch_size, k)
    own = [max(workspace(A, rows), workspace(A, min(rows, 5)) if check else 0) for A in operators]
    return sum(_vectors_needed(A, rows, **{**options, "check": check}) for A in operators) + max(own)


def _vectors_needed(
    A: LinearOperator,
    rows: int,
    *,
    num_probes: int,
    num_steps: int,
    reorthogonalize: bool | int,
    basis_dtype: Any = None,
    check: bool,
    left: int = 0,
) -> int:
    like, n = recurrence_like(A.like), local_size(A) + left
    num_steps = clipped(num_steps, A.shape[0], reorthogonalize)
    keep = basis_size(reorthogonalize, num_steps)
    size = itemsize(like)
    run = forecast(rows, n, keep, size, storage_for(basis_dtype if keep else None, like).itemsize)
    before = forecast_check(rows, n, size) if check else 0
    return 16 * num_probes * num_steps + max(run, before)  # the coefficients come on top


def require_memory(*operators: LinearOperator, block: bool = False, **options: Any) -> None:
    """Refuse what does not fit into memory, naming what would.

    The options are those of `memory_needed`; `block` tells a run of block Lanczos. `left` is the length of the left
    vectors of a bidiagonalisation, which stores its bases as they are and has no check before it.
    """

    def needed(**others: Any) -> int:
        return memory_needed(*operators, **{**options, **others})

    rows = options.get("batch_size") or options["num_probes"]
    keep = basis_size(options["reorthogonalize"], options["num_steps"])
    checks = options["check"] is not False
    fitting = {"check=False": needed(check=False)} if checks else {}
    if rows > 1 and not block:
        fitting["batch_size=1"] = needed(batch_size=1)
    if keep and not block:
        fitting["reorthogonalize=False"] = needed(reorthogonalize=False)
        if keep > 40:
            fitting["reorthogonalize=40"] = needed(reorthogonalize=40)
    if keep:
        for kind in () if options.get("left") else ("bfloat16", "host"):
            with contextlib.suppress(RequestError):  # not every library has it
                fitting[f"basis_dtype={kind!r}"] = needed(basis_dtype=kind)
    least = (
        ("block=False, " if block else "") + "batch_size=1, reorthogonalize=False" + (", check=False" if checks else "")
    )
    fitting[least] = needed(batch_size=1, reorthogonalize=False, check=False)
    if len(operators) > 1:
        fitting["one operator after the other, in an ordinary dict"] = max(
            memory_needed(A, **options) for A in operators
        )
    require(recurrence_like(operators[0].like), needed(), fitting)
