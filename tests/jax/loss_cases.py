"""Losses with options, outputs and labels: what the tests of losses in closed form go through."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slq_jax._losses import BinaryCrossEntropy, CrossEntropy, SquaredError

__all__ = ["CLASSES", "ENTRIES", "EPS", "KEY", "WEIGHTS", "case_of", "summed"]

EPS = float(jnp.finfo(jnp.float32).eps)
KEY = jax.random.key(0)
WEIGHTS = [0.5, 2.0, 1.0]

# Options, and the shape of logits of three classes; a fifth of the labels is ignored.
CLASSES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "plain": ({}, (10, 3)),
    "tokens": ({}, (4, 5, 3)),
    "ignore_index": ({"ignore_index": 1}, (10, 3)),
    "smoothing": ({"label_smoothing": 0.3}, (4, 5, 3)),
    "weights": ({"class_weights": WEIGHTS}, (4, 5, 3)),
    "both": ({"class_weights": WEIGHTS, "label_smoothing": 0.3, "ignore_index": 2}, (10, 3)),
    "class_dim": ({"class_dim": 1, "class_weights": WEIGHTS, "label_smoothing": 0.1}, (4, 3, 5, 2)),
}
ENTRIES = {
    "squares": SquaredError(),
    "binary": BinaryCrossEntropy(),
    "pos_weight": BinaryCrossEntropy(pos_weight=[0.5, 3.0, 1.0]),
    "pos_weight of all": BinaryCrossEntropy(pos_weight=2.5),
}


def case_of(name, rng):
    """A loss, outputs and a batch."""
    if name in ENTRIES:
        return ENTRIES[name], jnp.asarray(2 * rng.normal(size=(6, 2, 3))), (None, jnp.asarray(rng.random((6, 2, 3))))
    options, shape = CLASSES[name]
    loss = CrossEntropy(**options)
    labels = rng.integers(3, size=np.delete(shape, loss.class_dim))
    labels.flat[::5] = loss.ignore_index
    return loss, jnp.asarray(2 * rng.normal(size=shape)), (None, jnp.asarray(labels))


def summed(loss, batch):
    return lambda z: loss(z, batch)[0]
