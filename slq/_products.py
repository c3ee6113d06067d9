"""Floor 1: the operator protocol, and what slq does with one: multiply, judge what came back, place vectors."""

import math
import numbers
import warnings
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from slq._arrays import (
    Array,
    as_complex,
    detach,
    device_of,
    dot,
    from_host,
    give_back,
    is_array,
    is_complex,
    is_sparse,
    itemsize,
    library_name,
    namespace,
    precision,
    same_place,
    to_host,
)
from slq.errors import (
    DtypeError,
    DtypeWarning,
    OperatorError,
    PlacementError,
    ProductError,
    RequestError,
    ShapeError,
    SlqError,
)

__all__ = [
    "LinearOperator",
    "Products",
    "check_product",
    "complexified",
    "describe",
    "inner",
    "local_size",
    "product_error",
    "put",
    "workspace",
]


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
    this process holds; ``put(block)``, which places a block drawn on the host; ``num_memories``, over how many memories
    of this process (those of its devices) vectors are spread; ``rmatvec``, the adjoint in that inner product (`gram`);
    ``workspace(rows)``, how many bytes a product with so many vectors takes for itself where the vectors are, besides
    these and their products: forecasts of memory add it.
    """

    shape: tuple[int, int]
    like: Array

    def matvec(self, x: Array, /) -> Array:
        """The product with each row of `x`: (..., n) -> (..., n)."""
        ...


class Products:
    """The products of an operator, each checked; what was odd about them is warned of once.

    Attributes
    ----------
    eps : float
        Machine epsilon of the products: that of the vectors, or of the narrowest dtype that came back.
    step : int
        The number of the product under way, which errors name.
    first_row : int
        The number of the probe in the first row, likewise.
    operator : LinearOperator
    """

    def __init__(self, A: LinearOperator) -> None:
        self.operator = A
        self._dtype = A.like.dtype
        self._warned = False
        self.eps = precision(A.like)
        self.step = self.first_row = 0

    def __call__(self, x: Array) -> Array:
        """A times each row of `x`, in the dtype of `x`, which may be wider than the operator's."""
        argument = x if x.dtype == self._dtype else namespace(x).astype(x, self._dtype)
        try:
            product = self.operator.matvec(argument)
        except (SlqError, MemoryError):
            raise
        except Exception as error:
            raise product_error(error, self.step, argument.shape) from error
        give_back(argument)
        if not _is_like(product, argument):
            product = self._accept(product, argument)
        product = detach(product)
        return product if product.dtype == x.dtype else namespace(x).astype(product, x.dtype)

    def read(self, x: Array) -> np.ndarray:
        """`x` on the host; an error that only shows now is one of the product that it was computed from."""
        try:
            return to_host(x)
        except Exception as error:
            raise product_error(error, self.step, x.shape) from error

    def _accept(self, product: Array, argument: Array) -> Array:
        check_product(product, argument)
        if product.dtype == argument.dtype:
            return product
        xp = namespace(argument)
        if not xp.isdtype(product.dtype, ("bool", "numeric")) or (is_complex(product) and not is_complex(argument)):
            raise DtypeError(
                f"the product returned dtype {product.dtype} for an input of {argument.dtype}; "
                "give like= the dtype the product works in, or convert inside the product"
            )
        floating = xp.isdtype(product.dtype, ("real floating", "complex floating"))
        narrower = floating and precision(product) > precision(argument)
        if narrower:
            self.eps = max(self.eps, precision(product))
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"the product returns dtype {product.dtype} for vectors of {argument.dtype}, which "
                f"{'limits the precision' if narrower else 'is converted each time'}; "
                "give like= the dtype the product works in",
                DtypeWarning,
                stacklevel=3,
            )
        return xp.astype(product, argument.dtype)


def product_error(error: BaseException, step: int, shape: tuple[int, ...]) -> ProductError:
    """What to raise when a product has raised `error`."""
    failed = ProductError(
        f"the product of step {step} raised {type(error).__name__} for a block of shape {tuple(shape)}, each row a "
        f"vector: {error}; correct the product, or let aslinearoperator wrap a function of one vector; what was "
        "computed before is kept in `.partial` of this error"
    )
    failed.step = step
    return failed


def _is_like(product: Array, argument: Array) -> bool:
    """Whether a product is just as it should be, in a microsecond; anything odd is left to `check_product`."""
    return (
        type(product) is type(argument)
        and product.dtype == argument.dtype
        and product.shape == argument.shape
        and product.device == argument.device
        and getattr(product, "layout", None) == getattr(argument, "layout", None)  # torch's sparse tensors
    )


def complexified(A: LinearOperator) -> LinearOperator:
    """A real symmetric operator acting on complex vectors: one product of their real and imaginary parts together."""
    if hasattr(A, "vecdot"):
        raise RequestError(
            f"complex vectors need a complex operator where it has an inner product of its own, got {A.like.dtype}; "
            "give real start vectors"
        )
    return _Complexified(A)


class _Complexified:
    def __init__(self, A: LinearOperator) -> None:
        self._operator = A
        self.shape = A.shape
        self.like = as_complex(A.like)
        if hasattr(A, "index"):
            self.index = A.index

    def matvec(self, x: Array, /) -> Array:
        xp = namespace(x)
        rows = x if x.ndim == 2 else x[None, :]
        parts = xp.astype(xp.concat([xp.real(rows), xp.imag(rows)]), self._operator.like.dtype)
        products = self._operator.matvec(parts)
        check_product(products, parts)
        return xp.reshape(products[: rows.shape[0], ...] + 1j * products[rows.shape[0] :, ...], x.shape)

    def workspace(self, rows: int) -> int:
        """Bytes that a product takes for itself: those of twice as many vectors, and their parts."""
        return workspace(self._operator, 2 * rows) + rows * local_size(self._operator) * itemsize(self.like)


def check_product(product: Array, argument: Array) -> None:
    """Raise unless a product has the library, the shape and the device of its argument."""
    if not is_array(product):
        raise PlacementError(
            f"the product returned {describe(product)}; expected an array of {library_name(argument)}, like its input"
        )
    if library_name(product) != library_name(argument):
        raise PlacementError(
            f"the product returned an array of {library_name(product)} for one of {library_name(argument)}; "
            "convert it inside the product"
        )
    if isinstance(product, np.matrix | np.ma.MaskedArray):
        raise PlacementError(
            f"the product returned a NumPy {type(product).__name__}, whose arithmetic differs from an array's; "
            "return np.asarray of it"
        )
    if is_sparse(product):
        raise PlacementError("the product returned a sparse tensor; expected a dense one, like its input")
    if tuple(product.shape) != tuple(argument.shape):
        raise ShapeError(
            f"the product returned shape {tuple(product.shape)} for an input of shape {tuple(argument.shape)}; "
            "a product keeps the shape of its input"
        )
    if not same_place(product, argument):
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


def local_size(A: LinearOperator) -> int:
    """How many coordinates of a vector a memory of this process holds."""
    n, index = int(A.shape[0]), getattr(A, "index", None)
    if index is None:
        return n
    held = len(range(n)[index]) if isinstance(index, slice) else len(index)
    return -(-held // getattr(A, "num_memories", 1))


def workspace(A: LinearOperator, rows: int) -> int:
    """Bytes that a product with `rows` vectors takes for itself, as far as the operator tells."""
    own = getattr(A, "workspace", None)
    if not callable(own):  # none, or a buffer of that name
        return 0
    size = own(rows)
    if not isinstance(size, numbers.Real) or not 0 <= float(size) < math.inf:
        raise OperatorError(f"workspace({rows}) of the operator returned {size!r}; expected a number of bytes, >= 0")
    return int(float(size))
