"""slq/_questions.py: sums, distribution functions, quantiles and densities of a measure."""

import warnings

import numpy as np
import pytest

import slq
from slq._density import gaussian_kernel
from slq.errors import RequestError, ResolutionWarning, WidthError
from tests.problems import hessian_like, indefinite, measure_of, problem, strakos, uniform

EIGENVALUES = indefinite(24)
SHORT = measure_of(EIGENVALUES, num_steps=9)
FULL = measure_of(EIGENVALUES)  # of full order: its only error is that of sampling
PROBES = slq.sphere(0, range(4), None, 24, np.empty(0))
MASSES = np.abs(PROBES @ problem(EIGENVALUES).vectors.T) ** 2 / 24  # of each eigenvalue, as each probe sees it


# Sums


def test_the_trace_of_f_is_the_mean_of_the_quadratic_forms():
    for f in (np.exp, np.abs, lambda t: t**3):
        estimate = FULL.trace(f)
        np.testing.assert_allclose(FULL.quadratic_forms(f), 24 * MASSES @ f(EIGENVALUES), rtol=1e-11)
        assert estimate.value == pytest.approx(FULL.quadratic_forms(f).mean(), rel=1e-14)
        variance = (MASSES @ (f(EIGENVALUES) - estimate.value / 24) ** 2).mean()
        assert estimate.stderr == pytest.approx(24 * np.sqrt(2 / 26 * variance / 4), rel=1e-9)
        assert estimate.rounding == pytest.approx(
            4 * 2.0**-52 * 24 * (MASSES @ np.abs(f(EIGENVALUES))).mean(), rel=1e-9
        )
        assert estimate.products == FULL.products
        assert type(estimate.value) is float
    assert FULL.trace().value == pytest.approx(FULL.trace(lambda t: t).value)


def test_the_quadrature_error_is_the_change_against_four_fifths_of_the_steps():
    estimate = SHORT.trace(np.abs)
    assert estimate.truncation == pytest.approx(abs(estimate.value - SHORT.truncate(8).trace(np.abs).value))
    assert estimate.truncation > 0


def test_gaussian_probes_weigh_with_their_lengths():
    measure = measure_of(EIGENVALUES, probes=slq.gaussian)
    x = slq.gaussian(0, range(4), None, 24, np.empty(0))
    np.testing.assert_allclose(measure.quadratic_forms(np.exp), problem(EIGENVALUES).forms(x, np.exp), rtol=1e-11)
    assert measure.trace(np.ones_like).value == pytest.approx((x**2).sum() / 4)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda _: 1.0, r"f returned an array of shape \(\) and dtype float64 for 36 Ritz values"),
        (lambda t: t[:-1], r"f returned an array of shape \(35,\)"),
        (lambda t: t[:, None], r"f returned an array of shape \(36, 1\)"),
        (lambda t: t + 0j, r"f returned an array of shape \(36,\) and dtype complex128"),
        (lambda t: np.full(t.shape, "a"), "dtype <U1"),
        (lambda t: t.astype(object), "dtype object"),
        (lambda t: np.log(t), r"f is nan at the Ritz value -\d\.\d+ \(weight 0\.\d+\); it must be finite"),
        (lambda t: t * np.inf, "f is -?inf at the Ritz value"),
    ],
)
def test_functions_are_checked(f, message):
    for question in (SHORT.quadratic_forms, SHORT.trace):
        with pytest.raises(RequestError, match=message):
            question(f)


def test_functions_may_return_integers_and_booleans():
    assert FULL.trace(lambda t: t > 0).value == pytest.approx(FULL.count(low=1e-9).value, rel=1e-12)
    assert FULL.trace(lambda t: np.sign(t).astype(int)).value == pytest.approx(FULL.trace(np.sign).value)


# Distribution functions


def test_the_distribution_function_of_a_full_run_is_that_of_its_probes():
    x = np.concatenate([EIGENVALUES - 0.01, EIGENVALUES + 0.01, [-np.inf, np.inf, -5.0, 5.0]])
    estimate = FULL.cdf(x)
    exact = (MASSES @ (EIGENVALUES[:, None] <= x)).mean(axis=0)
    np.testing.assert_allclose(estimate.value, exact, atol=1e-12)
    np.testing.assert_allclose(estimate.stderr, np.sqrt(2 / 26 * exact * (1 - exact) / 4), atol=1e-6)
    assert estimate.value[-4:].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert FULL.cdf(0.3).value == pytest.approx((MASSES @ (EIGENVALUES <= 0.3)).mean())
    assert np.ndim(FULL.cdf(0.3).value) == 0
    assert FULL.cdf([[0.3, 0.4]]).value.shape == (1, 2)


@pytest.mark.parametrize(
    "spectrum", [indefinite, strakos, lambda n: hessian_like(n, 5)], ids=["indef.", "strakos", "h."]
)
def test_interlacing_bounds_the_quadrature_error_of_the_distribution_function(spectrum):
    exact = problem(spectrum(60))
    measure = slq.spectral_measure(exact.matrix, num_probes=3, num_steps=12)
    x = slq.sphere(0, range(3), None, 60, np.empty(0))
    at = np.linspace(exact.eigenvalues.min() - 0.1, exact.eigenvalues.max() + 0.1, 400)
    masses = np.abs(x @ exact.vectors.T) ** 2 / 60
    truth = (masses @ (exact.eigenvalues[:, None] <= at)).mean(axis=0)
    estimate = measure.cdf(at)
    # Chen, Trogdon and Ubaru 2021, from the Chebyshev-Markov-Stieltjes inequalities: a theorem, so at every point.
    assert (np.abs(estimate.value - truth) <= estimate.truncation + 1e-12).all()
    low, high = at[:-100:7], at[100::7]
    for a, b in zip(low, high, strict=True):
        count = measure.count(a, b)
        inside = (exact.eigenvalues >= a) & (exact.eigenvalues <= b)
        assert abs(count.value - 60 * (masses @ inside).mean()) <= count.truncation + 1e-9


def test_a_distribution_function_is_not_asked_for_nan():
    with pytest.raises(RequestError, match=r"cdf\(x\) met NaN in x; remove it"):
        SHORT.cdf([0.0, np.nan])


def test_counts_are_of_closed_intervals():
    assert FULL.count().value == 24.0
    assert FULL.count().truncation == 0
    a, b = EIGENVALUES[4], EIGENVALUES[9]
    inside = (a <= EIGENVALUES) & (b >= EIGENVALUES)
    assert FULL.count(a - 1e-9, b + 1e-9).value == pytest.approx(24 * (MASSES @ inside).mean())
    assert FULL.count(low=0.5).value + FULL.count(high=0.5).value == pytest.approx(24.0)
    atoms = slq.spectral_measure(np.diag([1.0, 1.0, 3.0]), num_probes=3, num_steps=2)
    node = float(atoms.nodes[0, 0])
    assert atoms.count(node, node).value > 0  # both ends belong to it
    identity = slq.spectral_measure(np.eye(5), num_probes=2, num_steps=2)
    assert identity.count(1 - 1e-9, 1 + 1e-9).value == 5.0
    assert identity.count(low=1 + 1e-9).value == 0.0


def test_end_points_within_rounding_of_an_atom_meet_it():
    # The node of the identity is 1 − 2⁻⁵³: rounding must not decide where a mass of one goes.
    identity = slq.spectral_measure(np.eye(5), num_probes=2, num_steps=2)
    assert identity.count(1.0, 1.0).value == 5.0
    assert identity.count(high=1.0).value == 5.0
    assert identity.count(low=1.0).value == 5.0
    for x in (np.nextafter(1.0, 0), 1.0, np.nextafter(1.0, 2)):
        assert identity.cdf(x).value == 1.0
    assert identity.cdf(1 - 1e-13).value == 0.0


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (np.nan, 1.0), (0.0, np.nan)])
def test_counts_need_an_interval(low, high):
    with pytest.raises(RequestError, match=r"count\(low, high\) expects low <= high, got"):
        SHORT.count(low, high)


def test_quantiles_invert_the_distribution_function():
    q = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    estimate = FULL.quantile(q)
    cumulated = MASSES.mean(axis=0).cumsum()
    expected = EIGENVALUES[np.searchsorted(cumulated + 1e-12, q)]
    np.testing.assert_allclose(estimate.value, expected, atol=1e-12)
    assert (FULL.cdf(estimate.value + 1e-9).value >= q - 1e-12).all()
    assert (estimate.stderr >= 0).all()
    middle = FULL.quantile(0.5)
    error = FULL.cdf(middle.value).stderr
    spread = FULL.quantile([0.5 - error, 0.5 + error]).value
    assert middle.stderr == pytest.approx(np.diff(spread)[0] / 2)
    assert slq.spectral_measure(3 * np.eye(5), num_probes=2, num_steps=2).quantile([0, 1]).value.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("q", [-0.1, 1.1, np.nan, [0.5, 2.0]])
def test_quantiles_are_of_fractions(q):
    with pytest.raises(RequestError, match=r"quantile\(q\) expects numbers between 0 and 1, got"):
        SHORT.quantile(q)


# Densities


def test_a_density_is_the_mean_of_smoothed_rules():
    x = np.linspace(-2, 3, 57)
    density = FULL.density(x, width=0.3)
    kernels = gaussian_kernel((x - EIGENVALUES[:, None]) / 0.3) / 0.3
    np.testing.assert_allclose(density.value, (MASSES @ kernels).mean(axis=0), atol=1e-12)
    np.testing.assert_array_equal(density.x, x)
    assert density.width == 0.3
    assert density.truncation.max() == 0
    centred = (MASSES @ kernels**2).mean(axis=0) - density.value**2
    plug_in = density.dof == np.inf
    np.testing.assert_allclose(density.stderr[plug_in], np.sqrt(2 / 26 * centred / 4)[plug_in], atol=1e-10)
    assert plug_in.sum() > 40


@pytest.mark.parametrize("spectrum", [uniform, indefinite, strakos, hessian_like], ids=lambda s: s.__name__)
def test_densities_have_mass_one_at_every_default(spectrum):
    measure = measure_of(spectrum(100), num_steps=40)  # a warning would be an error
    density = measure.density()
    assert np.trapezoid(density.value, density.x) == pytest.approx(1, abs=1e-8)
    assert 0 < density.width <= np.ptp(spectrum(100)) / 8
    np.testing.assert_array_equal(density.interval()[0] >= 0, True)
    mean = np.trapezoid(density.x * density.value, density.x)
    assert mean == pytest.approx(measure.trace().value / 100, abs=1e-7 * measure.scale)


@pytest.mark.parametrize(("a", "b"), [(2.0, -1.0), (-1.0, 0.0)])
def test_densities_move_with_affine_maps(a, b):
    mapped = slq.spectral_measure(a * problem(EIGENVALUES).matrix + b * np.eye(24), num_probes=4, num_steps=24)
    x = np.linspace(-2.0, 3.0, 101)
    y = a * x + b
    order = slice(None) if a > 0 else slice(None, None, -1)
    image = mapped.density(y[order], width=abs(a) * 0.2)
    np.testing.assert_allclose(image.value[order] * abs(a), FULL.density(x, width=0.2).value, atol=1e-11)


def test_another_kernel_may_smooth():
    x = np.linspace(-2, 3, 11)
    cauchy = FULL.density(x, width=0.5, kernel=lambda z: 1 / (np.pi * (1 + z * z)))
    kernels = 0.5 / np.pi / (0.25 + (x - EIGENVALUES[:, None]) ** 2)
    np.testing.assert_allclose(cauchy.value, (MASSES @ kernels).mean(axis=0), rtol=1e-10)


def test_a_width_that_the_steps_do_not_resolve_is_warned_about():
    with pytest.warns(
        ResolutionWarning, match=r"a width of 0.001 is not resolved by 9 steps: .* moves \d+% of the mass"
    ):
        SHORT.density(width=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FULL.density(width=1e-3)  # exact: every width is resolved
        SHORT.density(width=1.0)


@pytest.mark.parametrize("width", [0.0, -1.0, np.nan, np.inf])
def test_widths_are_checked(width):
    with pytest.raises(WidthError, match="width= expects a positive number"):
        SHORT.density(width=width)


def test_widths_below_rounding_are_refused():
    with pytest.raises(WidthError, match=r"is below the precision of eigenvalues near 1\.9"):
        SHORT.density(width=1e-18)


@pytest.mark.parametrize("x", [[], [0.0, np.nan], [0.0, np.inf], [1.0, 0.0], [0.0, 0.0], 1.0, [[0.0, 1.0]]], ids=str)
def test_grids_are_checked(x):
    with pytest.raises(
        WidthError, match="x= expects a one-dimensional, finite, increasing grid, got an array of shape"
    ):
        SHORT.density(x, width=1.0)


def test_one_point_is_a_grid():
    assert FULL.density([0.5], width=0.3).value == pytest.approx(FULL.density([0.0, 0.5], width=0.3).value[1:])


def test_measures_of_given_vectors_have_distributions_but_no_sampling_error():
    x = np.random.default_rng(0).normal(size=(3, 24))
    measure = slq.spectral_measure(problem(EIGENVALUES).matrix, probes=x, num_steps=24)
    masses = np.abs(x @ problem(EIGENVALUES).vectors.T) ** 2 / (x**2).sum(axis=1)[:, None]
    estimate = measure.cdf(0.5)
    assert estimate.value == pytest.approx((masses @ (EIGENVALUES <= 0.5)).mean())
    assert estimate.stderr == 0
    assert (measure.density().stderr == 0).all()


def test_moments_of_given_vectors_are_those_of_their_measure():
    x = np.random.default_rng(0).normal(size=(3, 24))
    x /= np.linalg.norm(x, axis=1)[:, None]
    measure = slq.spectral_measure(problem(EIGENVALUES).matrix, probes=x, num_steps=9)
    assert measure.moment(0).value == pytest.approx(1)
    assert measure.moment(1).value == pytest.approx(problem(EIGENVALUES).forms(x, lambda t: t).mean())


@pytest.mark.parametrize("exponent", [-900, 900])
def test_answers_keep_their_errors_at_any_scale(exponent):
    scaled = slq.spectral_measure(np.ldexp(problem(EIGENVALUES).matrix, exponent), num_probes=4, num_steps=9)
    for name in ("value", "stderr", "truncation", "rounding"):
        assert np.ldexp(getattr(scaled.trace(), name), -exponent) == pytest.approx(getattr(SHORT.trace(), name))
    density, plain = scaled.density(), SHORT.density()
    np.testing.assert_allclose(np.ldexp(density.x, -exponent), plain.x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.ldexp(density.value, exponent), plain.value, rtol=1e-9)
