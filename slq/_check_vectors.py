"""Floor 1: the random vectors of the checks: cheap to draw, and the same everywhere."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.random import Generator, Philox, SeedSequence

from slq._arrays import Array, is_complex, namespace, recurrence_like
from slq._products import LinearOperator, put

__all__ = ["draw"]

_BLOCK = 1 << 16  # coordinates per random stream; a process that holds a part draws only its own


def draw(A: LinearOperator, seed: int, recipes: list[dict[int, float]]) -> Array:
    """Combinations Σ c gᵢ of standard normal vectors, one recipe {i: c} per row, exact in the dtype of A.

    Each block of coordinates has a Philox stream of its own (Salmon et al. 2011), so a part of a vector is drawn
    without the rest: the same vectors on every library, device and number of processes.
    """
    like = recurrence_like(A.like)
    wide = namespace(like).finfo(like.dtype).bits > 32
    complex_, n = is_complex(like), A.shape[0]
    dtype = (np.complex128 if wide else np.complex64) if complex_ else (np.float64 if wide else np.float32)
    index = getattr(A, "index", None)
    index = slice(None) if index is None else index
    local = len(range(n)[index]) if isinstance(index, slice) else len(index)
    rows = np.zeros((len(recipes), local), dtype=dtype)
    for where, block, offsets in _blocks(index, n):
        length = min(_BLOCK, n - block * _BLOCK)
        normals = {i: _normals(seed, i, block, length, complex_)[offsets] for i in {i for r in recipes for i in r}}
        for row, recipe in zip(rows, recipes, strict=True):
            for number, factor in recipe.items():
                row[where] += normals[number] * np.float64(factor)
    x = put(A, rows, like)
    if like.dtype == A.like.dtype:
        return x
    xp = namespace(x)
    return xp.astype(xp.astype(x, A.like.dtype), like.dtype)


def _normals(seed: int, number: int, block: int, length: int, complex_: bool) -> np.ndarray:
    stream = Generator(Philox(SeedSequence(seed, spawn_key=(number, block))))
    if not complex_:
        return stream.standard_normal(length, dtype=np.float32)
    return (stream.standard_normal(2 * length, dtype=np.float32) * np.float32(0.5**0.5)).view(np.complex64)


def _blocks(index: Any, n: int) -> Iterator[tuple[Any, int, Any]]:
    """(where in the local vector, number of the block, where in the block) of the coordinates `index`."""
    if isinstance(index, slice) and index.indices(n)[2] == 1:
        start, stop, _ = index.indices(n)
        for block in range(start // _BLOCK, -(-stop // _BLOCK)):
            first = block * _BLOCK
            low, high = max(start, first), min(stop, first + _BLOCK)
            yield slice(low - start, high - start), block, slice(low - first, high - first)
        return
    coordinates = np.arange(n)[index] if isinstance(index, slice) else np.asarray(index)
    order = np.argsort(coordinates // _BLOCK, kind="stable")
    numbers = coordinates[order] // _BLOCK
    for part in np.split(order, np.flatnonzero(np.diff(numbers)) + 1):
        if part.size:
            block = int(coordinates[part[0]] // _BLOCK)
            yield part, block, coordinates[part] - block * _BLOCK
