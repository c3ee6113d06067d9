"""Diagonal blocks of a Hessian, all from one pass over the data."""

from collections.abc import Iterator, Mapping
from typing import Any, Unpack

import jax

from slq.adapters import Blocks, partition
from slq.errors import RequestError
from slq_jax._curvatures import Hessian
from slq_jax._hessian import HessianOperator
from slq_jax._objective import LossFunction, Objective
from slq_jax._parameters import Selection
from slq_jax._settings import Options, Settings

__all__ = ["LayerOperators", "layer_operators"]


def layer_operators(
    loss_fn: LossFunction,
    params: Any,
    data: Any,
    *,
    blocks: Blocks = "modules",
    select: Selection = None,
    **options: Unpack[Options],
) -> "LayerOperators":
    """Make the diagonal blocks of the Hessian of the mean loss operators that share their passes over the data.

    Parameters
    ----------
    loss_fn, params, data, select, **options
        As for `hessian_operator`.
    blocks : {"modules", "parameters"} or mapping or callable
        One block for each parent of leaves (``"layers.0"`` for ``"layers.0.kernel"`` and ``"layers.0.bias"``) or for
        each leaf; or block names with the names or patterns of their leaves, or a function from the name of a leaf to
        that of its block.

    Returns
    -------
    LayerOperators
        A mapping of block names to operators. `slq.spectral_measures` computes all their measures in step: one pass
        over the data, and one gradient of each batch, for each step of all blocks and probes.

    Raises
    ------
    RequestError
        If a block is empty, or a leaf is in two blocks or in none.
    SlqError
        As `hessian_operator`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> params = {"first": {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}, "last": {"w": jnp.ones(4)}}
    >>> def loss(p, batch):
    ...     return jnp.mean((jnp.tanh(batch @ p["first"]["w"] + p["first"]["b"]) @ p["last"]["w"]) ** 2)
    >>> {name: A.shape for name, A in layer_operators(loss, params, jnp.ones((8, 3))).items()}
    {'first': (16, 16), 'last': (4, 4)}
    """
    settings = Settings(**options)
    whole = HessianOperator(Hessian(Objective(loss_fn, settings.reduction)), params, data, select, settings)
    return LayerOperators(whole, blocks)


class LayerOperators(Mapping[str, HessianOperator]):
    """The diagonal blocks that `layer_operators` makes, by their names."""

    def __init__(self, whole: HessianOperator, blocks: Blocks) -> None:
        self._whole = whole
        self._blocks = {name: whole.block(names) for name, names in partition(list(whole.parameters), blocks).items()}

    def __getitem__(self, name: str) -> HessianOperator:
        return self._blocks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def matvecs(self, vectors: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Products of several blocks, each with the rows of its own (..., n): one pass over the data for all."""
        unknown = [name for name in vectors if name not in self._blocks]
        if unknown:
            raise RequestError(f"there is no block {unknown[0]!r}; the blocks are {', '.join(self._blocks)}")
        operators = [self._blocks[name] for name in vectors]
        rows = []
        for A, x in zip(operators, vectors.values(), strict=True):
            A.require_vectors(x)
            rows.append(A.layout.rows(x))
        products = self._whole.products_of_blocks(operators, rows)
        given = zip(vectors.items(), operators, products, strict=True)
        return {name: A.layout.as_given(y, x) for (name, x), A, y in given}
