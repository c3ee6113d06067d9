"""Floor 1: what adapters for models share: reading a data set again and again, and weighing its batches exactly."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from slq.errors import DataError, OperatorError

__all__ = ["Batches", "Weighed", "weigh"]


class Batches:
    """A data set that can be read once per product.

    Parameters
    ----------
    data : batch or iterable or callable
        An array, tuple or mapping is one batch; a list, a loader or any other iterable holds batches; a function
        returns a fresh iterable for each pass.

    Raises
    ------
    DataError
        If `data` is an iterator, which can be read only once.
    """

    def __init__(self, data: Any) -> None:
        if isinstance(data, Iterator):
            raise DataError(
                f"the data are a one-shot iterator ({type(data).__name__}), but each product reads them again; pass a "
                "list, a loader, or the function that makes the iterator"
            )
        self._single = isinstance(data, tuple | Mapping | str) or hasattr(data, "shape") or data is None
        if not (self._single or callable(data) or isinstance(data, Iterable)):
            self._single = True  # an object of the user's own, which only the loss understands
        self._data = data

    def __iter__(self) -> Iterator[Any]:
        if self._single:
            return iter((self._data,))
        return iter(self._data() if callable(self._data) else self._data)


class Weighed(NamedTuple):
    """What one pass over the data finds: the mean loss, the sum of the weights, the number of batches."""

    loss: float
    weight: float
    num_batches: int
    any_ignored: bool  # a batch had weight zero, so that later passes must look for such batches too

    def require_same_size(self, num_batches: int, weight: float | None) -> None:
        """Raise if a later pass has another number of batches or, where known without waiting, of samples."""
        if num_batches != self.num_batches:
            raise DataError(
                f"the data gave {self.num_batches} batches at first and {num_batches} now; "
                "every pass must read the same"
            )
        if weight is not None and weight != self.weight:
            raise DataError(
                f"the data gave {self.weight:g} samples at first and {weight:g} now; every pass must read the same"
            )

    def require_same_loss(self, summed_loss: float, rtol: float) -> None:
        """Raise if a later pass finds another loss: other samples, augmentation, or other parameters."""
        loss = summed_loss / self.weight
        if not abs(loss - self.loss) <= rtol * max(abs(loss), abs(self.loss)):
            raise OperatorError(
                f"the mean loss was {self.loss:.9g} and is now {loss:.9g}: the data or the parameters changed after "
                "the operator was built; build a new operator, and if the loader augments, switch that off"
            )


def weigh(
    batches: Batches,
    evaluate: Callable[[Any], tuple[float, float | None]],
    size_of: Callable[[Any], int | None],
    cut: Callable[[Any, int, int], Any],
    rtol: float,
) -> Weighed:
    """Read the data once: sum losses and weights, and verify that scalar losses are means over the samples.

    Parameters
    ----------
    batches : Batches
    evaluate : callable
        batch -> (loss, weight); weight None says that the loss is a mean over the samples of the batch.
    size_of : callable
        batch -> the number of its samples, or None if it does not tell.
    cut : callable
        (batch, low, high) -> the batch of its samples low to high.
    rtol : float
        How well the mean of the parts must agree with the whole.

    Returns
    -------
    Weighed

    Raises
    ------
    DataError
        If there are no batches, no weight, a loss that is not finite, or a scalar loss that is no mean over samples.
    """
    total = weight = 0.0
    any_ignored = False
    number = -1
    unverified: list[tuple[int, Any, float, int]] = []
    for number, batch in enumerate(batches):
        loss, batch_weight = evaluate(batch)
        if batch_weight == 0:
            any_ignored = True  # and its mean may be 0/0
            continue
        if not np.isfinite(loss):
            raise DataError(
                f"the loss of batch {number} is {loss}; its second derivatives would silently come out as zero"
            )
        if batch_weight is None:
            size = size_of(batch)
            batch_weight = 1.0 if size is None else float(size)
            total += loss * batch_weight
            if number == 0:
                unverified = [(number, batch, loss, size or 0)]  # matters only if a second batch comes
            else:
                for case in [*unverified, (number, batch, loss, size or 0)]:
                    _verify_mean(*case, evaluate, cut, rtol)
                unverified = []
        else:
            total += loss
        weight += batch_weight
    if number < 0:
        raise DataError("the data hold no batch; check the loader, its sampler and drop_last")
    if not weight > 0:
        raise DataError("all batches have weight zero: no sample counts, so there is no mean loss")
    return Weighed(total / weight, weight, number + 1, any_ignored)


def _verify_mean(
    number: int,
    batch: Any,
    loss: float,
    size: int,
    evaluate: Callable[[Any], tuple[float, float | None]],
    cut: Callable[[Any, int, int], Any],
    rtol: float,
) -> None:
    """Split the batch twice, unevenly: only a mean over samples is the weighted mean of its parts both times."""
    if size == 0:
        raise DataError(
            f"batch {number} does not tell how many samples it has, so the batches cannot be weighed; "
            "let the loss return (sum, weight)"
        )
    for at in {1, size // 2} - {0, size}:
        try:
            first, rest = evaluate(cut(batch, 0, at))[0], evaluate(cut(batch, at, size))[0]
        except (ArithmeticError, RuntimeError, TypeError, ValueError):  # batch statistics of one sample, for example
            first = rest = np.nan
        mean = (at * first + (size - at) * rest) / size
        scale = max(abs(loss), abs(mean), (at * abs(first) + (size - at) * abs(rest)) / size)
        if not abs(mean - loss) <= rtol * scale:  # also when a part has no mean at all (NaN)
            raise DataError(
                f"the loss is not a mean over the samples of batch {number}: {loss:.6g} for the whole, {mean:.6g} from "
                f"two parts of {at} and {size - at}; batches could not be weighed. Let the loss return (sum, weight), "
                "for example (sum over valid tokens, their number); batch statistics need model.eval() or one batch"
            )
