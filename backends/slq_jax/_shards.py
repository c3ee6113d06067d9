"""Which entries of a flat vector of sharded parameters each device holds, and the way there from the host.

A vector is an array of length D·c over the D devices of the model's mesh axes; each device holds c entries: of every
leaf its shard, or, where devices hold copies of a shard, its share of that. Shares that do not come out even are filled
with zeros. So vectors are sharded as finely as the mesh allows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from slq_jax._explicit import auto, has_explicit_axes
from slq_jax._layout import Flat

__all__ = ["Shards", "names_of"]


@dataclass(frozen=True)
class Shards(Flat):
    """The order of the entries of vectors that belong to parameters on a mesh.

    Attributes
    ----------
    specs : tuple of PartitionSpec
        Of the leaves, with an entry for each dimension.
    probe_axis : str or None
        The mesh axis over which the rows of blocks are sharded.
    """

    mesh: Mesh
    specs: tuple[P, ...]
    probe_axis: str | None

    @property
    def axes(self) -> tuple[str, ...]:
        """The mesh axes over which vectors are sharded."""
        return tuple(name for name in self.mesh.axis_names if name != self.probe_axis)

    @property
    def sharding(self) -> NamedSharding:
        """Of vectors."""
        return NamedSharding(self.mesh, P(self.axes))

    @property
    def size(self) -> int:
        """The length of a vector, with what fills the shares up."""
        return self.num_shards * sum(share for _, _, share in self.parts)

    @property
    def num_coordinates(self) -> int:
        """The number of parameters."""
        return super().size

    @property
    def num_shards(self) -> int:
        """Into how many parts a vector is cut."""
        return self.number(self.axes)

    @cached_property
    def parts(self) -> list[tuple[tuple[str, ...], int, int]]:
        """For each leaf: the axes over which its shards are copied, the size of a shard, and a device's share of it."""
        found = []
        for shape, spec in zip(self.shapes, self.specs, strict=True):
            used = [name for names in names_of(spec) for name in names]
            copies = tuple(name for name in self.axes if name not in used)
            size = int(np.prod(shape)) // self.number(used)
            found.append((copies, size, -(-size // self.number(copies))))
        return found

    @property
    def num_memories(self) -> int:
        """Over how many memories of this process a vector is spread: one, if they are the host's."""
        devices = self.mesh.local_devices
        rows = 1 if self.probe_axis is None else self.mesh.shape[self.probe_axis]
        return 1 if devices[0].platform == "cpu" else max(1, len(devices) // rows)

    def row_axis(self, rows: int) -> str | None:
        """The mesh axis over which a block of so many rows is sharded: none if it does not come out even."""
        return None if self.probe_axis is None or rows % self.mesh.shape[self.probe_axis] else self.probe_axis

    def number(self, names: Iterable[str]) -> int:
        """How many devices there are along mesh axes together."""
        return int(np.prod(self._sizes(names)))

    def place(self, x: Any) -> jax.Array:
        """An array on all devices; one that is sharded already is left as it is."""
        if isinstance(x, jax.Array) and len(x.sharding.device_set) > 1:
            if not has_explicit_axes(x):
                return x
            explicit: Any = x.sharding
            return jax.device_put(x, NamedSharding(auto(explicit.mesh), explicit.spec))
        return jax.device_put(x, NamedSharding(self.mesh, P()))

    def place_leaf(self, i: int, x: Any) -> jax.Array:
        """An array sharded as the leaf number i."""
        return jax.device_put(x, NamedSharding(self.mesh, self.specs[i]))

    @cached_property
    def index(self) -> Any:
        """Which coordinates this process holds, increasing."""
        if jax.process_count() == 1:
            return slice(0, self.num_coordinates)
        shards = {self._shard_of(device) for device in self.mesh.local_devices}
        return np.unique(np.concatenate([(c := self.coordinates(s))[c >= 0] for s in sorted(shards)]))

    def put(self, block: np.ndarray) -> jax.Array:
        """A block (k, len(index)), drawn on the host, on the devices."""
        length = self.size // self.num_shards
        index = self.index

        def part(where: Any) -> np.ndarray:
            coordinates = self.coordinates((where[1].start or 0) // length)
            columns = coordinates if isinstance(index, slice) else np.searchsorted(index, coordinates)
            rows = block[where[0]][:, np.where(coordinates < 0, 0, columns)]
            return np.where(coordinates < 0, 0, rows).astype(self.dtype)

        sharding = NamedSharding(self.mesh, P(self.row_axis(len(block)), self.axes))
        return jax.make_array_from_callback((len(block), self.size), sharding, part)

    def take(self, vectors: jax.Array) -> np.ndarray:
        """The inverse of `put` where one process holds everything."""
        length = self.size // self.num_shards
        whole, found = np.asarray(vectors), np.empty((len(vectors), self.num_coordinates), self.dtype)
        for shard in range(self.num_shards):
            coordinates = self.coordinates(shard)
            found[:, coordinates[coordinates >= 0]] = whole[:, shard * length :][:, :length][:, coordinates >= 0]
        return found

    def coordinates(self, shard: int) -> np.ndarray:
        """Which coordinates a shard of a vector holds; -1 where it is filled up."""
        position = dict(zip(self.axes, np.unravel_index(shard, self._sizes(self.axes)), strict=True))
        found, offset = [], 0
        for shape, spec, (copies, size, share) in zip(self.shapes, self.specs, self.parts, strict=True):
            slices = []
            for length, names in zip(shape, names_of(spec), strict=True):
                sizes = self._sizes(names)
                part = length // self.number(names)
                at = int(np.ravel_multi_index([position[a] for a in names], sizes)) if names else 0
                slices.append(np.arange(at * part, (at + 1) * part))
            flat = np.ravel_multi_index(np.ix_(*slices), shape).reshape(-1) if shape else np.zeros(1, np.int64)
            filled = np.full(share * self.number(copies), -1, np.int64)
            filled[:size] = flat + offset
            at = int(np.ravel_multi_index([position[a] for a in copies], self._sizes(copies))) if copies else 0
            found.append(filled[at * share : (at + 1) * share])
            offset += int(np.prod(shape))
        return np.concatenate(found)

    def has(self, x: Any) -> bool:
        """Whether vectors (..., size) are on the mesh, and so in its order."""
        return isinstance(x, jax.Array) and x.shape[-1] == self.size and x.devices() == set(self.mesh.devices.flat)

    def _shard_of(self, device: Any) -> int:
        position = dict(zip(self.mesh.axis_names, np.argwhere(self.mesh.devices == device)[0], strict=True))
        return int(np.ravel_multi_index([position[a] for a in self.axes], self._sizes(self.axes)))

    def _sizes(self, names: Iterable[str]) -> list[int]:
        return [self.mesh.shape[name] for name in names]


def names_of(spec: P) -> list[tuple[str, ...]]:
    """The mesh axes of each dimension."""
    return [() if s is None else (s,) if isinstance(s, str) else tuple(s) for s in spec]
