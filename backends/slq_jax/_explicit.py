"""Functions written for a mesh whose axes are Explicit, within operators that work on the same mesh with Auto axes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

__all__ = ["Explicit", "auto", "has_explicit_axes", "specs_of"]


@dataclass(frozen=True)
class Explicit:
    """A function (params, batch) that sees its arrays with the shardings in their types, as under `jax.set_mesh`.

    All that slq does around it (sums over rows, inner products, gathering of shares) would have to say how each result
    is sharded; with Auto axes that is the compiler's business.
    """

    function: Callable[[Any, Any], Any]
    mesh: Mesh  # with Auto axes
    specs: tuple[P, ...]  # of the leaves of params and batch

    def __call__(self, params: Any, batch: Any) -> Any:
        """What the function returns."""
        leaves, structure = jax.tree.flatten((params, batch))

        def call(*leaves: Any) -> Any:
            return jax.tree.map(jnp.asarray, self.function(*jax.tree.unflatten(structure, leaves)))

        # Within vmap arrays have fewer dimensions than those whose shardings are known.
        pairs = zip(self.specs, map(jnp.ndim, leaves), strict=True)
        specs = tuple(P(*[*spec, *[None] * ndim][:ndim]) for spec, ndim in pairs)
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            return jax.sharding.explicit_axes(call, axes=self.mesh.axis_names, in_sharding=specs)(*leaves)


def has_explicit_axes(tree: Any) -> bool:
    """Whether an array of a tree is on a mesh of several devices with Explicit axes."""
    shardings = [getattr(x, "sharding", None) for x in jax.tree.leaves(tree)]
    return any(
        isinstance(s, NamedSharding) and s.mesh.size > 1 and AxisType.Explicit in s.mesh.axis_types for s in shardings
    )


def auto(mesh: Any) -> Mesh:
    """The same mesh with Auto axes."""
    return Mesh(mesh.devices, mesh.axis_names)


def specs_of(tree: Any) -> tuple[P, ...]:
    """How the leaves of a tree are sharded."""
    shardings = [getattr(x, "sharding", None) for x in jax.tree.leaves(tree)]
    return tuple(s.spec if isinstance(s, NamedSharding) else P() for s in shardings)
