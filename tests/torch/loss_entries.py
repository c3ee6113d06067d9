"""Losses of torch, each of a small network: the second half of what `tests.torch.layer_scan` examines."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["LOSSES"]


def loss(
    kind: nn.Module, *targets: Callable[[], torch.Tensor], outputs: int = 3, last: Any = None
) -> Callable[[], tuple]:
    """A loss of the outputs of a small network; targets stand in its batch."""

    def case() -> tuple:
        network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, outputs), *([last] if last else []))

        def value(model: nn.Module, batch: Any) -> torch.Tensor:
            return kind(model(batch[0]), *batch[1:])

        return network, value, (torch.randn(6, 2), *[t() for t in targets]), {}

    return case


def pairs(kind: nn.Module, inputs: int, *targets: Callable[[], torch.Tensor]) -> Callable[[], tuple]:
    """A loss of several outputs of one network."""

    def case() -> tuple:
        def value(model: nn.Module, batch: Any) -> torch.Tensor:
            return kind(*[model(x) for x in batch[:inputs]], *batch[inputs:])

        network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))  # without a bend, some have no curvature
        return network, value, (*[torch.randn(6, 2) for _ in range(inputs)], *[t() for t in targets]), {}

    return case


def own(make: Callable[[], nn.Module], of: Callable[[Any], torch.Tensor] = lambda found: found) -> Callable[[], tuple]:
    """A loss with parameters of its own, behind a small network."""

    def case() -> tuple:
        def value(model: nn.Module, batch: Any) -> torch.Tensor:
            return of(model[1](model[0](batch[0]), batch[1]))

        return (
            nn.ModuleList([nn.Sequential(nn.Linear(2, 3), nn.Tanh()), make()]),
            value,
            (normal()[:, :2], classes()),
            {},
        )

    return case


def ctc() -> tuple:
    def value(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        logs = model(x).log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(logs, torch.tensor([[1, 2]] * 4), [5] * 4, [2] * 4, reduction="sum") / 4

    return nn.Linear(2, 4), value, torch.randn(4, 5, 2), {}


def normal() -> torch.Tensor:
    return torch.randn(6, 3)


def uniform() -> torch.Tensor:
    return torch.rand(6, 3)


def classes() -> torch.Tensor:
    return torch.randint(3, (6,))


def signs(*shape: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.randint(2, shape or (6, 3)).double() * 2 - 1


LOSSES: dict[str, Callable[[], tuple]] = {
    "L1Loss": loss(nn.L1Loss(), normal),
    "MSELoss": loss(nn.MSELoss(), normal),
    "CrossEntropyLoss": loss(nn.CrossEntropyLoss(), classes),
    "NLLLoss": loss(nn.NLLLoss(), classes, last=nn.LogSoftmax(-1)),
    "PoissonNLLLoss": loss(nn.PoissonNLLLoss(), uniform),
    "GaussianNLLLoss": loss(nn.GaussianNLLLoss(), normal, uniform),
    "KLDivLoss": loss(nn.KLDivLoss(reduction="batchmean"), lambda: uniform().softmax(-1), last=nn.LogSoftmax(-1)),
    "BCELoss": loss(nn.BCELoss(), uniform, last=nn.Sigmoid()),
    "BCEWithLogitsLoss": loss(nn.BCEWithLogitsLoss(), uniform),
    "HingeEmbeddingLoss": loss(nn.HingeEmbeddingLoss(), signs()),
    "HuberLoss": loss(nn.HuberLoss(), normal),
    "SmoothL1Loss": loss(nn.SmoothL1Loss(), normal),
    "SoftMarginLoss": loss(nn.SoftMarginLoss(), signs()),
    "MultiLabelMarginLoss": loss(nn.MultiLabelMarginLoss(), lambda: torch.tensor([[0, 2, -1]] * 6)),
    "MultiLabelSoftMarginLoss": loss(nn.MultiLabelSoftMarginLoss(), lambda: uniform().round()),
    "MultiMarginLoss": loss(nn.MultiMarginLoss(p=2), classes),
    "CosineEmbeddingLoss": pairs(nn.CosineEmbeddingLoss(), 2, signs(6)),
    "MarginRankingLoss": pairs(nn.MarginRankingLoss(), 2, signs(6, 3)),
    "TripletMarginLoss": pairs(nn.TripletMarginLoss(margin=20.0), 3),
    "TripletMarginWithDistanceLoss": pairs(nn.TripletMarginWithDistanceLoss(margin=20.0), 3),
    "AdaptiveLogSoftmaxWithLoss": own(lambda: nn.AdaptiveLogSoftmaxWithLoss(3, 4, [2], 1.0), lambda found: found.loss),
    "LinearCrossEntropyLoss": own(lambda: nn.LinearCrossEntropyLoss(3, 4)),
    "CTCLoss": ctc,
}
