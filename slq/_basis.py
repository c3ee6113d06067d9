"""Floor 2: the Lanczos vectors that reorthogonalisation needs, stored in chunks, in full or reduced precision."""

from typing import Any

import numpy as np

from slq._arrays import (
    Array,
    from_host,
    has_one_shape,
    is_complex,
    itemsize,
    library_name,
    namespace,
    on_accelerator,
    set_row,
    to_host,
)
from slq._vectors import Vectors
from slq.errors import RequestError

__all__ = ["Basis", "Storage", "storage_for"]

_ROWS = 16  # vectors per chunk: memory grows with the run, and JAX compiles for one shape only
_CACHED = 1 << 16  # numbers that stay in a second-level cache between the two readings of a projection


class Storage:
    """How basis vectors are kept: as they are, in a narrower dtype, or on the host.

    Attributes
    ----------
    itemsize : int
        Bytes per number, where the vectors live.
    eps : float
        What storing rounds away of a number, relative to it; 0 if nothing.
    """

    def __init__(self, dtype: Any, itemsize: int, eps: float) -> None:
        self.dtype = dtype
        self.itemsize = itemsize
        self.eps = eps

    def empty(self, shape: tuple[int, int, int], like: Array) -> Array:
        # Zeros where unused rows take part in the work.
        make = namespace(like).zeros if has_one_shape(like) else namespace(like).empty
        return make(shape, dtype=self.dtype, device=like.device)

    def narrow(self, v: Array) -> Array:
        """`v` as it is stored."""
        return v if v.dtype == self.dtype else namespace(v).astype(v, self.dtype)

    def widen(self, rows: Array, like: Array) -> Array:
        """Stored rows as the recurrence uses them."""
        return rows if rows.dtype == like.dtype else namespace(rows).astype(rows, like.dtype)


class _Host(Storage):
    """In memory of the host; each projection brings a chunk to the device."""

    def empty(self, shape: tuple[int, int, int], like: Array) -> Array:  # noqa: ARG002 - the host is the place
        return np.zeros(shape, dtype=self.dtype)

    def narrow(self, v: Array) -> Array:
        return to_host(v)

    def widen(self, rows: Array, like: Array) -> Array:
        return from_host(rows, like)


class _HighHalf(Storage):
    """bfloat16 for NumPy, which has none: the upper 16 bits of float32, rounded to even."""

    def narrow(self, v: Array) -> Array:
        bits = v.astype(np.float32, copy=False).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)

    def widen(self, rows: Array, like: Array) -> Array:
        return (rows.astype(np.uint32) << 16).view(np.float32).astype(like.dtype, copy=False)


def storage_for(basis_dtype: Any, like: Array) -> Storage:
    """The storage that `basis_dtype` names for vectors like `like`.

    Raises
    ------
    RequestError
        If the library has no such dtype, or it would not be narrower than the recurrence.
    """
    xp = namespace(like)
    size = itemsize(like)
    if basis_dtype is None:
        return Storage(like.dtype, size, 0.0)
    name = str(basis_dtype).removeprefix("torch.").removeprefix("<class 'jax.numpy.").rstrip("'>")
    if name == "host":
        return _Host(to_host(like).dtype, 0 if on_accelerator(like) else size, 0.0)
    if name not in ("bfloat16", "float32") or is_complex(like):
        raise RequestError(
            f"basis_dtype= expects None, 'float32', 'bfloat16' or 'host' (real vectors, but for 'host'), got {name!r} "
            f"for vectors of {like.dtype}"
        )
    if name == "float32":
        return Storage(xp.float32, 4, 0.0 if like.dtype == xp.float32 else 2.0**-23)
    if library_name(like) == "numpy":
        return _HighHalf(np.uint16, 2, 2.0**-7)
    if not hasattr(xp, "bfloat16"):
        raise RequestError(
            f"{library_name(like)} has no bfloat16; take basis_dtype='float32', or reorthogonalize= an integer"
        )
    return Storage(xp.bfloat16, 2, 2.0**-7)


class Basis:
    """The first Lanczos vectors of every probe, in chunks (k, rows, n)."""

    def __init__(self, capacity: int, storage: Storage) -> None:
        self.capacity = capacity
        self.eps = storage.eps
        self._storage = storage
        self._size = 0
        self._chunks: list[Array] = []

    def append(self, v: Array) -> None:
        """Keep a vector of each probe, unless there are as many as were asked for."""
        if self._size == self.capacity:
            return
        row = self._size % _ROWS
        if row == 0:
            rows = _ROWS if has_one_shape(v) else min(_ROWS, self.capacity - self._size)
            self._chunks.append(self._storage.empty((v.shape[0], rows, v.shape[1]), v))
        self._chunks[-1] = set_row(self._chunks[-1], row, self._storage.narrow(v))
        self._size += 1

    def remove_from(self, w: Array, work: Vectors) -> Array:
        """`w` without its components along the basis: Gram-Schmidt, classical in a group of rows, modified between."""
        group = min(_ROWS, max(1, _CACHED // w.shape[1])) if work.on_host else _ROWS
        for i, chunk in enumerate(self._chunks):
            used = _ROWS if has_one_shape(w) else min(_ROWS, self._size - i * _ROWS)
            for low in range(0, used, group):
                rows = chunk if group >= used == chunk.shape[1] else chunk[:, low : min(low + group, used), :]
                w = work.project(self._storage.widen(rows, w), w)
        return w

    def start(self, like: Array) -> Array:
        """The vectors that the runs began with."""
        return namespace(like).asarray(self._storage.widen(self._chunks[0][:, 0, :], like), copy=True)

    def array(self) -> Array:
        """All vectors as they are stored: (k, size, n)."""
        return namespace(self._chunks[0]).concat(self._chunks, axis=1)[:, : self._size, :]

    @property
    def size(self) -> int:
        """The number of vectors per probe."""
        return self._size
