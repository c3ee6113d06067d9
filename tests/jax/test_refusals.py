"""Data and losses that would give wrong numbers are refused, with the cause and the cure in the message."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slq.errors import DataError, OperatorError, RequestError, ShapeError
from slq_jax import hessian_operator


def squares(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2)


def summed(w, batch):
    return jnp.sum((batch[0] @ w - batch[1]) ** 2)


@pytest.fixture
def w(rng):
    return rng.normal(size=3)


@pytest.fixture
def batch(rng):
    return rng.normal(size=(10, 3)), rng.normal(size=10)


@pytest.fixture
def batches(batch):
    return list(zip(*(np.split(part, [4, 8]) for part in batch), strict=True))


@pytest.mark.parametrize("kind", [iter, lambda batches: (b for b in batches), lambda batches: map(tuple, batches)])
def test_one_shot_iterator(kind, w, batches):
    with pytest.raises(DataError, match=r"one-shot iterator.*pass a list"):
        hessian_operator(squares, w, kind(batches))


@pytest.mark.parametrize("data", [[], lambda: iter(())])
def test_no_data(data, w):
    with pytest.raises(DataError, match="the data hold no batch"):
        hessian_operator(squares, w, data)


def test_empty_batch(w, batch):
    with pytest.raises(DataError, match="loss of batch 0 is nan"):
        hessian_operator(squares, w, (batch[0][:0], batch[1][:0]))


@pytest.mark.parametrize("product", [lambda op: op.matvec(jnp.ones(3)), lambda op: op.gradient()])
def test_number_of_batches_changes(product, w, batches):
    op = hessian_operator(squares, w, batches)
    batches.pop()
    with pytest.raises(DataError, match="gave 3 batches at first and 2 now; every pass must read the same"):
        product(op)


@pytest.mark.parametrize("change", ["sizes", "values"])
def test_other_data_in_a_later_pass(change, w, batches):
    """A loader that drops other samples, or augments them, in every pass."""
    noise = np.random.default_rng(0)
    changing = False

    def data():
        for x, y in batches:
            if change == "sizes":
                yield (x[:2], y[:2]) if changing else (x, y)
            else:
                yield x + noise.normal(), y

    op = hessian_operator(squares, w, data)
    changing = True
    with pytest.raises((DataError, OperatorError)):
        op.matvec(jnp.ones(3))


def test_batches_of_unknown_size(w):
    with pytest.raises(DataError, match=r"batch 0 does not tell how many samples.*\(sum, weight\)"):
        hessian_operator(lambda w, x: jnp.sum(w**2) * x, w, [1.0, 2.0])


def test_summed_loss_over_several_batches(w, batches):
    with pytest.raises(DataError, match=r"not a mean over the samples of batch 0.*\(sum, weight\)"):
        hessian_operator(summed, w, batches)


def test_summed_loss_that_shows_in_a_later_batch(w, batch):
    """A batch of one sample has the same sum and mean."""
    with pytest.raises(DataError, match="not a mean over the samples of batch 2"):
        hessian_operator(summed, w, list(zip(*(np.split(part, [1, 2]) for part in batch), strict=True)))


def test_mean_over_valid_samples(w, batches):
    """Divided by the number of samples that are not ignored."""

    def loss(w, batch):
        valid = batch[1] > 0
        return jnp.sum(valid * (batch[0] @ w - batch[1]) ** 2) / valid.sum()

    for _, y in batches:
        y[:] = [1, 1, -1, -1][: len(y)]
    with pytest.raises(DataError, match="not a mean over the samples of batch 0"):
        hessian_operator(loss, w, batches)
    hessian_operator(loss, w, batches[0])  # a single batch needs no weights


@pytest.mark.parametrize("position", [0, 1])
def test_loss_that_is_not_a_number(position, w, batches):
    batches[position][0][0, 0] = np.nan
    with pytest.raises(DataError, match=f"loss of batch {position} is nan"):
        hessian_operator(squares, w, batches)


def test_no_weight(w, batches):
    with pytest.raises(DataError, match="all batches have weight zero"):
        hessian_operator(lambda w, batch: (summed(w, batch), 0), w, batches)


@pytest.mark.parametrize(
    ("result", "name"),
    [
        (lambda _: 1.0, "float"),
        (lambda _: np.float64(1), "float64"),
        (lambda loss: {"loss": loss}, "dict"),
        (lambda _: None, "NoneType"),
        (lambda loss: (loss, 1, 2), "tuple"),
    ],
)
def test_loss_of_another_type(result, name, w, batch):
    with pytest.raises(RequestError, match=rf"scalar array or \(sum, weight\), got {name}"):
        hessian_operator(lambda w, batch: result(squares(w, batch)), w, batch)


def test_loss_of_another_shape(w, batch):
    with pytest.raises(ShapeError, match=r"loss returned shape \(10,\); reduce it"):
        hessian_operator(lambda w, batch: (batch[0] @ w - batch[1]) ** 2, w, batch)


def test_loss_of_one_element_is_a_scalar(w, batch):
    op = hessian_operator(lambda w, batch: squares(w, batch).reshape(1, 1), w, batch)
    expected = hessian_operator(squares, w, batch).matvec(jnp.ones(3))
    np.testing.assert_allclose(op.matvec(jnp.ones(3)), expected, rtol=1e-14)


def test_dropout_with_a_fixed_key_is_a_function(w, batch, dense, distance):
    def loss(w, batch):
        kept = jax.random.bernoulli(jax.random.key(3), 0.5, batch[0].shape)
        return jnp.mean(((kept * batch[0]) @ w - batch[1]) ** 4)

    hessian = dense(hessian_operator(loss, w, batch))
    assert distance(hessian.T, hessian) < 1e-14  # measured: 1e-16


# A reshape would take (3, k), one vector per column, for k rows.
@pytest.mark.parametrize("shape", [(2,), (4,), (6,), (3, 2), (3, 1), (2, 6), (2, 3, 1), ()])
def test_vectors_of_another_shape(shape, w, batch):
    with pytest.raises(ShapeError, match=r"shape \(\.\.\., 3\), got"):
        hessian_operator(squares, w, batch).matvec(jnp.ones(shape))


def test_loss_that_jax_cannot_remember(w, batch):
    class Loss:
        __hash__ = None

        def __call__(self, w, batch):
            return squares(w, batch)

    with pytest.raises(RequestError, match="the loss must be hashable, but Loss is not; wrap it in a function"):
        hessian_operator(Loss(), w, batch)
