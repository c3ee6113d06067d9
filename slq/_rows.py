"""Floor 2: orthonormal vectors on the device that are removed from others, rotated among themselves, and replaced."""

from typing import Any

import numpy as np

from slq._arrays import Array, from_host, fused, has_one_shape, is_complex, matmul, namespace, set_row

__all__ = ["Rows"]

_ROWS = 16  # vectors per chunk, as in `slq._basis`: memory grows with the run, and JAX compiles for one shape only
_WIDTH = 1 << 14  # coordinates that are rotated together at least; else a sixteenth of them, to bound what it takes


class Rows:
    """At most `capacity` orthonormal vectors, in chunks (1, rows, n).

    Attributes
    ----------
    size : int
        The number of vectors.
    """

    def __init__(self, capacity: int, vecdot: Any = None) -> None:
        self.size = 0
        self._capacity = capacity
        self._vecdot = vecdot
        self._chunks: list[Array] = []

    def append(self, v: Array) -> None:
        """Keep a vector (1, n)."""
        chunk, row = divmod(self.size, _ROWS)
        if chunk == len(self._chunks):
            self._chunks.append(self._empty(v, min(_ROWS, self._capacity - self.size)))
        self._chunks[chunk] = set_row(self._chunks[chunk], row, v)
        self.size += 1

    def _empty(self, like: Array, rows: int) -> Array:
        xp = namespace(like)
        if not has_one_shape(like):
            return xp.empty((1, rows, like.shape[-1]), dtype=like.dtype, device=like.device)
        # Zeros, as unused rows take part in the work; a product with a vector is sharded like it.
        return like[:, None, :] * xp.zeros((1, _ROWS, 1), dtype=like.dtype)

    def _used(self) -> list[Array]:
        """The chunks that hold vectors; but for JAX, no more than these."""
        chunks = self._chunks[: -(-self.size // _ROWS)]
        rest = self.size % _ROWS
        if rest and not has_one_shape(chunks[-1]) and rest < chunks[-1].shape[1]:
            chunks = [*chunks[:-1], chunks[-1][:, :rest, :]]
        return chunks

    def remove_from(self, w: Array) -> tuple[Array, list[Array]]:
        """`w` (1, n) after one Gram-Schmidt pass, and its components: (1, r) for each chunk, with zeros behind."""
        found = []
        for rows in self._used():
            if self._vecdot is None:
                w, components = _remove(w, rows)
            else:
                components = self._vecdot(rows, w[:, None, :])
                w = _subtract(w, components, rows)
            found.append(components)
        return w, found

    def combine(self, matrix: np.ndarray) -> Array:
        """The combinations Σᵢ matrix[i, j] row i: (q, n)."""
        if has_one_shape(self._chunks[0]):
            parts = self._blocks(matrix)
            return namespace(parts[0]).concat([part[0, ...] for part in parts], axis=0)[: matrix.shape[1], :]
        factors = from_host(np.ascontiguousarray(matrix.T), self._chunks[0])
        return matmul(factors, namespace(factors).concat([rows[0, ...] for rows in self._used()], axis=0))

    def rotate(self, matrix: np.ndarray) -> None:
        """Let the combinations of `combine` take the place of the vectors; there are no more of them than before."""
        if has_one_shape(self._chunks[0]):
            self._chunks = self._blocks(matrix)
        else:
            self._rotate_in_place(matrix)
        self.size = matrix.shape[1]

    def _rotate_in_place(self, matrix: np.ndarray) -> None:
        used, n = self._used(), self._chunks[0].shape[-1]
        factors = from_host(np.ascontiguousarray(matrix.T), used[0])
        xp, width = namespace(factors), max(_WIDTH, n // 16)
        for low in range(0, n, width):
            at = slice(low, min(low + width, n))
            new = matmul(factors, xp.concat([rows[0, :, at] for rows in used], axis=0))
            for i, first in enumerate(range(0, matrix.shape[1], _ROWS)):
                some = new[first : min(first + _ROWS, new.shape[0]), :]
                used[i][0, : some.shape[0], at] = some

    def _blocks(self, matrix: np.ndarray) -> list[Array]:
        """The combinations in new chunks, by products of one shape."""
        used = self._used()
        many = -(-matrix.shape[1] // _ROWS)
        padded = np.zeros((_ROWS * len(used), _ROWS * many))
        padded[: matrix.shape[0], : matrix.shape[1]] = matrix
        made = []
        for j in range(many):
            total = None
            for i, rows in enumerate(used):
                block = padded[_ROWS * i : _ROWS * (i + 1), _ROWS * j : _ROWS * (j + 1)].T
                part = _combine(rows, namespace(rows).asarray(block, dtype=rows.dtype))
                total = part if total is None else total + part
            made.append(total)
        return made


@fused
def _remove(w: Array, rows: Array) -> tuple[Array, Array]:
    """Without the axis of length one: NumPy's batched product of single rows is four times slower."""
    xp = namespace(w)
    conj = xp.conj if is_complex(w) else (lambda x: x)  # of the vector, never of the rows
    components = conj(matmul(conj(w), rows[0, ...].T))
    return _subtract(w, components, rows), components


@fused
def _subtract(w: Array, components: Array, rows: Array) -> Array:
    xp = namespace(w)
    return w - matmul(xp.astype(components, w.dtype), rows[0, ...])


@fused
def _combine(rows: Array, factors: Array) -> Array:
    return matmul(factors, rows)
