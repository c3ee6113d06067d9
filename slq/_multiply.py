"""Floor 1: a product inside another operator: checked here where it is made, and judged as a part of the whole."""

from typing import Any

from slq._arrays import Array, detach, is_array, is_complex, namespace
from slq._products import LinearOperator, check_product
from slq.errors import DtypeError, ShapeError

__all__ = ["as_dtype", "check_size", "conj", "multiply"]


def multiply(A: LinearOperator, x: Array) -> Array:
    """A times each row of x, checked, in the dtype in which A returns it: `Products` judges that of the whole."""
    argument = x if x.dtype == A.like.dtype else namespace(x).astype(x, A.like.dtype)
    product = A.matvec(argument)
    check_product(product, argument)
    if is_complex(product) and not is_complex(argument):
        raise DtypeError(
            f"the product returned dtype {product.dtype} for an input of {argument.dtype}; "
            "give like= the dtype the product works in, or convert inside the product"
        )
    return detach(product)


def check_size(product: Array, argument: Array, size: int) -> None:
    """Raise unless `product` is like `argument` in all but the length of its rows, which is `size`."""
    if size == argument.shape[-1] or not is_array(product):
        check_product(product, argument)
        return
    expected = (*argument.shape[:-1], size)
    if tuple(product.shape) != tuple(expected):
        raise ShapeError(
            f"the product returned shape {tuple(product.shape)} for an input of shape {tuple(argument.shape)}; "
            f"expected {tuple(expected)}"
        )
    check_product(product[..., :0], argument[..., :0])  # of one shape: library and device remain


def as_dtype(x: Array, dtype: Any) -> Array:
    """`x` in a floating dtype; as it is if that is none, as of a product in integers, or would lose a part."""
    if x.dtype == dtype:
        return x
    xp = namespace(x)
    kinds = ("complex floating",) if is_complex(x) else ("real floating", "complex floating")
    return xp.astype(x, dtype) if xp.isdtype(dtype, kinds) else x


def conj(x: Array) -> Array:
    """The complex conjugate; `x` itself if it is real."""
    return namespace(x).conj(x) if is_array(x) and is_complex(x) else x
