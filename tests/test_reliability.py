"""slq/_reliability.py: sums whose error bar cannot be taken at its word are warned about, and no others."""

import warnings

import numpy as np
import pytest

import slq
from slq import SpectralMeasure
from slq._questions import spectral_sum
from slq._reliability import effective_rank
from slq.errors import HeavyTailWarning, PrecisionWarning, QuadratureWarning
from tests.problems import hessian_like, indefinite, measure_of, problem, strakos, uniform

N = 300
SEEDS = 40


def runs(eigenvalues, k, num_steps, sampler=slq.sphere, seeds=SEEDS):
    """One measure of k probes for each seed, from a single block run."""
    exact = problem(eigenvalues)
    n = len(eigenvalues)
    x = np.concatenate([sampler(seed, range(k), None, n, np.empty(0)) for seed in range(seeds)])
    run = slq.lanczos(exact.matrix, x, num_steps)
    for seed in range(seeds):
        rows = slice(k * seed, k * (seed + 1))
        norms = (x[rows] ** 2).sum(axis=1)
        yield SpectralMeasure(run.alpha[rows], run.beta[rows], n, sampler=sampler.__name__, squared_norms=norms)


def share(kind, measures, f):
    """The share of the traces about which there is such a reservation."""
    said = [any(isinstance(r, kind) for r in spectral_sum(m, f, float(m.n))[1]) for m in measures]
    return np.mean(said)


def identity(t):
    """The trace itself."""
    return t


# Few eigenvalues


LOW_RANK = {
    1: np.append(np.zeros(N - 1), 1.0),
    2: np.append(np.zeros(N - 2), [0.7, 1.0]),
    3: np.append(np.zeros(N - 3), [0.8, 0.9, 1.0]),
}


@pytest.mark.parametrize("sampler", [slq.sphere, slq.rademacher, slq.gaussian], ids=lambda s: s.__name__)
@pytest.mark.parametrize("k", [5, 10])
@pytest.mark.parametrize("rank", LOW_RANK)
def test_low_ranks_are_warned_about(rank, k, sampler):
    assert share(HeavyTailWarning, runs(LOW_RANK[rank], k, 8, sampler), identity) == 1.0


def test_equal_eigenvalues_are_counted_by_their_mass():
    # Three equal ones have a random mass around 3/n: measured with 100 seeds .99 and .72.
    eigenvalues = np.append(np.zeros(N - 3), np.ones(3))
    assert share(HeavyTailWarning, runs(eigenvalues, 5, 8), identity) > 0.9
    assert share(HeavyTailWarning, runs(eigenvalues, 10, 8), identity) > 0.5


@pytest.mark.parametrize("sampler", [slq.sphere, slq.rademacher, slq.gaussian], ids=lambda s: s.__name__)
@pytest.mark.parametrize(
    ("eigenvalues", "k", "f"),
    [
        (hessian_like(N), 20, identity),
        (hessian_like(N), 10, np.log),
        (hessian_like(N), 2, np.log),
        (uniform(N), 2, identity),
        (uniform(N), 2, np.log),
        (indefinite(N), 2, np.exp),
        (strakos(N), 10, identity),
        (np.repeat([1.0, 2.0], N // 2), 2, identity),
    ],
    ids=["hessian", "hessian log", "hessian log, 2", "uniform", "uniform log", "indefinite", "strakos", "two values"],
)
def test_sums_that_many_eigenvalues_carry_are_not(eigenvalues, k, f, sampler):
    assert share(HeavyTailWarning, runs(eigenvalues, k, 35, sampler), f) == 0.0


def test_the_effective_rank_is_that_of_equal_eigenvalues():
    for rank in (1, 2, 5):
        eigenvalues = np.append(np.zeros(N - rank), np.ones(rank) + 1e-3 * np.arange(rank))
        (measure,) = runs(eigenvalues, 10, 12, seeds=1)
        centred = np.where(measure.weights > 0, measure.nodes - rank / N, 0.0)
        assert effective_rank(measure, centred) == pytest.approx(rank, rel=0.1)
        gaussian = effective_rank(measure.changed(sampler="gaussian"), centred)
        # On the sphere of a small space the skewness is less, and complex probes have half of it.
        assert effective_rank(measure, centred) == pytest.approx(gaussian * (N + 4) ** 2 / (N * (N + 2)))
    # Symmetric about its mean: no skewness at all.
    full = measure_of(np.linspace(-1, 1, 24))
    assert effective_rank(full, full.nodes) > 1000


def test_complex_probes_have_half_the_skewness():
    exact = problem(np.append(np.zeros(N - 2), [0.9, 1.0]), dtype=complex)
    measure = slq.spectral_measure(exact.matrix, num_probes=10, num_steps=8)
    centred = np.where(measure.weights > 0, measure.nodes, 0.0)
    assert effective_rank(measure, centred) == pytest.approx(4, rel=0.1)


def test_a_sum_without_spread_has_no_tail():
    for measure in (measure_of(np.ones(24), num_steps=3), measure_of(np.zeros(24), num_steps=3)):
        assert spectral_sum(measure, identity, 24.0)[1] == []
    diagonal = slq.spectral_measure(np.diag(LOW_RANK[1]), num_probes=4, num_steps=3, probes=slq.rademacher)
    assert spectral_sum(diagonal, identity, float(N))[1] == []  # exact for each probe
    assert diagonal.trace().stderr <= diagonal.trace().rounding


def test_the_warning_says_how_few_and_what_to_do():
    (measure,) = runs(LOW_RANK[1], 5, 8, seeds=1)
    with pytest.warns(HeavyTailWarning, match=r"about 1 eigenvalues carry .* 5 probe.*use more probes, or deflate"):
        measure.trace()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure.trace(lambda t: np.zeros_like(t))
        next(iter(runs(LOW_RANK[1], 80, 8, seeds=1))).trace()  # more probes: the mend


# Few steps


@pytest.mark.parametrize(("num_steps", "least"), [(5, 1.0), (10, 1.0), (20, 1.0)])
def test_too_few_steps_are_warned_about(num_steps, least):
    # The bias is 17, 14 and 6 standard errors; measured with 300 seeds 1, 1 and 1.
    assert share(QuadratureWarning, runs(hessian_like(400), 10, num_steps), np.log) >= least


@pytest.mark.parametrize(
    ("eigenvalues", "num_steps", "f"),
    [
        (hessian_like(400), 40, np.log),  # with 30 the bias is 0.04 standard errors, what is stated of it 3.8
        (hessian_like(400), 60, np.log),
        (strakos(400, rho=0.99), 20, np.log),
        (uniform(400), 5, np.log),
        (indefinite(400), 10, np.abs),
        (hessian_like(400), 30, np.sqrt),
        (hessian_like(400), 40, lambda t: 1 / t),
        (hessian_like(400), 1, identity),  # exact for polynomials of degree 2m - 1, here by its name only
    ],
)
def test_converged_sums_are_not(eigenvalues, num_steps, f):
    if f is identity:
        said = [spectral_sum(m, f, 400.0, degree=1)[1] for m in runs(eigenvalues, 10, num_steps)]
        assert not any(said)
        return
    assert share(QuadratureWarning, runs(eigenvalues, 10, num_steps), f) == 0.0


def test_more_steps_are_the_mend():
    few = measure_of(hessian_like(400), num_probes=10, num_steps=10)
    with pytest.warns(QuadratureWarning, match=r"exceeds the sampling error \S+: 10 steps .* use more steps"):
        few.logdet()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure_of(hessian_like(400), num_probes=10, num_steps=40).logdet()


# Eigenvalues that rounding cannot tell from zero

SINGULAR = np.append(np.zeros(12), np.linspace(1.0, 2.0, 12))


@pytest.mark.parametrize(
    ("f", "variation"),
    [
        (lambda t: np.log(np.abs(t) + 1e-30), np.inf),
        (lambda t: np.sign(t + 1e-300), 2.0),
        (lambda t: t > 0, 1.0),
        (lambda t: 1 / (np.abs(t) + 1e-15), 1e15),
        (lambda t: np.log(np.abs(t)), np.inf),
        (lambda t: 1 / t, np.inf),
    ],
    ids=["log", "sign", "step", "pole", "log 0", "1/0"],
)
def test_what_rests_on_rounding_is_said_to(f, variation):
    measure = measure_of(SINGULAR, num_steps=16)
    with pytest.warns(PrecisionWarning, match=r"cannot tell from zero.* Add a shift to A, give f one value near zero"):
        estimate = measure.trace(f)
    mass = (measure.weights * (np.abs(measure.nodes) <= measure.rounding)).sum(axis=1).mean()
    if np.isfinite(variation):
        assert 0.4 * 24 * mass * variation <= estimate.rounding <= 1.1 * 24 * mass * variation
    assert estimate.rounding > estimate.stderr
    low, high = estimate.interval()
    assert low <= estimate.value - estimate.rounding
    assert high >= estimate.value + estimate.rounding
    assert "nan" not in str(estimate)


@pytest.mark.parametrize("f", [np.abs, np.exp, lambda t: np.sqrt(np.maximum(t, 0)), lambda t: t * np.log(np.abs(t))])
def test_what_hardly_varies_near_zero_is_counted_in_silence(f):
    measure = measure_of(SINGULAR, num_steps=16)
    _, reservations = spectral_sum(measure, f, 24.0)
    assert not [r for r in reservations if isinstance(r, PrecisionWarning)]


def test_the_square_root_of_rounding_is_an_error_of_a_sum_without_others():
    # √ε is far above ε: a projector's trace of the square root has no sampling error with probes of its own basis.
    projector = slq.spectral_measure(
        np.diag(np.repeat([0.0, 1.0], 12)), num_probes=4, num_steps=4, probes=slq.rademacher
    )
    with pytest.warns(PrecisionWarning, match="f varies by"):
        estimate = projector.trace(lambda t: np.sqrt(np.abs(t)))
    assert estimate.value == pytest.approx(12, abs=estimate.rounding)
    assert 1e-8 < estimate.rounding < 1e-5


def test_the_mends_work():
    shifted = measure_of(SINGULAR + 0.1, num_steps=16)
    flat = measure_of(SINGULAR, num_steps=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        warnings.simplefilter("ignore", HeavyTailWarning)
        shifted.trace(lambda t: 1 / t)
        flat.trace(lambda t: np.where(np.abs(t) < 1e-9, 0.0, 1 / np.where(t == 0, 1, t)))  # the pseudo-inverse


def test_functions_see_more_than_ritz_values_only_where_these_are_rounding():
    seen = []
    measure_of(uniform(24), num_steps=9).trace(lambda t: (seen.append(t.copy()), t)[1])
    assert np.concatenate(seen).min() > 0.9
    measure = measure_of(SINGULAR, num_steps=16)
    asked = []
    spectral_sum(measure, lambda t: (asked.append(t.copy()), t)[1], 24.0)
    assert {t.size for t in asked} >= {1}


# Who is told


def test_only_questions_warn():
    measure = measure_of(hessian_like(400), num_probes=5, num_steps=10)
    with pytest.warns(QuadratureWarning):
        measure.logdet()
    with pytest.warns(HeavyTailWarning):
        measure.trace()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "trace" in measure.summary()
        repr(measure)
        measure.plot()
        measure.moment(2)


def test_warnings_point_at_the_line_that_asked():
    measure = measure_of(hessian_like(400), num_probes=5, num_steps=10)
    with pytest.warns(QuadratureWarning) as said:
        measure.logdet()
    assert said[0].filename == __file__
    with pytest.warns(HeavyTailWarning) as said:
        measure.trace()
    assert said[0].filename == __file__


def test_given_vectors_have_no_distribution_to_warn_about():
    measure = slq.spectral_measure(problem(LOW_RANK[1]).matrix, probes=np.ones((1, N)), num_steps=4)
    assert spectral_sum(measure, np.exp, 1.0)[1] == []
