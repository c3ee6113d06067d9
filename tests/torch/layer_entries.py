"""Layers and losses of torch, each in a small model: what `tests.torch.layer_scan` examines."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from tests.torch.loss_entries import LOSSES

__all__ = ["ENTRIES"]


class Wrapped(nn.Module):
    """A layer after an affine map of its input with parameters of its own, so that its derivatives in both matter."""

    def __init__(self, layer: nn.Module | Callable, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(shape)), nn.Parameter(0.3 * torch.randn(shape))
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _tensor(self.layer(x * self.scale + self.shift))


class Looked(nn.Module):
    """A layer of integers."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Calls(nn.Module):
    """A layer that is called with its input several times."""

    def __init__(self, layer: nn.Module, arguments: int) -> None:
        super().__init__()
        self.layer, self.arguments = layer, arguments

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(*[x.roll(i, -1) for i in range(self.arguments)])


class Unpooled(nn.Module):
    """A pooling layer and the layer that undoes it."""

    def __init__(self, pool: nn.Module, undo: nn.Module) -> None:
        super().__init__()
        self.pool, self.undo = pool, undo

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.undo(*self.pool(x), output_size=x.shape[2:])


def _tensor(result: Any) -> torch.Tensor:
    while isinstance(result, tuple):
        result = result[0]
    return result


def smooth(model: nn.Module, batch: Any) -> torch.Tensor:
    """A curved function of whatever comes out, as a mean over samples."""
    y = model(batch)
    y = y.reshape(len(y), -1)
    return (torch.tanh(y) * torch.linspace(-1, 2, y.shape[1])).sum(1).mean()


def layer(make: Callable[[], Any], *shape: int, train: bool = False, **options: Any) -> Callable[[], tuple]:
    def case() -> tuple:
        model = Wrapped(make(), shape)
        return model.train(train), smooth, torch.randn(5, *shape), options

    return case


def lookup(make: Callable[[], nn.Module]) -> Callable[[], tuple]:
    return lambda: (Looked(make()), smooth, torch.randint(5, (4, 3)), {})


def attended(x: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])


def encoder_and_decoder() -> nn.Module:
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 3, batch_first=True), 1, enable_nested_tensor=False
    )
    return nn.Transformer(4, 2, 1, 1, 3, custom_encoder=encoder, batch_first=True)


_FLAT = {
    "ReLU": nn.ReLU,
    "ReLU6": nn.ReLU6,
    "LeakyReLU": nn.LeakyReLU,
    "PReLU": nn.PReLU,
    "RReLU, eval": nn.RReLU,
    "ELU": nn.ELU,
    "SELU": nn.SELU,
    "CELU": nn.CELU,
    "GELU": nn.GELU,
    "GELU, tanh": lambda: nn.GELU("tanh"),
    "SiLU": nn.SiLU,
    "Mish": nn.Mish,
    "Softplus": nn.Softplus,
    "Softshrink": nn.Softshrink,
    "Hardshrink": nn.Hardshrink,
    "Tanhshrink": nn.Tanhshrink,
    "Softsign": nn.Softsign,
    "Sigmoid": nn.Sigmoid,
    "LogSigmoid": nn.LogSigmoid,
    "Tanh": nn.Tanh,
    "Hardtanh": nn.Hardtanh,
    "Hardswish": nn.Hardswish,
    "Hardsigmoid": nn.Hardsigmoid,
    "Threshold": lambda: nn.Threshold(0.1, 0.0),
    "GLU": nn.GLU,
    "Softmax": lambda: nn.Softmax(-1),
    "Softmin": lambda: nn.Softmin(-1),
    "LogSoftmax": lambda: nn.LogSoftmax(-1),
    "LayerNorm": lambda: nn.LayerNorm(4),
    "RMSNorm": lambda: nn.RMSNorm(4),
    "Linear": lambda: nn.Linear(4, 3),
    "BatchNorm1d, eval": lambda: nn.BatchNorm1d(4),
    "Identity": nn.Identity,
    "Dropout, eval": nn.Dropout,
    "CosineSimilarity": lambda: Calls(nn.CosineSimilarity(), 2),
    "Bilinear": lambda: Calls(nn.Bilinear(4, 4, 2), 2),
    "RNNCell": lambda: nn.RNNCell(4, 2),
    "GRUCell": lambda: nn.GRUCell(4, 2),
    "LSTMCell": lambda: nn.LSTMCell(4, 2),
    "weight_norm (parametrisation)": lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
    "spectral_norm, eval": lambda: parametrizations.spectral_norm(nn.Linear(4, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 3)),
    "orthogonal, square": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    "orthogonal, cayley": lambda: parametrizations.orthogonal(nn.Linear(4, 3), orthogonal_map="cayley"),
    "spectral_norm (hook), eval": lambda: nn.utils.spectral_norm(nn.Linear(4, 3)),
    "PairwiseDistance": lambda: Calls(nn.PairwiseDistance(), 2),
    "Unflatten": lambda: nn.Unflatten(1, (2, 2)),
    "SyncBatchNorm, eval": lambda: nn.SyncBatchNorm(4),
    "FeatureAlphaDropout, eval": nn.FeatureAlphaDropout,
}

_LINES = {
    "Conv1d": lambda: nn.Conv1d(2, 2, 2),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(2, 2, 2),
    "MaxPool1d": lambda: nn.MaxPool1d(2),
    "AvgPool1d": lambda: nn.AvgPool1d(2),
    "LPPool1d": lambda: nn.LPPool1d(2, 2),
    "AdaptiveAvgPool1d": lambda: nn.AdaptiveAvgPool1d(2),
    "AdaptiveMaxPool1d": lambda: nn.AdaptiveMaxPool1d(2),
    "ReflectionPad1d": lambda: nn.ReflectionPad1d(1),
    "CircularPad1d": lambda: nn.CircularPad1d(1),
    "ReplicationPad1d": lambda: nn.ReplicationPad1d(1),
    "ConstantPad1d": lambda: nn.ConstantPad1d(1, 0.5),
    "ZeroPad1d": lambda: nn.ZeroPad1d(1),
    "MaxUnpool1d": lambda: Unpooled(nn.MaxPool1d(2, return_indices=True), nn.MaxUnpool1d(2)),
    "Dropout1d, eval": nn.Dropout1d,
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(2, affine=True),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(2),
    "Upsample, linear": lambda: nn.Upsample(scale_factor=2, mode="linear"),
    "RNN": lambda: nn.RNN(4, 2, batch_first=True),
    "GRU": lambda: nn.GRU(4, 2, batch_first=True),
    "LSTM": lambda: nn.LSTM(4, 2, batch_first=True),
    "LSTM, bidirectional": lambda: nn.LSTM(4, 2, batch_first=True, bidirectional=True),
    "MultiheadAttention": lambda: Calls(nn.MultiheadAttention(4, 2, batch_first=True), 3),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(4, 2, 3, batch_first=True),
    "TransformerDecoderLayer": lambda: Calls(nn.TransformerDecoderLayer(4, 2, 3, batch_first=True), 2),
    "TransformerEncoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 3, batch_first=True), 2, enable_nested_tensor=False
    ),
    "TransformerDecoder": lambda: Calls(
        nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 3, batch_first=True), 2), 2
    ),
    "Transformer": lambda: Calls(encoder_and_decoder(), 2),
    "scaled_dot_product_attention": lambda: attended,
}

_PLANES = {
    "Conv2d": lambda: nn.Conv2d(2, 2, 2),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(2, 1, 2),
    "MaxPool2d": lambda: nn.MaxPool2d(2),
    "AvgPool2d": lambda: nn.AvgPool2d(2),
    "LPPool2d": lambda: nn.LPPool2d(2, 2),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d(2),
    "AdaptiveMaxPool2d": lambda: nn.AdaptiveMaxPool2d(2),
    "ReplicationPad2d": lambda: nn.ReplicationPad2d(1),
    "ZeroPad2d": lambda: nn.ZeroPad2d(1),
    "ReflectionPad2d": lambda: nn.ReflectionPad2d(1),
    "CircularPad2d": lambda: nn.CircularPad2d(1),
    "ConstantPad2d": lambda: nn.ConstantPad2d(1, 0.5),
    "MaxUnpool2d": lambda: Unpooled(nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)),
    "MaxUnpool2d, overlapping": lambda: Unpooled(nn.MaxPool2d(2, 1, return_indices=True), nn.MaxUnpool2d(2, 1)),
    "Softmax2d": nn.Softmax2d,
    "UpsamplingNearest2d": lambda: nn.UpsamplingNearest2d(scale_factor=2),
    "UpsamplingBilinear2d": lambda: nn.UpsamplingBilinear2d(scale_factor=2),
    "Dropout2d, eval": nn.Dropout2d,
    "GroupNorm": lambda: nn.GroupNorm(2, 2),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(2, affine=True),
    "BatchNorm2d, eval": lambda: nn.BatchNorm2d(2),
    "Unfold": lambda: nn.Unfold(2),
    "Flatten": nn.Flatten,
    "Upsample, nearest": lambda: nn.Upsample(scale_factor=2),
    "Upsample, bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "Upsample, bicubic": lambda: nn.Upsample(scale_factor=2, mode="bicubic"),
    "ChannelShuffle": lambda: nn.ChannelShuffle(2),
}

_SPACES = {
    "Conv3d": lambda: nn.Conv3d(1, 2, 2),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(1, 1, 2),
    "MaxPool3d": lambda: nn.MaxPool3d(2),
    "AvgPool3d": lambda: nn.AvgPool3d(2),
    "BatchNorm3d, eval": lambda: nn.BatchNorm3d(1),
    "InstanceNorm3d": lambda: nn.InstanceNorm3d(1, affine=True),
    "LPPool3d": lambda: nn.LPPool3d(2, 2),
    "AdaptiveAvgPool3d": lambda: nn.AdaptiveAvgPool3d((1, 2, 2)),
    "AdaptiveMaxPool3d": lambda: nn.AdaptiveMaxPool3d((1, 2, 2)),
    "MaxUnpool3d": lambda: Unpooled(nn.MaxPool3d(2, return_indices=True), nn.MaxUnpool3d(2)),
    "ReflectionPad3d": lambda: nn.ReflectionPad3d(1),
    "ReplicationPad3d": lambda: nn.ReplicationPad3d(1),
    "CircularPad3d": lambda: nn.CircularPad3d(1),
    "ConstantPad3d": lambda: nn.ConstantPad3d(1, 0.5),
    "ZeroPad3d": lambda: nn.ZeroPad3d(1),
    "Upsample, trilinear": lambda: nn.Upsample(scale_factor=2, mode="trilinear"),
    "Dropout3d, eval": nn.Dropout3d,
}


ENTRIES: dict[str, Callable[[], tuple]] = {
    **{name: layer(make, 4) for name, make in _FLAT.items()},
    **{name: layer(make, 2, 4) for name, make in _LINES.items()},
    **{name: layer(make, 2, 3, 3) for name, make in _PLANES.items()},
    **{name: layer(make, 1, 2, 2, 2) for name, make in _SPACES.items()},
    "PixelShuffle": layer(lambda: nn.PixelShuffle(2), 4, 2, 2),
    "PixelUnshuffle": layer(lambda: nn.PixelUnshuffle(2), 1, 4, 4),
    "Fold": layer(lambda: nn.Fold((3, 3), 2), 4, 4),
    "FractionalMaxPool2d": layer(lambda: nn.FractionalMaxPool2d(2, 3), 1, 7, 7),
    "FractionalMaxPool3d": layer(lambda: nn.FractionalMaxPool3d(2, 3), 1, 7, 7, 7),
    "BatchNorm1d, batch statistics": layer(lambda: nn.BatchNorm1d(4), 4, train=True, batch_norm="batch"),
    "Dropout, train": layer(nn.Dropout, 4, train=True),
    "Dropout, train, seed=": layer(nn.Dropout, 4, train=True, seed=1),
    "AlphaDropout, train": layer(nn.AlphaDropout, 4, train=True),
    "RReLU, train": layer(nn.RReLU, 4, train=True),
    "spectral_norm (hook), train": layer(lambda: nn.utils.spectral_norm(nn.Linear(4, 3)), 4, train=True),
    "spectral_norm, train": layer(lambda: parametrizations.spectral_norm(nn.Linear(4, 3)), 4, train=True),
    "weight_norm (hook)": layer(lambda: _old_weight_norm(), 4),
    "Embedding": lookup(lambda: nn.Embedding(5, 2)),
    "Embedding, sparse": lookup(lambda: nn.Embedding(5, 2, sparse=True)),
    "Embedding, max_norm": lookup(lambda: nn.Embedding(5, 2, max_norm=0.5)),
    "EmbeddingBag": lookup(lambda: nn.EmbeddingBag(5, 2)),
    **LOSSES,
}


def _old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and in use
        return nn.utils.weight_norm(nn.Linear(4, 3))
