"""However the samples are batched, the operator is that of the whole set."""

import jax.numpy as jnp
import numpy as np
import pytest

from slq.errors import DataError
from slq_jax import gradient_covariance_operator, hessian_operator

# Measured: at most 8e-16 over four seeds. Batches change the order of summation and nothing else.
TOLERANCE = 1e-12


class Reread:
    """An iterable of the user's own that counts how often it is read."""

    def __init__(self, batches):
        self.batches, self.passes = batches, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


class Shuffled:
    """A loader that reads the samples in a new order each time."""

    def __init__(self, x, y):
        self.x, self.y, self.rng = x, y, np.random.default_rng(1)

    def __iter__(self):
        order = self.rng.permutation(len(self.x))
        return iter([(self.x[part], self.y[part]) for part in np.split(order, [2, 4, 6, 8])])


def losses(w, x, y):
    """The loss of each sample: not convex, and quick to compile."""
    return (jnp.tanh(x @ w) - y) ** 2


def mean(w, batch):
    return losses(w, *batch).mean()


def mean_by_name(w, batch):
    return batch["factor"] * losses(w, batch["inputs"]["x"] * batch["scale"], batch["y"]).mean()


def total(w, batch):
    return losses(w, *batch).sum()


def valid_sum(w, batch):
    """Samples or tokens with a negative label are ignored."""
    x, y = batch
    valid = y >= 0
    return jnp.where(valid, losses(w, x, y), 0).sum(), valid.sum()


def valid_mean(w, batch):
    value, weight = valid_sum(w, batch)
    return value / weight


def undefined_mean(w, batch):
    """The mean over no sample is 0/0, and neither its sum nor its derivatives are numbers."""
    x, y = batch
    valid = y >= 0
    return ((valid * losses(w, x, y)).sum() / valid.sum()) ** 2 * valid.sum(), valid.sum()


@pytest.fixture
def w(rng):
    return rng.normal(size=4)


@pytest.fixture
def samples(rng):
    return rng.normal(size=(9, 4)), rng.uniform(size=9)


@pytest.fixture
def v(rng):
    return jnp.asarray(rng.normal(size=(3, 4)))


def parts(x, y, *sizes):
    ends = np.cumsum(sizes)[:-1]
    return list(zip(np.split(x, ends), np.split(y, ends), strict=True))


SCALE = np.arange(1.0, 5)  # no sample: of another length than the batches

# Few different sizes, for each is compiled.
WAYS = {
    "uneven": lambda x, y: (mean, parts(x, y, 2, 2, 2, 2, 1)),
    "one by one": lambda x, y: (mean, parts(x, y, *[1] * 9)),
    "a batch of one first": lambda x, y: (mean, parts(x, y, 1, 2, 2, 2, 2)),
    "shuffled": lambda x, y: (mean, Shuffled(x, y)),
    "generator function": lambda x, y: (mean, lambda: (b for b in parts(x, y, 2, 2, 2, 2, 1))),
    "JAX arrays": lambda x, y: (mean, (jnp.asarray(x), jnp.asarray(y))),
    "dicts": lambda x, y: (
        mean_by_name,
        [{"inputs": {"x": a / SCALE}, "y": b, "scale": SCALE, "factor": 1.0} for a, b in parts(x, y, 2, 2, 2, 2, 1)],
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_batching_does_not_matter(way, w, samples, v, distance):
    whole = hessian_operator(mean, w, samples)
    loss_fn, data = WAYS[way](*samples)
    op = hessian_operator(loss_fn, w, data)
    assert distance(op.matvec(v), whole.matvec(v)) < TOLERANCE
    assert distance(op.gradient(), whole.gradient()) < TOLERANCE
    assert op.loss() == pytest.approx(whole.loss(), rel=TOLERANCE)


def test_ignored_tokens(w, rng, v, distance):
    """Sequences of different lengths; the third batch holds no token that counts."""
    x, y = rng.normal(size=(9, 6, 4)), rng.uniform(size=(9, 6))
    y[np.arange(6) >= np.array([6, 1, 3, 5, 2, 5, 0, 0, 0])[:, None]] = -1
    whole = hessian_operator(valid_mean, w, (x, y))
    op = hessian_operator(valid_sum, w, parts(x, y, 3, 3, 3))
    assert distance(op.matvec(v), whole.matvec(v)) < TOLERANCE
    assert distance(op.gradient(), whole.gradient()) < TOLERANCE
    assert op.loss() == pytest.approx(whole.loss(), rel=TOLERANCE)


def test_batch_of_weight_zero_is_left_out(w, samples, v, distance):
    x, y = samples
    y[3:6] = -1
    batches = parts(x, y, 3, 3, 3)
    op, without = (hessian_operator(undefined_mean, w, data) for data in (batches, batches[::2]))
    assert op.loss() == without.loss()
    assert distance(op.gradient(), without.gradient()) < TOLERANCE
    assert distance(op.matvec(v), without.matvec(v)) < TOLERANCE


def test_single_batch_may_be_summed(w, samples, v, distance):
    """One scalar loss needs no weights: the operator is its Hessian, mean or not."""
    averaged, summed = (hessian_operator(loss_fn, w, samples) for loss_fn in (mean, total))
    assert distance(summed.matvec(v), 9 * averaged.matvec(v)) < TOLERANCE
    assert summed.loss() == pytest.approx(9 * averaged.loss(), rel=TOLERANCE)


def test_no_data_but_the_parameters(dense):
    op = hessian_operator(lambda w, _: (w**4).sum(), np.arange(1.0, 4), None)
    np.testing.assert_allclose(dense(op), np.diag([12.0, 48, 108]), rtol=1e-15)


@pytest.mark.parametrize("rows", [1, 3])
def test_data_are_read_once_per_product_whatever_the_block(rows, w, samples, v):
    data = Reread(parts(*samples, 2, 2, 2, 2, 1))
    op = hessian_operator(mean, w, data)
    before = data.passes
    op.matvec(v[:rows])
    assert data.passes == before + 1
    op.gradient()
    assert data.passes == before + 2
    op.loss()  # known since construction
    assert data.passes == before + 2


def counted_by_name(w, batch):
    return ((batch["x"] @ w) ** 4).sum() * batch["a"].mean(), len(batch["x"])


def mean_beside(w, batch):
    value, weight = counted_by_name(w, batch)
    return value / weight


def test_first_array_that_is_none_of_samples(w, samples, v, distance):
    """By their names the batches begin with an array that has as many rows in each."""
    x, _ = samples
    batches = [{"a": np.ones(7), "x": part} for part in np.split(x, [2])]
    with pytest.raises(DataError, match=r"batch 0 has arrays of 7 and of 2 rows.*return \(sum, weight\)"):
        hessian_operator(mean_beside, w, batches)
    whole = hessian_operator(mean_beside, w, {"a": np.ones(7), "x": x})
    assert distance(hessian_operator(counted_by_name, w, batches).matvec(v), whole.matvec(v)) < TOLERANCE
    behind = [{"x": part, "z": np.ones(7)} for part in np.split(x, [2])]
    operator = hessian_operator(lambda w, b: ((b["x"] @ w) ** 4).mean() * b["z"].mean(), w, behind)
    assert distance(operator.matvec(v), whole.matvec(v)) < TOLERANCE


def test_examples_that_a_single_batch_does_not_tell(w, samples, distance):
    """Each of seven would be the whole batch: their gradients add up to its own."""
    x, _ = samples
    with pytest.raises(DataError, match=r"batch 0 has arrays of 7 and of 9 rows.*\(sum, weight\)"):
        gradient_covariance_operator(mean_beside, w, {"a": np.ones(7), "x": x}, per="example")

    def behind(w, batch):
        return ((batch["x"] @ w) ** 4).mean() * batch["z"].mean()

    operator = gradient_covariance_operator(behind, w, {"x": x, "z": np.ones(7)}, per="example", centered=False)
    slopes = 4 * ((x @ w) ** 3)[:, None] * x
    assert distance(operator.matvec(jnp.eye(4)), slopes.T @ slopes / 9) < TOLERANCE
