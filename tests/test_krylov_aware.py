"""slq/_krylov_aware.py: spectral sums by a known part and a sampled remainder."""

import warnings

import numpy as np
import pytest
from scipy import stats

import slq
from slq._krylov_aware import krylov_aware
from slq.errors import HeavyTailWarning, NotPositiveDefiniteError, RequestError
from tests.problems import hessian_like, indefinite, problem, uniform

A = problem(uniform(24))
OPTIONS = {"num_probes": 4, "num_steps": 5}  # Q: the first 3 of 5 blocks of 2


def by_hand(given, f, seed=0):
    """The estimator as its papers write it, with a dense f(A)."""
    n = len(given.eigenvalues)
    like = np.empty(0, given.matrix.dtype)
    matrix = (given.vectors.T * f(given.eigenvalues)) @ given.vectors.conj()
    Q = slq.block_lanczos(given.matrix, slq.sphere(seed, range(2), None, n, like), 5, return_basis=True).basis[:6]
    x = slq.sphere(seed, range(2, 4), None, n, like)
    x = x - (x @ Q.conj().T) @ Q
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    known = np.einsum("ij,jk,ik->", Q.conj(), matrix, Q).real
    return known + (n - 6) * np.einsum("ij,jk,ik->i", x.conj(), matrix, x).real.mean()


@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")
@pytest.mark.parametrize("dtype", [float, complex])
def test_the_sum_is_the_formula_of_the_papers(dtype):
    given = problem(uniform(24), dtype=dtype)
    for power in (1, 2, 3, 5):  # T is exact for Qᴴ f(A) Q up to degree 2(m − s) + 1 = 5, the others up to 9
        f = lambda t, p=power: t**p  # noqa: E731
        assert float(slq.spectral_sum(given.matrix, f, method="krylov", **OPTIONS)) == pytest.approx(
            by_hand(given, f), rel=1e-12
        )


def test_every_library_gives_one_number(xp):
    found = slq.logdet(xp.asarray(A.matrix), method="krylov", **OPTIONS)
    assert float(found) == pytest.approx(float(slq.logdet(A.matrix, method="krylov", **OPTIONS)), rel=1e-9)


def test_a_space_that_is_all_there_is_gives_the_exact_sum():
    estimate = slq.logdet(problem(uniform(12)).matrix, num_probes=6, num_steps=8, method="krylov")
    assert float(estimate) == pytest.approx(np.log(uniform(12)).sum(), rel=1e-12)
    assert estimate.stderr == 0
    assert estimate.converged


def test_low_rank_is_known_exactly():
    spectrum = np.concatenate([np.ones(40), [5.0, 7.0, 20.0]])
    estimate = slq.spectral_sum(problem(spectrum).matrix, np.sqrt, num_probes=4, num_steps=10, method="krylov")
    assert abs(float(estimate) - np.sqrt(spectrum).sum()) <= 2 * estimate.rounding
    assert estimate.stderr <= estimate.rounding


@pytest.mark.parametrize("matrix", [np.eye(30), np.zeros((30, 30)), np.eye(1)], ids=["identity", "zero", "number"])
def test_breakdown_is_no_error(matrix):
    estimate = slq.spectral_sum(matrix, lambda t: t + 1, num_probes=4, num_steps=5, method="krylov")
    assert float(estimate) == pytest.approx(len(matrix) + matrix.trace(), rel=1e-14)


def test_the_inner_product_of_the_operator_is_used():
    d = np.linspace(1, 3, 24)
    values = np.linalg.eigvals(A.matrix / d[:, None]).real
    operator = slq.generalized(A.matrix, d)
    z = [error_over_bar(operator, np.log, np.log(values).sum(), seed)[0] for seed in range(100)]
    assert_standard(np.array(z))


def test_products_are_those_of_plain_quadrature():
    for k, m in ((2, 2), (5, 9), (4, 5)):
        reported = []
        A24 = A.matrix
        found = krylov_aware(A24, num_probes=k, num_steps=m, progress=lambda *at, seen=reported: seen.append(at))
        assert found.products == k * m
        assert reported[-1] == (k * m, k * m)


def test_batches_change_nothing():
    options = {"num_probes": 6, "num_steps": 5, "method": "krylov"}
    whole, parts = (slq.spectral_sum(A.matrix, np.log, batch_size=size, **options) for size in (None, 1))
    assert parts.value == pytest.approx(whole.value, rel=1e-12)
    assert parts.stderr == pytest.approx(whole.stderr, rel=1e-9)


def error_over_bar(operator, f, exact, seed, **options):
    with warnings.catch_warnings(action="ignore", category=HeavyTailWarning):
        options = {"num_probes": 4, "num_steps": 8, "check": False, **options}
        estimate = slq.spectral_sum(operator, f, rng=seed, method="krylov", **options)
    low, high = estimate.interval(0.95)
    return (float(estimate) - exact) / estimate.stderr, low <= exact <= high


def assert_standard(z):
    """The mean of standard normal variables within 4 of its standard errors."""
    assert abs(z.mean()) <= 4 * z.std() / np.sqrt(z.size)


@pytest.mark.parametrize(
    "spectrum",
    [uniform(100), 1 / np.arange(1.0, 121.0), np.concatenate([uniform(100), [10.0, 20.0, 30.0]])],
    ids=["flat", "power law", "spiked"],
)
@pytest.mark.parametrize("f", [lambda t: t, np.log], ids=["trace", "logdet"])
def test_intervals_hold_their_level(spectrum, f):
    """200 seeds: honest intervals hold 87.5 % or more in all but 1e-5 of such experiments."""
    operator = slq.aslinearoperator(lambda x: x * spectrum, like=spectrum, batched=True)
    z, held = np.array([error_over_bar(operator, f, f(spectrum).sum(), seed) for seed in range(200)]).T
    assert_standard(z)
    assert stats.binom.cdf(held.sum(), 200, 0.95) > 1e-5
    assert stats.chi2.cdf(((z - z.mean()) ** 2).sum(), 199) > 1e-5  # the bars are not too wide either


def test_outliers_leave_the_error():
    """Measured over 20 seeds: the median error is 0.004 of that of plain quadrature."""
    spectrum = hessian_like(300)
    exact = spectrum.sum()
    operator = slq.aslinearoperator(lambda x: x * spectrum, like=spectrum, batched=True)

    def median(method):
        errors = []
        for seed in range(20):
            with warnings.catch_warnings(action="ignore", category=HeavyTailWarning):
                found = slq.spectral_sum(
                    operator, lambda t: t, method=method, rng=seed, num_probes=4, num_steps=40, check=False
                )
            errors.append(abs(float(found) - exact))
        return np.median(errors)

    assert median("krylov") < 0.05 * median("slq")


def test_indefinite_operators_have_no_logdet():
    with pytest.raises(NotPositiveDefiniteError, match="expects positive eigenvalues"):
        slq.logdet(problem(indefinite(24)).matrix, method="krylov", **OPTIONS)


def test_too_few_probes_or_steps():
    with pytest.raises(RequestError, match="num_probes= expects 2 or more for method='krylov', got 1"):
        slq.logdet(A.matrix, method="krylov", num_probes=1)
    with pytest.raises(RequestError, match="num_steps= expects 2 or more for method='krylov', got 1"):
        slq.logdet(A.matrix, method="krylov", num_steps=1)
