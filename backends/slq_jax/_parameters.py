"""Which leaves of a tree are differentiated, and the tree as one flat vector."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slq.errors import DtypeError, OperatorError, RequestError, ShapeError
from slq_jax._layout import Flat
from slq_jax._sharded import Sharded, layout_of

__all__ = ["Parameters", "Selection", "Tree"]

Selection = str | Iterable[str] | Callable[[str, Any], bool] | None

_TRACED = (
    "a tracer: an operator holds numbers, and cannot be built inside jit, grad or vmap; build it outside, or use "
    "slq_jax.lanczos, which can be traced"
)


@dataclass(frozen=True)
class Tree:
    """How the user's tree is made of leaves that are differentiated and others; a static key of compilations."""

    structure: Any
    chosen: tuple[bool, ...]

    def join(self, chosen: Iterable[Any], others: Iterable[Any]) -> Any:
        """The tree."""
        first, second = iter(chosen), iter(others)
        return jax.tree.unflatten(self.structure, [next(first if c else second) for c in self.chosen])


class Parameters:
    """The leaves of a tree, in their order, with names made of the keys on the way to them: ``"layers.0.kernel"``.

    Parameters
    ----------
    params : tree of arrays
    select : str, iterable of str, callable or None
        Which leaves: a name or pattern (``"encoder.*"``), several, or a function (name, leaf) -> bool; default: all.
    probe_axis : str, optional
        The mesh axis over which blocks of vectors are sharded by rows.

    Raises
    ------
    DtypeError
        If a chosen leaf is not real floating-point, or is float64 while JAX would make it float32.
    OperatorError
        If there is no leaf to differentiate; if a leaf was donated, or belongs to a transformation under way.
    RequestError
        If a name or pattern finds nothing.
    """

    def __init__(self, params: Any, select: Selection = None, probe_axis: str | None = None) -> None:
        paths, structure = jax.tree.flatten_with_path(params)
        if not paths:
            raise OperatorError("params hold no arrays: there is nothing to differentiate")
        names = [jax.tree_util.keystr(path, simple=True, separator=".") or "params" for path, _ in paths]
        everything = dict(zip(names, (leaf for _, leaf in paths), strict=True))
        if isinstance(jnp.zeros(()), jax.core.Tracer):  # inside jit, whatever the leaves are
            raise OperatorError(f"all that is computed here is {_TRACED}")
        wanted = _selected(everything, select)
        if not wanted:
            raise OperatorError(f"select= leaves none of {len(names)} leaves: there is nothing to differentiate")
        self.tree = Tree(structure, tuple(name in wanted for name in names))
        self.named = {name: _usable(name, leaf) for name, leaf in everything.items() if name in wanted}
        wide = any(leaf.dtype == jnp.float64 for leaf in self.named.values())
        self.dtype = jnp.dtype(jnp.float64 if wide else jnp.float32)
        self.layout: Flat = layout_of(everything | self.named, self.named, self.dtype, probe_axis)
        self.named = {name: self.layout.place_leaf(i, x) for i, (name, x) in enumerate(self.named.items())}
        self.leaves = tuple(self.named.values())
        self.others = tuple(self.layout.place(x) for name, x in everything.items() if name not in wanted)
        self.n = sum(leaf.size for leaf in self.leaves)

    def matching(self, pattern: str) -> list[str]:
        """The names that a name or pattern means."""
        return [name for name in self.named if name == pattern or fnmatch.fnmatchcase(name, pattern)]

    @property
    def is_sharded(self) -> bool:
        """The leaves are on several devices."""
        return isinstance(self.layout, Sharded)

    def require_alive(self) -> None:
        """Raise if a leaf was donated since construction, or x64 was switched off."""
        if self.dtype == jnp.float64 and not jax.config.read("jax_enable_x64"):
            raise DtypeError(
                "the operator is of float64, but JAX's x64 mode, which was on when it was built, is off now, so that "
                "products would silently be float32; call jax.config.update('jax_enable_x64', True)"
            )
        for name, leaf in self.named.items():
            _require_alive(name, leaf)

    def unravel(self, v: jax.Array) -> Any:
        """A flat (n,) vector as a tree like the parameters, with None in place of leaves that are not chosen."""
        if jnp.shape(v) != (self.layout.size,):
            raise ShapeError(
                f"expected a vector of shape ({self.layout.size},), got {jnp.shape(v)}; pass one row at a time"
            )
        return self.tree.join(self.layout.split(v), [None] * len(self.others))

    def ravel(self, tree: Any) -> jax.Array:
        """A tree like the parameters as a flat vector: the inverse of `unravel`; other leaves are not looked at."""
        structure = self.tree.structure
        try:
            leaves = structure.flatten_up_to(tree)  # takes None in place of a leaf, and where the parameters have None
        except ValueError:
            leaves = [None] * len(self.tree.chosen)
        chosen = [leaf for leaf, c in zip(leaves, self.tree.chosen, strict=True) if c]
        if not jax.tree_util.all_leaves(chosen):
            raise RequestError(f"expected a tree of structure {structure}, got {jax.tree.structure(tree)}")
        for leaf, p in zip(chosen, self.leaves, strict=True):
            if jnp.shape(leaf) != p.shape:
                raise ShapeError(f"expected leaves of the shapes of the parameters: {p.shape}, got {jnp.shape(leaf)}")
        return self.layout.join([self.layout.place_leaf(i, leaf) for i, leaf in enumerate(chosen)])


def _selected(everything: Mapping[str, Any], select: Selection) -> set[str]:
    if select is None:
        return set(everything)
    if callable(select):
        return {name for name, leaf in everything.items() if select(name, leaf)}
    patterns = [select] if isinstance(select, str) else list(select)
    found: set[str] = set()
    for pattern in patterns:
        matching = {name for name in everything if name == pattern or fnmatch.fnmatchcase(name, pattern)}
        if not matching:
            raise RequestError(f"select={pattern!r} finds no leaf; the leaves are {', '.join(everything)}")
        found |= matching
    return found


def _usable(name: str, leaf: Any) -> jax.Array:
    if isinstance(leaf, jax.core.Tracer):
        raise OperatorError(f"{name} is {_TRACED}")
    try:
        dtype = leaf.dtype if isinstance(leaf, jax.Array) else np.result_type(leaf)
    except (TypeError, ValueError):
        raise DtypeError(
            f"{name} is a {type(leaf).__name__}, which is no array of JAX or NumPy; convert it, or close over it"
        ) from None
    if not jnp.issubdtype(dtype, jnp.floating):
        raise DtypeError(
            f"{name} has dtype {dtype}; only floating-point leaves can be differentiated: close over the others, or "
            "leave them out by select="
        )
    if dtype == np.float64 and not jax.config.read("jax_enable_x64"):
        raise DtypeError(
            f"{name} is float64, which JAX would silently make float32; call "
            "jax.config.update('jax_enable_x64', True) first, or convert to float32 yourself"
        )
    _require_alive(name, leaf)
    return jnp.asarray(leaf)


def _require_alive(name: str, leaf: Any) -> None:
    if isinstance(leaf, jax.Array) and leaf.is_deleted():
        raise OperatorError(
            f"{name} was donated to a compiled function, and its buffer is gone; build the operator from the "
            "parameters that the training step returned, or from a copy made before it"
        )
