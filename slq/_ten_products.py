"""Floor 2: ten products with random vectors, and what they tell of an operator: symmetric, linear, repeatable.

Six products A wᵢ make a chain, in which w₁ comes twice: each of its six pairs of neighbours compares wᵢᴴA wⱼ with
(wⱼᴴA wᵢ)*. The other four products each compare that of a combination of the wᵢ with the same combination of their
products: w₁ again, 0, a w₁ + b w₆, 2ᵏ w₆.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from slq._arrays import Array, namespace, norm, to_host
from slq._check_vectors import draw
from slq._products import LinearOperator, Products, inner
from slq.errors import AliasedOutputError, NonFiniteError

__all__ = ["NUM_PRODUCTS", "Measured", "measure", "multiply", "size_of"]

NUM_PRODUCTS = 10

_LAST = 6
_COMBINATION = {1: 0.6180339887, _LAST: -0.7861513778}  # full mantissas: A sees numbers that float32 does not hold

# Two calls at least, and of one shape, which JAX compiles once: what changes with each call must have its chance to.
_MOST_ROWS = 5


class Measured(NamedTuple):
    """Errors relative to ‖A‖ (Frobenius, estimated by the same products)."""

    repeatability: float
    zero: float
    scaling: float
    linearity: float
    symmetry: float  # its mean square is ‖A − Aᴴ‖²/‖A‖²
    exponent: int  # the k of the scaling
    underflow: float  # what lost subnormal numbers explain of the scaling
    eps: float  # of the dtype of the products


def measure(A: LinearOperator, seed: int, batch_size: int | None = None, products: Products | None = None) -> Measured:
    """Multiply ten times, `batch_size` rows together, with `products` of A if given.

    Raises
    ------
    OperatorError
        If a product raises, has the wrong shape, dtype, library or device, is not finite, or writes into its input.
    """
    rows = min(batch_size or _MOST_ROWS, _MOST_ROWS)
    products = Products(A) if products is None else products
    run = _Run(A)
    order = _order(rows)
    for low in range(0, NUM_PRODUCTS, rows):
        recipes = [run.recipe(row) for row in order[low : low + rows]]
        W = draw(A, seed, [{i: c * run.length for i, c in recipe.items()} for recipe in recipes])
        xp = namespace(W)
        before = None if low else xp.asarray(W, copy=True)
        Y = multiply(products, W)
        if before is not None and size_of(A, W - before) != 0:
            raise AliasedOutputError("the product wrote into its input; let it work on a copy, or return a new array")
        before = None
        for j, recipe in enumerate(recipes):
            # Kept products are copied: an operator may return the same buffer again. Kept rows let go of their block.
            w = W if len(recipes) == 1 else xp.asarray(W[j : j + 1, :], copy=True)
            y = xp.asarray(Y[j : j + 1, :], copy=True)
            if j == len(recipes) - 1:
                del W, Y
            run.take(order[low + j], recipe, w, y)
            del w, y
    return run.result(products.eps)


def _order(rows: int) -> list[str | int]:
    """The ten rows. w₁ comes again in the same place of another block: BLAS rounds differently in other places."""
    order: list[str | int] = [1, "zero", 2, 3, 4, 5, 6, "combination", "scaled"]
    order.insert(-(-4 // rows) * rows, "again")
    return order


class _Run:
    """Takes one product after the other; keeps no more than one vector and two products."""

    def __init__(self, A: LinearOperator) -> None:
        self._A = A
        self._limits = namespace(A.like).finfo(A.like.dtype)
        # Vectors of about unit length, as Lanczos multiplies them: what A does to others is no concern of its.
        self._half_log = round(np.log2(A.shape[0]) / 2)
        self.length = float(np.ldexp(1.0, -self._half_log))
        self._exponent = 0
        self._unit = 1.0  # the power of two that brings products to order one
        self._products: dict[int, Array] = {}
        self._last: tuple[Array, Array] | None = None
        self._sizes: list[float] = []
        self._lengths: list[float] = []
        self._skews: list[float] = []
        self._errors: dict[str, float] = {}

    def recipe(self, row: str | int) -> Mapping[int, float]:
        """Coefficients of a row in w₁ … w₆."""
        if isinstance(row, int):
            return {row: 1.0}
        if row == "scaled":
            return {_LAST: float(np.ldexp(1.0, self._scaling()))}
        return {"zero": {}, "again": {1: 1.0}, "combination": _COMBINATION}[row]

    def _scaling(self) -> int:
        """The k of 2ᵏ w₆: entries of order sixteen, where clipping shows, if the dtype has room for the product."""
        wanted = self._half_log + 4
        largest = max(*self._sizes, np.finfo(float).tiny) / self._unit
        room = int(np.log2(float(self._limits.max)) - 4 - np.log2(largest)) if np.isfinite(largest) else 0
        self._exponent = min(wanted, room) if room >= 1 else -4
        return self._exponent

    def take(self, row: str | int, recipe: Mapping[int, float], w: Array, y: Array) -> None:
        """The product y of w, which `recipe` combines of the wᵢ."""
        if row == 1:
            self._unit = _unit(self._A, y)
        if self._unit != 1.0:
            y = y * self._unit
        size = size_of(self._A, y)
        if not np.isfinite(size):
            raise NonFiniteError(_not_finite(row), probes=[0], step=0)
        if isinstance(row, int):
            self._sizes.append(size)
            if hasattr(self._A, "vecdot"):  # a metric of its own, in which w has a length of its own
                self._lengths.append(size_of(self._A, w))
        if isinstance(row, int) or row == "again":
            if self._last is not None:
                self._close_pair(*self._last, w, y)
            self._last = None if row == _LAST else (w, y)
        if isinstance(row, int):
            self._products = {1: self._products.get(1, y), row: y}
            return
        del w
        for number, factor in recipe.items():
            y = y - self._products[number] * factor
        self._errors[row] = size_of(self._A, y) / (math.hypot(*recipe.values()) or 1.0)

    def _close_pair(self, u: Array, Au: Array, v: Array, Av: Array) -> None:
        dot = inner(self._A)
        forth, back = (complex(to_host(dot(x, Ay))[0]) for x, Ay in ((u, Av), (v, Au)))
        self._skews.append(abs(forth - back.conjugate()))

    def result(self, eps: float) -> Measured:
        size, skew = (float(np.sqrt(np.mean(np.square(x)))) for x in (self._sizes, self._skews))
        # For independent wᵢ of covariance c²I: E|uᴴ(A − Aᴴ)v|² = c⁴‖A − Aᴴ‖² and E‖A w‖² = c²‖A‖². A metric M gives
        # uᴴM(A − A*)v, so that its scale is that of E(wᴴM w)/(c² n).
        n, c = self._A.shape[0], self.length
        metric = float(np.mean(np.square(self._lengths))) / (c * c * n) if self._lengths else 1.0
        errors = {row: _ratio(error, size) for row, error in self._errors.items()}
        # Each term of the n sums of n terms may have lost as much, in either direction, where subnormals become zero.
        at_bottom = float(self._limits.smallest_normal) * self._unit * n
        return Measured(
            repeatability=errors["again"],
            zero=errors["zero"],
            scaling=errors["scaled"],
            linearity=errors["combination"],
            symmetry=_ratio(skew, c * size * metric**0.5),
            exponent=self._exponent,
            underflow=_ratio(at_bottom, size),
            eps=eps,
        )


def _ratio(error: float, size: float) -> float:
    return 0.0 if error == 0 else float(error / size) if size > 0 else float("inf")


def _not_finite(row: str | int) -> str:
    if row == "zero":
        return (
            "the product of the zero vector contains NaN or infinity; vectors become zero when a run ends early: "
            "return zeros for zeros (mind divisions by the length of the vector)"
        )
    return (
        "a product contains NaN or infinity, from finite input; look for a division by zero, an overflow or bad data "
        "inside the operator"
    )


def multiply(products: Products, x: Array) -> Array:
    """The product with the rows of x, checked."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # found in the product, and named
        y = products(x)
        products.read(y[:1, :1])  # an error that shows later shows here
        return y


def size_of(A: LinearOperator, x: Array) -> float:
    """The norm of a block in the operator's space."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return float(np.linalg.norm(to_host(norm(inner(A)(x, x))).astype(np.float64)))


def _unit(A: LinearOperator, y: Array) -> float:
    """The power of two that brings y to order one (1.0 if near enough), the same in every process with a part of it."""
    wide = bool(namespace(y).finfo(y.dtype).bits > 32)
    # In single precision squares are safe within 2^±40; so they are after either shift of everything that is not.
    safe, down, up = (300, -600, 600) if wide else (40, -80, 80)
    size = size_of(A, y)
    if 2.0**-safe < size < 2.0**safe:
        return 1.0
    shift = up if size < 1 else down  # down also if infinite
    size = size_of(A, y * 2.0**shift)
    if not (np.isfinite(size) and size > 0):
        return 1.0  # zero, or not finite: nothing to scale
    exponent = shift - int(np.frexp(size)[1])
    return float(np.ldexp(1.0, min(exponent, 1020 if wide else 125)))
