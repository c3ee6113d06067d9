"""Gradients of losses for drawn labels: each one, how often, and the mean of their outer products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slq_jax._losses import BinaryCrossEntropy, CrossEntropy
from tests.jax.loss_cases import EPS, KEY, WEIGHTS, case_of


@pytest.mark.parametrize("name", ["tokens", "both", "class_dim", "squares", "pos_weight"])
def test_sampled_gradients_have_the_second_derivative_as_mean(name, rng):
    """⟨t, Σ_r g_r g_rᵀ t⟩ has mean ⟨t, H t⟩: 200 means over 300 draws, each in its own direction t, are off by
    standard normal numbers of standard errors."""
    loss, z, batch = case_of(name, rng)

    @jax.jit
    def score(key):
        of_t, of_y = jax.random.split(key)
        t = jax.random.normal(of_t, z.shape)
        draw = jax.vmap(lambda k: ((loss.rows(loss.sampled_gradients(z, batch, k)) * loss.rows(t)).sum(1) ** 2).sum())
        found = draw(jax.random.split(of_y, 300))
        error = found.mean() - (t * loss.hessian_product(z, batch, t)).sum()
        return error / (found.std() / 300**0.5), found.std() / 300**0.5 / found.mean()

    scores, deviations = jax.lax.map(score, jax.random.split(jax.random.key(0), 200))
    # Of 200 standard normal numbers the mean is beyond 0.3 in 2e-5 of cases, and fewer than 88 % are below two in
    # 2e-5 of cases (binomial).
    assert abs(float(scores.mean())) < 0.3
    assert float((abs(scores) < 2).mean()) >= 0.88
    assert float(deviations.mean()) < 0.05  # so that 2 % of bias would move the mean by 0.4. Measured: 0.02 to 0.04


@pytest.mark.slow
@pytest.mark.parametrize("logit", [17.0, -17.0])
def test_rare_labels_are_drawn_as_often_as_they_should(logit):
    """Of probability 4.1e-8, in single precision, over 2^27 draws: 5.6 on average, and a Poisson number is 0 in 4e-3
    of cases and above 14 in 5e-4. `jax.random.bernoulli` draws, of 2^26, none at 17 and 13 at −17."""
    size = 2**20
    z, batch = jnp.full(size, logit, jnp.float32), (None, jnp.zeros(size))
    draw = jax.jit(lambda key: (abs(BinaryCrossEntropy().sampled_gradients(z, batch, key)) > 0.5).sum())
    assert 1 <= sum(int(draw(key)) for key in jax.random.split(jax.random.key(0), 128)) <= 14


def test_sampled_gradients_of_confident_predictions():
    """Of the likely label, which is drawn nearly always: p − 1 in single precision is zero, or off by tenths."""
    z = jnp.asarray([[20.0, 0.0, 1.0]], jnp.float32)
    expected = np.array(jax.nn.softmax(z.astype(jnp.float64)))
    expected[0, 0] = -expected[0, 1:].sum()
    found = CrossEntropy().sampled_gradients(z, (None, jnp.asarray([0])), KEY)
    np.testing.assert_allclose(found, expected, rtol=8 * EPS)  # measured: at most 7e-8
    z = jnp.asarray([[20.0, -30.0]], jnp.float32)
    found = BinaryCrossEntropy().sampled_gradients(z, (None, jnp.ones((1, 2))), KEY)
    expected = np.array([[-1.0, 1.0]]) / (1 + np.exp([[20.0, 30.0]]))
    np.testing.assert_allclose(found, expected, rtol=8 * EPS)


def test_each_is_of_one_label(rng):
    """√A (p − e_y) of some y, with A the weight of the true label."""
    loss, z, (_, labels) = case_of("both", rng)
    p = np.asarray(jax.nn.softmax(z))
    weights = np.where(labels == loss.ignore_index, 0, 0.7 * np.array(WEIGHTS)[labels] + 0.3 * np.mean(WEIGHTS))
    candidates = weights[:, None, None] ** 0.5 * (p[:, None] - np.eye(3))  # (rows, y, classes)
    draws = jax.vmap(lambda key: loss.sampled_gradients(z, (None, labels), key))(jax.random.split(KEY, 50))
    distances = np.linalg.norm(np.asarray(draws)[:, :, None] - candidates, axis=-1)
    assert distances.min(-1).max() < 1e-14  # measured over four seeds: at most 5e-16
    assert len(set(distances.argmin(-1)[:, weights > 0].flat)) == 3


@pytest.mark.parametrize("name", ["both", "squares", "pos_weight"])
def test_a_key_gives_the_same_and_another_gives_others(name, rng):
    loss, z, batch = case_of(name, rng)
    draws = [loss.sampled_gradients(z, batch, jax.random.key(number)) for number in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
