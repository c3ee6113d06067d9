"""Floor 1: the operator protocol, and what slq does with one: multiply, judge what came back, place vectors."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from slq._arrays import Array, detach, device_of, dot, from_host, is_array, library_name, namespace
from slq.errors import DtypeError, PlacementError, ShapeError

__all__ = ["LinearOperator", "apply", "check_product", "describe", "inner", "put"]


@runtime_checkable
class LinearOperator(Protocol):
    """What slq needs of an operator: three members.

    Attributes
    ----------
    shape : (n, n)
        The global shape.
    like : array of size 0
        Library, dtype and device of the vectors, in one.

    Notes
    -----
    A block of vectors is a (k, n) array, each **row** a vector. Optional members: ``vecdot(x, y)``, the inner product
    along the last axis (a sharded operator reduces over its processes here); ``index``, the global coordinates that
    this process holds; ``put(block)``, which places a block drawn on the host; ``rmatvec``, the adjoint in that inner
    product (`gram`).
    """

    shape: tuple[int, int]
    like: Array

    def matvec(self, x: Array, /) -> Array:
        """The product with each row of `x`: (..., n) -> (..., n)."""
        ...


def apply(A: LinearOperator, x: Array, *, like: Array) -> Array:
    """The product of `A` with the rows of `x`, checked; `like` has the dtype that A multiplies, maybe a narrower."""
    xp = namespace(x)
    argument = x if x.dtype == like.dtype else xp.astype(x, like.dtype)
    product = A.matvec(argument)
    check_product(product, argument)
    product = detach(product)
    return product if product.dtype == x.dtype else xp.astype(product, x.dtype)


def check_product(product: Array, argument: Array) -> None:
    if not is_array(product):
        raise PlacementError(
            f"the product returned {describe(product)}; expected an array of {library_name(argument)}, like its input"
        )
    if library_name(product) != library_name(argument):
        raise PlacementError(
            f"the product returned an array of {library_name(product)} for one of {library_name(argument)}; "
            "convert it inside the product"
        )
    if tuple(product.shape) != tuple(argument.shape):
        raise ShapeError(
            f"the product returned shape {tuple(product.shape)} for an input of shape {tuple(argument.shape)}; "
            "a product keeps the shape of its input"
        )
    if product.dtype != argument.dtype:
        raise DtypeError(
            f"the product returned dtype {product.dtype} for an input of {argument.dtype}; "
            "give like= the dtype the product works in, or convert inside the product"
        )
    if device_of(product) != device_of(argument):
        raise PlacementError(
            f"the product returned an array on {device_of(product)} for one on {device_of(argument)}; "
            "move the operator's data to the device of its vectors"
        )


def describe(x: object) -> str:
    return f"an array of shape {tuple(x.shape)}" if is_array(x) else type(x).__name__  # type: ignore[attr-defined]


def inner(A: LinearOperator) -> Callable[[Array, Array], Array]:
    """The inner product of the operator's space."""
    return getattr(A, "vecdot", dot)


def put(A: LinearOperator, block: np.ndarray, like: Array) -> Array:
    """A block drawn on the host, placed where the operator wants its vectors."""
    return A.put(block) if hasattr(A, "put") else from_host(block, like)
