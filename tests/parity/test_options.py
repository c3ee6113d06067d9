"""Options, blocks, preconditioned operators and measures of torch and of JAX: the same numbers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import slq
import slq_jax
import slq_torch
from tests.parity.models import LOSSES, close, composed, distance, make_pair, torch_forward, vectors


def hessians(make="hessian_operator", loss="cross-entropy", chosen=None, pair=None, **options):
    """Both operators of the perceptron; `chosen` is params= in torch and select= in JAX."""
    pair = pair or make_pair("mlp", LOSSES[loss][2], (4, 4))
    in_torch, in_jax, _ = LOSSES[loss]
    ours = getattr(slq_torch, make)(pair.model, composed(in_torch), pair.batches, params=chosen, **options)
    theirs = getattr(slq_jax, make)(
        composed(in_jax, pair.forward), pair.params, pair.jax_batches, select=chosen, **options
    )
    return ours, theirs


def layers(model="mlp", **options):
    return hessians("layer_operators", pair=make_pair(model, sizes=(4, 4)), **options)


# Promised: 1e-10. Measured: at most 8e-16 in products, gradients and losses, 3e-13 in answers.


@pytest.mark.parametrize("chosen", ["2.*", ["0.bias", "2.weight"]])
def test_chosen_parameters(chosen):
    close(*hessians(chosen=chosen))


@pytest.mark.parametrize("decay", [0.3, {"*.weight": 0.3, "2.bias": 0.1}])
def test_weight_decay(decay):
    close(*hessians(weight_decay=decay))


@pytest.mark.parametrize("size", [3, 4])
def test_microbatches(size):
    close(*hessians(loss="all of them", microbatch=size))


def test_sums():
    """A single batch, over which both losses are sums."""
    pair = make_pair("mlp", sizes=(5,))
    in_torch, in_jax = (composed(summed, forward) for forward in (torch_forward, pair.forward))
    close(
        slq_torch.hessian_operator(pair.model, in_torch, pair.batches, reduction="sum"),
        slq_jax.hessian_operator(in_jax, pair.params, pair.jax_batches, reduction="sum"),
    )


def summed(z, batch):
    return ((z.sum(-1) - batch[1]) ** 4).sum()


@pytest.mark.parametrize("blocks", ["modules", "parameters", {"first": "0.*", "last": "2.*"}])
def test_blocks(blocks):
    ours, theirs = layers(blocks=blocks)
    assert list(ours) == list(theirs)
    rows = {name: vectors(A.shape[0], 2) for name, A in ours.items()}
    mine = ours.matvecs({name: pair[0] for name, pair in rows.items()})
    other = theirs.matvecs({name: pair[1] for name, pair in rows.items()})
    assert all(distance(mine[name], other[name]) < 1e-10 for name in rows)


def test_tied_weights_are_in_one_block():
    ours, theirs = layers("transformer")
    assert list(ours) == list(theirs) == ["embed", "norm", "project"]
    close(ours["embed"], theirs["embed"])


class AdamState(NamedTuple):
    """As in Optax."""

    count: Any
    mu: Any
    nu: Any


def adam(pair):
    """The state of an optimiser after two updates with the gradients of two batches, in each library."""
    optimizer = torch.optim.Adam(pair.model.parameters(), lr=0.0, betas=(0.9, 0.99))
    for batch in pair.batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(pair.model(batch[0]), batch[1]).backward()
        optimizer.step()
    second = [optimizer.state[p]["exp_avg_sq"].numpy() for p in pair.model.parameters()]
    optimizer.zero_grad()
    nu = jax.tree.unflatten(jax.tree.structure(pair.params), second)
    return optimizer, AdamState(jnp.asarray(2), nu, nu)


def preconditioned():
    pair = make_pair("mlp", sizes=(4, 4))
    in_torch, in_jax = adam(pair)
    ours, theirs = hessians(pair=pair)
    diagonals = slq_torch.adam_diagonal(in_torch, ours), slq_jax.adam_diagonal(in_jax, theirs, b2=0.99)
    return diagonals, [slq.precondition(A, d) for A, d in zip((ours, theirs), diagonals, strict=True)]


def test_diagonals_of_adam():
    diagonals, (ours, theirs) = preconditioned()
    assert distance(*diagonals) < 1e-10
    a, b = vectors(ours.shape[0])
    assert distance(ours.matvec(a), theirs.matvec(b)) < 1e-10


def ggn():
    pair = make_pair("mlp", sizes=(4, 4))
    in_torch, in_jax, _ = LOSSES["all of them"]
    return (
        slq_torch.ggn_operator(pair.model, torch_forward, in_torch, pair.batches),
        slq_jax.ggn_operator(pair.forward, in_jax, pair.params, pair.jax_batches),
    )


QUESTIONS: dict[str, Any] = {
    "trace": lambda m: m.trace(),
    "decaying": lambda m: m.trace(lambda t: np.exp(-(t**2))),
    "logarithm": lambda m: m.trace(lambda t: np.log(t**2 + 1)),
    "moment": lambda m: m.moment(4),
    "density": lambda m: m.density(np.linspace(*m.support, 50), width=0.05 * m.scale),
}


@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning", "ignore::slq.errors.GridWarning")
@pytest.mark.parametrize("make", [ggn, lambda: preconditioned()[1]], ids=["ggn", "preconditioned"])
def test_measures_answer_alike(make):
    """Equal seeds are equal probes, so nothing but rounding remains."""
    ours, theirs = (slq.spectral_measure(A, num_probes=3, num_steps=12, rng=7) for A in make())
    np.testing.assert_allclose(ours.alpha, theirs.alpha, rtol=0, atol=1e-10 * ours.scale)
    np.testing.assert_allclose(ours.beta, theirs.beta, rtol=0, atol=1e-10 * ours.scale)
    for question in QUESTIONS.values():
        mine, other = question(ours), question(theirs)
        np.testing.assert_allclose(mine.value, other.value, rtol=1e-10)
        np.testing.assert_allclose(mine.stderr, other.stderr, rtol=1e-8)


@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")
def test_measures_of_blocks_answer_alike():
    ours, theirs = (slq.spectral_measures(A, num_probes=2, num_steps=8, rng=7) for A in layers())
    assert list(ours) == list(theirs)
    for name, measure in ours.items():
        np.testing.assert_allclose(measure.alpha, theirs[name].alpha, rtol=0, atol=1e-10 * measure.scale)
        assert measure.trace().value == pytest.approx(theirs[name].trace().value, rel=1e-10)
