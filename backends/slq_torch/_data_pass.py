"""The pass over the data: every operator of a model is a sum over its pieces."""

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from slq.adapters import Batches, warn_user, weigh
from slq.errors import (
    BatchStatisticsWarning,
    DataError,
    LostSamplesWarning,
    OperatorError,
    UnusedParameterWarning,
)
from slq_torch._batch_norm import statistics, uses_batch_statistics
from slq_torch._guard import parameters_of, untouched, unwritten
from slq_torch._modules import random_loss, refuse, unwrapped
from slq_torch._parameters import Parameters, Selection
from slq_torch._pieces import LossFunction, Owner, Piece, Pieces, sum_and_weight
from slq_torch._precision import autocasts, warn_of_precision
from slq_torch._settings import Settings
from slq_torch._trees import cut, fingerprint, lengths_of, naming, size_of

__all__ = ["DataPass", "LossFunction", "Piece"]


class DataPass:
    """A model, its loss and its data, read once per product.

    Parameters
    ----------
    model : torch.nn.Module
    loss_fn : callable
        (model, batch) -> scalar, or (sum, weight).
    data : batch or iterable of batches or callable
    params : Selection
    settings : Settings

    Attributes
    ----------
    model : torch.nn.Module
        The one to be differentiated.
    parameters, watched : Parameters
        Those to be differentiated, and those of the user, which may be others in another dtype.
    weighed : Weighed
    first : Piece
        For trials.
    is_single : bool
        All data are one piece, always the same, so that what was computed from it can be kept.
    rounding, rtol : float
        The relative error of a number, and how well two must agree that differ by more than one rounding.
    """

    def __init__(
        self, model: torch.nn.Module, loss_fn: LossFunction, data: Any, params: Selection, settings: Settings
    ) -> None:
        model = unwrapped(model)
        self.watched = Parameters(model, params)  # those of the user
        self._modes = [module.training for module in model.modules()]
        self._user_model = model
        if settings.compute_dtype is not None:
            model = copy.deepcopy(model).to(settings.compute_dtype)
            self.parameters = Parameters(model, list(self.watched.named))
        else:
            self.parameters = self.watched
        self.model, self._loss_fn, self._settings = model, loss_fn, settings
        refuse(model)
        self._pieces = Pieces(Batches(data, settings.max_batches), settings)
        self.rounding = max(torch.finfo(p.dtype).eps for p in self.parameters.tensors)
        self.rtol = self.rounding**0.5
        self.first: Any = None
        self._used: set[int] = set()
        self._fingerprint: list[float] | None = None
        self._marks: list[torch.Tensor] = []
        self._confirmed = False  # that a second pass reads the same
        with self.differentiating():
            self._weigh(data)
        self.is_single = self.weighed.num_batches == 1

    @property
    def num_batches(self) -> int:
        """The number of batches of the data, of which pieces may be parts."""
        return self._pieces.num_batches

    def copy_in(self, dtype: torch.dtype, samples: int) -> "DataPass":
        """The first samples, of a copy of the model in another dtype."""
        batch, settings = self.first.batch, self._settings
        size = size_of(batch)
        if size is not None and size > samples and settings.batch_norm not in ("batch", "population"):
            batch = cut(batch, 0, samples)
        same = self.parameters.like.dtype == dtype
        settings = dataclasses.replace(settings, compute_dtype=None if same else dtype, microbatch=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said already
            return DataPass(self.model, self._loss_fn, [batch], list(self.parameters.named), settings)

    @contextmanager
    def differentiating(self) -> Iterator[None]:
        """Inside, the model can be differentiated; afterwards it is as it was."""
        with untouched(self.model, forward=self._settings.ad in ("jvp", "linearize")):
            yield

    @contextmanager
    def evaluating(self, piece: Piece) -> Iterator[None]:
        """Inside, the model may be called on a piece."""
        settings = self._settings
        with ExitStack() as stack:
            stack.enter_context(statistics(self.model, settings.batch_norm))
            if settings.seed is not None:
                torch.manual_seed(settings.seed * 1_000_003 + piece.number)
            yield

    def summed_loss(self, piece: Piece) -> tuple[torch.Tensor, Any]:
        """The loss summed over a piece, with its graph, and the weight that came with it, or None."""
        return self.summed(self._evaluate(piece), piece)

    def summed(self, result: Any, piece: Piece) -> tuple[torch.Tensor, Any]:
        """What a loss function returned for a piece, as the sum over it and its weight, or None."""
        loss, weight = sum_and_weight(result)
        if weight is None and self._settings.reduction == "mean":
            # A loss in lower precision than the parameters would be rounded by the factor, and seem to have changed.
            wide = torch.promote_types(loss.dtype, self.parameters.like.dtype)
            loss = loss.to(wide) * float(size_of(piece.batch) or 1)
        return loss, weight

    def functional(self, function: Callable[[Piece], Any]) -> Callable[[Sequence[torch.Tensor], Piece], Any]:
        """`function`, which uses `model`, as a function of the values of the parameters, too; others are constants."""
        owner = Owner(self.model, function)
        names = [f"model.{name}" for name in self.parameters.named]
        chosen = {id(p) for p in self.parameters.tensors}
        others = {
            f"model.{name}": p for name, p in self.model.named_parameters() if p.requires_grad and id(p) not in chosen
        }

        def call(values: Sequence[torch.Tensor], piece: Piece) -> Any:
            # Autograd would record what becomes of the others, around the transforms of torch.func.
            constants = {name: p.detach() for name, p in others.items()}
            return torch.func.functional_call(owner, constants | dict(zip(names, values, strict=True)), (piece,))

        return call

    def run(self, work: Callable[[Piece], torch.Tensor | None]) -> None:
        """Call `work` with every piece; it returns the loss summed over the piece, detached, if it knows it.

        Raises
        ------
        DataError, OperatorError
            If the data, the parameters or the modes of the model are not those of the construction.
        """
        on_host = self.parameters.like.device.type == "cpu"
        look = on_host or not self._confirmed  # reading a number from a device waits for it
        self.require_unchanged(contents=look)
        number, samples, known = 0, 0, True
        summed: Any = 0.0
        self._marks = []
        with self.differentiating():
            for piece in self._pieces:
                number += 1
                size = size_of(piece.batch)
                known = known and size is not None
                samples += size or 0
                if look and not self._pieces.is_constant:
                    self._mark(piece)
                if self.weighed.any_ignored and self._is_ignored(piece):
                    continue
                loss = work(piece)
                summed = None if loss is None or summed is None else summed + loss
        self.weighed.require_same_size(number, samples if known else None)
        if look:
            self._require_same_samples()
            if summed is not None:
                self.weighed.require_same_loss(float(summed), self.rtol)
        self._confirmed = True

    def require_unchanged(self, *, contents: bool) -> None:
        """Raise if the user's model is another than at the construction; `contents` also reads all parameters."""
        self.watched.require_unchanged(contents=contents)
        if [module.training for module in self._user_model.modules()] != self._modes:
            raise OperatorError("train() or eval() was called after the operator was built; build a new operator")

    def _weigh(self, data: Any) -> None:
        """The first pass: weights, and what is wrong with the loss."""
        settings = self._settings
        coupling = [] if settings.batch_norm is not None else uses_batch_statistics(self.model)
        cast: set[torch.dtype] = set()

        def evaluate(piece: Piece) -> tuple[float, float | None]:
            look = unwritten(self.model) if self.first is None else nullcontext()
            with naming(piece.number, piece.batch), autocasts(self.parameters.like.device.type) as found, look:
                result = self._evaluate(piece)
            cast.update(found)
            loss, weight = sum_and_weight(result)
            if len(self._used) < len(self.parameters.tensors):
                self._used |= parameters_of(loss, once=self._settings.ad == "difference")
            if self.first is None and (weight is None or float(weight) != 0):
                self.first = piece
                self._require_repeatable(piece, float(loss.detach()))
            return float(loss.detach()), None if weight is None else float(weight)

        self._weigh_pieces = partial(
            weigh,
            evaluate=evaluate,
            size_of=lambda piece: size_of(piece.batch),
            cut=lambda piece, *ends: Piece(piece.number, cut(piece.batch, *ends)),
            rtol=self.rtol,
            reduction=settings.reduction,
            lengths=lambda piece: lengths_of(piece.batch),
            coupled=settings.seed is not None or settings.batch_norm in ("batch", "population") or bool(coupling),
        )
        self.weighed = self._weigh_pieces(self._pieces)
        self._warn_of_lost_samples(data)
        self._warn_of_unused()
        warn_of_precision(self.parameters.tensors, cast)
        if coupling:
            if self.weighed.num_batches > 1:
                raise DataError(
                    f"{coupling[0]} takes its statistics from each batch, so that the loss of "
                    f"{self.weighed.num_batches} batches is no mean over samples; call model.eval(), give one batch, "
                    "or say what you want by batch_norm= 'running', 'batch' or 'population'"
                )
            warn_user(
                f"{', '.join(coupling)}: in training mode the statistics are those of the batch, and differentiated "
                "through; model.eval() uses the running ones, batch_norm='batch' says that you mean it",
                BatchStatisticsWarning,
            )

    def require_samples(self) -> None:
        """Raise if the first piece does not tell its samples, which does not matter to one mean alone."""
        if len(set(lengths_of(self.first.batch))) > 1:
            self._weigh_pieces([self.first, self.first])

    def _require_repeatable(self, piece: Piece, loss: float) -> None:
        """Evaluate a piece again: dropout and augmentation show, and shall not be taken for a sum that is no mean."""
        again = float(sum_and_weight(self._evaluate(piece))[0].detach())
        if abs(again - loss) > self.rtol * max(abs(again), abs(loss)):
            raise OperatorError(random_loss(self.model, f"two losses of one batch are {loss:.6g} and {again:.6g}"))

    def _evaluate(self, piece: Piece) -> Any:
        with self.evaluating(piece):
            return self._loss_fn(self.model, piece.batch)

    def _warn_of_lost_samples(self, data: Any) -> None:
        dataset, used = getattr(data, "dataset", None), self.weighed.num_samples
        try:
            size = len(dataset)  # type: ignore[arg-type]
        except TypeError:  # none, or one without a length
            return
        if used is not None and used < size:
            reason = "drop_last=True" if getattr(data, "drop_last", False) else "the sampler"
            warn_user(
                f"{used} of the {size} samples of the data set are used: {reason} leaves out {size - used}; the "
                "operator is that of these",
                LostSamplesWarning,
            )

    def _warn_of_unused(self) -> None:
        unused = [name for name, p in self.parameters.named.items() if id(p) not in self._used]
        if len(unused) == len(self.parameters.named):
            raise OperatorError(
                "the loss does not depend on the parameters: look for detach(), .item(), no_grad or NumPy in the loss"
            )
        if unused:
            warn_user(f"the loss does not depend on {', '.join(unused)}: zero rows", UnusedParameterWarning)

    def _is_ignored(self, piece: Piece) -> bool:
        with torch.no_grad():
            weight = self.summed_loss(piece)[1]
        return weight is not None and float(weight) == 0

    def _mark(self, piece: Piece) -> None:
        for i, x in enumerate(fingerprint(piece.batch)):
            if i == len(self._marks):
                self._marks.append(torch.zeros_like(x))
            self._marks[i] += x

    def _require_same_samples(self) -> None:
        marks = [float(mark) for mark in self._marks]
        if self._fingerprint is None:
            self._fingerprint = marks
            return
        # Measured: the order of 1e5 summands changes the sums by 1e-14 of their size.
        same = len(marks) == len(self._fingerprint) and all(
            abs(a - b) <= 1e-9 * max(abs(a), abs(b)) or repr(a) == repr(b)
            for a, b in zip(marks, self._fingerprint, strict=True)
        )
        if not same:
            raise DataError(
                "the data gave other samples than in the pass before; every pass must read the same set, in any order: "
                "switch random augmentation and subsampling off"
            )
