"""slq/_compare.py: differences of spectra, and that their errors are those of the differences."""

import warnings

import numpy as np
import pytest

import slq
from slq._coefficients import Coefficients
from slq.errors import QuadratureWarning, RequestError
from tests.problems import indefinite, measure_of, problem, uniform

N = 60
BEFORE = problem(1 + uniform(N)).matrix
_STEP = problem(indefinite(N), seed=1).matrix
AFTER = BEFORE + 0.03 * _STEP  # does not commute: a step of training

X, EDGES = np.linspace(1.0, 3.0, 5), np.linspace(0.5, 3.5, 4)
CHANGES = {
    "trace": lambda d: d.trace(np.sqrt),
    "logdet": lambda d: d.logdet(),
    "moment": lambda d: d.moment(2),
    "cdf": lambda d: d.cdf(1.7),
    "count": lambda d: d.count(1.2, 1.9),
    "histogram": lambda d: d.histogram(EDGES),
    "density": lambda d: d.density(X, width=0.5),
    "lorentzian": lambda d: d.density(X, width=0.5, kernel="lorentzian"),
    "jackson": lambda d: d.density(X, width=0.5, kernel="jackson"),
}


def measure(A, **options):
    return slq.spectral_measure(A, **{"num_probes": 5, "num_steps": 20, "check": False} | options)


@pytest.fixture(autouse=True)
def _grids_are_not_the_subject():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", slq.errors.AliasingWarning)
        warnings.simplefilter("ignore", slq.errors.GridWarning)
        yield


@pytest.mark.parametrize("name", CHANGES)
def test_a_difference_is_that_of_the_answers(name):
    p, q = measure(AFTER), measure(BEFORE)
    change = CHANGES[name](slq.difference(p, q))
    if name != "jackson":  # whose interval is that of both
        expected = np.asarray(CHANGES[name](p).value) - CHANGES[name](q).value
        np.testing.assert_allclose(change.value, expected, atol=1e-12 * np.abs(CHANGES[name](p).value).max())
    np.testing.assert_allclose(CHANGES[name](slq.difference(q, p)).value, -change.value, rtol=1e-12, atol=1e-14)
    assert change.products == 200
    np.testing.assert_array_equal(change.dof, 4)
    same = CHANGES[name](slq.difference(p, p))
    np.testing.assert_array_equal(same.value, 0)
    np.testing.assert_array_equal(same.stderr, 0)


@pytest.mark.parametrize("name", ["trace", "cdf", "density"])
def test_the_error_is_the_spread_of_the_differences_of_each_probe(name):
    p, q = (measure(A, num_steps=N) for A in (AFTER, BEFORE))  # of full order: forms are exact
    probes = slq.sphere(0, range(5), None, N, np.empty(0))
    forms = []
    for A in (AFTER, BEFORE):
        eigenvalues, vectors = np.linalg.eigh(A)
        masses = (probes @ vectors) ** 2 / N
        values = {
            "trace": N * np.sqrt(eigenvalues)[:, None],
            "cdf": (eigenvalues <= 1.7)[:, None],
            "density": np.exp(-0.5 * ((X - eigenvalues[:, None]) / 0.5) ** 2) / np.sqrt(2 * np.pi) / 0.5,
        }
        forms.append(masses @ values[name])
    changes = forms[0] - forms[1]
    estimate = CHANGES[name](slq.difference(p, q))
    np.testing.assert_allclose(np.ravel(estimate.value), changes.mean(axis=0), atol=1e-11)
    np.testing.assert_allclose(np.ravel(estimate.stderr), changes.std(axis=0, ddof=1) / np.sqrt(5), atol=1e-11)
    np.testing.assert_allclose(estimate.truncation, 0, atol=1e-12)


@pytest.mark.parametrize("common", [True, False])
def test_intervals_hold_their_level_and_common_probes_make_them_narrow(common):
    exact = np.linalg.slogdet(AFTER)[1] - np.linalg.slogdet(BEFORE)[1]
    before, after = (np.linalg.eigvalsh(A) for A in (BEFORE, AFTER))
    share = (after <= 1.7).mean() - (before <= 1.7).mean()
    hits, widths = np.zeros(2), []
    for seed in range(300):
        p = measure(AFTER, rng=seed)
        q = measure(BEFORE, rng=seed if common else seed + 1000)
        change = slq.difference(p, q)
        low, high = change.logdet().interval()
        below, above = change.cdf(1.7).interval()
        hits += low <= exact <= high, below <= share <= above
        widths.append(high - low)
    # Binomial, 300 at 95 %: below 91.3 % or above 98.3 % once in 200 times.
    assert 0.913 <= hits[0] / 300 <= 0.983
    assert hits[1] / 300 >= 0.913  # a bound of the quadrature error is in it
    # Measured: 0.23 and 5.3 in the median.
    assert np.median(widths) < 0.3 if common else np.median(widths) > 4


def test_probes_are_the_same_by_sampler_seed_and_number():
    q = measure(BEFORE)
    same = slq.difference(measure(AFTER), q)
    assert same.common_probes == 5
    assert slq.difference(measure(AFTER, rng=1), q).common_probes == 0
    assert slq.difference(measure(AFTER, probes=slq.gaussian), q).common_probes == 0
    assert slq.difference(measure_of(uniform(24), num_probes=5), q).common_probes == 0
    vectors = np.eye(N)[:5]
    assert slq.difference(*(measure(A, num_probes=None, probes=vectors) for A in (AFTER, BEFORE))).common_probes == 0
    # Some of them, in another order: those count, the others are left out.
    mixed = measure(AFTER, num_probes=2, first_probe=3) | measure(AFTER, num_probes=3, first_probe=7)
    part = slq.difference(mixed, q)
    assert part.common_probes == 2
    alone = slq.difference(measure(AFTER, num_probes=2, first_probe=3), measure(BEFORE, num_probes=2, first_probe=3))
    assert part.logdet().value == pytest.approx(alone.logdet().value, rel=1e-12)
    assert part.logdet().stderr == pytest.approx(alone.logdet().stderr, rel=1e-10)
    assert part.logdet().dof == 1


def test_errors_of_independent_probes_add_up():
    p, q = measure(AFTER, rng=1), measure(BEFORE, num_probes=7)
    change, of_p, of_q = (m.logdet() for m in (slq.difference(p, q), p, q))
    assert change.value == of_p.value - of_q.value
    assert change.stderr == pytest.approx(np.hypot(of_p.stderr, of_q.stderr), rel=1e-14)
    assert change.dof == np.inf  # of both
    p, q = (measure(A, probes=slq.rademacher, rng=i, num_probes=4) for i, A in enumerate((AFTER, BEFORE)))
    of_p, of_q = p.trace(np.sqrt).stderr ** 2, q.trace(np.sqrt).stderr ** 2
    welch = (of_p + of_q) ** 2 / (of_p**2 / 3 + of_q**2 / 3)
    assert slq.difference(p, q).trace(np.sqrt).dof == pytest.approx(welch, rel=1e-12)
    assert 3 <= welch <= 6


def test_other_dimensions_can_be_compared():
    p, q = measure_of(1 + uniform(24)), measure_of(1 + uniform(48))
    assert slq.difference(p, q).trace().value == p.trace().value - q.trace().value
    assert slq.difference(q, p).count().value == 24


def test_a_single_common_probe_has_a_bound_if_it_is_of_the_sphere():
    p, q = (measure(A, num_probes=1) for A in (AFTER, BEFORE))
    assert slq.difference(p, q).logdet().stderr == pytest.approx(p.logdet().stderr + q.logdet().stderr)
    p, q = (measure(A, num_probes=1, probes=slq.rademacher) for A in (AFTER, BEFORE))
    assert slq.difference(p, q).logdet().stderr is None
    assert slq.difference(p, measure(BEFORE, num_probes=1, probes=slq.rademacher, rng=1)).logdet().stderr is None
    p, q = (measure(A).changed(sampler="dependent") for A in (AFTER, BEFORE))
    assert slq.difference(p, q).logdet().stderr is None


def test_measures_of_given_vectors_differ_without_sampling_error():
    vectors = 2 * np.eye(N)[:5]
    p, q = (measure(A, num_probes=None, probes=vectors) for A in (AFTER, BEFORE))
    change = slq.difference(p, q).moment(2)
    exact = (AFTER @ AFTER - BEFORE @ BEFORE).diagonal()[:5].mean()
    assert change.value == pytest.approx(exact, abs=1e-13)
    assert change.stderr == 0
    with pytest.raises(RequestError, match="needs random probes"):
        slq.difference(p, q).trace()


def test_too_few_steps_are_warned_about_where_the_difference_hangs_on_them():
    p, q = (measure(np.diag(np.geomspace(low, 1, 400)), num_steps=8) for low in (1e-5, 1e-6))
    with pytest.warns(QuadratureWarning, match="the quadrature error of the difference, about") as said:
        change = slq.difference(p, q).logdet()
    assert {w.filename for w in said} == {__file__}
    assert not change.converged
    single = slq.difference(p.truncate(1), q.truncate(1)).moment(1)
    assert single.truncation == 0  # of degree one


def test_reservations_about_the_answers_are_passed_on():
    A = np.diag([*np.full(30, 1e-9), *np.linspace(1, 2, 30)])
    p, q = (measure(B.astype(np.float32), num_steps=12) for B in (A, 1.001 * A))
    with pytest.warns(slq.errors.PrecisionWarning, match="were moved to lower=1e-09") as said:
        slq.difference(p, q).logdet(lower=1e-9)
    assert {w.filename for w in said} == {__file__}
    with pytest.raises(slq.errors.NotPositiveDefiniteError):
        slq.difference(measure(_STEP), q).logdet()


def test_densities_are_compared_at_one_width_and_interval():
    p, q = measure(2 * AFTER), measure(BEFORE)
    for kernel in ("gaussian", "lorentzian", "jackson"):
        density = slq.difference(p, q).density(kernel=kernel)
        assert density.kernel == kernel
        if kernel != "jackson":
            assert density.width == max(m.density(kernel=kernel).width for m in (p, q))
        # Both have mass one; of a Lorentzian as much as the grid shows, by the rule for tails.
        assert np.trapezoid(density.value, density.x) == pytest.approx(-density.outside, abs=3e-4)
        assert (density.interval()[0] < 0).any()
    with pytest.warns(slq.errors.ResolutionWarning, match="is finer than 40 Chebyshev moments"):
        slq.difference(p, q).density(width=0.01, kernel="jackson")


def test_only_measures_are_compared():
    with pytest.raises(RequestError, match=r"expects two SpectralMeasures, got ndarray; slq\.metrics has distances"):
        slq.difference(measure(AFTER), np.arange(3.0))
    assert isinstance(measure(AFTER), Coefficients)
