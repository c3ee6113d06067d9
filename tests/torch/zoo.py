"""Forty and more small models with their losses: what the modes of differentiation are tried on."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from tests.torch.zoo_models import (
    Apply,
    Attention,
    Autoencoder,
    Cubic,
    Encoder,
    Experts,
    LowRank,
    OldCubic,
    Recurrent,
    Residual,
    SelfAttention,
    Tied,
    adversaries,
    frozen,
    heads,
    image_net,
    mlp,
)

__all__ = ["CASES", "Case"]


class Case(NamedTuple):
    """A model, its loss and a batch.

    Attributes
    ----------
    coupled : bool
        The samples of a batch do not come apart.
    options : dict
        Of the operator.
    refused : set of str
        The modes that torch does not have for it, or has wrong.
    """

    model: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Any], Any]
    batch: Callable[[], Any]
    coupled: bool = False
    options: dict = {}  # noqa: RUF012 - a field of a tuple, never written to
    refused: frozenset = frozenset()


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def squares(model, batch):
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def regression(kind):
    return lambda model, batch: kind(model(batch[0]), batch[1])


def points(*shape, classes=3, size=7):
    return lambda: (torch.randn(size, *(shape or (4,))), torch.randint(classes, (size,)))


def targets(size=7, outputs=3):
    return lambda: (torch.randn(size, 4), torch.randn(size, outputs))


def tokens(size=7, length=5):
    return lambda: (torch.randint(7, (size, length)), torch.randint(7, (size, length)))


def language(model, batch):
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def masked_language(model, batch):
    z, y = model(batch[0]).flatten(0, 1), batch[1].flatten()
    return F.cross_entropy(z, y, ignore_index=0, reduction="sum"), (y != 0).sum()


def evidence(model, batch):
    y, mean, spread = model(*batch)
    divergence = (mean**2 + (2 * spread).exp() - 2 * spread).sum(-1) / 2
    return ((y - batch[0]).square().sum(-1) + divergence).mean()


def physics(model, batch):
    """A residual of u'' + u = 0, by derivatives of the model in its input."""
    x = batch.detach().clone().requires_grad_()
    u = model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    return (bend + u).square().mean()


def twins(model, batch):
    a, b = model(batch[0]), model(batch[1])
    return F.cosine_similarity(a, b).exp().mean()


def triplet(model, batch):
    a, b, c = (model(x) for x in batch)
    return F.softplus((a - b).square().sum(-1) - (a - c).square().sum(-1)).mean()


def margin(model, batch):
    return F.triplet_margin_loss(*(model(x) for x in batch), margin=2.0)


def duel(model, batch):
    """What each of the two minimises, together: one function of the parameters of both."""
    real, fake = (model["real"](x).squeeze(-1) for x in (batch[0], model["fake"](batch[1])))
    return (F.softplus(-real) + F.softplus(fake)).mean() + 0.3 * F.softplus(-fake).mean()


def contrast(model, batch):
    """Each sample against all others."""
    a, b = F.normalize(model(batch[0]), dim=-1), F.normalize(model(batch[1]), dim=-1)
    return F.cross_entropy(a @ b.T / 0.5, torch.arange(len(a)))


def penalised(model, batch):
    """A regulariser that holds the parameters themselves; per batch, so that the mean is one over samples."""
    return cross_entropy(model, batch) + 0.1 * sum(p.square().sum() for p in model.parameters())


def two_heads(model, batch):
    h = torch.tanh(model["body"](batch["x"]))
    return F.cross_entropy(model["class"](h), batch["label"]) + F.huber_loss(model["value"](h)[:, 0], batch["value"])


def dictionary():
    return {"x": torch.randn(7, 4), "label": torch.randint(3, (7,)), "value": torch.randn(7), "name": "kept"}


WEIGHTS = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)


def weighted(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], weight=WEIGHTS, reduction="sum"), WEIGHTS[batch[1]].sum()


def distribution(model, batch):
    return F.kl_div(model(batch[0]).log_softmax(-1), batch[1].softmax(-1), reduction="batchmean")


def gaussian(model, batch):
    mean, spread = model(batch[0]).split([2, 1], -1)
    return (
        (batch[1][:, :2] - mean).square().sum(-1) / F.softplus(spread[:, 0]) + F.softplus(spread[:, 0]).log()
    ).mean()


ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Softplus, nn.ELU, nn.Sigmoid, nn.Mish, nn.LeakyReLU)

TRACED = frozenset({"linearize"})
FORWARD = frozenset({"jvp", "linearize"})

CASES: dict[str, Case] = {
    **{f"mlp, {kind.__name__}": Case(mlp(kind), cross_entropy, points()) for kind in ACTIVATIONS},
    "deep mlp": Case(
        lambda: nn.Sequential(*itertools.chain(*((nn.Linear(4, 4), nn.Tanh()) for _ in range(4)))),
        squares,
        targets(outputs=4),
    ),
    "linear": Case(lambda: nn.Linear(4, 3), squares, targets()),
    "layer norm": Case(mlp(lambda: nn.LayerNorm(5), nn.GELU), cross_entropy, points()),
    "group norm": Case(image_net(lambda: nn.GroupNorm(2, 4), nn.Tanh), cross_entropy, points(1, 5, 5), refused=TRACED),
    "rms norm": Case(mlp(lambda: nn.RMSNorm(5), nn.SiLU), cross_entropy, points()),
    "instance norm": Case(
        image_net(lambda: nn.InstanceNorm2d(4, affine=True), nn.Tanh), cross_entropy, points(1, 5, 5), refused=TRACED
    ),
    "batch norm, running": Case(
        image_net(lambda: nn.BatchNorm2d(4), nn.Tanh), cross_entropy, points(1, 5, 5), options={"batch_norm": "running"}
    ),
    "batch norm, batch": Case(
        image_net(lambda: nn.BatchNorm2d(4), nn.Tanh), cross_entropy, points(1, 5, 5), True, {"batch_norm": "batch"}
    ),
    "batch norm, population": Case(
        mlp(lambda: nn.BatchNorm1d(5), nn.Tanh), cross_entropy, points(), True, {"batch_norm": "population"}
    ),
    "convolutions": Case(image_net(nn.ReLU, lambda: nn.Conv2d(4, 4, 2), nn.Tanh), cross_entropy, points(1, 6, 6)),
    "depthwise, strided": Case(
        image_net(nn.GELU, lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4)), cross_entropy, points(1, 6, 6)
    ),
    "transposed convolution": Case(
        image_net(lambda: nn.ConvTranspose2d(4, 4, 2), nn.Tanh), cross_entropy, points(1, 5, 5)
    ),
    "max pooling": Case(image_net(nn.Tanh, lambda: nn.MaxPool2d(2, 1)), cross_entropy, points(1, 6, 6)),
    "residual": Case(Residual, cross_entropy, points()),
    "attention": Case(Attention, language, tokens()),
    "attention, three dimensions": Case(lambda: Attention(0), language, tokens()),
    "attention, masked loss": Case(Attention, masked_language, tokens()),
    "multi-head attention": Case(SelfAttention, language, tokens()),
    "encoder layer": Case(Encoder, language, tokens()),
    "tied": Case(Tied, language, tokens()),
    "lstm": Case(lambda: Recurrent(nn.LSTM), cross_entropy, points(4, 3), refused=TRACED),
    "gru": Case(lambda: Recurrent(nn.GRU), cross_entropy, points(4, 3), refused=TRACED),
    "rnn": Case(lambda: Recurrent(nn.RNN), cross_entropy, points(4, 3), refused=TRACED),
    "custom function": Case(mlp(lambda: Apply(Cubic)), cross_entropy, points(), refused=FORWARD),
    "custom function, old style": Case(mlp(lambda: Apply(OldCubic)), cross_entropy, points(), refused=FORWARD),
    "low rank": Case(LowRank, squares, targets(), options={"params": "*lora_*"}),
    "mixture of experts": Case(Experts, squares, targets()),
    "variational": Case(Autoencoder, evidence, lambda: (torch.randn(7, 4), torch.randn(7, 2))),
    "physics": Case(
        lambda: nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)),
        physics,
        lambda: torch.randn(7, 1),
        refused=FORWARD,
    ),
    "two heads, dict": Case(heads, two_heads, dictionary, refused=FORWARD),
    "siamese": Case(mlp(nn.Tanh), twins, lambda: (torch.randn(7, 4), torch.randn(7, 4))),
    "triplet": Case(mlp(nn.Tanh), triplet, lambda: tuple(torch.randn(7, 4) for _ in range(3))),
    "triplet, margin": Case(mlp(nn.Tanh), margin, lambda: tuple(torch.randn(7, 4) for _ in range(3))),
    "adversaries": Case(adversaries, duel, lambda: (torch.randn(7, 4), torch.randn(7, 4))),
    "frozen in part": Case(frozen, cross_entropy, points()),
    "contrast": Case(mlp(nn.Tanh), contrast, lambda: (torch.randn(7, 4), torch.randn(7, 4)), True),
    "penalty": Case(mlp(nn.Tanh), penalised, points()),
    "label smoothing": Case(
        mlp(nn.Tanh), regression(lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2)), points()
    ),
    "class weights": Case(mlp(nn.Tanh), weighted, points()),
    "binary": Case(
        mlp(nn.Tanh),
        regression(F.binary_cross_entropy_with_logits),
        lambda: (torch.randn(7, 4), torch.rand(7, 3)),
        refused=TRACED,
    ),
    "mse_loss": Case(mlp(nn.Tanh), regression(F.mse_loss), targets(), refused=FORWARD),
    "binary, of probabilities": Case(
        mlp(nn.Tanh),
        regression(lambda z, y: F.binary_cross_entropy(z.sigmoid(), y)),
        lambda: (torch.randn(7, 4), torch.rand(7, 3)),
    ),
    "huber": Case(mlp(nn.Tanh), regression(F.huber_loss), targets(), refused=FORWARD),
    "smooth l1": Case(mlp(nn.Tanh), regression(F.smooth_l1_loss), targets()),
    "kl": Case(mlp(nn.Tanh), distribution, targets()),
    "gaussian": Case(mlp(nn.Tanh), gaussian, targets()),
    "poisson": Case(
        mlp(nn.Tanh), regression(F.poisson_nll_loss), lambda: (torch.randn(7, 4), torch.randint(5, (7, 3)).double())
    ),
}
