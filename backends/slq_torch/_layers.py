"""Diagonal blocks of a Hessian, all from one pass over the data; and blocks off the diagonal."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Unpack

import torch

from slq.adapters import Blocks, partition
from slq.errors import RequestError, ShapeError
from slq_torch._data_pass import LossFunction, Piece
from slq_torch._hessian import HessianOperator
from slq_torch._modules import unwrapped
from slq_torch._parameters import Parameters, Selection
from slq_torch._settings import Options, Settings

__all__ = ["BlockOperator", "CrossBlockOperator", "LayerOperators", "cross_block_operator", "layer_operators"]


def layer_operators(
    model: torch.nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    blocks: Blocks = "modules",
    params: Selection = None,
    **options: Unpack[Options],
) -> "LayerOperators":
    """Make the diagonal blocks of the Hessian of the mean loss operators that share their passes over the data.

    Parameters
    ----------
    model, loss_fn, data, params, **options
        As for `hessian_operator`; the blocks are differentiated by double backward.
    blocks : {"modules", "parameters"} or mapping or callable
        One block for each module that owns parameters (weight and bias together) or for each parameter; or block names
        with the names or patterns of their parameters, or a function from the name of a parameter to that of its block.
        A tied parameter belongs to the module of its first name.

    Returns
    -------
    LayerOperators
        A mapping of block names to operators. `slq.spectral_measures` computes all their measures in step: one pass
        over the data, and one graph of the gradient, for each step of all blocks and probes.

    Raises
    ------
    RequestError
        If a block is empty, or a parameter is in two blocks or in none.
    SlqError
        As `hessian_operator`.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> loss = lambda model, batch: ((model(batch[0]) - batch[1]) ** 2).mean()
    >>> layers = layer_operators(model, loss, (torch.randn(8, 3), torch.randn(8, 1)))
    >>> {name: A.shape for name, A in layers.items()}
    {'0': (16, 16), '2': (5, 5)}
    """
    return LayerOperators(_whole(model, loss_fn, data, params, options), blocks)


def cross_block_operator(
    model: torch.nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    rows: Selection,
    columns: Selection,
    **options: Unpack[Options],
) -> "CrossBlockOperator":
    """Make the block of the Hessian with the given rows and columns an operator, for `slq.singular_measure`.

    Parameters
    ----------
    model, loss_fn, data, **options
        As for `hessian_operator`; the block is differentiated by double backward.
    rows, columns : Selection
        The parameters of the rows and of the columns, as `params` of `hessian_operator`.

    Returns
    -------
    CrossBlockOperator
        Of shape (n of the rows, n of the columns).

    Raises
    ------
    SlqError
        As `hessian_operator`.
    """
    row_names, column_names = (Parameters(unwrapped(model), selection).named for selection in (rows, columns))
    names = list(dict.fromkeys([*row_names, *column_names]))
    return CrossBlockOperator(_whole(model, loss_fn, data, names, options), list(row_names), list(column_names))


def _whole(
    model: torch.nn.Module, loss_fn: LossFunction, data: Any, params: Selection, options: Options
) -> "_SharedHessian":
    other = options.get("ad", "auto") not in ("auto", "double_backward")
    if other or options.get("compile") or options.get("cuda_graph"):
        raise RequestError(
            "blocks of a Hessian share the graph of double backward: leave ad=, compile=, cuda_graph= out"
        )
    options["ad"] = "double_backward"
    return _SharedHessian(model, loss_fn, data, params, Settings(**options))


class _SharedHessian(HessianOperator):
    """The whole Hessian, whose blocks are multiplied from one graph of the gradient."""

    @torch.inference_mode(False)
    def products(self, wanted: Sequence[tuple[Parameters, Parameters, torch.Tensor]]) -> list[torch.Tensor]:
        """Products H[rows, columns] v for several (rows, columns, (k, n) vectors), in one pass over the data."""
        totals = [self._zeros(len(v), rows.n) for rows, _, v in wanted]

        def add(piece: Piece) -> torch.Tensor:
            graph = self._mode.graph(piece)  # type: ignore[attr-defined]
            gradients = {id(self._parameters.tensors[i]): g for i, g in graph.gradient.items()}
            for (rows, columns, vectors), total in zip(wanted, totals, strict=True):
                depending = [i for i, p in enumerate(columns.tensors) if id(p) in gradients]
                if not depending:
                    continue  # the loss of this piece is linear in them
                outputs = [gradients[id(columns.tensors[i])] for i in depending]
                for v, sum_of_row in zip(vectors, total, strict=True):
                    parts = columns.split(v)
                    # Autograd runs through what lies between these gradients and these parameters only.
                    products = torch.autograd.grad(
                        outputs, rows.tensors, [parts[i] for i in depending], retain_graph=True, allow_unused=True
                    )
                    rows.add_to(sum_of_row, products)
            return graph.loss

        self._data.run(add)
        products = [total.div_(self._data.weighed.weight).to(self.like.dtype) for total in totals]
        for product, (rows, columns, vectors) in zip(products, wanted, strict=True):
            self._add_decay(product, rows, columns, vectors)
        return products

    @property
    def names(self) -> list[str]:
        """The names of the parameters."""
        return list(self._parameters.named)

    def part(self, names: Iterable[str]) -> Parameters:
        """Some of the parameters, of the model that is differentiated."""
        return Parameters(self._data.model, list(names))

    def gradient_of(self, part: Parameters) -> torch.Tensor:
        """The gradient of the mean loss with respect to some of the parameters."""
        gradient = self.unravel(self.gradient())
        return part.ravel({name: gradient[name] for name in part.named})

    def _add_decay(self, product: torch.Tensor, rows: Parameters, columns: Parameters, v: torch.Tensor) -> None:
        if self._decay is None:
            return
        decay = self.unravel(self._decay)
        parts = dict(zip(columns.named, v.split(columns.sizes, dim=1), strict=True))
        for name, part in zip(rows.named, product.split(rows.sizes, dim=1), strict=True):
            if name in parts:
                part += decay[name].reshape(-1) * parts[name]


class _Block:
    """What blocks share: vectors of the columns in, vectors of the rows out."""

    def __init__(self, whole: _SharedHessian, rows: Parameters, columns: Parameters) -> None:
        self._whole, self._rows, self._columns = whole, rows, columns
        self.shape = (rows.n, columns.n)
        self.like = whole.like

    def matvec(self, x: torch.Tensor, /) -> torch.Tensor:
        """The product with each row of `x`: (..., n of the columns) -> (..., n of the rows), one pass over the data."""
        return self._product(self._rows, self._columns, x)

    def workspace(self, rows: int) -> int:
        """Bytes that a product with `rows` vectors takes: those of the whole Hessian, at most."""
        return self._whole.workspace(rows)

    def _product(self, rows: Parameters, columns: Parameters, x: torch.Tensor) -> torch.Tensor:
        vectors = _rows_of(x, columns.n)
        return self._whole.products([(rows, columns, vectors)])[0].reshape(*x.shape[:-1], rows.n)


class BlockOperator(_Block):
    """A diagonal block, which `LayerOperators` holds.

    Attributes
    ----------
    shape : (n, n)
        n is the number of parameters in the block.
    like : (0,) tensor
        Dtype and device of the vectors.
    """

    def __init__(self, whole: _SharedHessian, names: Iterable[str]) -> None:
        part = whole.part(names)
        super().__init__(whole, part, part)

    def gradient(self) -> torch.Tensor:
        """The gradient of the mean loss with respect to the parameters of the block, flat."""
        return self._whole.gradient_of(self._rows)

    def loss(self) -> float:
        """The mean loss over the data."""
        return self._whole.loss()

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The user's parameters of the block by their names, in the order of the flat vectors."""
        return {name: p for name, p in self._whole.parameters.items() if name in self._rows.named}

    def unravel(self, v: torch.Tensor) -> dict[str, torch.Tensor]:
        """A flat (n,) vector as tensors by parameter names."""
        return self._rows.unravel(v)

    def ravel(self, tree: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Tensors by parameter names as a flat (n,) vector."""
        return self._rows.ravel(tree)


class CrossBlockOperator(_Block):
    """The operator that `cross_block_operator` makes.

    Attributes
    ----------
    shape : (p, n)
        The numbers of parameters of the rows and of the columns.
    like : (0,) tensor
        Dtype and device of the vectors.
    """

    def __init__(self, whole: _SharedHessian, rows: Iterable[str], columns: Iterable[str]) -> None:
        super().__init__(whole, whole.part(rows), whole.part(columns))

    def rmatvec(self, y: torch.Tensor, /) -> torch.Tensor:
        """The product of the transpose with each row of `y`: (..., p) -> (..., n)."""
        return self._product(self._columns, self._rows, y)


class LayerOperators(Mapping[str, BlockOperator]):
    """The diagonal blocks that `layer_operators` makes, by their names."""

    def __init__(self, whole: _SharedHessian, blocks: Blocks) -> None:
        self._whole = whole
        self._blocks = {name: BlockOperator(whole, part) for name, part in partition(whole.names, blocks).items()}

    def __getitem__(self, name: str) -> BlockOperator:
        return self._blocks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def matvecs(self, vectors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Products of several blocks, each with the rows of its own (..., n): one pass over the data for all."""
        unknown = [name for name in vectors if name not in self._blocks]
        if unknown:
            raise RequestError(f"there is no block {unknown[0]!r}; the blocks are {', '.join(self._blocks)}")
        parts = {name: self._blocks[name]._rows for name in vectors}
        wanted = [(parts[name], parts[name], _rows_of(x, parts[name].n)) for name, x in vectors.items()]
        products = self._whole.products(wanted)
        return {name: y.reshape(x.shape) for (name, x), y in zip(vectors.items(), products, strict=True)}


def _rows_of(x: torch.Tensor, n: int) -> torch.Tensor:
    """Vectors (..., n) as rows."""
    if x.ndim == 0 or x.shape[-1] != n:
        raise ShapeError(f"the product expects vectors of shape (..., {n}), got {tuple(x.shape)}")
    with torch.inference_mode(False):
        return (x.clone() if x.is_inference() else x).detach().reshape(-1, n)
