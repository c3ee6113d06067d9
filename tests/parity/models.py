"""What the parity tests share: the same networks, weights, data and losses in torch and in JAX."""

from collections import namedtuple
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import slq_jax
import slq_torch

__all__ = [
    "LOSSES",
    "MODELS",
    "Pair",
    "close",
    "composed",
    "distance",
    "make_pair",
    "torch_forward",
    "tree_of",
    "vectors",
]

CLOSE = 1e-10  # what is promised; what was measured stands at each test

WEIGHTS = [0.5, 2.0, 1.0, 0.7, 1.3]
POS_WEIGHT = [1.0, 3.0, 0.5, 2.0, 0.25]


class Pair(NamedTuple):
    """One model on one set of batches, twice: what torch takes, and what JAX takes."""

    model: nn.Module
    params: Any
    forward: Any  # (params, batch) -> outputs
    batches: list
    jax_batches: list


class Transformer(nn.Module):
    """A causal layer of two heads between an embedding and its transpose."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.project = nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 12)

    def forward(self, tokens):
        x = self.embed(tokens)
        q, k, v = self.project(self.norm(x)).reshape(*tokens.shape, 3, 2, 2).permute(2, 0, 3, 1, 4)
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        return F.linear(x, self.embed.weight)


def linear(p, x):
    return x @ p.weight.T + p.bias


def mlp(p, batch):
    return linear(p["2"], jnp.tanh(linear(p["0"], batch[0])))


def convolutions(p, batch):
    image = jax.lax.conv_general_dilated(batch[0], p["0"].weight, (1, 1), "VALID") + p["0"].bias[:, None, None]
    return linear(p["3"], jax.nn.gelu(image, approximate=False).reshape(len(image), -1))


def transformer(p, batch):
    """Attention is written out: jax.nn.dot_product_attention computes its softmax in float32."""
    x = p.embed.weight[batch[0]]
    length = x.shape[1]
    whitened = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    mixed = linear(p.project, whitened * p.norm.weight + p.norm.bias)
    q, k, v = mixed.reshape(*x.shape[:2], 3, 2, 2).transpose(2, 0, 3, 1, 4)
    scores = jnp.where(jnp.tri(length, dtype=bool), q @ k.swapaxes(-1, -2) / 2**0.5, -jnp.inf)
    x = x + (jax.nn.softmax(scores) @ v).swapaxes(1, 2).reshape(x.shape)
    return x @ p.embed.weight.T


# A module of torch and the function of JAX with its parameters, and the inputs of n samples.
MODELS: dict[str, Any] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 5)), mlp, (4,)),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(8, 5)),
        convolutions,
        (1, 4, 4),
    ),
    "transformer": (Transformer, transformer, 3),
}


def _own(log1p):
    """A mean over samples and tokens that is not convex in the outputs."""
    return lambda z, batch: log1p((z.sum(-1) - batch[1]) ** 2).mean()


# A loss of each library, and what its targets are.
LOSSES = {
    "cross-entropy": (slq_torch.CrossEntropy(class_dim=-1), slq_jax.CrossEntropy(), "classes"),
    "ignored": (
        slq_torch.CrossEntropy(class_dim=-1, ignore_index=1),
        slq_jax.CrossEntropy(ignore_index=1),
        "classes",
    ),
    "smoothing": (
        slq_torch.CrossEntropy(class_dim=-1, label_smoothing=0.2),
        slq_jax.CrossEntropy(label_smoothing=0.2),
        "classes",
    ),
    "class weights": (
        slq_torch.CrossEntropy(class_dim=-1, class_weights=torch.tensor(WEIGHTS, dtype=torch.float64)),
        slq_jax.CrossEntropy(class_weights=WEIGHTS),
        "classes",
    ),
    "all of them": (
        slq_torch.CrossEntropy(
            class_dim=-1,
            ignore_index=2,
            label_smoothing=0.1,
            class_weights=torch.tensor(WEIGHTS, dtype=torch.float64),
        ),
        slq_jax.CrossEntropy(ignore_index=2, label_smoothing=0.1, class_weights=WEIGHTS),
        "classes",
    ),
    "squares": (slq_torch.SquaredError(), slq_jax.SquaredError(), "entries"),
    "binary": (slq_torch.BinaryCrossEntropy(), slq_jax.BinaryCrossEntropy(), "entries"),
    "pos_weight": (
        slq_torch.BinaryCrossEntropy(pos_weight=torch.tensor(POS_WEIGHT, dtype=torch.float64)),
        slq_jax.BinaryCrossEntropy(pos_weight=POS_WEIGHT),
        "entries",
    ),
    "own": (_own(torch.log1p), _own(jnp.log1p), "classes"),
}


def make_pair(name, targets="classes", sizes=(5, 3, 3)):
    """The model `name` in both libraries, on batches of these sizes."""
    rng = np.random.default_rng(3)
    make, forward, inputs = MODELS[name]
    model = make().double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(rng.normal(size=p.shape) * 0.7))
    batches = []
    for n in sizes:
        tokens = isinstance(inputs, int)
        x = rng.integers(5, size=(n, inputs)) if tokens else rng.normal(size=(n, *inputs))
        shape = (n, inputs) if tokens else (n,)
        y = rng.integers(5, size=shape) if targets == "classes" else rng.uniform(size=(*shape, 5))
        batches.append((x, y))
    in_torch = [tuple(map(torch.from_numpy, batch)) for batch in batches]
    return Pair(model, tree_of(model), forward, in_torch, batches)


@lru_cache
def _node(fields):
    return namedtuple("_".join(fields), fields)


def tree_of(model):
    """The parameters of a module as a tree whose leaves have the same names and order.

    JAX sorts the keys of dictionaries and keeps the fields of tuples, so that weights come before biases.
    """

    def grow(entries):
        if "" in entries:
            return entries[""]
        below: dict[str, dict[str, Any]] = {}
        for name, value in entries.items():
            first, _, rest = name.partition(".")
            below.setdefault(first, {})[rest] = value
        grown = {name: grow(part) for name, part in below.items()}
        return _node(tuple(grown))(**grown) if all(map(str.isidentifier, grown)) else grown

    return grow({name: p.detach().numpy() for name, p in model.named_parameters()})


def torch_forward(model, batch):
    return model(batch[0])


@lru_cache
def composed(loss, forward=torch_forward):
    """A loss function (parameters, batch) of a loss (outputs, batch); the same for the same two."""
    return lambda parameters, batch: loss(forward(parameters, batch), batch)


def vectors(n, rows=3):
    """Rows for each library."""
    v = np.random.default_rng(1).normal(size=(rows, n))
    return torch.from_numpy(v), jnp.asarray(v)


def distance(ours, theirs):
    """‖a − b‖/‖b‖."""
    a, b = (np.asarray(x.numpy() if isinstance(x, torch.Tensor) else x) for x in (ours, theirs))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def close(ours, theirs, tolerance=CLOSE):
    """Require that operators have equal names, losses, gradients and products."""
    assert list(ours.parameters) == list(theirs.parameters)
    assert ours.shape == theirs.shape
    a, b = vectors(ours.shape[0])
    found = (
        abs(ours.loss() / theirs.loss() - 1),
        distance(ours.gradient(), theirs.gradient()),
        distance(ours.matvec(a), theirs.matvec(b)),
    )
    assert max(found) < tolerance
