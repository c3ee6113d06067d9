"""A tree of parameters as one flat vector."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slq.errors import DtypeError, OperatorError, RequestError, ShapeError

__all__ = ["join", "result_dtype", "split", "to_device_tree"]


def to_device_tree(params: Any) -> Any:
    """The tree with JAX arrays as leaves; NumPy leaves are converted.

    Raises
    ------
    OperatorError
        If the tree has no leaves.
    DtypeError
        If a leaf is not real floating-point, or is float64 while JAX would make it float32.
    """
    paths, structure = jax.tree.flatten_with_path(params)
    if not paths:
        raise OperatorError("params hold no arrays: there is nothing to differentiate")
    leaves = []
    for path, leaf in paths:
        name = jax.tree_util.keystr(path) or "params"
        dtype = np.result_type(leaf) if not hasattr(leaf, "dtype") else leaf.dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            raise DtypeError(
                f"{name} has dtype {dtype}; only floating-point leaves can be differentiated: close over the others"
            )
        if dtype == np.float64 and not jax.config.read("jax_enable_x64"):
            raise DtypeError(
                f"{name} is float64, which JAX would silently make float32; call "
                "jax.config.update('jax_enable_x64', True) first, or convert to float32 yourself"
            )
        leaves.append(jnp.asarray(leaf))
    return jax.tree.unflatten(structure, leaves)


def result_dtype(params: Any) -> Any:
    """float64 if a leaf is, else float32."""
    wide = any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(params))
    return jnp.float64 if wide else jnp.float32


def split(v: jax.Array, params: Any) -> Any:
    """A flat vector as a tree with the shapes and dtypes of `params`."""
    leaves, structure = jax.tree.flatten(params)
    n = sum(leaf.size for leaf in leaves)
    if v.shape != (n,):
        raise ShapeError(f"expected a vector of shape ({n},), got {v.shape}; pass one row at a time")
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1].tolist()
    parts = [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(jnp.split(v, ends), leaves, strict=True)]
    return jax.tree.unflatten(structure, parts)


def join(tree: Any, params: Any) -> jax.Array:
    """A tree of the shapes of `params` as a flat vector: the inverse of `split`."""
    leaves, structure = jax.tree.flatten(tree)
    expected: Any = jax.tree.structure(params)
    if structure != expected:
        raise RequestError(f"expected a tree of structure {expected}, got {structure}")
    for leaf, p in zip(leaves, jax.tree.leaves(params), strict=True):
        if jnp.shape(leaf) != p.shape:
            raise ShapeError(f"expected leaves of the shapes of the parameters: {p.shape}, got {jnp.shape(leaf)}")
    return jnp.concatenate([jnp.ravel(leaf).astype(result_dtype(params)) for leaf in leaves])
