"""H54-H63: models of torch: what layers do in training, and what losses and loaders give."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from slq.errors import BatchStatisticsWarning, DataError, OperatorError
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
