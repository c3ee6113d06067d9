"""What all operators of JAX functions share: products are weighted sums over the pieces of the data."""

import copy
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from slq.adapters import Batches
from slq.errors import RequestError, ShapeError
from slq_jax._curvatures import Curvature, Given, Hessian
from slq_jax._data import Data
from slq_jax._driver import Linear
from slq_jax._explicit import Explicit, has_explicit_axes, specs_of
from slq_jax._layout import Flat
from slq_jax._objective import Piece, require_hashable
from slq_jax._parameters import Parameters, Selection
from slq_jax._product import (
    Arrays,
    Fresh,
    Kept,
    add_piece,
    add_piece_of_blocks,
    apply,
    apply_blocks,
    evaluate,
    gradient_of,
    linearized,
    linearized_piece,
)
from slq_jax._settings import Settings
from slq_jax._sharded import Sharded
from slq_jax._verify import require_derivative, require_function

__all__ = ["ModelOperator"]

_SHARE = 4  # linearisations that take less than this part of the free memory are kept


class ModelOperator:
    """A symmetric operator on the leaves of a tree: Σ over the data / Σ weights.

    Attributes
    ----------
    shape : (n, n)
        n is the number of parameters.
    like : (0,) array
        Dtype and device of the vectors.
    """

    def __init__(self, curvature: Curvature, params: Any, data: Any, select: Selection, settings: Settings) -> None:
        require_hashable(curvature.objective.loss_fn, "loss")
        p = Parameters(params, select, settings.probe_axis)
        if has_explicit_axes(params):
            first = next(iter(Batches(data)), None)
            sharded: Any = p.layout
            curvature = curvature.around(partial(Explicit, mesh=sharded.mesh, specs=specs_of((params, first))))
        self._curvature, self._settings, objective = curvature, settings, curvature.objective
        self._rounding = max(float(jnp.finfo(leaf.dtype).eps) for leaf in p.leaves)

        def look(piece: Piece) -> tuple[float, float | None]:
            loss, weight = evaluate(objective, p.tree, p.leaves, p.others, piece.batch)
            return float(loss), None if weight is None else float(weight)

        self._data = Data(data, settings, look, self._rounding**0.5, p.layout.free(p.leaves[0]), p.layout.place)
        self._decays = _decays(p, settings.weight_decay)
        self._bind(p)
        own_rules = settings.check and require_function(objective, p, self._data.first)
        if own_rules and isinstance(curvature, Hessian):
            self._require_derivative()

    def _bind(self, parameters: Parameters) -> None:
        """Make this the operator on these leaves."""
        self._parameters = p = parameters
        self.shape = (p.n, p.n)
        self.like = p.layout.place(jnp.empty(0, dtype=p.dtype, device=None if p.is_sharded else p.leaves[0].sharding))
        if isinstance(p.layout, Sharded):
            self.vecdot, self.index, self.put = p.layout.vecdot, p.layout.index, p.layout.put
            self.num_memories = p.layout.num_memories
        groups = self._data.groups or []
        on_host = all(d.platform == "cpu" for d in self.like.devices())
        together = self._settings.together or (1 if on_host else 1 << 30)
        self._product = Fresh(self._curvature, p.tree, p.layout, tuple(s for s, _ in groups), together)
        decay = None
        if self._decays:
            named = p.named.items()
            values = [np.full(x.shape, self._decays.get(name, 0.0), p.dtype) for name, x in named]
            decay = p.layout.join([p.layout.place_leaf(i, x) for i, x in enumerate(values)])
        given = Given(np.asarray(1 / self._data.weighed.weight, p.dtype))
        self._arrays = Arrays(p.leaves, p.others, tuple(piece for _, piece in groups), decay, given)
        self._linear: Linear | None = None

    def matvec(self, x: jax.Array, /) -> jax.Array:
        """The product with each row of `x`: (..., n) -> (..., n)."""
        self.require_vectors(x)
        return self.layout.as_given(self._multiply(self.layout.rows(x)), x)

    def require_vectors(self, x: Any) -> None:
        """Raise unless `x` has the shape of vectors."""
        if jnp.ndim(x) == 0 or x.shape[-1] not in (self.shape[0], self.layout.size):
            raise ShapeError(f"the product expects vectors of shape (..., {self.shape[0]}), got {jnp.shape(x)}")

    @property
    def layout(self) -> Flat:
        """Where the entries of the leaves are in the flat vectors."""
        return self._parameters.layout

    def linear(self) -> Linear | None:
        """The product as a pure function and its arguments, for compiled loops; None where the data do not fit."""
        self._require_alive()
        if self._data.groups is None:
            return None
        if self._linear is None:
            self._data.confirm()
            sharded = self._parameters.layout if self._parameters.is_sharded else None
            with _eager():
                self._linear = self._linearized()._replace(sharded=sharded)
        return self._linear

    def workspace(self, rows: int) -> int:
        """Bytes that a product with `rows` vectors takes: linearisations, those that are kept and one that is used.

        An estimate: of tangents on the way as much as of the residuals that they meet.
        """
        kept, of_piece = self._residuals
        return (kept if self._linear is None else 0) + of_piece * (1 + min(rows, self._product.together))

    def gradient(self) -> jax.Array:
        """The gradient of the mean loss, flat, in the order of the tree's leaves; of sharded ones, see `Options`."""
        self._require_alive()
        arrays, total = self._arrays, self._parameters.layout.zeros()

        def add(piece: Piece) -> tuple[jax.Array, Any]:
            nonlocal total
            total, loss, weight = gradient_of(self._product, arrays._replace(pieces=()), piece, total)
            return loss, weight

        self._data.run(add)
        gradient = total * arrays.given.scale
        if arrays.decay is not None:
            gradient += arrays.decay * self._parameters.layout.join(self._parameters.leaves)
        return gradient

    def loss(self) -> float:
        """The mean loss over the data, with the penalty of `weight_decay`."""
        loss = self._data.weighed.loss
        if self._arrays.decay is not None:
            flat = self._parameters.layout.join(self._parameters.leaves)
            loss += 0.5 * float((self._arrays.decay * flat * flat).sum())
        return loss

    @property
    def parameters(self) -> dict[str, jax.Array]:
        """The leaves that are differentiated by their names, in the order of the flat vectors."""
        return dict(self._parameters.named)

    def unravel(self, v: jax.Array) -> Any:
        """A flat (n,) vector as a tree like the parameters."""
        return self._parameters.unravel(v)

    def ravel(self, tree: Any) -> jax.Array:
        """A tree like the parameters as a flat (n,) vector."""
        return self._parameters.ravel(tree)

    def block(self, names: Collection[str]) -> Self:
        """The operator on some of the leaves, with the same data."""
        p = self._parameters
        block = copy.copy(self)
        block.__dict__.pop("_residuals", None)
        whole = p.tree.join(p.leaves, p.others)
        block._bind(Parameters(whole, lambda name, _: name in names, self._settings.probe_axis))
        return block

    def products_of_blocks(self, blocks: Sequence["ModelOperator"], rows: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """The products of several blocks of this operator, each with rows of its own, in one pass over the data."""
        self._require_alive()
        products, arrays = tuple(A._product for A in blocks), tuple(A._arrays for A in blocks)
        if self._data.groups is not None:
            self._data.confirm()
            return apply_blocks(products, arrays, tuple(rows))
        totals = tuple(map(jnp.zeros_like, rows))

        def add(piece: Piece) -> tuple[jax.Array, Any]:
            nonlocal totals
            totals, loss, weight = add_piece_of_blocks(products, arrays, piece, tuple(rows), totals)
            return loss, weight

        self._data.run(add)
        return tuple(p.finish(t, a, x) for p, t, a, x in zip(products, totals, arrays, rows, strict=True))

    def _require_alive(self) -> None:
        self._parameters.require_alive()
        self._data.require_alive()

    def give(self, **given: Any) -> None:
        """Set what the products depend on besides leaves and data; see `Given`."""
        given = {name: jax.tree.map(self._parameters.layout.place, value) for name, value in given.items()}
        self._arrays = self._arrays._replace(given=self._arrays.given._replace(**given))

    def _require_derivative(self) -> None:
        """Compare a product with differences of gradients, on the first piece."""
        arrays, zeros = self._arrays._replace(pieces=()), self._parameters.layout.zeros()
        first = self._data.first

        def gradient(leaves: tuple[jax.Array, ...]) -> jax.Array:
            return gradient_of(self._product, arrays._replace(leaves=leaves), first, zeros)[0]

        def product(v: jax.Array) -> jax.Array:
            return add_piece(self._product, arrays, first, v[None], zeros[None])[0][0] / arrays.given.scale

        require_derivative(gradient, product, self._parameters)

    @cached_property
    def _residuals(self) -> tuple[int, int]:
        """Bytes of the linearisations that are kept, and of that of one piece."""
        first = _bytes(linearized_piece.eval_shape(self._product, self._arrays._replace(pieces=()), self._data.first))
        if self._data.groups is None:
            return 0, first
        everything = _bytes(linearized.eval_shape(self._product, self._arrays))
        free = self.layout.free(self.like)
        return everything if free is None or everything < free / _SHARE else 0, first

    def _linearized(self) -> Linear:
        if not self._residuals[0]:
            return Linear(self._product, self._arrays)
        fields = {name: getattr(self._product, name) for name in self._product.__dataclass_fields__}
        kept = linearized(self._product, self._arrays)
        return Linear(Kept(**fields), (kept, self._arrays._replace(pieces=())))

    def _multiply(self, vectors: jax.Array) -> jax.Array:
        linear = self.linear()
        return self._stream(vectors) if linear is None else apply(linear.function, linear.arguments, vectors)

    def _stream(self, vectors: jax.Array) -> jax.Array:
        """The product with each row, reading the data anew."""
        total, arrays = jnp.zeros_like(vectors), self._arrays

        def add(piece: Piece) -> tuple[jax.Array, Any]:
            nonlocal total
            total, loss, weight = add_piece(self._product, arrays, piece, vectors, total)
            return loss, weight

        self._data.run(add)
        return self._product.finish(total, arrays, vectors)


def _eager() -> AbstractContextManager[None]:
    """Where the first product is asked for in a trace, numbers all the same.

    Only there: inside, what has Explicit axes cannot be compiled.
    """
    in_trace = isinstance(jnp.zeros(()), jax.core.Tracer)
    return jax.ensure_compile_time_eval() if in_trace else nullcontext()


def _decays(parameters: Parameters, weight_decay: float | Mapping[str, float]) -> dict[str, float]:
    """What `weight_decay` adds to the diagonal, by the names of leaves."""
    if not isinstance(weight_decay, Mapping):
        weight_decay = {"*": weight_decay} if weight_decay else {}
    values: dict[str, float] = {}
    for pattern, value in weight_decay.items():
        names = parameters.matching(pattern)
        if not names or not float(value) >= 0:
            raise RequestError(
                f"weight_decay= expects numbers >= 0, by names or patterns of leaves, not {pattern!r}: {value!r}"
            )
        values |= dict.fromkeys(names, float(value))
    return values


def _bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
