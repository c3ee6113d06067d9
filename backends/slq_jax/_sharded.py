"""Flat vectors of sharded parameters: each device holds the entries of its own shards.

A vector is an array of length D·c over the D devices of the model's mesh axes; each device holds c entries: of every
leaf its shard, or, where devices hold copies of a shard, its share of that. Shares that do not come out even are filled
with zeros. So vectors are sharded as finely as the mesh allows, and made into trees, and back, on each device alone;
only copies of shards are gathered, which the parameters themselves take as well.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from slq.errors import PlacementError, RequestError
from slq_jax._explicit import auto, has_explicit_axes
from slq_jax._layout import Flat, Leaves, Push

__all__ = ["Sharded", "layout_of"]


@dataclass(frozen=True)
class Sharded(Flat):
    """The layout of vectors that belong to parameters with a `NamedSharding`; `probe_axis` shards rows of blocks."""

    mesh: Mesh
    specs: tuple[P, ...]  # of the leaves, with an entry for each dimension
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
        return self._num_shards * sum(share for _, _, share in self._parts)

    def row_axis(self, rows: int) -> str | None:
        """The mesh axis over which a block of so many rows is sharded: none if it does not come out even."""
        return None if self.probe_axis is None or rows % self.mesh.shape[self.probe_axis] else self.probe_axis

    def zeros(self, *lead: int) -> jax.Array:
        """Vectors of zeros."""
        return _zeros(self, lead)

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

    def split(self, v: jax.Array) -> Leaves:
        """A vector as leaves, sharded as the parameters are."""
        return tuple(leaf[0] for leaf in _split(self, _rows(self, v), None))

    def join(self, leaves: Iterable[jax.Array]) -> jax.Array:
        """Leaves as a vector."""
        return _join(self, tuple(leaf[None] for leaf in leaves), None)[0]

    def by_rows(self, product: Callable[[jax.Array], jax.Array], x: Any) -> jax.Array:
        """The product of vectors in this layout; or of others, in the order of the leaves, which are converted."""
        several = isinstance(x, jax.Array) and not x.sharding.is_fully_replicated
        if several and x.shape[-1] == self.size and self._has(x):
            return product(x) if x.ndim == 2 else product(_rows(self, x))[0]
        if x.shape[-1] != self.num_coordinates or jax.process_count() > 1:
            raise PlacementError(
                "the product of sharded parameters takes vectors from `put` (rows on the host) or `ravel` (trees), "
                f"got one on {getattr(x, 'sharding', 'the host')}"
            )
        rows = np.asarray(x, self.dtype).reshape(-1, x.shape[-1])
        return jnp.asarray(self.take(product(self.put(rows))).reshape(x.shape))

    def map_rows(self, push: Push, vectors: jax.Array, together: int) -> jax.Array:
        """The vectors that `push` makes of the rows of `vectors`, so many at once, side by side over the probe axis."""
        probe = self.row_axis(len(vectors))

        def one(tangents: Leaves) -> Leaves:
            return tuple(map(self._constrained, push(tangents), self.specs))

        def rows(tangents: Leaves) -> Leaves:
            return lax.map(one, tangents) if together == 1 else jax.vmap(one)(tangents)

        tangents = self._split(vectors, probe)
        if probe is None:
            return self._join(rows(tangents), None)
        p = self.mesh.shape[probe]
        folded = tuple(x.reshape(p, -1, *x.shape[1:]) for x in tangents)
        products = jax.vmap(rows, spmd_axis_name=probe)(folded)
        return self._join(tuple(x.reshape(-1, *x.shape[2:]) for x in products), probe)

    # What a run does with vectors, on each device with its part.

    def start(self, place: Callable[[jax.Array], tuple[Any, ...]], V: jax.Array, blocks: int) -> tuple[Any, ...]:
        """The arrays that `place` makes of unit vectors: two of their shape, and blocks of the basis."""
        probe = self.row_axis(len(V))
        block = P(probe, self.axes)
        return self._manual(place, (block,), (block, block, *[P(probe, None, self.axes)] * blocks))(V)

    def step(self, work: Callable[..., Any], y: jax.Array, step: Any, state: Any) -> Any:
        """One step of a run."""
        probe = self.row_axis(len(y))
        block, k, blocks = P(probe, self.axes), P(probe), (P(probe, None, self.axes),) * len(state.blocks)
        specs = type(state)(block, block, k, k, P(), P(), P(), blocks)

        def gather(x: jax.Array) -> jax.Array:
            return x if probe is None else lax.all_gather(x, probe, tiled=True)

        body = partial(work, reduce=lambda x: lax.psum(x, self.axes), gather=gather)
        return self._manual(body, (block, P(), specs), specs)(y, step, state)

    def vecdot(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The inner products of rows, on all devices."""
        return _vecdot(self, x, y)

    # Between the host and the devices.

    @cached_property
    def index(self) -> Any:
        """Which coordinates this process holds, increasing."""
        if jax.process_count() == 1:
            return slice(0, self.num_coordinates)
        shards = {self._shard_of(device) for device in self.mesh.local_devices}
        return np.unique(np.concatenate([(c := self.coordinates(s))[c >= 0] for s in sorted(shards)]))

    @property
    def num_coordinates(self) -> int:
        """The number of parameters."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def put(self, block: np.ndarray) -> jax.Array:
        """A block (k, len(index)), drawn on the host, on the devices."""
        length = self.size // self._num_shards
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
        length = self.size // self._num_shards
        whole, found = np.asarray(vectors), np.empty((len(vectors), self.num_coordinates), self.dtype)
        for shard in range(self._num_shards):
            coordinates = self.coordinates(shard)
            found[:, coordinates[coordinates >= 0]] = whole[:, shard * length :][:, :length][:, coordinates >= 0]
        return found

    def coordinates(self, shard: int) -> np.ndarray:
        """Which coordinates a shard of a vector holds; -1 where it is filled up."""
        position = dict(zip(self.axes, np.unravel_index(shard, self._sizes(self.axes)), strict=True))
        found, offset = [], 0
        for shape, spec, (copies, size, share) in zip(self.shapes, self.specs, self._parts, strict=True):
            slices = []
            for length, names in zip(shape, _names(spec), strict=True):
                sizes = self._sizes(names)
                part = length // int(np.prod(sizes))
                at = int(np.ravel_multi_index([position[a] for a in names], sizes)) if names else 0
                slices.append(np.arange(at * part, (at + 1) * part))
            flat = np.ravel_multi_index(np.ix_(*slices), shape).reshape(-1) if shape else np.zeros(1, np.int64)
            filled = np.full(share * int(np.prod(self._sizes(copies))), -1, np.int64)
            filled[:size] = flat + offset
            at = int(np.ravel_multi_index([position[a] for a in copies], self._sizes(copies))) if copies else 0
            found.append(filled[at * share : (at + 1) * share])
            offset += int(np.prod(shape))
        return np.concatenate(found)

    def _has(self, x: jax.Array) -> bool:
        """Whether a vector, or rows of them, are in this layout."""
        if x.ndim > 2:
            return False
        sharding = self.sharding if x.ndim == 1 else NamedSharding(self.mesh, P(self.row_axis(len(x)), self.axes))
        return x.sharding.is_equivalent_to(sharding, x.ndim)

    def _shard_of(self, device: Any) -> int:
        position = dict(zip(self.mesh.axis_names, np.argwhere(self.mesh.devices == device)[0], strict=True))
        return int(np.ravel_multi_index([position[a] for a in self.axes], self._sizes(self.axes)))

    @property
    def num_memories(self) -> int:
        """Over how many memories of this process a vector is spread: one, if they are the host's."""
        devices = self.mesh.local_devices
        rows = 1 if self.probe_axis is None else self.mesh.shape[self.probe_axis]
        return 1 if devices[0].platform == "cpu" else max(1, len(devices) // rows)

    @property
    def _num_shards(self) -> int:
        return int(np.prod(self._sizes(self.axes)))

    def _sizes(self, names: Iterable[str]) -> list[int]:
        return [self.mesh.shape[name] for name in names]

    @cached_property
    def _parts(self) -> list[tuple[tuple[str, ...], int, int]]:
        """For each leaf: the axes over which its shards are copied, the size of a shard, and a device's share of it."""
        found = []
        for shape, spec in zip(self.shapes, self.specs, strict=True):
            used = [name for names in _names(spec) for name in names]
            copies = tuple(name for name in self.axes if name not in used)
            size = int(np.prod(shape)) // int(np.prod(self._sizes(used)))
            found.append((copies, size, -(-size // int(np.prod(self._sizes(copies))))))
        return found

    def _split(self, vectors: jax.Array, probe: str | None) -> Leaves:
        """Rows as leaves with a leading axis."""

        def body(rows: jax.Array) -> Leaves:
            k, leaves, at = rows.shape[0], [], 0
            for (copies, size, share), shape, spec, dtype in zip(
                self._parts, self.shapes, self.specs, self.dtypes, strict=True
            ):
                part, at = rows[:, at : at + share], at + share
                if copies:
                    part = lax.all_gather(part, copies, axis=1, tiled=True)[:, :size]
                local = [n // int(np.prod(self._sizes(names))) for n, names in zip(shape, _names(spec), strict=True)]
                leaves.append(part.reshape(k, *local).astype(dtype))
            return tuple(leaves)

        return self._manual(body, (P(probe, self.axes),), tuple(P(probe, *spec) for spec in self.specs))(vectors)

    def _join(self, leaves: Leaves, probe: str | None) -> jax.Array:
        """The inverse of `_split`."""

        def body(*leaves: jax.Array) -> jax.Array:
            parts = []
            for leaf, (copies, size, share) in zip(leaves, self._parts, strict=True):
                flat = leaf.reshape(leaf.shape[0], size).astype(self.dtype)
                if copies:
                    number = int(np.prod(self._sizes(copies)))
                    flat = jnp.pad(flat, ((0, 0), (0, number * share - size)))
                    flat = lax.dynamic_slice_in_dim(flat, lax.axis_index(copies) * share, share, 1)
                parts.append(flat)
            return jnp.concatenate(parts, axis=1)

        return self._manual(body, tuple(P(probe, *spec) for spec in self.specs), P(probe, self.axes))(*leaves)

    def _manual(self, body: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        # Copies come out of gathering, which the checker of shard_map does not know for copies.
        return jax.shard_map(body, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def _constrained(self, x: jax.Array, spec: P) -> jax.Array:
        """`x` sharded as its parameter."""
        return lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))


@partial(jax.jit, static_argnums=(0, 2))
def _split(layout: Sharded, vectors: jax.Array, probe: str | None) -> Leaves:
    return layout._split(vectors, probe)


@partial(jax.jit, static_argnums=(0, 2))
def _join(layout: Sharded, leaves: Leaves, probe: str | None) -> jax.Array:
    return layout._join(leaves, probe)


@partial(jax.jit, static_argnums=(0, 1))
def _zeros(layout: Sharded, lead: tuple[int, ...]) -> jax.Array:
    share = layout.size // layout._num_shards
    out = P(*[None] * len(lead), layout.axes)
    return layout._manual(lambda: jnp.zeros((*lead, share), layout.dtype), (), out)()


@partial(jax.jit, static_argnums=0)
def _vecdot(layout: Sharded, x: jax.Array, y: jax.Array) -> jax.Array:
    x, y = jnp.broadcast_arrays(x, y)
    lead = [None] * (x.ndim - 2)
    out = P(layout.row_axis(x.shape[0]), *lead)
    spec = P(*out, layout.axes)

    def body(x: jax.Array, y: jax.Array) -> jax.Array:
        return lax.psum(jnp.vecdot(x, y), layout.axes)

    return layout._manual(body, (spec, spec), out)(x, y)


def _rows(layout: Sharded, v: jax.Array) -> jax.Array:
    """A vector as a block of one, sharded over its entries alone."""
    return jax.device_put(v[None], NamedSharding(layout.mesh, P(None, layout.axes)))


def _names(spec: P) -> list[tuple[str, ...]]:
    """The mesh axes of each dimension."""
    return [() if s is None else (s,) if isinstance(s, str) else tuple(s) for s in spec]


def layout_of(named: Mapping[str, jax.Array], dtype: Any, probe_axis: str | None) -> Flat:
    """The layout of vectors that belong to parameters.

    Raises
    ------
    PlacementError
        If the parameters are sharded otherwise than over one mesh.
    RequestError
        If the mesh has no axis `probe_axis`, or a leaf is sharded over it.
    """
    fields = tuple(x.shape for x in named.values()), tuple(jnp.dtype(x.dtype) for x in named.values()), dtype
    several = {name: x.sharding for name, x in named.items() if len(x.sharding.device_set) > 1}
    if not several:
        if probe_axis is not None:
            raise RequestError(f"probe_axis={probe_axis!r} needs parameters that are placed on a mesh with that axis")
        return Flat(*fields)
    for name, sharding in several.items():
        if not isinstance(sharding, NamedSharding):
            raise PlacementError(f"{name} has a {type(sharding).__name__}; place it with a jax.sharding.NamedSharding")
    meshes = {sharding.mesh for sharding in several.values()}  # type: ignore[attr-defined]
    if len(meshes) > 1:
        raise PlacementError(f"the parameters are placed on {len(meshes)} meshes; place them on one")
    mesh = meshes.pop()
    if probe_axis is not None and probe_axis not in mesh.axis_names:
        raise RequestError(f"probe_axis={probe_axis!r} is none of the axes of the mesh, {', '.join(mesh.axis_names)}")
    specs = []
    for name, x in named.items():
        spec = tuple(several[name].spec) if name in several else ()  # type: ignore[attr-defined]
        specs.append(P(*spec, *[None] * (x.ndim - len(spec))))
        if any(probe_axis in names for names in _names(specs[-1])):
            raise RequestError(f"{name} is sharded over {probe_axis!r}, over which probes are to be; take another axis")
    return Sharded(*fields, auto(mesh), tuple(specs), probe_axis)
