"""H54-H60: models of torch: what layers do in training, and what loaders give."""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from slq.errors import BatchStatisticsWarning, DataError, LostSamplesWarning, OperatorError
from slq_torch import hessian_operator
from tests.hostile.model_data import ROUNDING, cross_entropy, exact, made, mlp, model_row, parts, samples
from tests.hostile.row import Outcome, refused, right, warned


class _Masked(nn.Module):
    """Dropout that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.inside(x), training=self.training)


@model_row(
    "H54",
    "dropout in training mode, as a module or a function; augmented data",
    "`OperatorError` that names the module, the mode stays; its mends work: `model.eval()`, random numbers fixed in "
    "the loss, and `seed=`",
)
def h54() -> Iterator[Outcome]:
    batch = samples()

    def fixed(model: nn.Module, batch: tuple) -> torch.Tensor:
        torch.manual_seed(5)
        return cross_entropy(model, batch)

    def seeded(model: nn.Module, batch: tuple) -> torch.Tensor:
        torch.manual_seed(3 * 1_000_003)  # what seed=3 stands for in the first batch
        return cross_entropy(model, batch)

    for model, cause in ((mlp(nn.Dropout()), r"1 \(Dropout\) draws random numbers"), (_Masked(), "two losses")):
        yield refused(
            OperatorError, f"the loss is random: .*{cause}", "call model.eval()", made, model, cross_entropy, batch
        )
        assert all(module.training for module in model.modules())
        yield right(exact(model, fixed, batch), ROUNDING, made, model, fixed, batch)
        yield right(exact(model, seeded, batch), ROUNDING, lambda m=model: made(m, cross_entropy, batch, seed=3))
        yield right(exact(model.eval(), cross_entropy, batch), ROUNDING, made, model, cross_entropy, batch)

    def augmented() -> Iterator[tuple]:
        for x, y in parts(batch, 5, 6):
            yield x + torch.randn((), generator=noise), y

    noise = torch.Generator()  # torch's own random numbers are the same in every pass
    cause, mend = "the mean loss was .* and is now", "switch that off"
    yield refused(OperatorError, cause, mend, made, mlp(), cross_entropy, augmented)


@model_row(
    "H55",
    "BatchNorm in training mode, in one batch and in several, and when the loss raises",
    "one batch: `BatchStatisticsWarning`, the Hessian through the statistics; several: `DataError`, unless "
    "`batch_norm=` says which; running statistics are as before, also after an exception",
)
def h55() -> Iterator[Outcome]:
    batch, model = samples(), mlp(nn.BatchNorm1d(5))
    before = [buffer.clone() for buffer in model.buffers()]
    reference = exact(model, cross_entropy, batch)  # moves the buffers
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)

    def failing(model: nn.Module, batch: tuple) -> torch.Tensor:
        return cross_entropy(model, batch).detach()

    cause, mend = "1: in training mode the statistics are those of the batch", "batch_norm='batch' says"
    yield warned(BatchStatisticsWarning, cause, mend, reference, ROUNDING, made, model, cross_entropy, batch)
    cause, mend = "1 takes its statistics from each batch", "call model.eval()"
    yield refused(DataError, cause, mend, made, model, cross_entropy, parts(batch, 5, 6))
    for kind, data in (("batch", batch), ("population", parts(batch, 5, 6))):
        yield right(reference, ROUNDING, lambda k=kind, d=data: made(model, cross_entropy, d, batch_norm=k))
    yield refused(OperatorError, "does not depend on the parameters", "look for detach", made, model, failing, batch)
    assert all(torch.equal(x, y) for x, y in zip(model.buffers(), before, strict=True))
    yield right(exact(model.eval(), cross_entropy, batch), ROUNDING, made, model, cross_entropy, parts(batch, 5, 6))


@model_row(
    "H56",
    "weight_norm; spectral_norm in training mode; an embedding with max_norm",
    "`OperatorError` that names the module; its mends work: the weight written by hand, `model.eval()`, no `max_norm`",
)
def h56() -> Iterator[Outcome]:
    batch, model = samples(), mlp()
    layer = parametrizations.weight_norm(model[0])

    def by_hand(_: nn.Module, batch: tuple) -> torch.Tensor:
        g, v = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
        hidden = F.linear(batch[0], g * v / v.norm(dim=1, keepdim=True), layer.bias)
        return F.cross_entropy(model[1:](hidden), batch[1])

    cause, mend = "is not the derivative of the gradient.*ParametrizedLinear", "write g . v / v.norm"
    yield refused(OperatorError, cause, mend, made, model, cross_entropy, batch)
    yield right(exact(model, by_hand, batch), ROUNDING, made, model, by_hand, batch)

    model = mlp()
    parametrizations.spectral_norm(model[0])
    cause, mend = r"0 \(ParametrizedLinear\) is spectrally normalised", "call model.eval()"
    yield refused(OperatorError, cause, mend, made, model, cross_entropy, batch)
    yield right(exact(model.eval(), cross_entropy, batch), ROUNDING, made, model, cross_entropy, batch)

    model, tokens = nn.Sequential(nn.Embedding(7, 4, max_norm=0.5), mlp()), (torch.randint(7, (11,)), batch[1])
    cause, mend = r"0 \(Embedding\) rescales its weight in place", "set max_norm=None"
    yield refused(OperatorError, cause, mend, made, model, cross_entropy, tokens)
    model[0].max_norm = None
    yield right(exact(model, cross_entropy, tokens), ROUNDING, made, model, cross_entropy, tokens)


@model_row(
    "H57",
    "a loader that gives nothing, None, tuples of another length, a dict, a tokenizer's `BatchEncoding`",
    "`DataError` with the number and the type of the batch; a batch that the loss understands is used as it is",
)
def h57() -> Iterator[Outcome]:
    from transformers import BatchEncoding  # which takes seconds, and concerns this row only

    model, (x, y) = mlp(), samples()
    reference = exact(model, cross_entropy, (x, y))

    def by_pair(model: nn.Module, batch: Any) -> torch.Tensor:
        inputs, labels = batch
        return F.cross_entropy(model(inputs), labels)

    def by_name(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"])

    def by_attribute(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch.x), batch.y)

    for nothing in ([], lambda: iter(()), DataLoader(TensorDataset(x[:3], y[:3]), batch_size=4, drop_last=True)):
        yield refused(DataError, "the data hold no batch", "check the loader", made, model, cross_entropy, nothing)
    named = BatchEncoding({"x": x, "y": y})
    for other, kind in (
        (None, "NoneType"),
        ((x, y, y), "tuple"),
        ((x,), "tuple"),
        ({"x": x, "y": y}, "dict"),
        (named, "BatchEncoding"),
        ("text", "str"),
    ):
        cause, mend = f"for batch 1 of type {kind}", "check that the loader gives"
        yield refused(DataError, cause, mend, made, model, by_pair, [(x, y), other])
    yield right(reference, ROUNDING, made, model, by_name, {"x": x, "y": y})
    for loss in (by_name, by_attribute):
        yield right(reference, ROUNDING, made, model, loss, named)


@model_row("H58", "data that can be read once: iterators, generators", "`DataError`; its mend works: a list")
def h58() -> Iterator[Outcome]:
    model, batch = mlp(), samples()
    batches = parts(batch, 4, 4, 3)
    for once in (
        iter(batches),
        (b for b in batches),
        map(tuple, batches),
        zip(*(x.split(4) for x in batch), strict=True),
    ):
        yield refused(DataError, "the data are a one-shot iterator", "pass a list", made, model, cross_entropy, once)
    reference = exact(model, cross_entropy, batch)
    for again in (batches, lambda: iter(batches)):
        yield right(reference, ROUNDING, made, model, cross_entropy, again)
    one = iter(batches)
    cause, mend = "gave 3 batches at first and 0 now", "every pass must read the same"
    yield refused(DataError, cause, mend, made, model, cross_entropy, lambda: one)


class _Endless(IterableDataset):
    """A stream that repeats its samples without an end."""

    def __init__(self, batch: tuple) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[tuple]:
        for i in itertools.count():
            yield tuple(x[i % len(x)] for x in self.batch)


@model_row(
    "H59",
    "loaders that drop samples (`drop_last`, a short sampler), streams with and without an end",
    "`LostSamplesWarning` with the numbers, the Hessian of what is used; a stream without an end: `DataError`, unless "
    "`max_batches` ends it",
)
def h59() -> Iterator[Outcome]:
    model, batch = mlp(), samples()
    data = TensorDataset(*batch)
    used = exact(model, cross_entropy, tuple(x[:8] for x in batch))
    for loader, mend in (
        (DataLoader(data, batch_size=4, drop_last=True), "drop_last=True leaves out 3"),
        (DataLoader(data, batch_size=4, sampler=range(8)), "the sampler leaves out 3"),
    ):
        cause = "8 of the 11 samples of the data set are used"
        yield warned(LostSamplesWarning, cause, mend, used, ROUNDING, made, model, cross_entropy, loader)
    reference, stream = exact(model, cross_entropy, batch), DataLoader(_Endless(batch), batch_size=4)
    ended = partial(made, model, cross_entropy, stream, max_batches=11)  # each sample four times
    yield right(reference, ROUNDING, ended)
    with patch("slq.adapters._ENDLESS", 20):
        cause, mend = "no length and gave 20 batches without an end", "pass max_batches="
        yield refused(DataError, cause, mend, made, model, cross_entropy, stream)


@model_row(
    "H60",
    "a loader that shuffles; one that draws other samples in each pass",
    "the right Hessian; `DataError`, also where the loss does not tell them apart",
)
def h60() -> Iterator[Outcome]:
    model, batch = mlp(), samples()
    shuffled = DataLoader(TensorDataset(*batch), batch_size=4, shuffle=True, generator=torch.Generator())
    yield right(exact(model, cross_entropy, batch), ROUNDING, made, model, cross_entropy, shuffled)

    marks = itertools.count()

    def others() -> Iterator[tuple]:  # the loss looks at two of three tensors
        for x, y in parts(batch, 5, 6):
            yield x, y, torch.full((len(x),), float(next(marks)))

    def twice() -> None:
        operator = hessian_operator(model, cross_entropy, others)
        for _ in range(2):
            operator.matvec(torch.ones(operator.shape[0]))

    yield refused(DataError, "other samples than in the pass before", "switch random augmentation", twice)
