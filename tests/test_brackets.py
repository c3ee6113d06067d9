"""slq/_brackets.py: Gauss-Radau and Gauss-Lobatto rules on both sides of the exact quadratic forms."""

import warnings

import numpy as np
import pytest
from scipy import special

import slq
from slq._brackets import Ends, _with_ends, bracket, estimated_upper
from slq._questions import quadratic_forms
from slq._signs import Signs, known
from slq.errors import GhostWarning, RequestError
from tests.problems import hessian_like, indefinite, measure_of, problem, strakos, uniform

N = 120
SPECTRA = {
    "uniform": uniform(N),
    "hessian": hessian_like(N),
    "strakos": strakos(N),
    "geometric": np.geomspace(1e-4, 1.0, N),
    "atoms": np.append(np.repeat([0.5, 1.0, 2.0], N // 4), uniform(N // 4)),
}
FUNCTIONS = [np.log, np.sqrt, np.reciprocal, special.entr, np.expm1]
PROBES = slq.sphere(0, range(4), None, N, np.empty(0))


def run(eigenvalues, num_steps, dtype=float, **options):
    """A measure, and the exact ∫f dμ of its probes as a function of f."""
    exact = problem(eigenvalues)
    x = PROBES.astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GhostWarning)
        measure = slq.spectral_measure(
            exact.matrix.astype(dtype), num_probes=4, num_steps=num_steps, check=False, **options
        )
    return measure, lambda f: exact.forms(x.astype(float), f) / (x.astype(float) ** 2).sum(axis=1)


def bracketed(measure, f, ends, signs=None):
    return bracket(measure, f, signs or known(f), ends, quadratic_forms(measure, f) / N)


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", SPECTRA)
def test_each_form_lies_in_its_bracket(name, f):
    eigenvalues = SPECTRA[name]
    low, high = eigenvalues.min(), eigenvalues.max()
    for num_steps in (1, 2, 5, 12, 30, 60, N):
        measure, exact = run(eigenvalues, num_steps)
        for ends in (Ends(low, high), Ends(low / 2, 2 * high), Ends(low, None), Ends(low / 3, None), Ends(None, high)):
            found = bracketed(measure, f, ends)
            if ends.lower is None and f is not np.expm1:
                assert found is None  # two upper bounds, or two lower ones
                continue
            if f is np.expm1 and ends.upper is None:
                assert found is None if num_steps < 5 else found.estimated
                continue
            # A theorem up to rounding, which `rounding` bounds.
            assert (found.low - found.rounding <= exact(f)).all()
            assert (exact(f) <= found.high + found.rounding).all()


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("f", FUNCTIONS[:4], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", SPECTRA)
def test_rounding_covers_what_single_precision_does(name, f, reorthogonalize):
    eigenvalues = SPECTRA[name]
    for num_steps in (20, 60, 110):
        measure, exact = run(eigenvalues, num_steps, np.float32, reorthogonalize=reorthogonalize)
        if measure.support[0] <= 0:
            continue  # no logarithm: `logdet(lower=)` moves such nodes
        found = bracketed(measure, f, Ends(eigenvalues.min(), None))
        assert (found.low - found.rounding <= exact(f)).all()
        assert (exact(f) <= found.high + found.rounding).all()


def test_brackets_close_with_the_steps():
    # Measured on the Hessian-like spectrum (n = 120) for log, mean over the probes: 3.7, 0.7, 1e-9.
    width = []
    for num_steps in (5, 20, 50):
        measure, _ = run(SPECTRA["hessian"], num_steps)
        found = bracketed(measure, np.log, Ends(1e-3, None))
        width.append(float((found.high - found.low).mean()))
    assert width[0] > 2 * width[1] > 1e5 * width[2]


def test_two_ends_are_no_wider_than_one():
    measure, _ = run(SPECTRA["geometric"], 8)
    one, both = (bracketed(measure, np.log, Ends(1e-4, upper)) for upper in (None, 1.0))
    assert (both.high - both.low <= (one.high - one.low) * (1 + 1e-12)).all()
    assert (both.high - both.low < 0.98 * (one.high - one.low)).any()


def test_rules_have_their_nodes_and_moments():
    measure, exact = run(SPECTRA["uniform"], 6)
    for lower, upper, degree in ((0.5, None, 12), (None, 4.0, 12), (0.5, 4.0, 11)):
        nodes, weights = _with_ends(measure, lower, upper)
        assert lower is None or nodes.min(axis=1) == pytest.approx(lower)
        assert upper is None or nodes.max(axis=1) == pytest.approx(upper)
        for p in range(degree + 1):  # 2m for Radau, 2m − 1 for Lobatto (Golub and Meurant, chapter 6)
            np.testing.assert_allclose((weights * nodes**p).sum(axis=1), exact(lambda t, p=p: t**p), rtol=1e-11)
        wrong = (weights * nodes ** (degree + 1)).sum(axis=1)
        assert not np.allclose(wrong, exact(lambda t, degree=degree: t ** (degree + 1)), rtol=1e-9)


@pytest.mark.parametrize("unit", [2.0**-600, 2.0**400])
def test_extreme_scales_change_nothing(unit):
    measure, _ = run(SPECTRA["uniform"], 5)
    scaled = measure.changed(alpha=measure.alpha * unit, beta=measure.beta * unit)
    for upper in (None, 4.0):
        plain = bracketed(measure, np.sqrt, Ends(0.5, upper))
        large = bracketed(scaled, np.sqrt, Ends(0.5 * unit, upper and upper * unit))
        np.testing.assert_allclose(large.low, plain.low * np.sqrt(unit), rtol=1e-13)
        np.testing.assert_allclose(large.high, plain.high * np.sqrt(unit), rtol=1e-13)


def test_a_run_that_ended_is_its_own_bracket():
    measure = slq.spectral_measure(np.diag(np.repeat([1.0, 2.0, 5.0], 8)), num_probes=3, num_steps=6)
    for ends in (Ends(0.5, 6.0), Ends(1.0, 5.0)):
        found = bracket(measure, np.log, known(np.log), ends, quadratic_forms(measure, np.log) / 24)
        np.testing.assert_allclose(found.low, found.high, rtol=1e-13)


def test_ends_outside_the_domain_give_none():
    measure, _ = run(SPECTRA["uniform"], 5)
    assert bracketed(measure, np.log, Ends(0.0, 3.0)) is None  # log 0 is no bound
    assert bracketed(measure, np.log, Ends(-1.0, 3.0)) is None
    assert bracketed(measure, np.sqrt, Ends(0.0, None)) is not None  # but √0 is one
    assert bracketed(measure, lambda t: np.sqrt(t - 0.9), Ends(0.5, None), Signs(-1, 1)) is None

    def fails(t):
        if (t < 0.9).any():
            raise ValueError
        return np.sqrt(t)

    assert bracketed(measure, fails, Ends(0.5, None), Signs(-1, 1)) is None


def test_singular_values_have_none():
    measure = slq.singular_measure(np.eye(N) + np.ones((N, N)), num_probes=2, num_steps=3)
    assert bracket(measure, np.log, known(np.log), Ends(0.5, 200.0), np.zeros(2)) is None


def test_the_upper_end_is_estimated_for_exp_alone():
    measure, exact = run(SPECTRA["uniform"], 5)
    found = bracketed(measure, np.exp, Ends())
    assert found.estimated
    assert estimated_upper(measure) >= 3.0
    assert (found.low <= exact(np.exp)).all()
    assert (exact(np.exp) <= found.high).all()
    assert not bracketed(measure, np.exp, Ends(None, 3.0)).estimated


@pytest.mark.parametrize("end", ["1", True, np.nan, np.inf, np.ones(2), None])
@pytest.mark.parametrize("name", ["lower", "upper"])
def test_bounds_are_numbers(name, end):
    measure = measure_of(indefinite(24), num_steps=5)
    if end is None:
        assert measure.trace(np.exp, **{name: None}).truncation_kind == "bracket with an estimated end"
        return
    with pytest.raises(RequestError, match=rf"{name}= expects a finite number .* all eigenvalues, or None, got"):
        measure.trace(np.exp, **{name: end})


def test_bounds_that_ritz_values_contradict_are_refused():
    measure = measure_of(uniform(24))
    with pytest.raises(RequestError, match=r"lower=1\.5 is said to be below all eigenvalues.*use a smaller bound"):
        measure.trace(np.sqrt, lower=1.5)
    with pytest.raises(RequestError, match=r"upper=2 is said to be above all eigenvalues.*use a larger bound"):
        measure.logdet(lower=0.5, upper=2)
    measure.trace(np.sqrt, lower=1.0, upper=3.0)  # rounding is no contradiction


@pytest.mark.parametrize("num_steps", [3, 5, 20])
def test_the_estimate_of_ten_probes_is_above_all_eigenvalues(num_steps):
    # No theorem. Measured on eight spectra, 150 seeds: never below with 3 steps or more; with 2 in up to half of them.
    for eigenvalues in SPECTRA.values():
        A = slq.aslinearoperator(lambda x, d=eigenvalues: x * d, like=eigenvalues, batched=True)
        for seed in range(10):
            measure = slq.spectral_measure(A, num_probes=10, num_steps=num_steps, rng=seed, check=False)
            assert estimated_upper(measure) >= eigenvalues.max() * (1 - 1e-14)
