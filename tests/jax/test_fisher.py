"""Fisher matrices: which labels they are of, how they are drawn, and by what weights."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slq
from slq.errors import OperatorError, RequestError
from slq_jax import BinaryCrossEntropy, CrossEntropy, SquaredError, fisher_operator, ggn_operator
from tests.jax.matrices import INPUTS, gradients, jacobians, mlp, mlp_params

CLOSE = 1e-12  # measured: at most 7e-16
WEIGHTS = [0.5, 2.0, 1.0]


@pytest.fixture
def params(rng):
    return mlp_params(rng)


@pytest.fixture
def batch(rng):
    return INPUTS, rng.integers(3, size=8)


def cross_entropy(z, batch):
    """A loss of the user's own."""
    return -jnp.take_along_axis(jax.nn.log_softmax(z), batch[1][:, None], 1).mean()


def test_exact_fisher_is_the_expectation_over_all_labels(params, batch, dense, distance):
    """Σ_y p(y) g gᵀ, by enumeration: nothing of the closed form."""
    z, J = jacobians(mlp, params, batch)
    p = jax.nn.softmax(z)
    expected = 0.0
    for y in range(3):
        g = jnp.einsum("rc,rcn->rn", p - jnp.eye(3)[y], J)
        expected += jnp.einsum("r,rn,rm->nm", p[:, y], g, g) / 8
    assert distance(dense(fisher_operator(mlp, CrossEntropy(), params, batch)), expected) < CLOSE


LIKELIHOODS = {
    "cross-entropy": (CrossEntropy(), lambda rng: rng.integers(3, size=8)),
    "squares": (SquaredError(), lambda rng: rng.normal(size=(8, 3))),
    "binary": (BinaryCrossEntropy(), lambda rng: rng.integers(2, size=(8, 3)) * 1.0),
    "weighted": (CrossEntropy(class_weights=WEIGHTS, label_smoothing=0.1), lambda rng: rng.integers(3, size=8)),
    "weighted binary": (BinaryCrossEntropy(pos_weight=3.0), lambda rng: rng.integers(2, size=(8, 3)) * 1.0),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_sampled_fisher_converges_at_the_monte_carlo_rate(name, params, rng):
    """The slope of log error over log samples, from 1 to 64, by the mean square over 30 seeds; and no bias.

    Errors are those of one product, as `check=False` and few rows keep this quick.
    """
    loss, targets = LIKELIHOODS[name]
    batch = INPUTS, targets(rng)
    v = jnp.asarray(rng.normal(size=38))
    exact = fisher_operator(mlp, loss, params, batch).matvec(v)
    counts, means, errors = [1, 8, 64], [], []
    for samples in counts:
        operators = [
            fisher_operator(mlp, loss, params, batch, samples=samples, rng=seed, check=False) for seed in range(30)
        ]
        off = np.stack([A.matvec(v) - exact for A in operators])
        errors.append(0.5 * math.log((off**2).sum(1).mean()))
        means.append((off.mean(0) ** 2).sum() / ((off**2).sum(1).mean() / 30))
    slope = np.polyfit(np.log(counts), errors, 1)[0]
    # Measured over four models and three losses: between -0.56 and -0.40, with a standard deviation of 0.04.
    assert -0.65 < slope < -0.35
    # The mean of 30 unbiased products is off by 1/30 of the mean square; measured: at most 2.9 times that.
    assert max(means) < 4


@pytest.mark.parametrize("samples", [1, 3])
def test_sampled_fisher_is_of_its_rows(samples, params, batch, dense, distance):
    """Labels that do not count add nothing, whatever is drawn for them, and a batch may hold none that do."""
    x, y = batch
    y[[1, 4, 5]] = -100
    ends = ((0, 4), (4, 6), (6, 8))
    parts = [(x[a:b], y[a:b]) for a, b in ends]
    op = fisher_operator(mlp, CrossEntropy(), params, parts, samples=samples, rng=3)
    z, J = jacobians(mlp, params, batch)
    scores = []
    for number, (a, b) in enumerate(ends):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(3), number), samples)
        scores.append(np.stack([CrossEntropy().sampled_gradients(z[a:b], parts[number], key) for key in keys]))
    drawn = np.concatenate(scores, 1)
    assert not drawn[:, y == -100].any()
    g = np.einsum("src,rcn->srn", drawn, J)
    assert distance(dense(op), np.einsum("srn,srm->nm", g, g) / samples / 5) < CLOSE


def test_sampled_fisher_is_one_matrix(params, batch, dense, distance):
    x, y = batch
    parts = [(x[:3], y[:3]), (x[3:], y[3:])]
    op = fisher_operator(mlp, CrossEntropy(), params, parts, samples=1, rng=4)
    matrix = dense(op)
    assert np.array_equal(dense(op), matrix)
    assert distance(matrix.T, matrix) < CLOSE
    assert np.linalg.eigvalsh(matrix)[0] > -1e-14
    again = fisher_operator(mlp, CrossEntropy(), params, parts, samples=1, rng=4)
    assert np.array_equal(dense(again), matrix)
    assert not np.array_equal(dense(fisher_operator(mlp, CrossEntropy(), params, parts, samples=1, rng=5)), matrix)


def test_other_seeds_compile_nothing(params, batch, caplog):
    def product(seed):
        fisher_operator(mlp, CrossEntropy(), params, batch, samples=2, rng=seed, check=False).matvec(jnp.ones(38))

    product(0)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        product(1)
    assert [record.message for record in caplog.records] == []


def test_streamed_data_have_the_same_labels(params, batch, dense, distance, monkeypatch):
    x, y = batch
    parts = [(x[i : i + 2], y[i : i + 2]) for i in (0, 2, 4, 6)]
    kept = fisher_operator(mlp, CrossEntropy(), params, parts, samples=2, rng=4)
    monkeypatch.setattr("slq_jax._data._SHARE", 1 << 60)
    streamed = fisher_operator(mlp, CrossEntropy(), params, parts, samples=2, rng=4)
    assert streamed.linear() is None
    assert distance(dense(streamed), dense(kept)) < CLOSE


def test_microbatches_draw_for_themselves(params, batch, rng):
    """Labels go by the number of the piece: other pieces are another sample of the same matrix."""
    v = jnp.asarray(rng.normal(size=38))
    exact = float(v @ ggn_operator(mlp, CrossEntropy(), params, batch).matvec(v))
    for size in (None, 4):
        op = fisher_operator(mlp, CrossEntropy(), params, batch, samples=2000, microbatch=size)
        assert float(v @ op.matvec(v)) == pytest.approx(exact, rel=0.1)  # measured over ten seeds: at most 0.042


@pytest.mark.parametrize("empirical", [False, True])
def test_checks_pass(empirical, params, batch):
    op = fisher_operator(mlp, CrossEntropy(), params, batch, samples=None if empirical else 2, empirical=empirical)
    assert slq.check_operator(op)


@pytest.mark.parametrize("loss", [CrossEntropy(), cross_entropy], ids=["closed form", "own loss"])
def test_empirical_fisher_is_the_second_moment_of_the_gradients(loss, params, batch, dense, distance):
    x, y = batch
    G, _ = gradients(lambda p, b: cross_entropy(mlp(p, b), b), params, [(x[i : i + 1], y[i : i + 1]) for i in range(8)])
    for data in (batch, [(x[:3], y[:3]), (x[3:], y[3:])]):
        op = fisher_operator(mlp, loss, params, data, empirical=True)
        assert distance(dense(op), G.T @ G / 8) < CLOSE


def test_empirical_fisher_of_several_outputs(params, batch, dense, distance):
    def two(p, b):
        z = mlp(p, b)
        return {"first": z[:, :1], "others": z[:, 1:]}

    def loss(z, b):
        return cross_entropy(jnp.concatenate([z["first"], z["others"]], 1), b)

    op = fisher_operator(two, loss, params, batch, empirical=True)
    assert distance(dense(op), dense(fisher_operator(mlp, CrossEntropy(), params, batch, empirical=True))) < CLOSE


def test_empirical_weights(params, batch, rng, dense, distance):
    """As documented: weights of classes enter squared, and the mean over outputs divides once more."""
    x, y = batch
    w = np.asarray(WEIGHTS)
    z, J = jacobians(mlp, params, batch)
    g = jnp.einsum("rc,rcn->rn", w[y][:, None] * (jax.nn.softmax(z) - jnp.eye(3)[y]), J)
    op = fisher_operator(mlp, CrossEntropy(class_weights=w), params, batch, empirical=True)
    assert distance(dense(op), g.T @ g / w[y].sum()) < CLOSE
    t = rng.normal(size=(8, 3))
    g = jnp.einsum("rc,rcn->rn", 2 * (z - t), J)
    summed = fisher_operator(mlp, SquaredError(), params, (x, t), empirical=True)
    assert distance(dense(summed), g.T @ g / 24) < CLOSE
    averaged = fisher_operator(mlp, lambda z, b: ((z - b[1]) ** 2).mean(), params, (x, t), empirical=True)
    assert distance(dense(averaged), (g / 3).T @ (g / 3) / 8) < CLOSE


def test_half_precision(params, batch, rng):
    """A bfloat16 model, and logits that are drawn from in single precision."""
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), half)
    x = jnp.asarray(batch[0], jnp.bfloat16)
    v = jnp.asarray(rng.normal(size=38), jnp.float32)
    exact = float(fisher_operator(mlp, CrossEntropy(), wide, (x.astype(jnp.float64), batch[1])).matvec(v) @ v)
    drawn = fisher_operator(mlp, CrossEntropy(), half, (x, batch[1]), samples=400)
    assert drawn.like.dtype == drawn.matvec(v).dtype == jnp.float32
    # 8 rows of 400 labels, and rounding: measured over ten seeds, at most 0.14.
    assert float(drawn.matvec(v) @ v) == pytest.approx(exact, rel=0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 3, "empirical": True}, "samples= draws labels from the model.*choose one"),
        ({"samples": 0}, "samples= expects a positive integer or None, got 0"),
        ({"samples": True}, "samples= expects a positive integer or None, got True"),
        ({"samples": 2.0}, r"samples= expects a positive integer or None, got 2\.0"),
        ({"loss": cross_entropy}, "needs a likelihood, from which labels can be drawn.*or empirical=True"),
    ],
)
def test_fisher_of_what_there_is_none(arguments, message, params, batch):
    arguments = {"loss": CrossEntropy(), **arguments}
    with pytest.raises(RequestError, match=message):
        fisher_operator(mlp, arguments.pop("loss"), params, batch, **arguments)


def test_samples_may_be_an_integer_of_numpy(params, batch, dense):
    one, other = (fisher_operator(mlp, CrossEntropy(), params, batch, samples=n) for n in (2, np.int64(2)))
    assert np.array_equal(dense(one), dense(other))


@pytest.mark.parametrize(
    ("forward", "loss", "shapes"),
    [
        (lambda p, b: (mlp(p, b), mlp(p, b).sum()), lambda z, _: (z[0] ** 2).mean() + z[1], r"\[\(8, 3\), \(\)\]"),
        (lambda p, b: (mlp(p, b), mlp(p, b)[1:]), lambda z, _: (z[0] ** 2).mean() + z[1].sum(), r"\(8, 3\), \(7, 3\)"),
        (lambda p, b: mlp(p, b).sum(), lambda z, _: z**2, r"\[\(\)\]"),
    ],
)
def test_outputs_without_rows_have_no_empirical_fisher(forward, loss, shapes, params, batch):
    with pytest.raises(OperatorError, match=rf"needs outputs with one row a sample each, got shapes .*{shapes}"):
        fisher_operator(forward, loss, params, batch, empirical=True).matvec(jnp.ones(38))
