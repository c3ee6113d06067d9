"""torch and JAX on the same weights and data give the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import slq
import slq_jax
import slq_torch


def torch_loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def torch_sum(model, batch):
    """The last class is ignored."""
    valid = batch[1] < 4
    return F.cross_entropy(model(batch[0])[valid], batch[1][valid], reduction="sum"), valid.sum()


def log_likelihoods(params, batch):
    x, y = batch
    *hidden, (weight, bias) = params
    for w, b in hidden:
        x = jnp.tanh(x @ w.T + b)
    return jnp.take_along_axis(jax.nn.log_softmax(x @ weight.T + bias), y[:, None], 1)[:, 0]


def jax_loss(params, batch):
    return -log_likelihoods(params, batch).mean()


def jax_sum(params, batch):
    valid = batch[1] < 4
    return -jnp.where(valid, log_likelihoods(params, batch), 0).sum(), valid.sum()


LOSSES = {"mean": (torch_loss, jax_loss), "sum and weight": (torch_sum, jax_sum)}


def make_pair(kind):
    """Both operators of one perceptron with 77 parameters on grey values 0 to 16: one batch, or uneven ones."""
    rng = np.random.default_rng(0)
    # The weight of torch.nn.Linear is (outputs, inputs), and comes before the bias.
    params = [(rng.normal(size=(o, i)) / np.sqrt(i), rng.normal(size=o)) for i, o in ((6, 6), (6, 5))]
    sizes = {"mean": (40,), "sum and weight": (16, 16, 8)}[kind]
    x = [rng.integers(17, size=(size, 6)) / 16 for size in sizes]
    y = [rng.integers(5, size=size) for size in sizes]
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    with torch.no_grad():
        for p, array in zip(model.parameters(), (a for layer in params for a in layer), strict=True):
            p.copy_(torch.from_numpy(array))
    batches = [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(x, y, strict=True)]
    return (
        slq_torch.hessian_operator(model, LOSSES[kind][0], batches),
        slq_jax.hessian_operator(LOSSES[kind][1], params, list(zip(x, y, strict=True))),
    )


@pytest.mark.parametrize("kind", LOSSES)
def test_loss_gradient_and_products(kind):
    ours, theirs = make_pair(kind)
    v = np.random.default_rng(1).normal(size=(4, ours.shape[0]))
    assert ours.shape == theirs.shape == (77, 77)
    # Promised: 1e-10. Measured over four seeds: at most 5e-16.
    assert ours.loss() == pytest.approx(theirs.loss(), rel=1e-12)
    close(ours.gradient(), theirs.gradient())
    close(ours.matvec(torch.from_numpy(v)), theirs.matvec(jnp.asarray(v)))


def test_vectors_have_the_same_coordinates():
    ours, theirs = make_pair("mean")
    v = np.arange(77.0)
    tensors = list(ours.unravel(torch.from_numpy(v)).values())
    leaves = jax.tree.leaves(theirs.unravel(jnp.asarray(v)))
    assert all(np.array_equal(t.numpy(), leaf) for t, leaf in zip(tensors, leaves, strict=True))


@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning", "ignore::slq.errors.GridWarning")
def test_measures_answer_alike():
    """Equal seeds are equal probes, so nothing but rounding remains."""
    measures = [slq.spectral_measure(op, num_probes=4, num_steps=16, rng=7) for op in make_pair("mean")]
    ours, theirs = measures
    scale = ours.scale
    # Promised: 1e-11. Measured over four seeds: 1e-12 for coefficients, 2e-14 for what is asked of them.
    np.testing.assert_allclose(ours.alpha, theirs.alpha, rtol=0, atol=1e-11 * scale)
    np.testing.assert_allclose(ours.beta, theirs.beta, rtol=0, atol=1e-11 * scale)
    np.testing.assert_allclose(ours.support, theirs.support, rtol=0, atol=1e-11 * scale)
    for question in (
        lambda m: m.trace(),
        lambda m: m.trace(lambda t: np.exp(-(t**2))),
        lambda m: m.trace(lambda t: np.log(t**2 + 1)),
        lambda m: m.moment(4),
        lambda m: m.density(np.linspace(*ours.support, 50), width=0.05 * scale),
        lambda m: slq.analysis.negative_energy(m),
    ):
        mine, other = (question(m) for m in measures)
        np.testing.assert_allclose(mine.value, other.value, rtol=1e-10)
        np.testing.assert_allclose(mine.stderr, other.stderr, rtol=1e-8)
    # The distribution function jumps at the nodes; between them it must agree.
    nodes = np.sort(ours.nodes, axis=None)
    gaps = np.argsort(np.diff(nodes))[-20:]
    between = (nodes[gaps] + nodes[gaps + 1]) / 2
    np.testing.assert_allclose(ours.cdf(between).value, theirs.cdf(between).value, atol=1e-10)


def close(tensor, array):
    array = np.asarray(array)
    assert np.linalg.norm(tensor.numpy() - array) < 1e-12 * np.linalg.norm(array)
