"""Covariances of gradients against gradients one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slq
from slq.errors import DataError, RequestError, ShapeError
from slq_jax import gradient_covariance_operator
from tests.jax.matrices import INPUTS, gradients, mlp, mlp_params

CLOSE = 1e-12  # measured: at most 3e-16


def log_likelihoods(p, batch):
    return jnp.take_along_axis(jax.nn.log_softmax(mlp(p, batch)), batch[1][:, None], 1)[:, 0]


def cross_entropy(p, batch):
    return -log_likelihoods(p, batch).mean()


def tokens(p, batch):
    """(sum, weight): an example weighs what labels it has."""
    return -(log_likelihoods(p, batch) * batch[2]).sum(), batch[2].sum()


def summed(p, batch):
    return -log_likelihoods(p, batch).sum()


@pytest.fixture
def params(rng):
    return mlp_params(rng)


@pytest.fixture
def batches(rng):
    y, counts = rng.integers(3, size=8), np.array([1.0, 0, 2, 1, 1, 2, 0, 3])
    return [(INPUTS[a:b], y[a:b], counts[a:b]) for a, b in ((0, 3), (3, 6), (6, 8))]


def examples(batches):
    return [tuple(x[i : i + 1] for x in b) for b in batches for i in range(len(b[0]))]


def dense_covariance(loss, params, items, centered):
    G, w = gradients(loss, params, items)
    G = G - w @ G / w.sum() if centered else G
    return (w[:, None] * G).T @ G / w.sum()


@pytest.mark.parametrize("fits", [True, False], ids=["kept", "read anew"])
@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("loss", [cross_entropy, tokens])
@pytest.mark.parametrize("per", ["batch", "example"])
def test_dense(per, loss, centered, fits, params, batches, dense, distance, monkeypatch):
    if not fits:
        monkeypatch.setattr("slq_jax._data._SHARE", 1 << 60)
    exact = dense_covariance(loss, params, batches if per == "batch" else examples(batches), centered)
    op = gradient_covariance_operator(loss, params, batches, per=per, centered=centered)
    assert (op.linear() is not None) == fits
    for _ in range(2):
        assert distance(dense(op), exact) < CLOSE
    assert op.workspace(3) > 0
    assert np.linalg.eigvalsh(dense(op))[0] > -1e-14


def test_rank_is_below_the_number_of_batches(params, batches):
    op = gradient_covariance_operator(cross_entropy, params, batches)
    measure = slq.spectral_measure(op, num_probes=3, num_steps=10)
    assert (measure.lengths <= 3).all()  # two nonzero eigenvalues, and zero


@pytest.mark.parametrize("size", [1, 2])
def test_microbatches_change_nothing(size, params, batches, dense, distance):
    op, cut = (
        gradient_covariance_operator(tokens, params, batches, per="example", microbatch=microbatch)
        for microbatch in (None, size)
    )
    assert distance(dense(cut), dense(op)) < CLOSE


@pytest.mark.parametrize("per", ["batch", "example"])
def test_sums_weigh_their_samples(per, params, batches, dense, distance):
    op = gradient_covariance_operator(cross_entropy, params, batches, per=per)
    sums = gradient_covariance_operator(summed, params, batches, per=per, reduction="sum")
    assert distance(dense(sums), dense(op)) < CLOSE


@pytest.mark.parametrize("fits", [True, False], ids=["kept", "read anew"])
@pytest.mark.parametrize("per", ["batch", "example"])
def test_batches_of_weight_zero_are_no_items(per, fits, params, batches, dense, distance, monkeypatch):
    ignored = (*batches[1][:2], np.zeros(3))
    op = gradient_covariance_operator(tokens, params, batches, per=per)
    if not fits:
        monkeypatch.setattr("slq_jax._data._SHARE", 1 << 60)
    more = gradient_covariance_operator(tokens, params, [ignored, *batches, ignored], per=per)
    assert distance(dense(more), dense(op)) < CLOSE


def test_similar_gradients_in_single_precision(rng):
    """Differences before squares: eigenvalues stay positive where gradients differ by 1e-4 of their size."""
    batches = [np.float32(np.ones((2, 3)) + 1e-4 * rng.normal(size=(2, 3))) for _ in range(6)]
    op = gradient_covariance_operator(lambda w, x: (x @ w).mean(), np.ones(3, np.float32), batches)
    exact = np.cov(np.stack([x.astype(np.float64).mean(0) for x in batches]).T, bias=True)
    found = np.asarray(op.matvec(jnp.eye(3, dtype=jnp.float32)), np.float64)
    # Gradients of size 1 are rounded by 6e-8, deviations of 7e-5 by 1e-3 of their size, the mean likewise.
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-2 * exact.diagonal().max())
    assert np.linalg.eigvalsh(found)[0] > 0


def test_chosen_leaves_and_dicts(params, batches, dense, distance):
    whole = gradient_covariance_operator(tokens, params, batches, per="example")
    by_name = [{"x": x, "y": y, "counts": counts, "unit": 1.0} for x, y, counts in batches]

    def loss(p, b):
        return tokens(p, (b["unit"] * b["x"], b["y"], b["counts"]))

    op = gradient_covariance_operator(loss, params, by_name, per="example", select=["bias", "last"])
    chosen = [*range(3), *range(23, 38)]
    assert distance(dense(op), dense(whole)[np.ix_(chosen, chosen)]) < CLOSE


def test_checks_pass(params, batches):
    assert slq.check_operator(gradient_covariance_operator(cross_entropy, params, batches, per="example"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per": "sample"}, "per= expects 'batch' or 'example', got 'sample'"),
        ({"weight_decay": 0.1}, "weight_decay has no meaning for a covariance of gradients; leave it out"),
        ({"microbatch": 2}, "microbatch= would cut the batches whose gradients are meant; leave it out"),
        ({"max_batches": 1}, r"the gradients of one batch is zero; give several batches, or take per='example'"),
    ],
)
def test_refusals(options, message, params, batches):
    with pytest.raises(RequestError, match=message):
        gradient_covariance_operator(cross_entropy, params, batches, **options)


def test_batches_without_samples():
    with pytest.raises(RequestError, match="per='example' needs batches that tell their samples: arrays with a leadi"):
        gradient_covariance_operator(lambda w, _: (w**2).sum(), np.ones(3), None, per="example")


def test_a_batch_that_is_no_mean_of_its_examples(params, batches):
    def by_their_labels(p, batch):
        return summed(p, batch) / batch[2].sum() ** 2

    with pytest.raises(DataError, match=r"losses of the examples of batch 0 add up to .*per='batch'"):
        gradient_covariance_operator(by_their_labels, params, [(*batches[0][:2], np.ones(3))], per="example")


def test_vectors_of_another_shape(params, batches):
    with pytest.raises(ShapeError, match=r"shape \(\.\.\., 38\), got \(3, 2\)"):
        gradient_covariance_operator(cross_entropy, params, batches).matvec(jnp.ones((3, 2)))
