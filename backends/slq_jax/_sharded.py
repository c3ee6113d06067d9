"""What operators and runs do with flat vectors of sharded parameters, each device with its part.

Vectors are made into trees, and back, on each device alone; only copies of shards are gathered, which the parameters
themselves take as well.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from slq.errors import PlacementError, RequestError
from slq_jax._explicit import auto
from slq_jax._layout import Flat, Leaves, Push
from slq_jax._shards import Shards, names_of

__all__ = ["Sharded", "layout_of"]


@dataclass(frozen=True)
class Sharded(Shards):
    """The layout of vectors that belong to parameters with a `NamedSharding`."""

    def free(self, like: jax.Array) -> float | None:
        """Bytes of memory that are free on the fullest device: all processes must keep the same, or none."""
        found = super().free(like)
        least = self.least(math.inf if found is None else found)
        return None if math.isinf(least) else least

    def least(self, x: float) -> float:
        """The least of numbers that the processes of the mesh may have found different."""
        if jax.process_count() == 1:
            return x
        every = NamedSharding(self.mesh, P(self.mesh.axis_names))
        numbers = jax.make_array_from_callback((self.mesh.size,), every, lambda _: np.array([x], np.float32))
        return float(jnp.min(numbers))

    def zeros(self, *lead: int) -> jax.Array:
        """Vectors of zeros."""
        return _zeros(self, lead)

    def split(self, v: jax.Array) -> Leaves:
        """A vector as leaves, sharded as the parameters are."""
        return _split(self, v)

    def join(self, leaves: Iterable[jax.Array]) -> jax.Array:
        """Leaves as a vector."""
        return _join(self, tuple(leaves))

    def rows(self, x: Any) -> jax.Array:
        """Vectors as a block; those that are not on the mesh are in the order of the leaves, and converted."""
        if self.has(x):
            sharding = NamedSharding(self.mesh, P(self.row_axis(math.prod(x.shape[:-1])), self.axes))
            return jax.device_put(x.reshape(-1, self.size).astype(self.dtype), sharding)
        if x.shape[-1] != self.num_coordinates or jax.process_count() > 1:
            raise _misplaced(x)
        return self.put(np.asarray(x, self.dtype).reshape(-1, x.shape[-1]))

    def as_given(self, block: jax.Array, x: Any) -> jax.Array:
        """A block in the shape and the order of `x`."""
        if self.has(x):
            return block if x.ndim == 2 else block.reshape(x.shape)
        return jnp.asarray(self.take(block).reshape(x.shape))

    def map_rows(self, push: Push, vectors: jax.Array, together: int) -> jax.Array:
        """The vectors that `push` makes of the rows of `vectors`, so many at once, side by side over the probe axis."""
        probe = self.row_axis(len(vectors))
        if probe is None:
            return super().map_rows(push, vectors, together)
        rows = partial(super().map_rows, push, together=together)
        folded = vectors.reshape(self.mesh.shape[probe], -1, self.size)
        return jax.vmap(rows, spmd_axis_name=probe)(folded).reshape(vectors.shape)

    # What a run does with vectors, on each device with its part.

    def start(self, place: Callable[[jax.Array], tuple[Any, ...]], V: jax.Array, blocks: int) -> tuple[Any, ...]:
        """The arrays that `place` makes of unit vectors: two of their shape, and blocks of the basis."""
        probe = self.row_axis(len(V))
        block = P(probe, self.axes)
        return self.on_each(place, (block,), (block, block, *[P(probe, None, self.axes)] * blocks))(V)

    def step(self, work: Callable[..., Any], y: jax.Array, step: Any, state: Any) -> Any:
        """One step of a run."""
        probe = self.row_axis(len(y))
        block, k, blocks = P(probe, self.axes), P(probe), (P(probe, None, self.axes),) * len(state.blocks)
        specs = type(state)(block, block, k, k, P(), P(), P(), blocks)

        def gather(x: jax.Array) -> jax.Array:
            return x if probe is None else lax.all_gather(x, probe, tiled=True)

        body = partial(work, reduce=lambda x: lax.psum(x, self.axes), gather=gather)
        return self.on_each(body, (block, P(), specs), specs)(y, step, state)

    def vecdot(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The inner products of rows, on all devices."""
        for vectors in (x, y):
            if not self.has(vectors):
                raise _misplaced(vectors)
        return _vecdot(self, x, y)

    def on_each(self, body: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """`body` run by each device with its parts."""
        # Copies come out of gathering, which the checker of shard_map does not know for copies.
        return jax.shard_map(body, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


@partial(jax.jit, static_argnums=0)
def _split(layout: Sharded, v: jax.Array) -> Leaves:
    def body(v: jax.Array) -> Leaves:
        leaves, at = [], 0
        for (copies, size, share), shape, spec, dtype in zip(
            layout.parts, layout.shapes, layout.specs, layout.dtypes, strict=True
        ):
            part, at = v[at : at + share], at + share
            if copies:
                part = lax.all_gather(part, copies, tiled=True)[:size]
            local = [n // layout.number(names) for n, names in zip(shape, names_of(spec), strict=True)]
            leaves.append(part.reshape(local).astype(dtype))
        return tuple(leaves)

    return layout.on_each(body, (P(layout.axes),), layout.specs)(v)


@partial(jax.jit, static_argnums=0)
def _join(layout: Sharded, leaves: Leaves) -> jax.Array:
    def body(*leaves: jax.Array) -> jax.Array:
        parts = []
        for leaf, (copies, size, share) in zip(leaves, layout.parts, strict=True):
            flat = leaf.reshape(size).astype(layout.dtype)
            if copies:
                flat = jnp.pad(flat, (0, layout.number(copies) * share - size))
                flat = lax.dynamic_slice_in_dim(flat, lax.axis_index(copies) * share, share)
            parts.append(flat)
        return jnp.concatenate(parts)

    return layout.on_each(body, layout.specs, P(layout.axes))(*leaves)


@partial(jax.jit, static_argnums=(0, 1))
def _zeros(layout: Sharded, lead: tuple[int, ...]) -> jax.Array:
    share = layout.size // layout.num_shards
    out = P(*[None] * len(lead), layout.axes)
    return layout.on_each(lambda: jnp.zeros((*lead, share), layout.dtype), (), out)()


@partial(jax.jit, static_argnums=0)
def _vecdot(layout: Sharded, x: jax.Array, y: jax.Array) -> jax.Array:
    x, y = jnp.broadcast_arrays(x, y)
    lead = [None] * (x.ndim - 2)
    out = P(layout.row_axis(x.shape[0]), *lead)
    spec = P(*out, layout.axes)

    def body(x: jax.Array, y: jax.Array) -> jax.Array:
        return lax.psum(jnp.vecdot(x, y), layout.axes)

    return layout.on_each(body, (spec, spec), out)(x, y)


def _misplaced(x: Any) -> PlacementError:
    return PlacementError(
        "operators of sharded parameters take vectors from `put` (rows on the host) or `ravel` (trees), got shape "
        f"{tuple(x.shape)} on {getattr(x, 'sharding', 'the host')}"
    )


def layout_of(everything: Mapping[str, Any], chosen: Collection[str], dtype: Any, probe_axis: str | None) -> Flat:
    """The layout of vectors that belong to chosen leaves, on the mesh on which any leaves are.

    Raises
    ------
    PlacementError
        If the parameters are sharded otherwise than over one mesh.
    RequestError
        If the mesh has no axis `probe_axis`, or a leaf is sharded over it.
    """
    arrays = {name: x for name, x in everything.items() if isinstance(x, jax.Array)}
    several: dict[str, Any] = {name: s for name, x in arrays.items() if len((s := x.sharding).device_set) > 1}
    named = {name: x for name, x in everything.items() if name in chosen}
    fields = tuple(x.shape for x in named.values()), tuple(jnp.dtype(x.dtype) for x in named.values()), dtype
    if not several:
        if probe_axis is not None:
            raise RequestError(f"probe_axis={probe_axis!r} needs parameters that are placed on a mesh with that axis")
        return Flat(*fields)
    for name, sharding in several.items():
        if not isinstance(sharding, NamedSharding):
            raise PlacementError(f"{name} has a {type(sharding).__name__}; place it with a jax.sharding.NamedSharding")
    meshes = {sharding.mesh for sharding in several.values()}
    if len(meshes) > 1:
        raise PlacementError(f"the parameters are placed on {len(meshes)} meshes; place them on one")
    mesh = meshes.pop()
    if probe_axis is not None and probe_axis not in mesh.axis_names:
        raise RequestError(f"probe_axis={probe_axis!r} is none of the axes of the mesh, {', '.join(mesh.axis_names)}")
    specs = []
    for name, x in named.items():
        spec = tuple(several[name].spec) if name in several else ()
        specs.append(P(*spec, *[None] * (x.ndim - len(spec))))
        if any(probe_axis in names for names in names_of(specs[-1])):
            raise RequestError(f"{name} is sharded over {probe_axis!r}, over which probes are to be; take another axis")
    return Sharded(*fields, auto(mesh), tuple(specs), probe_axis)
