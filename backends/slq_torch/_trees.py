"""Batches are trees of tensors: their size, their parts, their union, and a number that tells sets of samples apart."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from slq.errors import DataError, SlqError

__all__ = [
    "cast",
    "cut",
    "fingerprint",
    "join",
    "leaves",
    "lengths_of",
    "naming",
    "ordered_fingerprint",
    "rows_of",
    "size_of",
    "with_leaves",
]


def leaves(batch: Any) -> Iterator[torch.Tensor]:
    """The tensors of a batch, in their order."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from leaves(value)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from leaves(value)


def size_of(batch: Any) -> int | None:
    """The leading dimension of the batch's first tensor that has one."""
    return next(iter(lengths_of(batch)), None)


def lengths_of(batch: Any) -> list[int]:
    """The leading dimensions of all tensors."""
    return [t.shape[0] for t in leaves(batch) if t.ndim]


def cut(batch: Any, low: int, high: int, size: int | None = None) -> Any:
    """Samples `low` to `high`: every tensor of the leading dimension `size` (default: the first) is cut, no other."""
    size = size_of(batch) if size is None else size
    return _map(lambda x: x[low:high] if x.ndim and x.shape[0] == size else x, batch)


def cast(batch: Any, dtype: torch.dtype) -> Any:
    """The batch with its floating-point tensors in another dtype."""
    return _map(lambda x: x.to(dtype) if x.is_floating_point() else x, batch)


def join(batches: Sequence[Any]) -> Any:
    """All samples of several batches as one.

    Raises
    ------
    DataError
        If the batches differ in structure or in the shapes of their samples.
    """
    sizes = [size_of(batch) for batch in batches]
    columns = zip(*(list(leaves(batch)) for batch in batches), strict=True)
    try:
        joined = [
            torch.cat(column) if all(x.ndim and x.shape[0] == n for x, n in zip(column, sizes, strict=True)) else column
            for column in columns
        ]
        for column in joined:
            if isinstance(column, tuple) and not all(torch.equal(column[0], x) for x in column[1:]):
                raise ValueError("a tensor that is not one row a sample differs between batches")
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"the batches cannot be joined into one: {error}; give one batch that holds all samples"
        ) from error
    merged = iter([column[0] if isinstance(column, tuple) else column for column in joined])
    return _map(lambda _: next(merged), batches[0])


def ordered_fingerprint(batch: Any) -> torch.Tensor:
    """Numbers that differ, almost surely, between two batches, and between two orders of one."""
    marks = []
    for x in leaves(batch):
        values = x.detach()
        values = (torch.view_as_real(values) if values.is_complex() else values).double().reshape(-1)
        marks.append((values * torch.arange(1, len(values) + 1, device=x.device).double().sqrt()).sum().cpu())
    return torch.stack(marks) if marks else torch.empty(0)


def rows_of(batch: Any) -> tuple[list[torch.Tensor], Callable[[Sequence[torch.Tensor]], Any]]:
    """The tensors that have one row a sample, and a function of one row of each that gives the batch of this sample."""
    size = size_of(batch)

    def one(row: Sequence[torch.Tensor]) -> Any:
        others = iter(row)
        return _map(lambda x: next(others)[None] if x.ndim and x.shape[0] == size else x, batch)

    return [x for x in leaves(batch) if x.ndim and x.shape[0] == size], one


def with_leaves(tree: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """The tree with other floating-point tensors, in their order."""
    others = iter(tensors)
    return _map(lambda x: next(others) if x.is_floating_point() else x, tree)


def fingerprint(batch: Any) -> list[torch.Tensor]:
    """Sums over all samples that differ, almost surely, between two sets of samples, and not between two orders."""
    sums = []
    for x in leaves(batch):
        values = x.detach()
        values = (torch.view_as_real(values) if values.is_complex() else values).double()
        sums += [values.sum(), (values * values).sum()]
    return sums


@contextmanager
def naming(number: int, batch: Any) -> Iterator[None]:
    """Inside, errors that a loss raises over what a batch is, or is not, say what it is.

    Raises
    ------
    DataError
        In place of a TypeError, LookupError, AttributeError or ValueError, to which it is chained.
    """
    try:
        yield
    except SlqError:
        raise
    except (TypeError, LookupError, AttributeError, ValueError) as error:
        raise DataError(
            f"the loss raised {type(error).__name__} ({error}) for batch {number} of type {_described(batch)}; "
            "check that the loader gives the batches that the loss and the model expect"
        ) from error


def _described(batch: Any) -> str:
    """The kind of a batch, and of what is in it."""
    name = type(batch).__name__
    if isinstance(batch, torch.Tensor):
        return f"{name} {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return f"{name} of {', '.join(f'{key}: {_described(value)}' for key, value in batch.items())}"
    if isinstance(batch, tuple | list):
        return f"{name} of ({', '.join(map(_described, batch))})"
    return name


def _map(change: Callable[[torch.Tensor], torch.Tensor], batch: Any) -> Any:
    """The same tree with other tensors; what is no tree is kept."""
    if isinstance(batch, torch.Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        items = {key: _map(change, value) for key, value in batch.items()}
        if type(batch) is dict:
            return items
        other = copy.copy(batch)  # keeps the type: the batches of tokenizers are used as objects, too
        try:
            other.update(items)  # type: ignore[attr-defined]
        except AttributeError:
            return items
        return other
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_map(change, value) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(_map(change, value) for value in batch)
    return batch
