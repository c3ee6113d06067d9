"""slq/_measure.py: the result, its log-determinant, moments and unions."""

import numpy as np
import pytest

import slq
from slq import SpectralMeasure
from slq.errors import HeavyTailWarning, NotPositiveDefiniteError, RequestError, SingularError
from tests.problems import indefinite, measure_of, problem, uniform

A = problem(uniform(24)).matrix
MEASURE = measure_of(uniform(24), num_steps=9)
MEASURE_BELOW_ZERO = measure_of(indefinite(24), num_steps=9)
FIXED = slq.spectral_measure(A, probes=np.eye(24)[:2], num_steps=9)


def test_the_log_determinant_is_the_trace_of_the_logarithm():
    estimate = MEASURE.logdet()
    assert estimate == MEASURE.trace(np.log)
    assert abs(estimate.value - np.log(uniform(24)).sum()) < 5 * estimate.stderr


def test_a_negative_ritz_value_has_no_logarithm():
    with pytest.raises(
        NotPositiveDefiniteError, match=r"a Ritz value is -0\.\d+ \(weight .*; add a shift, or use trace\(la"
    ) as e:
        MEASURE_BELOW_ZERO.logdet()
    # The attributes: the smallest Ritz value, its weight, and how near an eigenvalue is.
    at = np.unravel_index(MEASURE_BELOW_ZERO.nodes.argmin(), MEASURE_BELOW_ZERO.nodes.shape)
    assert e.value.value == MEASURE_BELOW_ZERO.support[0]
    assert e.value.weight == MEASURE_BELOW_ZERO.weights[at]
    assert e.value.bound == MEASURE_BELOW_ZERO.residuals[at] > 0
    assert np.abs(indefinite(24) - e.value.value).min() <= e.value.bound


@pytest.mark.parametrize("eigenvalues", [np.append(uniform(23), 0.0), np.zeros(24), np.append(uniform(23), 1e-16)])
def test_a_ritz_value_at_rounding_level_has_no_logarithm(eigenvalues):
    with pytest.raises(
        SingularError, match=r"logdet met the Ritz value \S+ \(weight .*\), which rounding \(\S+ for this"
    ):
        measure_of(eigenvalues).logdet()


def test_what_is_rounding_depends_on_the_precision_of_the_products():
    exact = problem(np.append(uniform(23), 1e-6))
    with pytest.warns(HeavyTailWarning):  # almost all of the logarithm's variance is in one eigenvalue
        assert np.isfinite(slq.logdet(exact.matrix, num_steps=24).value)
    with pytest.raises(NotPositiveDefiniteError):  # Singular, or negative: float32 cannot tell
        slq.logdet(exact.matrix.astype(np.float32), num_steps=24)


def test_the_mends_that_errors_name_work():
    measure = measure_of(indefinite(24))
    truth = problem(indefinite(24)).forms(slq.sphere(0, range(4), None, 24, np.empty(0)), lambda t: np.log(np.abs(t)))
    np.testing.assert_allclose(measure.trace(lambda t: np.log(np.abs(t))).value, truth.mean(), rtol=1e-9)
    shifted = slq.logdet(problem(indefinite(24)).matrix + 1.5 * np.eye(24), num_steps=24)
    assert abs(shifted.value - np.log(indefinite(24) + 1.5).sum()) < 5 * shifted.stderr


def test_moments_are_means_of_powers():
    x = slq.sphere(0, range(4), None, 24, np.empty(0))
    for p in range(18):  # up to degree 2m − 1
        exact = problem(uniform(24)).forms(x, lambda t, p=p: t**p).mean() / 24
        assert MEASURE.moment(p).value == pytest.approx(exact, rel=1e-12)
    assert MEASURE.moment(0).stderr < 1e-12
    assert MEASURE.moment(np.int64(2)) == MEASURE.moment(2)


@pytest.mark.parametrize("p", [-1, 0.5, "2", None, True])
def test_moments_have_an_order(p):
    with pytest.raises(RequestError, match=r"moment\(p\) expects an integer >= 0, got .*; use trace\(f\)"):
        MEASURE.moment(p)


@pytest.mark.parametrize(
    ("ask", "question"),
    [
        (lambda m: m.trace(), r"trace\(f\)"),
        (lambda m: m.logdet(), r"logdet\(\)"),
        (lambda m: m.count(0, 1), r"count\(low, high\)"),
    ],
)
def test_given_vectors_define_no_trace(ask, question):
    with pytest.raises(
        RequestError, match=rf"{question} needs random probes, but this is the measure of given vectors"
    ):
        ask(FIXED)


def test_a_measure_says_what_it_is():
    assert repr(MEASURE) == "SpectralMeasure(n=24, num_probes=4, num_steps=9, sampler='sphere')"
    text = MEASURE.summary()
    assert "dimension 24" in text
    assert "4 sphere probe(s) x 9 steps = 36 products" in text
    assert str(MEASURE.trace()) in text
    assert "invariant subspace" not in text
    assert "invariant subspace: exact" in slq.spectral_measure(np.eye(5), num_steps=3).summary()
    assert "trace" not in FIXED.summary()


def test_a_summary_counts_negative_eigenvalues_only():
    zero = slq.spectral_measure(np.zeros((5, 5)), num_steps=2).summary()
    assert [line for line in zero.splitlines() if "below zero" in line] == ["eigenvalues below zero: 0 ± 0"]


# Unions


def test_unions_have_the_probes_of_all_parts():
    one = slq.spectral_measure(A, num_probes=2, num_steps=9, rng=1)
    other = slq.spectral_measure(A, num_probes=3, num_steps=9, rng=2)
    union = one | other
    assert type(union) is SpectralMeasure
    assert union.seeds == (1, 1, 2, 2, 2)
    assert union.probe_ids == (0, 1, 0, 1, 2)
    np.testing.assert_array_equal(union.alpha, np.concatenate([one.alpha, other.alpha]))
    assert union.trace().value == pytest.approx((2 * one.trace().value + 3 * other.trace().value) / 5)
    assert slq.concatenate([one]).state().keys() == one.state().keys()
    np.testing.assert_array_equal(slq.concatenate(iter([one, other])).nodes, union.nodes)


@pytest.mark.parametrize("sampler", [slq.sphere, slq.rademacher, slq.gaussian], ids=lambda s: s.__name__)
def test_extending_is_one_run_with_all_probes(sampler):
    whole = slq.spectral_measure(A, num_probes=5, num_steps=9, rng=3, probes=sampler)
    part = slq.spectral_measure(A, num_probes=2, num_steps=9, rng=3, probes=sampler)
    extended = part.extend(A, num_probes=1).extend(A, num_probes=2, batch_size=1)
    assert (extended.seeds, extended.probe_ids) == (whole.seeds, whole.probe_ids)
    np.testing.assert_allclose(extended.alpha, whole.alpha, atol=1e-12)
    np.testing.assert_allclose(extended.beta, whole.beta, atol=1e-12)
    np.testing.assert_allclose(extended.squared_norms, whole.squared_norms, rtol=1e-15)
    assert extended.provenance == whole.provenance


def test_extending_keeps_the_reorthogonalisation():
    part = slq.spectral_measure(A, num_probes=2, num_steps=9, reorthogonalize=3)
    assert part.extend(A, num_probes=1).provenance["reorthogonalize"] == 3


def test_only_numbered_probes_can_be_extended():
    two_seeds = MEASURE | slq.spectral_measure(A, num_probes=2, num_steps=9, rng=5)
    custom = slq.spectral_measure(A, num_probes=2, num_steps=9, probes=lambda *a: slq.sphere(*a))
    for measure in (two_seeds, FIXED, custom):
        with pytest.raises(
            RequestError, match="only a measure of one seed and a built-in sampler can be extended, not"
        ):
            measure.extend(A, num_probes=1)


def test_unions_keep_what_the_parts_agree_on():
    one = slq.spectral_measure(A, num_probes=1, num_steps=9)
    other = slq.spectral_measure(A.astype(np.float32), num_probes=1, num_steps=9, first_probe=1)
    union = one | other
    assert union.eps == 2.0**-23
    assert union.provenance["library"] == "numpy"
    assert "dtype" not in union.provenance


def test_given_vectors_may_repeat_in_unions():
    assert (FIXED | FIXED).num_probes == 4


def test_a_union_needs_a_part():
    with pytest.raises(RequestError, match="concatenate expects at least one measure, got none"):
        slq.concatenate([])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: measure_of(uniform(24), num_steps=8, rng=1),
            r"different values of num_steps: \[8, 9\]; truncate them",
        ),
        (
            lambda: measure_of(uniform(20), num_steps=9, rng=1),
            r"values of n: \[20, 24\]; they measure different things",
        ),
        (lambda: measure_of(uniform(24), num_steps=9, probes=slq.gaussian), "values of sampler: .*gaussian.*sphere"),
        (lambda: slq.spectral_measure(A + 0j, num_probes=1, num_steps=9, rng=1), "values of is_complex"),
        (lambda: FIXED, "values of sampler: .*fixed"),
    ],
)
def test_unions_are_of_one_kind(other, message):
    with pytest.raises(RequestError, match=message):
        MEASURE | other()


def test_a_probe_counts_once():
    with pytest.raises(RequestError, match=r"probe 3 of seed 0 occurs twice, .* use another rng=, or first_probe="):
        MEASURE | slq.spectral_measure(A, num_probes=2, num_steps=9, first_probe=3)
    assert (MEASURE | slq.spectral_measure(A, num_probes=2, num_steps=9, first_probe=4)).num_probes == 6
    assert (MEASURE | slq.spectral_measure(A, num_probes=2, num_steps=9, rng=5)).num_probes == 6
