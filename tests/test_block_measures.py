"""Measures of block runs: `spectral_measure(block=True)` and what can be asked of them."""

import numpy as np
import pytest

import slq
from slq import SpectralMeasure
from slq.errors import MemoryForecastError, NonFiniteError, RequestError
from tests.problems import hessian_like, problem, uniform

N, K, M = 120, 6, 8
A = problem(hessian_like(N))


def block_measure(matrix=None, **options):
    """The measure of a matrix (that of `A`) by block Lanczos."""
    given = {"num_probes": K, "num_steps": M, "block": True} | options
    return slq.spectral_measure(A.matrix if matrix is None else matrix, **given)


def test_its_probes_share_the_nodes_and_have_their_own_weights():
    m = block_measure()
    assert m.nodes.shape == m.weights.shape == m.residuals.shape == (K, K * M)
    assert (m.nodes == m.nodes[0]).all()
    np.testing.assert_allclose(m.weights.sum(axis=1), 1.0, atol=1e-13)
    assert m.num_probes == K
    assert m.num_steps == M
    assert m.products == K * M
    assert m.shared_by == K
    assert not m.exact.any()
    assert (m.lengths == M).all()


def test_its_probes_are_those_of_independent_runs():
    x = slq.sphere(0, range(K), None, N, np.empty(0))
    m = block_measure(num_steps=20)  # the whole space
    np.testing.assert_allclose(m.quadratic_forms(np.log), A.forms(x, np.log), rtol=1e-9)
    independent = slq.spectral_measure(A.matrix, num_probes=K, num_steps=N)
    assert float(m.moment(1)) == pytest.approx(float(independent.moment(1)), rel=1e-12)


def test_its_quadrature_is_better_for_the_same_products():
    x = slq.sphere(0, range(K), None, N, np.empty(0))
    exact = A.forms(x, np.log)
    errors = [
        np.abs(m.quadratic_forms(np.log) - exact).max()
        for m in (block_measure(), slq.spectral_measure(A.matrix, num_probes=K, num_steps=M))
    ]
    assert errors[0] < errors[1] / 30  # measured: a ninetieth


def test_batches_are_blocks_of_their_own():
    m = block_measure(batch_size=3)
    assert m.alpha.shape == (2, M, 3, 3)
    assert (m.nodes[:3] == m.nodes[0]).all()
    assert (m.nodes[3:] == m.nodes[3]).all()
    first = block_measure(num_probes=3)
    np.testing.assert_array_equal(m.weights[:3], first.weights)
    joined = first | block_measure(num_probes=3, first_probe=3)
    extended = first.extend(A.matrix, num_probes=3)
    for other in (joined, extended):
        np.testing.assert_array_equal(other.alpha, m.alpha)
        np.testing.assert_array_equal(other.start, m.start)
        assert other.probe_ids == m.probe_ids


def test_it_is_truncated_and_saved_by_blocks(tmp_path):
    m = block_measure(A.matrix + 0j, probes=slq.steinhaus)
    short = m.truncate(3)
    np.testing.assert_allclose(short.nodes, block_measure(A.matrix + 0j, probes=slq.steinhaus, num_steps=3).nodes)
    for measure in (m, m.deflate()):
        measure.save(tmp_path / "m.npz")
        again = SpectralMeasure.load(tmp_path / "m.npz")
        for name, value in measure.state().items():
            np.testing.assert_array_equal(again.state()[name], value, err_msg=name)
        np.testing.assert_array_equal(again.weights, measure.weights)


@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")  # of the outliers, where nothing is deflated
def test_all_questions_have_answers():
    m = block_measure(num_steps=15)
    for asked in (m, m.deflate()):
        for estimate, exact in (
            (asked.trace(), A.eigenvalues.sum()),
            (asked.logdet(), np.log(A.eigenvalues).sum()),
            (asked.moment(2), (A.eigenvalues**2).mean()),
            (asked.count(0.5, np.inf), (A.eigenvalues >= 0.5).sum()),
            (asked.cdf(0.1), (A.eigenvalues <= 0.1).mean()),
            (asked.quantile(0.5), np.median(A.eigenvalues)),
        ):
            low, high = estimate.interval(0.9999)
            assert low <= exact <= high
        density = asked.density()
        assert np.trapezoid(density.value, density.x) == pytest.approx(1, abs=1e-9)
        assert asked.histogram([-np.inf, 0.1, np.inf]).value.sum() == pytest.approx(1)
        assert "probe" in asked.summary()


@pytest.mark.parametrize(
    ("values", "copies"),
    [([1.0] * 50, {1.0: 0}), ([1.0] * 40 + [3.0, 3.0, 7.0], {7.0: 1, 3.0: 2, 1.0: 0})],
)
def test_multiplicities_are_seen_up_to_the_block(values, copies):
    m = block_measure(problem(values).matrix, num_steps=4)
    found = m.outliers()
    assert dict(zip(found.values.round(9).tolist(), found.multiplicities.tolist(), strict=True)) == copies
    assert m.exact.all()


@pytest.mark.filterwarnings("ignore::slq.errors.SlqWarning")
def test_trivial_operators_are_exact():
    for matrix in (np.eye(7), np.zeros((7, 7)), np.diag([1.0] * 6 + [2.0]), np.eye(1)):
        m = block_measure(matrix, num_probes=2, num_steps=1 if len(matrix) == 1 else 3)
        assert m.exact.all()
        assert m.trace().truncation == 0
        np.testing.assert_allclose(m.weights.sum(axis=1), 1)
    everything = block_measure(np.diag(np.arange(5.0)), num_probes=5, num_steps=9)
    np.testing.assert_allclose(everything.deflate().trace().value, 10, rtol=1e-13)


def test_a_fault_keeps_the_blocks_before_it():
    def matrix(fault):
        count = iter(range(1000))
        return slq.aslinearoperator(
            lambda x: x @ A.matrix * (np.nan if next(count) == fault else 1.0), like=np.empty(N), batched=True
        )

    with pytest.raises(NonFiniteError) as caught:
        block_measure(matrix(M + 2), batch_size=3, check=False)
    assert caught.value.partial.num_probes == 3
    assert caught.value.probes == [3, 4, 5]
    with pytest.raises(NonFiniteError) as caught:
        block_measure(matrix(4), check=False)
    np.testing.assert_array_equal(caught.value.partial.nodes, block_measure(num_steps=4).nodes)


def test_out_of_memory_says_what_to_do():
    def product(x):
        raise MemoryError

    with pytest.raises(slq.errors.OutOfMemoryError, match=f"with a block of {K} probes.*smaller batch_size="):
        block_measure(slq.aslinearoperator(product, like=np.empty(N), batched=True), check=False)


def test_memory_is_forecast(monkeypatch):
    monkeypatch.setattr(slq._memory, "available", lambda _: 10_000)
    with pytest.raises(MemoryForecastError, match="block=False, batch_size=1, reorthogonalize=False"):
        block_measure()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 1}, "block= expects True or False, got 1"),
        ({"reorthogonalize": False}, "reorthogonalize=False was asked for; leave it out"),
        ({"batch_size": 4}, "batch_size= that divides the number of probes, got 4 for 6"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(RequestError, match=message):
        block_measure(**options)


def test_kinds_do_not_mix():
    with pytest.raises(RequestError, match=r"shared_by.*share their spaces by so many"):
        slq.concatenate([block_measure(), slq.spectral_measure(A.matrix, num_probes=K, num_steps=M, rng=1)])
    with pytest.raises(RequestError, match=r"deflated.*join them first, then deflate"):
        block_measure() | block_measure(rng=1).deflate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": np.zeros((1, K, K))}, "vectors of length one"),
        ({"start": np.zeros((0, 0, 0))}, r"start of shape \(g, b, b\)"),
        ({"singular": True}, "no singular=True"),
        ({"alpha": np.triu(np.ones((1, M, K, K)))}, "Hermitian alpha"),
    ],
)
def test_coefficients_are_checked(change, message):
    with pytest.raises(RequestError, match=message):
        block_measure().changed(**change)


def test_every_library_gives_the_same(xp):
    small = problem(uniform(24))
    m = slq.spectral_measure(xp.asarray(small.matrix), num_probes=3, num_steps=4, block=True)
    expected = slq.spectral_measure(small.matrix, num_probes=3, num_steps=4, block=True)
    np.testing.assert_allclose(m.nodes, expected.nodes, atol=1e-11)
    np.testing.assert_allclose(m.weights, expected.weights, atol=1e-11)
