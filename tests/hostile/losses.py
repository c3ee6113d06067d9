"""H61-H64: losses of torch models: how they are reduced, which samples count, and which are not numbers."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from slq.errors import DataError
from tests.hostile.model_data import ROUNDING, cross_entropy, exact, made, mlp, model_row, parts, samples
from tests.hostile.row import Outcome, refused, right

WAYS = ((11,), (4, 4, 3), (1, 10), (1,) * 11)


@model_row("H61", "batches of unequal sizes", "the right Hessian: each weighs as many samples as it has")
def h61() -> Iterator[Outcome]:
    model, batch = mlp(), samples()
    reference = exact(model, cross_entropy, batch)
    for sizes in WAYS:
        yield right(reference, ROUNDING, made, model, cross_entropy, parts(batch, *sizes))
    for size in (1, 3, 100):
        yield right(reference, ROUNDING, partial(made, model, cross_entropy, batch, microbatch=size))


def _summed(model: nn.Module, batch: tuple) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def _divergence(model: nn.Module, batch: tuple) -> torch.Tensor:
    return F.kl_div(F.log_softmax(model(batch[0]), 1), F.one_hot(batch[1], 3) / 2, reduction="batchmean")


@model_row(
    "H62",
    "losses that are a mean, a sum, a batch mean, the root of a mean",
    "what is a mean over samples, or is said to be a sum and is one, the right Hessian; else `DataError`",
)
def h62() -> Iterator[Outcome]:
    model, batch = mlp(), samples()
    for loss in (cross_entropy, _divergence):
        yield right(exact(model, loss, batch), ROUNDING, made, model, loss, parts(batch, 4, 4, 3))
    total = partial(made, model, _summed, parts(batch, 4, 4, 3))
    cause, mend = "the loss is not a mean over the samples of batch 0", r"return \(sum, weight\)"
    yield refused(DataError, cause, mend, total)
    yield right(exact(model, cross_entropy, batch), ROUNDING, partial(total, reduction="sum"))

    def root(model: nn.Module, batch: tuple) -> torch.Tensor:
        return cross_entropy(model, batch).sqrt()

    for kind in ("mean", "sum"):
        call = partial(made, model, root, parts(batch, 4, 4, 3), reduction=kind)
        yield refused(DataError, cause.replace("mean", kind), mend, call)
    yield right(exact(model, root, batch), ROUNDING, made, model, root, batch)  # one scalar, whatever it is


def _counted(weight: torch.Tensor | None, smoothing: float) -> tuple[Callable, Callable]:
    """Cross-entropy of sequences of labels, as torch divides it, and as its sum and weight."""

    def mean(model: nn.Module, batch: tuple) -> torch.Tensor:
        logits, labels = model(batch[0]).flatten(0, 1), batch[1].flatten()
        return F.cross_entropy(logits, labels, weight, ignore_index=-1, label_smoothing=smoothing)

    def summed(model: nn.Module, batch: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        logits, labels = model(batch[0]).flatten(0, 1), batch[1].flatten()
        total = F.cross_entropy(logits, labels, weight, ignore_index=-1, label_smoothing=smoothing, reduction="sum")
        valid = labels[labels != -1]
        return total, torch.tensor(len(valid)) if weight is None else weight[valid].sum()

    return mean, summed


@model_row(
    "H63",
    "labels that do not count (`ignore_index`, padding), class weights, label smoothing; batches without a valid label",
    "a mean over labels that is none over samples: `DataError`; its mend works: `(sum, weight)`, exact with each",
)
def h63() -> Iterator[Outcome]:
    model, lengths = mlp(), torch.tensor([6, 1, 3, 5, 2, 4, 0, 0, 6])
    x, y = torch.randn(9, 6, 4), torch.randint(3, (9, 6))
    y[torch.arange(6) >= lengths[:, None]] = -1
    data = parts((x, y), 3, 3, 2, 1)  # nothing counts in the third batch
    for weight in (None, torch.tensor([0.2, 1.0, 3.0])):
        for smoothing in (0.0, 0.1):
            mean, summed = _counted(weight, smoothing)
            reference = exact(model, mean, (x, y))
            yield right(reference, ROUNDING, made, model, summed, data)
            yield right(reference, ROUNDING, made, model, mean, (x, y))
            cause, mend = "not a mean over the samples of batch 0", r"return \(sum, weight\)"
            yield refused(DataError, cause, mend, made, model, mean, data[:2])
    cause, mend = "the loss of batch 0 is nan", r"return \(sum, weight\)"
    yield refused(DataError, cause, mend, made, model, mean, data[2:])
    yield refused(DataError, "all batches have weight zero", "no sample counts", made, model, summed, data[2:3])


@model_row(
    "H64",
    "a loss that is NaN or infinite, in the first or a later batch, with second derivatives that are zero",
    "`DataError` with the number of the batch",
)
def h64() -> Iterator[Outcome]:
    model, batch = mlp(), samples()
    for value in (torch.nan, torch.inf):
        for position, sizes in ((0, (11,)), (0, (4, 7)), (1, (4, 7))):

            def loss(model: nn.Module, batch: tuple, value: float = value, size: int = sizes[position]) -> torch.Tensor:
                return cross_entropy(model, batch) + (value if len(batch[0]) == size else 0.0)

            cause, mend = f"the loss of batch {position} is {value}", "look for an overflow"
            yield refused(DataError, cause, mend, made, model, loss, parts(batch, *sizes))
