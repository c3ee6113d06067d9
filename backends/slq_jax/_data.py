"""The data: read in pieces, weighed, and kept on the device where they fit."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slq.adapters import Batches, Weighed, weigh
from slq.errors import DataError, RequestError
from slq_jax._naming import naming, require_arrays
from slq_jax._objective import Piece, cut, lengths_of, size_of
from slq_jax._settings import Settings

__all__ = ["Data"]

_SHARE = 4  # data that take less than this part of the free memory are kept
_FEW = 4  # shapes of pieces: each is compiled


class Data:
    """A data set, and what one pass over it found.

    Parameters
    ----------
    data : batch or iterable of batches or callable
    settings : Settings
    evaluate : callable
        Piece -> (loss, weight), numbers; weight None says that the loss is a mean (or sum) over samples.
    rtol : float
        How well losses must agree that should be equal.
    free : float or None
        Bytes of memory where the data are kept; None: unknown.
    place : callable
        Puts an array on the devices.

    Attributes
    ----------
    weighed : Weighed
    first : Piece
        The first with a weight.
    groups : list of (bool, Piece) or None
        All pieces that count, on the device: those of one shape stacked along a new leading axis (True), a single one
        as it is (False). None where they take too much memory, hold other things than arrays, or have many shapes.

    Raises
    ------
    DataError
        See `slq.adapters.weigh`.
    """

    def __init__(
        self,
        data: Any,
        settings: Settings,
        evaluate: Callable[[Piece], tuple[float, float | None]],
        rtol: float,
        free: float | None,
        place: Callable[[Any], jax.Array],
    ) -> None:
        self._batches = Batches(data, settings.max_batches)
        self._settings, self._rtol = settings, rtol
        kept = _Kept(None if free is None else free // _SHARE)
        self.first: Any = None

        def look(piece: Piece) -> tuple[float, float | None]:
            with naming(piece):
                loss, weight = evaluate(piece)
            if isinstance(piece, _Whole):  # not a part that is cut off to verify a mean
                kept.note(piece.batch)
                if weight != 0:
                    self.first = self.first or Piece(*piece)
                    kept.add(piece)
            return loss, weight

        self._weigh = partial(
            weigh,
            evaluate=look,
            size_of=lambda piece: size_of(piece.batch),
            cut=lambda piece, *ends: Piece(piece.number, cut(piece.batch, *ends)),
            rtol=rtol,
            reduction=settings.reduction,
            lengths=lambda piece: lengths_of(piece.batch),
        )
        self.weighed: Weighed = self._weigh(self.read())
        self.groups = kept.groups(place)
        self._prints = kept.prints
        self._confirmed = self._batches.single

    def read(self) -> Iterator["_Whole"]:
        """The pieces, numbered."""
        number, size = 0, self._settings.microbatch
        for batch in self._batches:
            require_arrays(number, batch)
            samples = size_of(batch)
            if size is not None and samples is None:
                raise RequestError("microbatch= cuts arrays along their leading dimension, but the batch has none")
            pieces: Iterable[Any] = [batch]
            if samples is not None and size is not None and samples > size:
                pieces = (cut(batch, low, min(low + size, samples)) for low in range(0, samples, size))
            for piece in pieces:
                yield _Whole(number, piece)
                number += 1

    def require_samples(self) -> None:
        """Raise if the first piece does not tell its samples, which does not matter to one mean alone."""
        if len(set(lengths_of(self.first.batch))) > 1:
            self._weigh([self.first, self.first])

    def require_alive(self) -> None:
        """Raise if an array that is kept was donated since construction."""
        for _, piece in self.groups or ():
            require_arrays(piece.number, piece.batch)

    def confirm(self) -> None:
        """Once, read the data a second time, where they are kept: every pass must give the same set, in any order."""
        if self._confirmed:
            return
        again = _Kept(None)
        number, samples = 0, 0
        for piece in self.read():
            number, samples = number + 1, samples + (size_of(piece.batch) or 0)
            again.note(piece.batch)
        self.weighed.require_same_size(number, samples)
        # Measured on 1e5 summands: their order changes the sums by 1e-14 of their size.
        if not _close(again.prints, self._prints):
            raise DataError(
                "the data gave other samples than in the pass before; every pass must read the same set, in any order: "
                "switch random augmentation and subsampling off"
            )
        self._confirmed = True

    def run(self, work: Callable[[Piece], tuple[jax.Array, Any]]) -> None:
        """Call `work` with every piece, read anew; it returns the summed loss of the piece and its weight.

        Raises
        ------
        DataError, OperatorError
            If the pass gives other data than the first.
        """
        summed: Any = 0.0
        number, samples = 0, 0
        known = True
        for piece in self.read():
            size = size_of(piece.batch)
            number, samples, known = number + 1, samples + (size or 0), known and size is not None
            loss, weight = work(Piece(*piece))
            summed += 0.0 if self.weighed.any_ignored and float(weight) == 0 else loss
        self.weighed.require_same_size(number, samples if known else None)
        if not self._confirmed:  # once: reading a number from the device waits for it
            self.weighed.require_same_loss(float(summed), self._rtol)
            self._confirmed = True


class _Whole(Piece):
    """A piece of the pass, not one that was cut off to verify a mean."""


class _Kept:
    """Pieces, as long as they fit."""

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._pieces: dict[Any, list[Piece]] | None = {}
        self._bytes = 0
        self.prints = np.zeros(0, dtype=np.complex128)

    def add(self, piece: Piece) -> None:
        if self._pieces is None:
            return
        leaves, structure = jax.tree.flatten(piece.batch)
        arrays = all(hasattr(x, "shape") and hasattr(x, "dtype") for x in leaves)
        self._bytes += sum(getattr(x, "nbytes", 0) for x in leaves)
        key = (structure, tuple((np.shape(x), str(getattr(x, "dtype", type(x)))) for x in leaves))
        self._pieces.setdefault(key, []).append(Piece(*piece))
        several = sum(map(len, self._pieces.values())) > 1
        too_much = self._limit is not None and self._bytes > self._limit
        if several and (too_much or not arrays or len(self._pieces) > _FEW):
            self._pieces = None

    def note(self, batch: Any) -> None:
        """Add what tells sets of samples apart, and not orders of one."""
        if self._pieces is None:
            return
        sums = []
        for x in jax.tree.leaves(batch):
            if not jnp.issubdtype(getattr(x, "dtype", np.dtype(object)), jnp.number):
                continue
            wide = np.complex128 if jnp.issubdtype(x.dtype, jnp.complexfloating) else np.float64
            values = [np.asarray(part, dtype=wide) for part in _held(x)]
            with np.errstate(over="ignore", invalid="ignore"):  # infinity is a mark, too
                sums += [sum(v.sum() for v in values), sum((np.abs(v) ** 2).sum() for v in values)]
        prints = np.zeros(max(len(sums), len(self.prints)), dtype=np.complex128)
        prints[: len(self.prints)] += self.prints
        prints[: len(sums)] += sums
        self.prints = prints

    def groups(self, place: Callable[[Any], jax.Array]) -> list[tuple[bool, Piece]] | None:
        if self._pieces is None:
            return None
        found = []
        for pieces in self._pieces.values():
            numbers = np.asarray([piece.number for piece in pieces], dtype=np.int32)
            if len(pieces) == 1:
                placed = jax.tree.map(lambda x: place(x) if hasattr(x, "dtype") else x, pieces[0].batch)
                found.append((False, Piece(numbers[0], placed)))
            else:
                stacked = jax.tree.map(lambda *x: place(_stacked(x)), *(p.batch for p in pieces))
                found.append((True, Piece(place(numbers), stacked)))
        return found


def _stacked(arrays: Sequence[Any]) -> Any:
    numpy = all(isinstance(x, np.ndarray | np.generic) for x in arrays)
    return np.stack(arrays) if numpy else jnp.stack([jnp.asarray(x) for x in arrays])


def _held(x: Any) -> list[Any]:
    """An array, or what this process holds of one that is spread over several, and counts once."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return [x]
    return [shard.data for shard in x.addressable_shards if shard.replica_id == 0]


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-9, atol=0, equal_nan=True))
