"""Floor 2: where the start vectors of a measure come from: a sampler and a seed, or an array of them."""

import warnings
from typing import Any

import numpy as np

from slq._arrays import Array, is_array, is_complex, namespace, norm, real, recurrence_like, to_host
from slq._probes import Sampler, gaussian, rademacher, seed_of, sphere, steinhaus
from slq._products import LinearOperator, inner, put
from slq.errors import DependentProbesWarning, RequestError, ShapeError

__all__ = ["SAMPLERS", "Source", "count", "source_of"]

SAMPLERS = {sampler.__name__: sampler for sampler in (sphere, rademacher, gaussian, steinhaus)}
_UNIT_ENTRIES = (sphere, rademacher, steinhaus)  # probes with ‖x‖² = n exactly
_SAME = 1e-6  # 1 − |cos| between probes of more than _FEW coordinates, at which they are one
_FEW = 8


def count(name: str, value: Any, least: int = 1) -> int:
    """`value` if it is an integer >= `least`, else an error that names the argument."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise RequestError(f"{name}= expects an integer >= {least}, got {value!r}")
    return int(value)


class Source:
    """Blocks of start vectors.

    Attributes
    ----------
    num_probes : int
    sampler : str
        The name under which the measure remembers the distribution.
    seed : int or None
    probe_ids : range or None
    is_complex : bool
        Whether the vectors are complex whatever the operator is.
    """

    def __init__(self, num_probes: int, sampler: str, seed: int | None = None, ids: range | None = None) -> None:
        self.num_probes = num_probes
        self.sampler = sampler
        self.seed = seed
        self.probe_ids = ids

    is_complex = False

    def squared_norms(self, n: int, lengths: Array) -> np.ndarray:
        """‖x‖² of probes of these lengths."""
        del n
        return to_host(lengths).astype(np.float64).reshape(-1) ** 2


class _Given(Source):
    """The rows of an array."""

    def __init__(self, vectors: Array) -> None:
        if vectors.ndim not in (1, 2) or 0 in vectors.shape:
            raise ShapeError(
                f"probes= expects a (k, n) array, each row a start vector, got shape {tuple(vectors.shape)}"
            )
        self._rows = vectors if vectors.ndim == 2 else vectors[None, ...]
        super().__init__(int(self._rows.shape[0]), "fixed")
        self.is_complex = is_complex(vectors)

    def draw(self, A: LinearOperator, low: int, high: int) -> Array:  # noqa: ARG002 - `start` checks their place
        """The vectors number low to high."""
        return self._rows[low:high, ...]


class _Drawn(Source):
    """What a sampler makes of a seed and probe numbers; drawn on the host if the operator places its vectors."""

    def __init__(self, sampler: Sampler, seed: int, ids: range) -> None:
        super().__init__(len(ids), getattr(sampler, "__name__", "custom"), seed, ids)
        self._ids, self._seed = ids, seed
        self._sample = sampler
        self.is_complex = sampler is steinhaus

    def draw(self, A: LinearOperator, low: int, high: int) -> Array:
        """The vectors number low to high, placed for `A`."""
        like, index, n = recurrence_like(A.like), getattr(A, "index", None), A.shape[0]
        ids, seed = self._ids[low:high], self._seed
        if hasattr(A, "put"):
            host_like = np.empty(0, dtype=to_host(like).dtype)
            return put(A, self._sample(seed, ids, index, n, host_like), like)
        block = self._sample(seed, ids, index, n, like)
        if self._sample not in SAMPLERS.values() and is_array(block):
            rows = block.shape[0] if block.ndim == 2 else 1
            if rows != len(ids):
                raise ShapeError(
                    f"the sampler returned {rows} vectors for {len(ids)} numbers in probe_ids; "
                    "it must return a (k, n) block with a row for each"
                )
            self._judge(A, block)
        return block

    def squared_norms(self, n: int, lengths: Array) -> np.ndarray:
        if self._sample in _UNIT_ENTRIES:
            return np.full(lengths.shape[0], float(n))
        return super().squared_norms(n, lengths)

    def _judge(self, A: LinearOperator, block: Array) -> None:
        """Warn, and give up error bars, if a user's sampler repeats itself or is not of mean square one."""
        xp, dot, k, n = namespace(block), inner(A), block.shape[0], A.shape[0]
        with np.errstate(invalid="ignore", divide="ignore"):  # of zeros and NaN, which `start` refuses
            lengths = norm(dot(block, block))
            cosines = [dot(block / lengths[:, None], (block[i, :] / lengths[i])[None, :]) for i in range(k)]
        seen = to_host(xp.stack([lengths, *(xp.astype(xp.abs(row), real(lengths).dtype) for row in cosines)]))
        size, alike = seen[0].astype(float), np.abs(seen[1:]) - np.eye(k)
        if not (np.isfinite(size) & (size > 0)).all():
            return
        spread = 6 * np.sqrt(2 / (n * k))  # of the mean of k χ² variables over n, six standard deviations
        reason = ""
        if n > _FEW and k > 1 and alike.max() > 1 - _SAME:
            i, j = np.unravel_index(alike.argmax(), alike.shape)
            reason = f"probes {min(i, j)} and {max(i, j)} are the same"
        elif abs(np.mean(size**2) / n - 1) > spread + 1e-3:
            reason = f"their mean square is {np.mean(size**2) / n:.3g}, not 1"
        if reason:
            self.sampler = "dependent"
            warnings.warn(
                f"{reason}: estimates get no error bar; a sampler must return independent vectors with E[x xᴴ] = I, "
                "each a function of its number in probe_ids",
                DependentProbesWarning,
                stacklevel=6,
            )


def source_of(probes: Sampler | Array, num_probes: Any, rng: Any, first_probe: Any) -> "_Given | _Drawn":
    """The source that the arguments of `spectral_measure` describe.

    Raises
    ------
    RequestError
        If one of them is out of range.
    """
    if is_array(probes):
        return _Given(probes)
    if not callable(probes):
        raise RequestError(
            f"probes= expects a sampler such as slq.sphere, or a (k, n) array, got {type(probes).__name__}"
        )
    low = count("first_probe", first_probe, least=0)
    return _Drawn(probes, seed_of(rng), range(low, low + count("num_probes", num_probes)))
