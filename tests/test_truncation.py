"""slq/_truncation.py: the quadrature error of a sum, and how it was found."""

import warnings

import numpy as np
import pytest

import slq
from slq import SpectralMeasure
from slq._truncation import nested
from slq.errors import QuadratureWarning, RequestError, SlqWarning
from tests.problems import hessian_like, measure_of, strakos, uniform

N, K = 400, 10


def runs(eigenvalues, num_steps, seeds):
    """One measure of K probes for each seed. Sphere probes are rotation invariant: a diagonal operator is any."""
    A = slq.aslinearoperator(lambda x: x * eigenvalues, like=eigenvalues, batched=True)
    x = np.concatenate([slq.sphere(seed, range(K), None, N, np.empty(0)) for seed in range(seeds)])
    run = slq.lanczos(A, x, num_steps)
    for seed in range(seeds):
        rows = slice(K * seed, K * (seed + 1))
        yield SpectralMeasure(run.alpha[rows], run.beta[rows], N, sampler="sphere")


def outcomes(eigenvalues, num_steps, seeds, ask, exact):
    """For each seed: whether the interval holds the truth, is called converged, and is warned about."""
    found = []
    for measure in runs(eigenvalues, num_steps, seeds):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            estimate = ask(measure)
        low, high = estimate.interval()
        found.append((low <= exact <= high, estimate.converged, any(w.category is QuadratureWarning for w in said)))
    return np.array(found).T


# Brackets


@pytest.mark.parametrize("num_steps", [5, 10, 20, 30, 40, 60])
def test_a_bracket_carries_the_interval(num_steps):
    # 95 % intervals, 300 seeds, standard error .0126; measured 1, 1, 1, .973, .963, .963 (sampling alone: 0, 0, 0,
    # .97, .963, .963). The bound is 3.2 standard errors below the level.
    eigenvalues = hessian_like(N)
    held, converged, warned = outcomes(
        eigenvalues, num_steps, 300, lambda m: m.logdet(lower=1e-3), np.log(eigenvalues).sum()
    )
    assert held.mean() >= 0.91
    assert (converged == (num_steps >= 30)).all()
    assert (warned == (num_steps <= 20)).all()


@pytest.mark.parametrize(
    ("f", "options", "kind"),
    [
        (np.log, {"lower": 0.5}, "bracket"),
        (np.log, {"lower": 0.5, "upper": 5.0}, "bracket"),
        (np.log, {}, "nested difference"),
        (np.log, {"upper": 5.0}, "nested difference"),
        (np.reciprocal, {"lower": 0.5}, "bracket"),
        (np.exp, {"upper": 5.0}, "bracket"),
        (np.exp, {}, "bracket with an estimated end"),
        (np.exp, {"lower": 0.5}, "bracket with an estimated end"),
        (lambda t: t**-0.5, {"lower": 0.5}, "nested difference"),
        (lambda t: t**-0.5, {"lower": 0.5, "signs": (1, -1)}, "bracket"),
        (lambda t: np.exp(2 * t), {"signs": (1, 1)}, "bracket with an estimated end"),
        (lambda t: -np.exp(t), {"upper": 4.0, "signs": (-1, -1)}, "bracket"),
        (None, {}, "exact"),
    ],
)
def test_the_kind_says_how_the_error_was_found(f, options, kind):
    (measure,) = runs(uniform(N), 5, 1)
    estimate = measure.trace(f, **options)
    assert estimate.truncation_kind == kind
    exact = np.trace(np.diag(uniform(N))) if f is None else f(uniform(N)).sum()
    low, high = estimate.interval(0.9999)
    assert low <= exact <= high


def test_one_call_takes_the_same_knowledge():
    A, options = np.diag(uniform(40)), {"num_probes": 2, "num_steps": 6}
    assert slq.logdet(A, lower=0.9, upper=3.1, **options).truncation_kind == "bracket"
    estimate = slq.spectral_sum(A, lambda t: t**-0.5, signs=(1, -1), lower=0.9, upper=3.1, **options)
    assert estimate.truncation_kind == "bracket"


def test_other_questions_say_it_too():
    (measure,) = runs(uniform(N), 5, 1)
    assert measure.logdet().truncation_kind == "nested difference"
    assert measure.logdet(lower=1.0).truncation_kind == "bracket"
    assert measure.moment(3).truncation_kind == "exact"
    assert measure.moment(30).truncation_kind == "nested difference"
    for estimate in (measure.cdf(2.0), measure.count(1.5, 2.0), measure.histogram([0, 2, 4]), measure.quantile(0.5)):
        assert estimate.truncation_kind == "interlacing"
    ended = slq.spectral_measure(2 * np.eye(8), num_probes=2, num_steps=4)
    for estimate in (ended.logdet(), ended.cdf(1.0), ended.count(1, 3), ended.trace(np.exp), ended.quantile(0.5)):
        assert estimate.truncation_kind == "exact"


def test_the_value_is_that_of_the_gauss_rule_whatever_the_error():
    (measure,) = runs(hessian_like(N), 30, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QuadratureWarning)
        assert measure.logdet(lower=1e-3).value == pytest.approx(measure.logdet().value, rel=1e-14)
        assert measure.trace(np.log, lower=1e-3).truncation == pytest.approx(measure.logdet(lower=1e-3).truncation)


def test_a_bound_is_shown_as_one():
    (measure,) = runs(hessian_like(N), 10, 1)
    with pytest.warns(QuadratureWarning, match="at most"):
        assert "(quadrature ≤ " in str(measure.logdet(lower=1e-3))
    with pytest.warns(QuadratureWarning, match="about"):
        assert "(quadrature ± " in str(measure.logdet())


def test_signs_without_a_bracket_are_refused():
    (measure,) = runs(uniform(N), 5, 1)
    for options in ({}, {"upper": 3.0}, {"lower": -1.0}):
        with pytest.raises(RequestError, match=r"signs=\(1, -1\) gives a bracket with lower= alone .* give lower="):
            measure.trace(lambda t: 1 / np.maximum(t, 0.0), signs=(1, -1), **options)
    singular = slq.singular_measure(np.eye(6) + np.ones((6, 6)), num_probes=2, num_steps=3)
    with pytest.raises(RequestError, match="functions of eigenvalues, but this is a measure of singular values"):
        singular.trace(np.exp, signs=(1, 1))


def test_wrong_signs_contradict_themselves():
    # From the third derivative on this is -cosh, but its second and third differences have the signs of exp.
    def wave(t):
        return 10 * t**2 + 10 * t**3 - np.cosh(t)

    (measure,) = runs(uniform(N), 2, 1)
    with pytest.raises(RequestError, match=r"bounds of the mean of f contradict each other, .*signs= says"):
        measure.trace(wave, signs=(1, 1), lower=1.0, upper=3.0)


# Without a bracket


CASES = {
    "hessian": hessian_like(N),
    "strakos": strakos(N),
    "strakos 0.99": strakos(N, rho=0.99),
    "uniform": uniform(N),
}


def step(t):
    return (t < 0.5).astype(float)


@pytest.mark.parametrize("f", [np.log, np.sqrt, np.reciprocal, step], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", CASES)
def test_a_miss_for_want_of_steps_is_never_silent(name, f):
    eigenvalues = CASES[name]
    for num_steps in (5, 10, 15, 20):
        held, converged, warned = outcomes(eigenvalues, num_steps, 60, lambda m: m.trace(f), f(eigenvalues).sum())
        # A 95 % interval may miss in 60 seeds by chance: 8 are 3.2 standard errors above.
        assert (~held & converged).mean() <= 0.14
        assert (~held & ~warned).mean() <= 0.14


def test_coverage_without_a_bracket_is_carried_or_refused():
    # Hessian-like, log, 100 seeds; 10 to 40 steps; measured with 300 seeds 1, 1, 1, .97.
    eigenvalues = hessian_like(N)
    shares = {
        m: outcomes(eigenvalues, m, 100, lambda measure: measure.logdet(), np.log(eigenvalues).sum())
        for m in (10, 20, 30, 40)
    }
    for num_steps, (held, converged, warned) in shares.items():
        assert held.mean() >= 0.88
        assert converged.all() == (num_steps >= 40)
        assert warned.all() == (num_steps <= 30)


def test_what_remains_follows_the_last_changes():
    forms = {3: np.array([1.0, 1.0]), 2: np.array([1.5, 1.5]), 1: np.array([2.5, 2.5])}

    class Steps:
        def __init__(self, m):
            self.m, self.shorter = m, Steps(m - 1) if m > 1 else None
            self.num_steps = steps

    def error(values, m=3):
        return nested(Steps(m), np.array(values[-1]), lambda part: np.array(values[part.m - 1]))

    steps = 10
    halving = [forms[1], forms[2], forms[3]]  # changes 1, 1/2: 1/2 to come, and up to the change before
    assert error(halving) == pytest.approx(1.0)
    slow = [[0.0], [10.0], [18.0]]  # a ratio of 0.8: 32 to come
    assert error(slow) == pytest.approx(32.0)
    growing = [[0.0], [1.0], [3.0]]  # no limit in sight: five times the change
    assert error(growing) == pytest.approx(10.0)
    fast = [[0.0], [1.0], [1.001]]  # three times the change: it may be small by chance
    assert error(fast) == pytest.approx(0.003)
    steps = 9  # the changes are those of single steps, one of which may be idle
    assert error(fast) == pytest.approx(1.0)
    assert error([[1.0], [1.0], [1.0]]) == 0.0
    chance = [[0.0, 0.0], [0.0, 0.0], [1.0, -1.0]]  # a mean change of zero, a standard error of one
    assert error(chance) == pytest.approx(10.0)
    assert error([[1.0], [3.0]], m=2) == pytest.approx(2.0)
    assert error([[1.0]], m=1) == np.inf


def test_a_step_beyond_all_nodes_is_seen():
    eigenvalues = strakos(N)
    middle = np.median(eigenvalues)
    assert measure_of(np.ones(8)).trace(np.ones_like).truncation == 0.0
    for measure in runs(eigenvalues, 10, 5):
        assert measure.nodes.min() > middle
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlqWarning)
            estimate = measure.trace(lambda t: (t <= middle).astype(float))
        low, high = estimate.interval()
        assert low <= N / 2 <= high
        assert not estimate.converged
