"""The digits perceptron and the small GPT of `benchmarks.models` as JAX functions; seeded."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Problem(NamedTuple):
    """A mean loss of parameters and a batch."""

    loss: Callable[[Any, Any], jax.Array]
    params: Any
    batch: tuple[jax.Array, jax.Array]


def mlp() -> Problem:
    """64-128-128-10 on the 1797 digits: n = 26,122."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    normal = _Normal()
    layers = [_dense(normal, *sizes, sizes[0] ** -0.5) for sizes in pairwise((64, 128, 128, 10))]
    return Problem(_mlp_loss, layers, (jnp.asarray(X / 16, jnp.float32), jnp.asarray(y, jnp.int32)))


def gpt() -> Problem:
    """Four layers of width 256 on two sequences of 64 tokens: n = 3.3 million."""
    vocabulary, width, length = 512, 256, 64
    normal = _Normal()

    def block() -> dict[str, Any]:
        sizes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width), "down": (4 * width, width)}
        return {name: _dense(normal, *size, 0.02) for name, size in sizes.items()} | {
            name: _norm(width) for name in ("norm1", "norm2")
        }

    params = {
        "tokens": normal(0.02, vocabulary, width),
        "places": normal(0.02, length, width),
        "blocks": [block() for _ in range(4)],
        "norm": _norm(width),
    }
    tokens = np.random.default_rng(1).integers(vocabulary, size=(2, length + 1))
    return Problem(_gpt_loss, params, (jnp.asarray(tokens[:, :-1], jnp.int32), jnp.asarray(tokens[:, 1:], jnp.int32)))


class _Normal:
    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def __call__(self, scale: float, *shape: int) -> jax.Array:
        return jnp.asarray(self._rng.normal(scale=scale, size=shape), jnp.float32)


def _dense(normal: _Normal, inputs: int, outputs: int, scale: float) -> dict[str, jax.Array]:
    return {"kernel": normal(scale, inputs, outputs), "bias": jnp.zeros(outputs)}


def _norm(width: int) -> dict[str, jax.Array]:
    return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}


def _linear(p: Any, x: jax.Array) -> jax.Array:
    return x @ p["kernel"] + p["bias"]


def _normalized(p: Any, x: jax.Array) -> jax.Array:
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def _cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[..., None], -1).mean()


def _mlp_loss(layers: Any, batch: Any) -> jax.Array:
    x = batch[0]
    for layer in layers[:-1]:
        x = jax.nn.relu(_linear(layer, x))
    return _cross_entropy(_linear(layers[-1], x), batch[1])


def _gpt_loss(params: Any, batch: Any) -> jax.Array:
    x = params["tokens"][batch[0]] + params["places"]
    for p in params["blocks"]:
        q, k, v = (
            part.reshape(*x.shape[:2], 4, -1)
            for part in jnp.split(_linear(p["qkv"], _normalized(p["norm1"], x)), 3, -1)
        )
        x = x + _linear(p["out"], jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape))
        x = x + _linear(p["down"], jax.nn.gelu(_linear(p["up"], _normalized(p["norm2"], x))))
    return _cross_entropy(_normalized(params["norm"], x) @ params["tokens"].T, batch[1])


PROBLEMS: dict[str, Callable[[], Problem]] = {"mlp": mlp, "gpt": gpt}
