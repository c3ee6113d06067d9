"""The models of `tests.torch.zoo`."""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = [
    "Apply",
    "Attention",
    "Autoencoder",
    "Cubic",
    "Encoder",
    "Experts",
    "LowRank",
    "OldCubic",
    "Recurrent",
    "Residual",
    "SelfAttention",
    "Tied",
    "adversaries",
    "frozen",
    "heads",
    "image_net",
    "mlp",
]


def mlp(*middle, outputs=3):
    return lambda: nn.Sequential(nn.Linear(4, 5), *[m() for m in middle], nn.Linear(5, outputs))


def image_net(*middle):
    return lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), *[m() for m in middle], nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        return self.last(x + torch.tanh(self.block(x)))


class Attention(nn.Module):
    """Causal self-attention on tokens; of three dimensions, torch takes another kernel."""

    def __init__(self, heads=2):
        super().__init__()
        self.heads = heads
        self.embed, self.qkv, self.head = nn.Embedding(7, 4), nn.Linear(4, 12), nn.Linear(4, 7)

    def forward(self, x):
        q, k, v = self.qkv(self.embed(x)).chunk(3, -1)
        if self.heads:
            q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(y.transpose(1, 2).flatten(-2) if self.heads else y)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, x):
        return self.head(self.layer(self.embed(x)))


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attention, self.head = (
            nn.Embedding(7, 4),
            nn.MultiheadAttention(4, 2, batch_first=True),
            nn.Linear(4, 7),
        )

    def forward(self, x):
        x = self.embed(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Embedding(7, 3), nn.Linear(3, 7)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(torch.tanh(self.encoder(x)))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell, self.head = kind(3, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class Cubic(torch.autograd.Function):
    """x³ with a hand-written backward, of the new style."""

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ARG004 - the signature that torch wants
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


class OldCubic(torch.autograd.Function):
    """The same, of the old style, which torch.func does not take."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


class LowRank(nn.Module):
    """A frozen layer with a trainable update of rank one."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 3).requires_grad_(False)
        self.lora_a, self.lora_b = nn.Parameter(torch.randn(1, 4)), nn.Parameter(torch.randn(3, 1))

    def forward(self, x):
        return torch.tanh(self.base(x) + x @ self.lora_a.T @ self.lora_b.T)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 2), nn.ModuleList(nn.Linear(4, 3) for _ in range(2))

    def forward(self, x):
        shares = self.gate(x).softmax(-1)
        return sum(s[:, None] * torch.tanh(e(x)) for s, e in zip(shares.unbind(-1), self.experts, strict=True))


class Autoencoder(nn.Module):
    """Variational, with its noise in the batch."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)

    def forward(self, x, noise):
        mean, spread = self.encoder(x).chunk(2, -1)
        return self.decoder(torch.tanh(mean + spread.exp() * noise)), mean, spread


def adversaries():
    """A generator and a discriminator."""
    return nn.ModuleDict({"fake": mlp(nn.Tanh, outputs=4)(), "real": mlp(nn.Tanh, outputs=1)()})


def frozen():
    """A body that does not learn under a head that does, with a bias between them that learns, too."""
    model = mlp(nn.Tanh)()
    model[0].weight.requires_grad_(False)
    return model


def heads():
    return nn.ModuleDict({"body": nn.Linear(4, 4), "class": nn.Linear(4, 3), "value": nn.Linear(4, 1)})
