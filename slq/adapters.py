"""Floor 1: what adapters for models share: reading a data set again and again, and weighing its batches exactly."""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from slq._memory import available as available_memory
from slq._partition import Blocks, partition
from slq._vectors import breakdown, length_of
from slq.errors import DataError, OperatorError, RequestError

__all__ = [
    "Batches",
    "Blocks",
    "Weighed",
    "available_memory",
    "breakdown",
    "length_of",
    "partition",
    "warn_user",
    "weigh",
]

_ENDLESS = 1_000_000  # batches: no pass over a real data set has as many, and a stream is told so in finite time


class Batches:
    """A data set that can be read once per product.

    Parameters
    ----------
    data : batch or iterable or callable
        An array, tuple or mapping is one batch; a list, a loader or any other iterable holds batches; a function
        returns a fresh iterable for each pass.
    max_batches : int, optional
        Read no more than these, for a stream that has no end.

    Attributes
    ----------
    single : bool
        The data are one batch.

    Raises
    ------
    DataError
        If `data` is an iterator, which can be read only once; when read, if they do not end.
    RequestError
        If `max_batches` is no positive integer.
    """

    def __init__(self, data: Any, max_batches: int | None = None) -> None:
        if isinstance(data, Iterator):
            raise DataError(
                f"the data are a one-shot iterator ({type(data).__name__}), but each product reads them again; pass a "
                "list, a loader, or the function that makes the iterator"
            )
        if max_batches is not None and (not isinstance(max_batches, int | np.integer) or max_batches < 1):
            raise RequestError(f"max_batches= expects a positive integer, got {max_batches!r}")
        self.single = isinstance(data, tuple | Mapping | str) or hasattr(data, "shape") or data is None
        if not (self.single or callable(data) or isinstance(data, Iterable)):
            self.single = True  # an object of the user's own, which only the loss understands
        self._data = data
        self._max_batches = max_batches

    def __iter__(self) -> Iterator[Any]:
        if self.single:
            yield self._data
            return
        batches = self._data() if callable(self._data) else self._data
        for number, batch in enumerate(batches):
            if number == self._max_batches:
                return
            if number == _ENDLESS and _length(batches) is None:
                raise DataError(
                    f"the data have no length and gave {number} batches without an end; if they are a stream, pass "
                    "max_batches="
                )
            yield batch


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # also of loaders whose data set has none
        return None


class Weighed(NamedTuple):
    """What one pass over the data finds."""

    loss: float  # the mean
    weight: float  # the sum of the weights
    num_batches: int
    any_ignored: bool  # a batch had weight zero, so that later passes must look for such batches too
    num_samples: int | None  # None where a batch does not tell

    def require_same_size(self, num_batches: int, num_samples: int | None) -> None:
        """Raise if a later pass has another number of batches or, where known, of samples."""
        if num_batches != self.num_batches:
            raise DataError(
                f"the data gave {self.num_batches} batches at first and {num_batches} now; "
                "every pass must read the same"
            )
        if None not in (num_samples, self.num_samples) and num_samples != self.num_samples:
            raise DataError(
                f"the data gave {self.num_samples} samples at first and {num_samples} now; "
                "every pass must read the same"
            )

    def require_same_loss(self, summed_loss: float, rtol: float) -> None:
        """Raise if a later pass finds another loss: other samples, augmentation, or other parameters."""
        loss = summed_loss / self.weight
        if not abs(loss - self.loss) <= rtol * max(abs(loss), abs(self.loss)):
            raise OperatorError(
                f"the mean loss was {self.loss:.9g} and is now {loss:.9g}: the data or the parameters changed after "
                "the operator was built; build a new operator, and if the loader augments, switch that off"
            )


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn at the line of the user's that called slq or one of its adapters."""
    ours, level = ("slq", "slq_torch", "slq_jax", "torch", "contextlib"), 2
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ours:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def weigh(
    batches: Iterable[Any],
    evaluate: Callable[[Any], tuple[float, float | None]],
    size_of: Callable[[Any], int | None],
    cut: Callable[[Any, int, int], Any],
    rtol: float,
    *,
    reduction: str = "mean",
    coupled: bool = False,
    lengths: Callable[[Any], Iterable[int]] | None = None,
) -> Weighed:
    """Read the data once: sum losses and weights, and verify that scalar losses are what they are declared to be.

    Parameters
    ----------
    batches : iterable
    evaluate : callable
        batch -> (loss, weight); weight None says that the loss is a mean, or sum, over the samples of the batch.
    size_of : callable
        batch -> the number of its samples, or None if it does not tell.
    cut : callable
        (batch, low, high) -> the batch of its samples low to high.
    rtol : float
        How well the mean of the parts must agree with the whole.
    reduction : {"mean", "sum"}
        What a loss without a weight is, over the samples of its batch.
    coupled : bool
        The loss of a batch is no sum over its samples, and meant so (batch statistics): do not verify.
    lengths : callable, optional
        batch -> the leading dimensions of its arrays. Where they differ, any may be the number of samples: `cut` is
        called with one of them as a fourth argument, and then cuts the arrays that have it.

    Returns
    -------
    Weighed

    Raises
    ------
    DataError
        If there are no batches, no weight, a loss that is not finite, or one that is no mean (or sum) over samples, or
        is one along several dimensions.
    """
    total = weight = 0.0
    samples: int | None = 0
    any_ignored = False
    number = -1
    unverified: list[tuple[int, Any, float, int]] = []
    for number, batch in enumerate(batches):
        loss, batch_weight = evaluate(batch)
        size = size_of(batch)
        samples = None if samples is None or size is None else samples + size
        if batch_weight == 0:
            any_ignored = True  # and its mean may be 0/0
            continue
        if not np.isfinite(loss):
            raise DataError(
                f"the loss of batch {number} is {loss}, and its second derivatives would silently come out as zero or "
                "NaN; look for an overflow, log(0), or a mean over no label, in place of which return (sum, weight)"
            )
        if batch_weight is None:
            batch_weight = 1.0 if size is None else float(size)
            total += loss * (batch_weight if reduction == "mean" else 1.0)
            unverified.append((number, batch, loss, size or 0))
            if (number > 0 or reduction == "sum") and not coupled:  # one mean needs no weight
                for case in unverified:
                    _verify(*case, evaluate, cut, rtol, reduction, lengths)
                unverified = []
        else:
            total += loss
        weight += batch_weight
    if number < 0:
        raise DataError("the data hold no batch; check the loader, its sampler and drop_last")
    if not weight > 0:
        raise DataError("all batches have weight zero: no sample counts, so there is no mean loss")
    return Weighed(total / weight, weight, number + 1, any_ignored, samples)


def _verify(
    number: int,
    batch: Any,
    loss: float,
    size: int,
    evaluate: Callable[[Any], tuple[float, float | None]],
    cut: Callable[..., Any],
    rtol: float,
    reduction: str,
    lengths: Callable[[Any], Iterable[int]] | None,
) -> None:
    """Split the batch twice, unevenly: only a mean over samples is the weighted mean of its parts both times."""
    if size == 0:
        raise DataError(
            f"batch {number} does not tell how many samples it has, so the batches cannot be weighed; "
            "let the loss return (sum, weight)"
        )
    changes = False
    for at in _places(size):
        whole, difference, changed = _split(loss, evaluate, cut, batch, reduction, at, size)
        changes |= changed > rtol
        if not difference <= rtol:  # also when a part has no mean at all (NaN)
            raise DataError(
                f"the loss is not a {reduction} over the samples of batch {number}: {loss:.6g} for the whole, "
                f"{whole:.6g} from two parts of {at} and {size - at}; batches could not be weighed. Let the loss "
                "return (sum, weight), for example (sum over valid tokens, their number); batch statistics need "
                "model.eval() or one batch"
            )
    for other in sorted(set(lengths(batch) if lengths else ()) - {size, 0}):
        found = [_split(loss, evaluate, cut, batch, reduction, at, other, other) for at in _places(other)]
        if not found or not all(difference <= rtol for _, difference, _ in found):
            continue
        if not changes or any(changed > rtol for _, _, changed in found):
            raise DataError(
                f"batch {number} has arrays of {size} and of {other} rows, and the loss is a {reduction} over either, "
                "so it does not tell how many samples there are. Let the loss return (sum, weight), or give arrays "
                "that are no samples a leading dimension of 1, behind those of the samples"
            )


def _places(size: int) -> set[int]:
    return {1, size // 2} - {0, size}


def _split(
    loss: float, evaluate: Callable[..., Any], cut: Callable[..., Any], batch: Any, reduction: str, at: int, *size: int
) -> tuple[float, float, float]:
    """What two parts of a batch say of its loss; how far, relatively, that is from it; and how far the parts are."""
    end = size[0]
    try:
        first, rest = (evaluate(cut(batch, *ends, *size[1:]))[0] for ends in ((0, at), (at, end)))
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):  # batch statistics of one sample, ...
        return np.nan, np.nan, np.nan
    p, q = (at / end, 1 - at / end) if reduction == "mean" else (1.0, 1.0)
    whole = p * first + q * rest
    scale = max(abs(loss), abs(whole), p * abs(first) + q * abs(rest)) or 1.0
    return whole, abs(whole - loss) / scale, max(abs(first - loss), abs(rest - loss)) / scale
