"""Losses whose second derivative with respect to the outputs is known in closed form."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from slq.errors import DtypeError, RequestError, ShapeError
from slq_jax._output_loss import LossOfTargets, fixed_numbers, require_array, wide

__all__ = ["BinaryCrossEntropy", "CrossEntropy", "SquaredError"]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(LossOfTargets):
    """Cross-entropy of logits and class indices; a row is one label.

    Value and weight are those of PyTorch's ``cross_entropy``. Options are kept as numbers, by which losses are equal.

    Parameters
    ----------
    ignore_index : int
        Targets that do not count.
    label_smoothing : float
        In [0, 1].
    class_weights : (C,) array, optional
        The weight of each class; the sum of the weights is that of the true classes.
    class_dim : int
        Where the logits have their classes: -1, or 1, as in PyTorch.
    targets : callable, optional
        batch -> targets; default: ``batch["labels"]`` or ``batch[1]``.

    Raises
    ------
    RequestError
        If an option is out of range, or a batch has no targets where they are looked for.
    ShapeError
        If logits, targets and weights do not fit.
    DtypeError
        If the logits are not real floating-point.

    Notes
    -----
    A target that is neither a class nor ignored makes everything NaN: compiled code cannot raise.
    """

    ignore_index: int = -100
    label_smoothing: float = 0.0
    class_weights: ArrayLike | Sequence[float] | None = None
    class_dim: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.ignore_index, int | np.integer):
            raise RequestError(f"ignore_index= expects an integer, got {self.ignore_index!r}")
        if not 0 <= self.label_smoothing <= 1:
            raise RequestError(f"label_smoothing= expects a number from 0 to 1, got {self.label_smoothing!r}")
        if self.class_dim not in (1, -1):
            raise RequestError(f"class_dim= expects 1 or -1, got {self.class_dim!r}")
        object.__setattr__(self, "ignore_index", int(self.ignore_index))  # the way in frozen dataclasses
        object.__setattr__(self, "label_smoothing", float(self.label_smoothing))
        weights = fixed_numbers("class_weights", self.class_weights)
        if weights is not None and np.ndim(weights) != 1:
            raise RequestError(f"class_weights= expects one number for each class, got shape {np.shape(weights)}")
        object.__setattr__(self, "class_weights", weights)

    def __call__(self, outputs: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array]:
        """The summed loss and the sum of the weights of the labels that count."""
        logits, labels, counts = self._read(outputs, batch)
        log_p, weights = jax.nn.log_softmax(logits), self._weights(logits)
        terms = weights[labels] * jnp.take_along_axis(log_p, labels[:, None], -1)[:, 0]
        if self.label_smoothing:
            terms = (1 - self.label_smoothing) * terms + self.label_smoothing * (weights * log_p).mean(-1)
        summed = jnp.where(counts == 0, 0, counts * terms).sum()  # not by the product alone: log p may be -inf
        return -summed, (counts * weights[labels]).sum()

    def hessian_product(self, outputs: jax.Array, batch: Any, tangent: jax.Array) -> jax.Array:
        """A (diag p − p pᵀ) times the tangent of each label, where A is the weight of the label."""
        logits, labels, counts = self._read(outputs, batch)
        p, t = jax.nn.softmax(logits), wide(self.rows(tangent))
        # Constants are in the null space. Without that of the likeliest class, no number close to one is taken from
        # another, and the product is right to rounding where the model is sure.
        t = t - jnp.take_along_axis(t, p.argmax(-1, keepdims=True), -1)
        product = self._row_weights(logits, labels, counts) * p * (t - (p * t).sum(-1, keepdims=True))
        return self.from_rows(product, outputs)

    def sampled_gradients(self, outputs: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
        """√A (p − e_y), with y drawn from p."""
        logits, labels, counts = self._read(outputs, batch)
        drawn = (logits + _gumbel(key, logits.shape, logits.dtype)).argmax(-1, keepdims=True)
        is_drawn = jnp.arange(logits.shape[-1]) == drawn
        others = jnp.where(is_drawn, 0, jax.nn.softmax(logits))
        gradient = jnp.where(is_drawn, -others.sum(-1, keepdims=True), others)  # p - 1, without the cancellation
        return self.from_rows(jnp.sqrt(self._row_weights(logits, labels, counts)) * gradient, outputs)

    def rows(self, outputs: jax.Array) -> jax.Array:
        """One row for each label."""
        x = require_array(self, outputs)
        if x.ndim < 2:
            raise ShapeError(f"cross-entropy expects logits of two dimensions or more, got shape {x.shape}")
        rows = jnp.moveaxis(x, self.class_dim, -1)
        return rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1])

    def from_rows(self, rows: jax.Array, like: jax.Array) -> jax.Array:
        """The inverse of `rows`, for outputs of the shape of `like`."""
        shape = list(like.shape)
        shape.append(shape.pop(self.class_dim))
        return jnp.moveaxis(rows.reshape(shape), -1, self.class_dim)

    def _read(self, outputs: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Logits and labels in rows, the latter inside the classes, and which count: 1, or 0 if ignored."""
        logits, targets = wide(self.rows(outputs)), self.targets_of(batch)
        expected = jnp.moveaxis(outputs, self.class_dim, -1).shape[:-1]
        if not jnp.issubdtype(targets.dtype, jnp.integer) or targets.shape != expected:
            raise ShapeError(
                f"cross-entropy expects class indices of shape {expected} for logits of shape {outputs.shape} with the "
                f"classes along dimension {self.class_dim}, got targets of shape {targets.shape} and dtype "
                f"{targets.dtype}; class_dim=1 takes logits (N, classes, ...), and probabilities as targets need a "
                "loss of your own, a function (outputs, batch)"
            )
        labels = targets.reshape(-1)
        if labels.dtype.itemsize < 4:
            labels = labels.astype(jnp.int32)  # in which ignore_index and the number of classes fit
        is_class = (labels >= 0) & (labels < logits.shape[-1])
        is_ignored = labels == self.ignore_index
        # 0/0 where a target is neither: JAX would silently take another class.
        counts = (is_class & ~is_ignored).astype(logits.dtype) / (is_class | is_ignored).astype(logits.dtype)
        return logits, jnp.where(is_class, labels, 0), counts

    def _row_weights(self, logits: jax.Array, labels: jax.Array, counts: jax.Array) -> jax.Array:
        """What multiplies log p in the loss of each label, summed over the classes; a column."""
        weights = self._weights(logits)
        smooth = self.label_smoothing * weights.mean()
        return (counts * ((1 - self.label_smoothing) * weights[labels] + smooth))[:, None]

    def _weights(self, logits: jax.Array) -> jax.Array:
        classes = logits.shape[-1]
        if self.class_weights is None:
            return jnp.ones(classes, logits.dtype)
        weights = jnp.asarray(self.class_weights, logits.dtype)
        if weights.size != classes:
            raise ShapeError(
                f"class_weights= expects one number for each of the {classes} classes along dimension "
                f"{self.class_dim} of the logits, got {weights.size}; give one for each, or mend class_dim="
            )
        return weights


@dataclass(frozen=True, kw_only=True)
class _Elementwise(LossOfTargets):
    """Losses that are sums over the entries of the outputs; a row is a sample."""

    def _read(self, outputs: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array]:
        """Outputs and targets, of the same shape and dtype."""
        z, targets = wide(require_array(self, outputs)), self.targets_of(batch)
        name = type(self).__name__
        if targets.shape != z.shape:
            raise ShapeError(
                f"{name} expects targets of the shape of the outputs {z.shape}, got {targets.shape}; reshape one of "
                "them (broadcasting would pair all with all)"
            )
        if jnp.issubdtype(targets.dtype, jnp.complexfloating):
            raise DtypeError(f"{name} expects real targets, got dtype {targets.dtype}; give real and imaginary parts")
        return z, targets.astype(z.dtype)

    def rows(self, outputs: jax.Array) -> jax.Array:
        """One row for each sample."""
        if outputs.ndim == 0:
            raise ShapeError(f"{type(self).__name__} expects outputs (N, ...), one row a sample, got a scalar")
        return outputs.reshape(outputs.shape[0], math.prod(outputs.shape[1:]))

    def from_rows(self, rows: jax.Array, like: jax.Array) -> jax.Array:
        """The inverse of `rows`, for outputs of the shape of `like`."""
        return rows.reshape(like.shape)


@dataclass(frozen=True, kw_only=True)
class SquaredError(_Elementwise):
    """Squared errors, with all entries of the outputs as weight: the mean is that over all entries.

    As a likelihood: normal with variance 1/2. For the mean over samples of the squared norm, multiply the operator by
    the number of outputs.

    Parameters
    ----------
    targets : callable, optional
        batch -> targets; default: ``batch["labels"]`` or ``batch[1]``.

    Raises
    ------
    RequestError
        If a batch has no targets where they are looked for.
    ShapeError
        If outputs and targets differ in shape.
    DtypeError
        If outputs or targets are not real.
    """

    def __call__(self, outputs: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array]:
        """The summed squares and the number of entries."""
        z, y = self._read(outputs, batch)
        return jnp.square(z - y).sum(), jnp.asarray(z.size, z.dtype)

    def hessian_product(self, outputs: jax.Array, batch: Any, tangent: jax.Array) -> jax.Array:
        """Twice the tangent."""
        del outputs, batch
        return 2 * wide(tangent)

    def sampled_gradients(self, outputs: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
        """2 (z − y), with y normal about z with variance 1/2."""
        del batch
        return jax.random.normal(key, outputs.shape, wide(outputs).dtype) * 2**0.5


@dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy(_Elementwise):
    """Binary cross-entropy of logits, with all entries of the outputs as weight.

    Value and weight are those of PyTorch's ``binary_cross_entropy_with_logits``. Options are kept as numbers, by which
    losses are equal.

    Parameters
    ----------
    pos_weight : array, optional
        Multiplies the positive terms; broadcast against the outputs.
    targets : callable, optional
        batch -> targets in [0, 1]; default: ``batch["labels"]`` or ``batch[1]``.

    Raises
    ------
    RequestError
        If an option is no finite number, or a batch has no targets where they are looked for.
    ShapeError
        If outputs and targets differ in shape, or the weights do not broadcast to it.
    DtypeError
        If outputs or targets are not real.
    """

    pos_weight: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "pos_weight", fixed_numbers("pos_weight", self.pos_weight))

    def __call__(self, outputs: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array]:
        """The summed loss and the number of entries."""
        z, y = self._read(outputs, batch)
        terms = self._weight(z) * y * jax.nn.log_sigmoid(z) + (1 - y) * jax.nn.log_sigmoid(-z)
        return -terms.sum(), jnp.asarray(z.size, z.dtype)

    def hessian_product(self, outputs: jax.Array, batch: Any, tangent: jax.Array) -> jax.Array:
        """A σ (1 − σ) times the tangent, where A is the weight of each entry."""
        z, y = self._read(outputs, batch)
        return self._entry_weights(z, y) * jax.nn.sigmoid(z) * jax.nn.sigmoid(-z) * wide(tangent)

    def sampled_gradients(self, outputs: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
        """√A (σ − y), with y drawn from σ."""
        z, y = self._read(outputs, batch)
        one, zero = _gumbel(key, (2, *z.shape), z.dtype)
        gradient = jnp.where(z + one > zero, -jax.nn.sigmoid(-z), jax.nn.sigmoid(z))
        return jnp.sqrt(self._entry_weights(z, y)) * gradient

    def _entry_weights(self, z: jax.Array, y: jax.Array) -> jax.Array:
        return self._weight(z) * y + 1 - y

    def _weight(self, z: jax.Array) -> jax.Array:
        weight = jnp.asarray(1.0 if self.pos_weight is None else self.pos_weight, z.dtype)
        pairs = zip(weight.shape[::-1], z.shape[::-1], strict=False)  # broadcasting counts from the end
        if weight.ndim > z.ndim or any(w not in (1, n) for w, n in pairs):
            raise ShapeError(
                f"pos_weight= of shape {weight.shape} does not broadcast to outputs of shape {z.shape}; give one "
                "number, or one for each entry of a sample"
            )
        return weight


def _gumbel(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Noise that makes the largest of perturbed logits a draw from their softmax.

    JAX's own draws of labels take fewer bits by default: those of probability below 1e-7 would come wrongly often.
    """
    return jax.random.gumbel(key, shape, dtype, mode="high")
