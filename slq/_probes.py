"""Floor 1: random probe vectors. Entry c of probe i of seed s is a function of (s, i, c) and nothing else.

Each probe has a Philox stream (Salmon et al. 2011) of its own, keyed by (s, i) through NumPy's `SeedSequence`. A Philox
stream can be entered at any position, so entry c needs no entry before it: the same probes come out whatever the batch
size, the number of processes or the array library. Only raw words are taken from NumPy, whose streams of raw words are
stable between versions; what is made of them is written below.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.random import Philox, SeedSequence

from slq._arrays import Array, from_host, is_complex, namespace
from slq.errors import DtypeError, RequestError

__all__ = ["Sampler", "gaussian", "rademacher", "seed_of", "sphere", "steinhaus"]

Sampler: TypeAlias = Callable[[int, Sequence[int], Any, int, Array], Array]

_BLOCK = 1 << 14  # words per pass: what one pass touches stays in the second-level cache
_WORDS_PER_COUNTER = 4  # one Philox4x64 counter value makes four 64-bit words


def seed_of(rng: object) -> int:
    """The integer seed that `rng` stands for: None (fresh entropy), an integer >= 0, or a Generator (drawn from it)."""
    if rng is None:
        return int(SeedSequence().entropy)  # type: ignore[arg-type]
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**63))
    if isinstance(rng, int | np.integer) and not isinstance(rng, bool):
        if rng < 0:
            raise RequestError(f"rng= expects an integer >= 0, got {rng}; use another seed")
        return int(rng)
    raise RequestError(f"rng= expects None, an integer >= 0 or a numpy Generator, got {type(rng).__name__}")


def sphere(seed: int, probe_ids: Sequence[int], index: Any, n: int, like: Array) -> Array:
    """Vectors uniform on the sphere of radius √n; complex Gaussian directions for a complex `like`.

    The default: rotation invariant, with a smaller variance than Gaussian vectors and an error formula that works from
    a single probe. `gaussian` documents the parameters.
    """
    rows = _gaussian_rows(seed, probe_ids, index, n, like)
    whole = isinstance(index, slice) and index == slice(0, n)
    for row, probe in zip(rows, probe_ids, strict=True):
        # A part of a probe is scaled by the norm of the whole, which every process can draw for itself.
        squared = _squared(row) if whole or index is None else _squared_norm(seed, probe, n, like)
        row *= np.sqrt(n / squared)
    return from_host(rows, like)


def gaussian(seed: int, probe_ids: Sequence[int], index: Any, n: int, like: Array) -> Array:
    """Standard normal vectors; complex with E|x|² = 1 for a complex `like`.

    Parameters
    ----------
    seed : int
        Any integer >= 0.
    probe_ids : sequence of int
        Which probes of the seed: the rows of the result.
    index : slice, (n_local,) array of int, or None
        Which coordinates; None means all.
    n : int
        The dimension of the whole probe.
    like : array
        Gives the library, dtype and device of the result.

    Returns
    -------
    (len(probe_ids), n_local) array
    """
    return from_host(_gaussian_rows(seed, probe_ids, index, n, like), like)


def rademacher(seed: int, probe_ids: Sequence[int], index: Any, n: int, like: Array) -> Array:
    """Vectors of independent signs ±1, bit for bit the same everywhere. `gaussian` documents the parameters."""
    rows = _blank(probe_ids, index, n, like)
    for row, probe in zip(rows, probe_ids, strict=True):
        for at, coordinates in _pieces(index, n):
            words, which = _words(seed, probe, coordinates, 64)
            bits = np.unpackbits(words.astype("<u8", copy=False).view(np.uint8), bitorder="little")
            if isinstance(at, slice):  # consecutive coordinates: a slice is read faster than single places
                first = 64 * int(which[0]) + int(coordinates[0]) % 64
                row[at] = 2.0 * bits[first : first + coordinates.size] - 1.0
            else:
                row[at] = 2.0 * bits[64 * which + coordinates % 64] - 1.0
    return from_host(rows, like)


def steinhaus(seed: int, probe_ids: Sequence[int], index: Any, n: int, like: Array) -> Array:
    """Vectors of independent phases exp(iφ), φ uniform. `gaussian` documents the parameters.

    Raises
    ------
    DtypeError
        If `like` is real.
    """
    rows = _blank(probe_ids, index, n, like)
    if not np.iscomplexobj(rows):
        raise DtypeError(
            f"steinhaus probes are complex, but the operator has dtype {like.dtype}; use slq.sphere or slq.rademacher, "
            "or give a complex `like=`"
        )
    for row, probe in zip(rows, probe_ids, strict=True):
        for at, coordinates in _pieces(index, n):
            words, which = _words(seed, probe, coordinates, 1)
            row[at] = np.exp(2j * np.pi * _uniform(words >> np.uint64(32)))[which]
    return from_host(rows, like)


def _gaussian_rows(seed: int, probe_ids: Sequence[int], index: Any, n: int, like: Array) -> np.ndarray:
    rows = _blank(probe_ids, index, n, like)
    for row, probe in zip(rows, probe_ids, strict=True):
        for at, coordinates in _pieces(index, n):
            row[at] = _normals(seed, probe, coordinates, np.iscomplexobj(rows))
    return rows


def _squared_norm(seed: int, probe: int, n: int, like: Array) -> float:
    is_complex = np.iscomplexobj(_blank([probe], slice(0, 0), n, like))
    return sum(_squared(_normals(seed, probe, coordinates, is_complex)) for _, coordinates in _pieces(None, n))


def _squared(x: np.ndarray) -> float:
    return float(np.sum((x * x.conj()).real, dtype=np.float64))


def _normals(seed: int, probe: int, coordinates: np.ndarray, is_complex: bool) -> np.ndarray:
    """Box and Muller 1958: one word makes two independent normals, or one complex one."""
    words, which = _words(seed, probe, coordinates, 1 if is_complex else 2)
    radius = np.sqrt(-2.0 * np.log(_uniform(words >> np.uint64(32))))
    angle = 2 * np.pi * _uniform(words & np.uint64(0xFFFFFFFF))
    if is_complex:
        return (np.sqrt(0.5) * radius * np.exp(1j * angle))[which]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs[which, coordinates % 2]


def _uniform(half_words: np.ndarray) -> np.ndarray:
    """32-bit integers as numbers in the open interval (0, 1)."""
    return (half_words.astype(np.float64) + 0.5) * 2.0**-32


def _words(seed: int, probe: int, coordinates: np.ndarray, per_word: int) -> tuple[np.ndarray, np.ndarray]:
    """The words that hold `coordinates`, `per_word` in each, and the position of each coordinate's word among them."""
    position = coordinates // per_word
    first = int(position[0]) // _WORDS_PER_COUNTER
    key = SeedSequence(seed, spawn_key=(probe,)).generate_state(2, np.uint64)
    stream = Philox(key=key, counter=first)
    which = position - first * _WORDS_PER_COUNTER
    return stream.random_raw(int(which[-1]) + 1), which


def _pieces(index: Any, n: int) -> Iterator[tuple[slice | np.ndarray, np.ndarray]]:
    """Pairs (where in the row, which increasing and nearby coordinates), each piece small enough for the cache."""
    if index is None:
        index = slice(0, n)
    if isinstance(index, slice):
        start, stop, step = index.indices(n)
        if step == 1:
            for low in range(start, stop, _BLOCK):
                high = min(low + _BLOCK, stop)
                yield slice(low - start, high - start), np.arange(low, high)
            return
        index = np.arange(start, stop, step)
    order = np.argsort(index, kind="stable")
    ordered = np.asarray(index)[order]
    cuts = np.flatnonzero(np.diff(ordered // _BLOCK)) + 1
    for part in np.split(np.arange(len(ordered)), cuts):
        if len(part):
            yield order[part], ordered[part]


def _blank(probe_ids: Sequence[int], index: Any, n: int, like: Array) -> np.ndarray:
    """Uninitialised host rows, in double precision or, for single precision and below, in single."""
    if index is None:
        index = slice(0, n)
    length = len(range(n)[index]) if isinstance(index, slice) else len(index)
    xp = namespace(like)
    dtypes = (np.complex64, np.complex128) if is_complex(like) else (np.float32, np.float64)
    return np.empty((len(probe_ids), length), dtype=dtypes[xp.finfo(like.dtype).bits > 32])
