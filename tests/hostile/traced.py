"""H76: losses of JAX functions: what JAX traces once and keeps, and how data are read and weighed."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slq.errors import DataError, DtypeError, OperatorError
from slq_jax import hessian_operator
from tests.conftest import Library
from tests.hostile.row import Outcome, refused, right, row

# Operators and references differ in rounding only. Measured over both rows: at most 1e-15 of the largest entry.
ROUNDING = 1e-12

RNG = np.random.default_rng(0)
W, X, Y = RNG.normal(size=3), RNG.normal(size=(11, 3)), RNG.normal(size=11)


def squares(w: Any, batch: Any) -> jax.Array:
    return jnp.mean((jnp.tanh(batch[0] @ w) - batch[1]) ** 2)


def dense(operator: Any) -> np.ndarray:
    """The matrix of an operator, which must be of float64."""
    assert operator.like.dtype == np.float64
    return np.asarray(operator.matvec(jnp.eye(operator.shape[0])))


def made(*arguments: Any, **options: Any) -> np.ndarray:
    return dense(hessian_operator(*arguments, **options))


def exact(loss: Callable, batch: Any) -> np.ndarray:
    """By JAX alone."""
    return np.asarray(jax.hessian(loss)(jnp.asarray(W), batch))


def _drawing(split: bool) -> Callable:
    def loss(w: Any, batch: Any) -> jax.Array:
        first, second = jax.random.split(batch[2]) if split else (batch[2], batch[2])
        kept = jax.random.bernoulli(first, 0.5, w.shape) + jax.random.uniform(second)
        return squares(w * kept, batch)

    return loss


def _impure() -> Iterator[Outcome]:
    outside, batch = {"factor": 1.0}, (X, Y)

    def scaled(w: Any, batch: Any) -> jax.Array:
        return outside["factor"] * squares(w, batch)

    def random(w: Any, batch: Any) -> jax.Array:
        return squares(w * np.random.default_rng().normal(), batch)

    cause, mend = "the loss is no function of its arguments", "pass them in the batch"
    yield refused(OperatorError, cause, mend, made, random, W, batch)
    yield right(exact(squares, batch), ROUNDING, made, scaled, W, batch)
    outside["factor"] = 2.0
    yield refused(OperatorError, cause, mend, made, scaled, W, batch)

    with_key = (X, Y, jax.random.key(0))
    yield refused(OperatorError, "uses a random key twice", "split the key", made, _drawing(False), W, with_key)
    yield right(exact(_drawing(True), with_key), ROUNDING, made, _drawing(True), W, with_key)


def _donated() -> Iterator[Outcome]:
    w = jnp.asarray(W)
    operator = hessian_operator(squares, w, (X, Y))
    jax.jit(lambda x: 2 * x, donate_argnums=0)(w)
    cause, mend = "was donated to a compiled function", "build the operator from the parameters that"
    yield refused(OperatorError, cause, mend, dense, operator)
    yield refused(OperatorError, cause, mend, made, squares, w, (X, Y))


def _traced() -> Iterator[Outcome]:
    kept: list[Any] = []

    def leaking(w: Any, batch: Any) -> jax.Array:
        kept.append(w)
        return squares(w, batch) + kept[0].sum()

    yield refused(OperatorError, "kept from an earlier call", "keep nothing", made, leaking, W, (X, Y))
    inside = jax.jit(lambda w: hessian_operator(squares, w, (X, Y)).loss())
    yield refused(OperatorError, "a tracer", "build it outside", inside, W)
    operator = hessian_operator(squares, W, (X, Y))
    yield right(exact(squares, (X, Y)), ROUNDING, jax.jit(operator.matvec), jnp.eye(3))
    yield right(exact(squares, (X, Y)), ROUNDING, dense, operator)  # which nothing traced stays in


def _without_x64() -> Iterator[Outcome]:
    operator = hessian_operator(squares, W, (X, Y))
    with jax.enable_x64(False):
        cause, mend = "is float64, which JAX would silently make float32", "jax_enable_x64"
        yield refused(DtypeError, cause, mend, hessian_operator, squares, W, (X, Y))
        yield refused(DtypeError, "x64 mode.* is off now", mend, operator.gradient)
        assert hessian_operator(squares, W.astype(np.float32), (X, Y)).like.dtype == np.float32
    yield right(exact(squares, (X, Y)), ROUNDING, dense, operator)


@row(
    "H76",
    "JAX: impure losses, random keys used twice, donated buffers, leaked tracers, float64 without x64",
    "`OperatorError`; `DtypeError`, never float32 in place of float64; with split keys, or inside `jit`, the right "
    "Hessian",
    "jax",
)
def h76(_: Library) -> Iterator[Outcome]:
    for cases in (_impure, _donated, _traced, _without_x64):
        yield from cases()


@row(
    "H76b",
    "JAX: one-shot iterators, no data, batches of unequal sizes, a sum, NaN, arrays that do not tell the number of "
    "samples, text",
    "the right Hessian, in which each batch weighs as many samples as it has; else `DataError`",
    "jax",
)
def h77(_: Library) -> Iterator[Outcome]:
    batches = [(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:], Y[8:])]
    yield right(exact(squares, (X, Y)), ROUNDING, made, squares, W, batches)
    yield right(exact(squares, (X, Y)), ROUNDING, partial(made, squares, W, (X, Y), microbatch=4))
    yield refused(DataError, "one-shot iterator", "pass a list", made, squares, W, iter(batches))
    yield refused(DataError, "the data hold no batch", "check the loader", made, squares, W, [])

    def summed(w: Any, batch: Any) -> jax.Array:
        return squares(w, batch) * len(batch[0])

    cause, mend = "the loss is not a mean over the samples of batch 0", r"return \(sum, weight\)"
    yield refused(DataError, cause, mend, made, summed, W, batches)
    yield right(exact(squares, (X, Y)), ROUNDING, partial(made, summed, W, batches, reduction="sum"))
    spoiled = [batches[0], (X[4:], np.where(np.arange(4, 11) == 6, np.nan, Y[4:]))]
    yield refused(DataError, "the loss of batch 1 is nan", "look for", made, squares, W, spoiled)

    def beside(w: Any, batch: Any) -> jax.Array:
        return squares(w, (batch["x"], batch["y"])) * batch["a"].mean()

    named = [{"a": np.ones(7), "x": x, "y": y} for x, y in batches]
    yield refused(DataError, "has arrays of 7 and of 4 rows", r"return \(sum, weight\)", made, beside, W, named)
    yield refused(DataError, "holds a str, which is no array", "convert", made, squares, W, "train.csv")
