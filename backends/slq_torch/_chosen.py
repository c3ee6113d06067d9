"""Operators that choose among ways to differentiate."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from slq.adapters import available_memory, warn_user
from slq.errors import OperatorError, PrecisionWarning, RequestError
from slq_torch._choice import WORTH_TRACING, WORTH_TRYING, Mode, choose
from slq_torch._cuda_graph import Recorded
from slq_torch._data_pass import LossFunction, Piece
from slq_torch._meter import Meter
from slq_torch._operator import ModelOperator
from slq_torch._parameters import Selection
from slq_torch._settings import Settings
from slq_torch._verify import direction_for, require_repeatable

__all__ = ["ChosenOperator", "Way"]

Way = Callable[..., Mode]  # (data, compiled=False)

# How torch says that it cannot differentiate something a second time, or forward.
_NO_DERIVATIVE = re.compile(
    r"not implemented|forward AD|double backward|setup_context|saved tensor hooks|ZeroTensors|in-place|inplace"
    r"|once_differentiable|don't support automatic differentiation"
)


class ChosenOperator(ModelOperator):
    """A `ModelOperator` whose products are made by one of several ways. A subclass names them, and verifies one.

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
            with Meter() as meter:
                direction = direction_for(require_repeatable(self._data))
            self._bytes_of_gradient = meter.peak
            self._ways = self._make_ways(direction)
            self._mode: Mode = self._first_mode(direction)
        self._undecided = settings.ad == "auto" and self.ad == "double_backward"
        if settings.compile and settings.ad in ("jvp", "linearize"):
            self._mode = self._ways[settings.ad](self._data, compiled=True)
        if settings.cuda_graph:
            if self.ad != "double_backward":
                raise RequestError(
                    f"cuda_graph=True records double backward, not {self.ad}; leave ad= or cuda_graph= out"
                )
            fresh = self._ways["double_backward"](self._data)
            self._mode, self._undecided = Recorded(self._data, fresh), False

    @property
    def ad(self) -> str:
        """The way of differentiation, as far as it is chosen."""
        return self._mode.name

    def workspace(self, rows: int) -> int:
        """Bytes that a product with `rows` vectors takes: by double backward as measured on the first batch.

        Other ways hold as much for each vector; that is estimated from above, by twice what a gradient takes.
        """
        if self.ad.partition(",")[0] == "double_backward":
            return self._bytes
        return 2 * (1 + rows) * self._bytes_of_gradient if self.ad != "difference" else 2 * self._bytes_of_gradient

    def _make_ways(self, direction: torch.Tensor) -> Mapping[str, Way]:
        """The ways by their names; the first is the safest, and the order that in which "auto" falls back."""
        raise NotImplementedError

    def _require_right(self, way: Way) -> None:
        """Raise unless the products of a way are what they should be, on a few samples."""
        raise NotImplementedError

    def _add_products(self, piece: Piece, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor | None:
        return self._mode.add_products(piece, vectors, total)

    def _multiply(self, vectors: torch.Tensor) -> torch.Tensor:
        if self._undecided:
            self._undecided = False
            self._data.require_unchanged(contents=False)
            candidates = self._candidates(len(vectors))
            self._mode, self.tried = choose(self._data, self._mode, candidates, vectors, self._bytes)
        return super()._multiply(vectors)

    def _candidates(self, rows: int) -> Sequence[tuple[Callable[[], Mode], float]]:
        """What may be faster than double backward, and how long that must take to try it."""
        data, single = self._data, self._data.is_single
        found: list[tuple[Callable[[], Mode], float]] = []
        if rows > 1:  # one vector alone has nothing to gain from torch.vmap
            found.append((partial(self._ways["jvp"], data), WORTH_TRYING))
        if single:
            found.append((partial(self._ways["linearize"], data), WORTH_TRACING))
        if self._settings.compile:
            found.append((partial(self._ways["linearize" if single else "jvp"], data, compiled=True), 0.0))
        return found

    def _first_mode(self, direction: torch.Tensor) -> Mode:
        """The way asked for, or the safest there is, having multiplied once with `direction`."""
        reasons: list[RuntimeError] = []
        ad = self._settings.ad
        if ad != "auto" and ad not in self._ways:
            raise RequestError(f"ad={ad!r} is no way to make this operator; take one of {', '.join(self._ways)}")
        # A trace can be wrong where what it traces is right, and has more to trip over.
        for name in [name for name in self._ways if name != "linearize"] if ad == "auto" else [ad]:
            try:
                mode = self._measure_first(name, direction)
            except RuntimeError as error:
                if not _lacks_derivative(name, error):
                    raise
                reasons.append(error)
                continue
            if name == "difference" and reasons:
                warn_user(
                    f"the loss has no second derivative ({_first_line(reasons[0])}): products are central differences "
                    f"of gradients, with an error of about {mode.error:.1g}; "  # type: ignore[attr-defined]
                    "ad='difference' says that you mean it",
                    PrecisionWarning,
                )
            if self._settings.check and name != "difference":
                self._require_right(self._ways[name])
            return mode
        raise OperatorError(
            f"ad={ad!r} cannot differentiate this loss: {_first_line(reasons[-1])}; ad='auto' tries other ways, and "
            "the Hessian has ad='difference', which needs gradients only"
        ) from reasons[-1]

    def _measure_first(self, name: str, direction: torch.Tensor) -> Mode:
        mode = self._ways[name](self._data)
        product = self._zeros(1, self._parameters.n)
        if name != "double_backward":
            # Two vectors: what torch.vmap cannot do shows with more than one.
            mode.add_products(self._data.first, direction.expand(2, -1), self._zeros(2, self._parameters.n))
            return mode
        with Meter() as meter:
            mode.add_products(self._data.first, direction[None], product)
        self._bytes = meter.peak
        free = available_memory(self.like)
        if free is not None and meter.peak > free / 2:
            mode.drop()  # type: ignore[attr-defined]
        return mode


def _lacks_derivative(name: str, error: RuntimeError) -> bool:
    """Whether an error says that torch cannot differentiate in this way, and not that something else is wrong."""
    if name != "double_backward":  # in which it has worked, or was said not to
        return type(error).__name__ != "OutOfMemoryError"
    return isinstance(error, NotImplementedError) or _NO_DERIVATIVE.search(str(error)) is not None


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
