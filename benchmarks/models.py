"""Models whose Hessians the benchmarks take: digits MLP, small GPT, ResNet-20. Seeded; random labels but for digits."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Problem(NamedTuple):
    """A model in evaluation mode, one batch, and the loss in both forms: of the model, and of its outputs."""

    model: nn.Module
    batch: tuple[torch.Tensor, torch.Tensor]
    criterion: nn.Module = nn.CrossEntropyLoss()

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return self.criterion(model(batch[0]), batch[1])


def mlp() -> Problem:
    """64-128-128-10 on the 1797 digits: n = 26,122."""
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    X, y = load_digits(return_X_y=True)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    return Problem(model.eval(), (torch.as_tensor(X / 16, dtype=torch.float32), torch.as_tensor(y)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        return x + self.mlp(self.norm2(x))


class _GPT(nn.Module):
    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, length: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[_Block(width, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.tokens(x) + self.places(places)))).flatten(0, 1)


def gpt() -> Problem:
    """Four layers of width 256 on two sequences of 64 tokens: n = 3.3 million."""
    torch.manual_seed(0)
    model = _GPT(vocabulary=512, width=256, layers=4, heads=4, length=64).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.02) if p.ndim > 1 else None
    x = torch.randint(512, (2, 65))
    return Problem(model, (x[:, :-1], x[:, 1:].flatten()))


class _Residual(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.pad = stride, width - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        skip = x[:, :, :: self.stride, :: self.stride]
        skip = F.pad(skip, (0, 0, 0, 0, 0, self.pad)) if self.pad else skip
        return torch.relu(y + skip)


def resnet(images: int = 512) -> Problem:
    """ResNet-20 (He et al. 2016) with BatchNorm in evaluation mode: n = 270 thousand."""
    torch.manual_seed(0)
    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [_Residual(a, b, 2 if b > a else 1) for a, b in pairwise(widths)]
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    x, y = torch.randn(images, 3, 32, 32), torch.randint(10, (images,))
    with torch.no_grad():
        for _ in range(5):  # running statistics
            model.train()(x[:128])
    return Problem(model.eval(), (x, y))


PROBLEMS: dict[str, Callable[[], Problem]] = {"mlp": mlp, "gpt": gpt, "resnet": resnet}
