"""Exact masses: `measure.deflate()` and its guards."""

import numpy as np
import pytest

import slq
from slq._deflation import clusters, deflated_weights, exact_nodes
from tests.problems import hessian_like

N = 300
SPIKED = np.concatenate([np.linspace(0.5, 1.5, N - 5), [4.0, 6.0, 9.0, -5.0, 20.0]])


def diagonal(values):
    """An operator with these eigenvalues: on the sphere as good as any other with them."""
    return slq.aslinearoperator(lambda x: x * values, like=values, batched=True)


def measure(values, **options):
    """The measure of 6 probes and 30 steps."""
    return slq.spectral_measure(diagonal(values), **{"num_probes": 6, "num_steps": 30, "check": False} | options)


@pytest.mark.parametrize("block", [False, True])
def test_found_eigenvalues_have_the_mass_of_one(block):
    m = measure(SPIKED, block=block, num_steps=30 if not block else 15)
    d = m.deflate()
    assert d.deflated
    assert d.deflate() is not d
    spikes = np.abs(d.nodes[..., None] - SPIKED[-5:]) < 1e-9
    assert (spikes.any(axis=2).sum(axis=1) == 5).all()
    np.testing.assert_array_equal(d.weights[spikes.any(axis=2)], 1 / N)
    np.testing.assert_allclose(d.weights.sum(axis=1), 1, atol=1e-12)
    assert (d.weights >= 0).all()
    np.testing.assert_array_equal(d.undeflated.weights, m.weights)
    np.testing.assert_array_equal(d.nodes, m.nodes)


def test_answers_rest_on_the_remainder_alone():
    m = measure(SPIKED)
    with pytest.warns(slq.errors.HeavyTailWarning):
        before = m.trace()
    after = m.deflate().trace()
    assert after.stderr < before.stderr / 5  # the spikes made nearly all of it
    assert abs(after.value - SPIKED.sum()) < 4 * after.stderr
    count = m.deflate().count(3, np.inf)
    assert count.value == pytest.approx(4, abs=1e-9)
    assert count.stderr < 1e-6
    assert count.truncation < 1e-6
    np.testing.assert_array_equal(m.deflate().quadratic_forms(np.exp), m.quadratic_forms(np.exp))


@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")
def test_the_errors_are_those_that_many_seeds_show():
    # Over 300 seeds, errors over stated errors have a standard deviation of 1.06.
    for block in (False, True):
        found = [
            measure(SPIKED, num_probes=4, num_steps=20, block=block, rng=seed).deflate().trace() for seed in range(200)
        ]
        errors = np.array([(e.value - SPIKED.sum()) / e.stderr for e in found])
        assert 0.85 < errors.std() < 1.2  # three standard errors of a standard deviation of 200 are 0.15
        assert abs(errors.mean()) < 3.5 / np.sqrt(200)


def test_multiple_eigenvalues_keep_the_mass_that_was_seen():
    values = np.concatenate([np.linspace(0.5, 1.5, N - 60), np.full(30, 5.0), np.full(30, -4.0)])
    for block in (False, True):
        d = measure(values, block=block, num_steps=12).deflate()
        high = np.abs(d.nodes - 5) < 1e-9
        assert not d.exact_nodes[high].any()
        np.testing.assert_allclose(
            (d.weights * high).sum(), d.num_probes * 0.1, rtol=0.25
        )  # χ² of 180: a standard error of 11 %


def test_a_block_knows_multiplicities_below_its_size():
    values = np.concatenate([np.linspace(0.5, 1.5, N - 4), [5.0, 5.0, 8.0, 8.0]])
    d = measure(values, block=True, num_steps=15).deflate()
    assert (np.abs(d.nodes - 5) < 1e-9).sum() == 2 * 6
    assert d.count(4, 6).value == pytest.approx(2, abs=1e-9)


def test_independent_probes_leave_all_alone_where_eigenvalues_come_in_pairs():
    # Each pair passes for one in 92 % of the seeds (its mass is χ² of 2k, and 29.6 the limit for k = 10), all pass the
    # pooled test in fewer than 1e-6 (where there are fewer, more steps bring second copies by rounding).
    values = np.concatenate([np.linspace(0.5, 1.5, N - 30), np.repeat(np.linspace(3, 20, 15), 2)])
    for seed in range(20):
        d = measure(values, num_probes=10, num_steps=40, rng=seed).deflate()
        assert not d.exact_nodes.any()


def test_unresolved_nodes_are_left_alone():
    d = measure(np.linspace(0, 1, 2000), num_steps=20).deflate()
    assert not d.exact_nodes.any()
    np.testing.assert_allclose(d.weights, d.undeflated.weights, atol=1e-15)
    # With few steps, the ends of a Hessian-like spectrum converge one after the other; all of these are eigenvalues.
    values = np.asarray(hessian_like(2000))
    for steps in (5, 10, 20, 40, 80):
        d = measure(values, num_steps=steps).deflate()
        distance = np.abs(d.nodes[d.exact_nodes][:, None] - values).min(axis=1, initial=np.inf)
        assert (distance < 1e-3 * np.abs(d.nodes[d.exact_nodes]) + 1e-5).all()


def test_copies_are_not_counted_twice():
    with pytest.warns(slq.errors.GhostWarning):
        m = measure(SPIKED, num_steps=120, reorthogonalize=False)
    d = m.deflate()
    for spike in SPIKED[-5:]:
        near = np.abs(d.nodes - spike) < 1e-6
        assert (np.where(d.exact_nodes & near, d.weights, 0).sum(axis=1) <= 1 / N + 1e-15).all()


def test_a_decomposed_operator_is_exact():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    d = measure(values, num_probes=3, num_steps=4).deflate()
    assert d.exact_nodes.all()
    assert d.trace().value == pytest.approx(15, rel=1e-13)
    assert d.trace().stderr == 0
    assert d.logdet().value == pytest.approx(np.log(64), rel=1e-12)


def test_float32_works():
    d = measure(SPIKED.astype(np.float32)).deflate()
    assert (d.exact_nodes.sum(axis=1) >= 5).all()


def test_other_samplers():
    for sampler in (slq.rademacher, slq.gaussian, slq.steinhaus):
        d = measure(SPIKED, probes=sampler).deflate()
        estimate = d.trace()
        assert abs(estimate.value - SPIKED.sum()) <= 5 * (estimate.stderr + estimate.rounding)


def test_it_goes_with_unions_truncation_and_extension(tmp_path):
    m, more = measure(SPIKED), measure(SPIKED, first_probe=6, num_probes=2)
    both = m.deflate() | more.deflate()
    assert both.deflated
    np.testing.assert_array_equal(both.weights, (m | more).deflate().weights)
    short = m.deflate().truncate(10)
    np.testing.assert_array_equal(short.weights, m.truncate(10).deflate().weights)
    extended = m.deflate().extend(diagonal(SPIKED), num_probes=2, check=False)
    np.testing.assert_array_equal(extended.weights, both.weights)
    m.deflate().save(tmp_path / "m.npz")
    assert slq.SpectralMeasure.load(tmp_path / "m.npz").deflated


def test_fixed_vectors_are_not_deflated():
    m = slq.spectral_measure(diagonal(SPIKED), probes=np.ones((1, N)), num_steps=10, check=False)
    with pytest.raises(slq.errors.RequestError, match=r"deflate.*needs random probes"):
        m.deflate()


def test_clusters_are_told_by_residuals_and_gaps():
    nodes = np.array([0.0, 1.0, 1.0 + 1e-15, 2.0, 2.1, 3.0])
    found = clusters(nodes, np.array([1e-3, 0, 0, 0.05, 1e-3, 0.5]), rounding=1e-14)
    assert found.labels.tolist() == [0, 1, 1, 2, 3, 4]
    # 2.0 is wide, 2.1 too near to what 2.0 and 3.0 may be, 3.0 wide
    assert found.converged.tolist() == [True, True, True, False, True, False]
    alone = clusters(np.array([2.0]), np.array([5.0]), rounding=1e-14)
    assert alone.converged.all()  # the only node there is: nothing to be mixed with


def test_masses_beyond_one_eigenvalue_are_refused():
    nodes, residuals = np.tile([0.0, 1.0, 5.0], (4, 1)), np.tile([0.4, 0.4, 0.0], (4, 1))

    def exact(mass):
        weights = np.tile([0.5, 0.5 - mass, mass], (4, 1))
        return exact_nodes(nodes, weights, residuals, shared=1, n=100, rounding=1e-14, is_complex=False)

    # n·Σ mass is χ² of 4 for one eigenvalue: 18.5 is exceeded in one of a thousand
    assert exact(0.046)[:, 2].all()
    assert not exact(0.047).any()


def test_weights_without_a_remainder_stay():
    weights = np.array([[0.25, 0.75], [1.0, 0.0]])
    exact = np.array([[True, False], [True, False]])
    np.testing.assert_allclose(deflated_weights(weights, exact, 10), [[0.1, 0.9], [1.0, 0.0]])
