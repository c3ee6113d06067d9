"""slq/_smoothed.py: densities of a measure, and what a width or a grid does not show."""

import warnings

import numpy as np
import pytest

import slq
from slq._density import gaussian_kernel
from slq.errors import AliasingWarning, GridWarning, ResolutionWarning, WidthError
from tests.problems import hessian_like, indefinite, measure_of, problem, strakos, uniform

EIGENVALUES = indefinite(24)
SHORT = measure_of(EIGENVALUES, num_steps=9)
FULL = measure_of(EIGENVALUES)  # of full order: its only error is that of sampling
PROBES = slq.sphere(0, range(4), None, 24, np.empty(0))
MASSES = np.abs(PROBES @ problem(EIGENVALUES).vectors.T) ** 2 / 24  # of each eigenvalue, as each probe sees it


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
    assert mean == pytest.approx(measure.moment(1).value, abs=1e-7 * measure.scale)


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


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        ([], "it needs two points or more"),
        ([0.5], "it needs two points or more"),
        (1.0, "it needs two points or more"),
        ([[0.0, 1.0]], "it needs two points or more in one dimension"),
        ([0.0, np.nan], "it needs finite real numbers"),
        ([0.0, np.inf], "it needs finite real numbers"),
        ([0.0, 1j], "it needs finite real numbers"),
        ([0.0, 0.0, 1.0], "1 steps are not upwards"),
        ([0.0, 2.0, 1.0], "1 steps are not upwards"),
        ([1.0, 1.0, 0.0], "2 steps are not upwards"),
    ],
    ids=str,
)
def test_grids_are_checked(x, reason):
    with pytest.raises(WidthError, match=f"x= expects a one-dimensional, finite, increasing grid, got .*: {reason}"):
        SHORT.density(x, width=1.0)


def test_a_descending_grid_is_turned_and_said_to_be():
    x = np.linspace(-3.0, 4.0, 41)
    with pytest.warns(GridWarning, match="is descending: the density is returned in increasing order"):
        turned = FULL.density(x[::-1], width=0.3)
    np.testing.assert_array_equal(turned.x, x)
    np.testing.assert_array_equal(turned.value, FULL.density(x, width=0.3).value)


def test_a_grid_with_steps_wider_than_the_width_is_warned_about():
    x = np.linspace(-2.0, 3.0, 51)
    with pytest.warns(AliasingWarning, match=r"the width 0\.05, so .*: 101 even points are needed"):
        FULL.density(x, width=0.05)
    FULL.density(np.linspace(-2.0, 3.0, 101), width=0.05)  # the mend
    FULL.density(np.linspace(-2.0, 3.0, 51), width=0.1)


def test_a_grid_may_be_coarse_where_nothing_is():
    outlier = measure_of(np.append(np.linspace(0.0, 1.0, 23), 100.0))
    default = outlier.density(width=0.05)
    outlier.density(default.x, width=0.05)  # leaps over the gap
    # One eigenvalue of 24 between two points: both outlier masses of a Hessian vanish like this from fixed grids.
    with pytest.warns(AliasingWarning, match=r"^0\.0\d+ of the mass"):
        outlier.density(np.append(np.linspace(-0.5, 1.5, 101), [90.0, 110.0]), width=0.05)


def test_a_grid_that_leaves_out_mass_says_how_much_and_is_not_rescaled():
    x = np.linspace(0.0, 3.0, 301)
    with pytest.warns(GridWarning, match=r"from 0 to 3 leaves out (0\.\d+) of the mass; the density is not r") as said:
        half = FULL.density(x, width=0.1)
    stated = float(str(said[0].message).split("leaves out ")[1].split()[0])
    assert np.trapezoid(half.value, x) == pytest.approx(1 - stated, abs=1e-3)  # stated to three digits
    everywhere = FULL.density(np.linspace(-3.0, 3.0, 601), width=0.1)
    np.testing.assert_allclose(half.value, everywhere.value[300:], rtol=1e-9, atol=1e-12)


def test_a_single_eigenvalue_is_missed_but_a_tail_is_not():
    x = np.linspace(-1.5, 2.5, 401)
    far = np.append(np.linspace(-1.0, 2.0, 99), 50.0)
    with pytest.warns(GridWarning, match="leaves out"):
        measure_of(far).density(x, width=0.1)
    tails = measure_of(np.linspace(-1.0, 2.0, 100)).density(np.linspace(-1.1, 2.1, 321), width=0.1)
    assert 1e-3 < 1 - np.trapezoid(tails.value, tails.x) < 1e-2


@pytest.mark.parametrize("name", ["linear", "log", "symlog"])
@pytest.mark.parametrize("spectrum", [uniform, hessian_like], ids=lambda s: s.__name__)
def test_grids_by_name_show_everything(name, spectrum):
    measure = measure_of(spectrum(100), num_steps=60)
    width = measure.nodes.min() / 10 if name == "log" else 0.05  # then nothing is smoothed across zero
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResolutionWarning)
        density = measure.density(name, width=width)
    assert (np.diff(density.x) > 0).all()
    # The trapezoidal rule with five points or more per width: h²/12 times ∫|φ″| <= 1/width² is 3e-3.
    assert np.trapezoid(density.value, density.x) == pytest.approx(1, abs=3e-3)


def test_a_log_grid_says_what_is_smoothed_across_zero():
    measure = measure_of(np.geomspace(0.01, 1.0, 24))
    with pytest.warns(GridWarning, match=r"leaves out 0\.\d+ of the mass"):
        density = measure.density("log", width=0.05)
    assert 0 < density.x[0] < 0.01


def test_a_number_of_points_may_be_asked_for():
    low, high = FULL.support
    for name, even in (("linear", lambda x: x), ("symlog", lambda x: np.arcsinh(x / 0.5))):
        density = FULL.density(name, width=0.5, num=71)
        assert density.x.size == 71
        np.testing.assert_allclose(np.diff(even(density.x), 2), 0, atol=1e-12)
        assert density.x[0] < low - 3.9
        assert density.x[-1] > high + 3.9
    log = measure_of(uniform(24)).density("log", width=0.05, num=201)
    np.testing.assert_allclose(np.diff(np.log(log.x), 2), 0, atol=1e-12)


def test_a_log_grid_does_not_cross_zero():
    with pytest.raises(WidthError, match=r"a log grid cannot hold the Ritz value -\S+; use x='symlog'"):
        FULL.density("log", width=0.3)
    assert FULL.density("symlog", width=0.3).x[0] < 0  # the mend


def test_names_and_numbers_of_points_are_checked():
    with pytest.raises(WidthError, match="one of the names 'linear', 'log', 'symlog', got 'logarithmic'"):
        FULL.density("logarithmic", width=0.3)
    for num in (0, 1, -3, 2.5, True, "9"):
        with pytest.raises(WidthError, match="num= expects an integer >= 2, the number of points of the grid 'log'"):
            FULL.density("log", width=0.3, num=num)
    with pytest.raises(WidthError, match="num= is the number of points of a grid by name"):
        FULL.density(width=0.3, num=50)


@pytest.mark.parametrize("exponent", [-400, 0, 400])
def test_a_width_larger_than_the_spectrum_is_warned_about(exponent):
    scaled = FULL.changed(alpha=np.ldexp(FULL.alpha, exponent), beta=np.ldexp(FULL.beta, exponent))
    with pytest.warns(ResolutionWarning, match=r"is larger than the spectrum, which is \S+ wide"):
        scaled.density(width=np.ldexp(4.0, exponent))
    scaled.density(width=np.ldexp(2.5, exponent))
    # A bulk that is narrow against its distance from zero is judged by its own width.
    narrow = measure_of(1.0 + 1e-6 * EIGENVALUES)
    with pytest.warns(ResolutionWarning, match="is larger than the spectrum"):
        narrow.density(width=1e-3)


def test_default_widths_are_never_warned_about():
    for eigenvalues in (np.ones(24), np.zeros(24), uniform(24), 1 + 1e-14 * uniform(24), [1.0, 1e6] * 12):
        measure_of(eigenvalues, num_steps=9).density()


def test_measures_of_given_vectors_have_distributions_but_no_sampling_error():
    x = np.random.default_rng(0).normal(size=(3, 24))
    measure = slq.spectral_measure(problem(EIGENVALUES).matrix, probes=x, num_steps=24)
    masses = np.abs(x @ problem(EIGENVALUES).vectors.T) ** 2 / (x**2).sum(axis=1)[:, None]
    estimate = measure.cdf(0.5)
    assert estimate.value == pytest.approx((masses @ (EIGENVALUES <= 0.5)).mean())
    assert estimate.stderr == 0
    assert (measure.density().stderr == 0).all()


@pytest.mark.parametrize("exponent", [-900, 900])
def test_answers_keep_their_errors_at_any_scale(exponent):
    scaled = slq.spectral_measure(np.ldexp(problem(EIGENVALUES).matrix, exponent), num_probes=4, num_steps=9)
    for name in ("value", "stderr", "truncation", "rounding"):
        assert np.ldexp(getattr(scaled.trace(), name), -exponent) == pytest.approx(getattr(SHORT.trace(), name))
    density, plain = scaled.density(), SHORT.density()
    np.testing.assert_allclose(np.ldexp(density.x, -exponent), plain.x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.ldexp(density.value, exponent), plain.value, rtol=1e-9)
