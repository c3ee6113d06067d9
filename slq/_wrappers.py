"""Floor 1: operators made of matrices, of products that take columns, and of functions."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator as ScipyOperator

from slq._arrays import Array, empty_like, fused, is_array, library_name, namespace
from slq._multiply import check_size, conj
from slq._scipy import scipy_operator

__all__ = ["Columns", "Function", "Matrix", "SparseMatrix", "Wrapper", "transposed"]

Product = Callable[[Array], Array]


class Wrapper:
    """What slq's own operators share; with a `matvec` they satisfy `LinearOperator`."""

    shape: tuple[int, int]
    like: Array

    def to_scipy(self) -> ScipyOperator:
        """Convert to a `scipy.sparse.linalg.LinearOperator`; see `slq.to_scipy`."""
        return scipy_operator(self)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        dtype = str(self.like.dtype).removeprefix("torch.")
        return f"<{type(self).__name__.lstrip('_')} of shape {self.shape}, {library_name(self.like)} {dtype}>"


class Matrix(Wrapper):
    """A two-dimensional array, real or complex.

    Attributes
    ----------
    matrix : (p, n) array
    """

    def __init__(self, matrix: Array) -> None:
        self.shape = tuple(matrix.shape)
        self.like = empty_like(matrix)
        self.matrix = matrix

    def matvec(self, x: Array, /) -> Array:
        """Multiply each row of x by the matrix."""
        return _times_transpose(x, self.matrix)

    def rmatvec(self, y: Array, /) -> Array:
        """Multiply each row of y by the conjugate transpose."""
        return conj(conj(y) @ self.matrix)  # a conjugate of the matrix would be a second copy


@fused  # eagerly, JAX would make a copy of the transpose
def _times_transpose(x: Array, matrix: Array) -> Array:
    return x @ matrix.T


class Columns(Wrapper):
    """An object whose own product takes vectors as columns, (n, k) -> (p, k), a whole block in one call."""

    def __init__(self, multiply: Product, shape: tuple[int, int], like: Array, adjoint: Product | None = None) -> None:
        self.shape = (int(shape[0]), int(shape[1]))
        self.like = like
        self._multiply = multiply
        if adjoint is not None:
            self.rmatvec = functools.partial(_by_columns, adjoint)

    def matvec(self, x: Array, /) -> Array:
        """Multiply each row of x."""
        return _by_columns(self._multiply, x)


class SparseMatrix(Columns):
    """A SciPy sparse matrix or array.

    Attributes
    ----------
    matrix : (p, n) sparse array
        In CSR, CSC or BSR format: the others would be converted anew for each product.
    """

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix if matrix.format in ("csr", "csc", "bsr") else matrix.tocsr()
        like = np.empty(0, dtype=matrix.dtype)
        super().__init__(self.matrix.__matmul__, matrix.shape, like, transposed(lambda: self.matrix.T))


class Function(Wrapper):
    """A function of one vector, or of a (k, n) block if `batched`; `adjoint` is a function of the same kind."""

    def __init__(
        self,
        function: Product,
        shape: tuple[int, int],
        like: Array,
        batched: bool = False,
        adjoint: Product | None = None,
    ) -> None:
        self.shape = shape
        self.like = like
        self._function = function
        self._batched = batched
        if adjoint is not None:
            self.rmatvec = Function(adjoint, shape[::-1], like, batched).matvec

    def matvec(self, x: Array, /) -> Array:
        """Multiply each row of x."""
        return _over_rows(self._function if self._batched else self._one_by_one, x)

    def _one_by_one(self, x: Array) -> Array:
        products = [self._function(x[i, ...]) for i in range(x.shape[0])]
        for y in products:
            check_size(y, x[0, ...], self.shape[0])  # before stacking, which would hide which row went wrong
        return namespace(x).stack(products)


def transposed(make: Callable[[], Any]) -> Product:
    """The product y -> Aᴴ y of columns, where `make` returns Aᵀ; it is called once, when first needed.

    By conjugating vectors: a conjugate of the matrix would be a second copy.
    """
    made = functools.cache(make)
    return lambda y: conj(made() @ conj(y))


def _by_columns(multiply: Product, x: Array) -> Array:
    """The rows of x, (..., n), through a product that takes columns."""

    def rows(block: Array) -> Array:
        product = multiply(block.T)
        return product.T if is_array(product) and product.ndim == 2 else product  # judged by whoever asked

    return _over_rows(rows, x)


def _over_rows(block_product: Product, x: Array) -> Array:
    """A product that takes (k, n) applied to (..., n)."""
    if x.ndim == 2:
        return block_product(x)
    xp = namespace(x)
    block = xp.reshape(x, (-1, x.shape[-1]))
    product = block_product(block)
    if not is_array(product) or product.ndim != 2 or product.shape[0] != block.shape[0]:
        return product  # judged by whoever asked
    return xp.reshape(product, (*x.shape[:-1], product.shape[-1]))
