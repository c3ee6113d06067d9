"""The Hessian of a mean loss over a data set."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

import torch

from slq.adapters import available_memory, warn_user
from slq.errors import OperatorError, PrecisionWarning, RequestError
from slq_torch._choice import WORTH_TRACING, WORTH_TRYING, Mode, choose
from slq_torch._cuda_graph import Recorded
from slq_torch._data_pass import DataPass, LossFunction, Piece
from slq_torch._hessian_modes import Difference, DoubleBackward, Jvp, Linearize, best_step
from slq_torch._meter import Meter
from slq_torch._operator import ModelOperator
from slq_torch._parameters import Selection
from slq_torch._settings import Options, Settings
from slq_torch._verify import direction_for, require_derivative, require_repeatable

__all__ = ["HessianOperator", "hessian_operator"]

# How torch says that it cannot differentiate something a second time, or forward.
_NO_DERIVATIVE = re.compile(
    r"not implemented|forward AD|double backward|setup_context|saved tensor hooks|ZeroTensors|in-place|inplace"
    r"|once_differentiable|vmap|functorch|torch\.func"
)


def hessian_operator(
    model: torch.nn.Module, loss_fn: LossFunction, data: Any, *, params: Selection = None, **options: Unpack[Options]
) -> "HessianOperator":
    """Make the Hessian of the mean loss over `data`, with respect to the model's parameters, an operator.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode to be studied, usually after ``model.eval()``. It is left as it is.
    loss_fn : callable
        ``loss_fn(model, batch)`` returns a scalar, the mean over the samples of the batch (its leading dimension), or
        ``(sum, weight)``, for example the sum over valid tokens and their number.
    data : batch or iterable of batches or callable
        A tensor, tuple or dict is one batch; a list, DataLoader or other re-iterable holds batches, in any order; a
        function returns a fresh iterable for each pass. However the samples are batched, the operator is that of the
        whole set.
    params : str, iterable of str, mapping or callable, optional
        Which parameters to differentiate: names or patterns (``"encoder.*"``, ``"*lora_*"``), a mapping of names to
        parameters, or a function ``(name, parameter) -> bool``; default: all that require gradients. Tied ones count
        once.
    **options
        Those of `Options`: how to differentiate (`ad`, `compile`, `microbatch`, `compute_dtype`, ...), what layers do
        (`batch_norm`, `seed`), and what is added (`weight_decay`).

    Returns
    -------
    HessianOperator
        Of shape (n, n), in float64 if a parameter is, else in float32; its vectors lie on the parameters' device.

    Raises
    ------
    DataError
        If the data are empty or can be read only once, a loss is not finite, or a scalar loss is no mean over samples.
        A product raises it if the data are no longer the same.
    OperatorError
        If no parameter requires gradients, the loss does not depend on them, or is random (dropout), a module is known
        to be differentiated wrongly, or a product on the first batch is not the derivative of the gradient. A product
        raises it if the parameters or the model's mode changed since.
    RequestError
        If an option is out of range.

    Warns
    -----
    BatchStatisticsWarning
        If BatchNorm layers are in training mode.
    LostSamplesWarning
        If a loader leaves samples of its data set out.
    UnusedParameterWarning
        If the loss does not depend on some parameters.

    Notes
    -----
    One pass over the data serves a whole block of vectors: the gradient's graph is built once per batch and
    differentiated once per vector (reverse over reverse; Pearlmutter 1994), unless another way proves to be faster.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(3, 1)
    >>> x, y = torch.randn(8, 3), torch.randn(8, 1)
    >>> loss = lambda model, batch: ((model(batch[0]) - batch[1]) ** 2).mean()
    >>> hessian_operator(model, loss, (x, y)).shape
    (4, 4)
    """
    return HessianOperator(model, loss_fn, data, params, Settings(**options))


class HessianOperator(ModelOperator):
    """The operator that `hessian_operator` makes.

    Attributes
    ----------
    shape : (n, n)
        n is the number of parameters.
    like : (0,) tensor
        Dtype and device of the vectors.
    ad : str
        The way of differentiation, as far as it is chosen.
    tried : dict of str to str
        What "auto" found: seconds of each way, or why it was not taken.
    """

    @torch.inference_mode(False)
    def __init__(
        self, model: torch.nn.Module, loss_fn: LossFunction, data: Any, params: Selection, settings: Settings
    ) -> None:
        super().__init__(model, loss_fn, data, params, settings)
        self.tried: dict[str, str] = {}
        self._bytes = 0
        with self._data.differentiating():
            gradient = require_repeatable(self._data)
            self._mode: Mode = self._first_mode(direction_for(gradient))
        self._undecided = settings.ad == "auto" and self._mode.name == "double_backward"
        if settings.compile and settings.ad == "jvp":
            self._mode = Jvp(self._data, compiled=True)
        elif settings.compile and settings.ad == "linearize":
            self._mode = Linearize(self._data, keep=True, compiled=True)
        if settings.cuda_graph:
            if not isinstance(self._mode, DoubleBackward):
                raise RequestError(
                    f"cuda_graph=True records double backward, not {self.ad}; leave ad= or cuda_graph= out"
                )
            self._mode, self._undecided = Recorded(self._data, DoubleBackward(self._data, keep=True)), False

    @property
    def ad(self) -> str:
        """The way of differentiation, as far as it is chosen."""
        return self._mode.name

    @property
    def difference_error(self) -> float:
        """The largest estimated relative error of a difference on a batch so far; 0 where none is taken."""
        return self._mode.error if isinstance(self._mode, Difference) else 0.0

    def workspace(self, rows: int) -> int:
        """Bytes that a product with `rows` vectors takes, as measured on the first batch (not compiled)."""
        if isinstance(self._mode, DoubleBackward | Recorded):
            return self._bytes
        one, two = (self._measured(k) for k in (1, 2))
        return one + (rows - 1) * max(two - one, 0)

    def _add_products(self, piece: Piece, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor | None:
        return self._mode.add_products(piece, vectors, total)

    def _multiply(self, vectors: torch.Tensor) -> torch.Tensor:
        if self._undecided:
            self._undecided = False
            self._data.require_unchanged(contents=False)
            self._mode, self.tried = choose(self._data, self._mode, self._candidates(), vectors, self._bytes)
        return super()._multiply(vectors)

    def _candidates(self) -> list[tuple[Callable[[], Mode], float]]:
        """What may be faster than double backward, and how long that must take to try it."""
        data = self._data
        found: list[tuple[Callable[[], Mode], float]] = [(partial(Jvp, data), WORTH_TRYING)]
        if data.is_single:
            found.append((partial(Linearize, data, True), WORTH_TRACING))
        if self._settings.compile:
            found.append((partial(Linearize, data, True, True) if data.is_single else partial(Jvp, data, True), 0.0))
        return found

    def _first_mode(self, direction: torch.Tensor) -> Mode:
        """The mode asked for, or the safest, having multiplied once with `direction`."""
        reasons = []
        for make in self._allowed(direction):
            try:
                mode = make(self._data)
                product = self._zeros(1, self._parameters.n)
                with Meter() as meter:
                    mode.add_products(self._data.first, direction[None], product)
                self._bytes = meter.peak
                free = available_memory(self.like)
                if isinstance(mode, DoubleBackward) and free is not None and meter.peak > free / 2:
                    mode.drop()
            except RuntimeError as error:
                if not (isinstance(error, NotImplementedError) or _NO_DERIVATIVE.search(str(error))):
                    raise
                reasons.append(error)
                continue
            if isinstance(mode, Difference) and reasons:
                warn_user(
                    f"the loss has no second derivative ({_first_line(reasons[0])}): products are central differences "
                    f"of gradients, with an error of about {mode.error:.1g}; ad='difference' says that you mean it",
                    PrecisionWarning,
                )
            if self._settings.check and not isinstance(mode, Difference):
                require_derivative(self._data, make)
            return mode
        raise _not_differentiable(self._settings.ad, reasons[-1]) from reasons[-1]

    def _allowed(self, direction: torch.Tensor) -> list[Callable[[DataPass], Mode]]:
        ad = self._settings.ad
        ways: dict[str, Callable[[DataPass], Mode]] = {
            "double_backward": lambda data: DoubleBackward(data, keep=True),
            "jvp": Jvp,
            "linearize": lambda data: Linearize(data, keep=True),
            "difference": lambda data: Difference(data, best_step(data, direction)),
        }
        return [ways[name] for name in ("double_backward", "jvp", "difference")] if ad == "auto" else [ways[ad]]

    def _measured(self, rows: int) -> int:
        vectors = torch.ones(rows, self.shape[1], dtype=self.like.dtype, device=self.like.device)
        eager = Jvp(self._data) if isinstance(self._mode, Jvp) else Linearize(self._data, keep=False)
        mode = self._mode if isinstance(self._mode, Difference) else eager
        with self._data.differentiating(), Meter() as meter:  # under which nothing compiles
            mode.add_products(self._data.first, vectors, torch.zeros_like(vectors))
        return meter.peak


def _not_differentiable(ad: str, error: BaseException) -> OperatorError:
    return OperatorError(
        f"ad={ad!r} cannot differentiate this loss: {_first_line(error)}; ad='auto' tries other ways, and "
        "ad='difference' needs gradients only"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
