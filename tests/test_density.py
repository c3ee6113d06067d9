"""slq/_density.py: smoothing with a true width on a grid that sees everything."""

import numpy as np
import pytest

from slq._chebyshev import jackson_kernel
from slq._density import adaptive_grid, default_width, fine_grid, gaussian_kernel, mass_outside, moved_mass, smooth
from slq._kernels import GAUSSIAN, LORENTZIAN, named
from slq.errors import WidthError

NODES = np.array([[-1.0, 0.5, 2.0], [-0.5, 0.0, 3.0]])
WEIGHTS = np.array([[0.25, 0.5, 0.25], [0.1, 0.6, 0.3]])


def moments(x, y):
    """Mass, mean and variance of a density."""
    mass = np.trapezoid(y, x)
    mean = np.trapezoid(x * y, x) / mass
    return mass, mean, np.trapezoid((x - mean) ** 2 * y, x) / mass


@pytest.mark.parametrize("width", [1e-3, 0.1, 5.0])
def test_smoothing_keeps_the_mass_and_the_mean_and_adds_the_variance_of_the_kernel(width):
    x = adaptive_grid(NODES.ravel(), width)
    for i, density in enumerate(smooth(x, NODES, WEIGHTS, width, gaussian_kernel)[0]):
        mass, mean, variance = moments(x, density / width)
        # The grid ends at 8 widths (1e-15 of a Gaussian) and has 5 points per width (1e-10 by the trapezoidal rule).
        assert mass == pytest.approx(1, abs=1e-9)
        assert mean == pytest.approx((WEIGHTS[i] * NODES[i]).sum(), abs=1e-8)
        spread = (WEIGHTS[i] * NODES[i] ** 2).sum() - (WEIGHTS[i] * NODES[i]).sum() ** 2
        assert variance == pytest.approx(spread + width**2, rel=1e-7)


def test_smoothing_is_the_sum_of_kernels():
    x, width = np.linspace(-2, 4, 101), 0.3
    densities, squares = smooth(x, NODES, WEIGHTS, width, gaussian_kernel)
    for i in range(2):
        kernels = gaussian_kernel((x - NODES[i][:, None]) / width)
        np.testing.assert_allclose(densities[i], WEIGHTS[i] @ kernels, atol=1e-12)
        np.testing.assert_allclose(squares[i], WEIGHTS[i] @ kernels**2, atol=1e-11)


def test_other_kernels_reach_as_far_as_they_like():
    x = np.array([-1e4, 1e4])
    cauchy = smooth(x, NODES, WEIGHTS, 1.0, lambda z: 1 / (np.pi * (1 + z * z)))[0]
    np.testing.assert_allclose(cauchy, 1 / (np.pi * 1e8), rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("far", [10.0, 1e6])
def test_small_masses_far_away_are_seen_in_full(scale, far):
    # A fixed number of points, or a grid fitted to the bulk, shows 0.05 of the mass as anything from 0.007 to 0.07.
    nodes, weights, width = scale * np.array([[0.0, 0.1, far]]), np.array([[0.5, 0.45, 0.05]]), scale * 0.01
    x = adaptive_grid(nodes.ravel(), width)
    density = smooth(x, nodes, weights, width, gaussian_kernel)[0, 0] / width
    above = x > scale * far / 2
    assert np.trapezoid(density[above], x[above]) == pytest.approx(0.05, abs=1e-8)
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-8)
    assert x.size < 400  # and gaps cost nothing: neither points nor mass


def test_a_grid_is_increasing_and_fine_where_there_is_mass():
    x = adaptive_grid(np.array([3.0, -1.0, 3.0, 100.0]), 0.1)
    assert (np.diff(x) > 0).all()
    for centre in (-1.0, 3.0, 100.0):
        near = x[np.abs(x - centre) <= 0.8]
        assert np.diff(near).max() <= 0.1 / 5 + 1e-12
        assert near.min() <= centre - 0.78
        assert near.max() >= centre + 0.78


@pytest.mark.parametrize("width", [0.0, -1.0, np.nan, np.inf])
def test_a_width_is_a_positive_number(width):
    with pytest.raises(WidthError, match="width= expects a positive number in units of the eigenvalues, got"):
        adaptive_grid(NODES.ravel(), width)


@pytest.mark.parametrize("nodes", [[1.0, 2.0], [1e6, 1e6 + 1], [0.0, 1.0]], ids=str)
def test_a_width_below_the_spacing_of_numbers_is_refused(nodes):
    with pytest.raises(WidthError, match="is below the precision of eigenvalues near"):
        adaptive_grid(np.array(nodes), 1e-17 * max(nodes))


def test_the_moved_mass_is_a_fraction():
    x = adaptive_grid(np.array([0.0, 10.0]), 0.1)
    one, other = ((np.array([[at]]), np.ones((1, 1))) for at in (0.0, 10.0))
    assert moved_mass(x, one, one, 0.1) == 0
    assert moved_mass(x, one, other, 0.1) == pytest.approx(1, abs=1e-9)


def test_the_default_width_is_the_smallest_that_is_resolved():
    gauss = np.polynomial.legendre.leggauss
    rule, shorter = ((x[None], w[None] / 2) for x, w in (gauss(40), gauss(32)))
    width = default_width(rule, shorter, 1.0)
    assert width == pytest.approx(np.ptp(rule[0]) / 8 / 2 ** np.round(np.log2(np.ptp(rule[0]) / 8 / width)))
    for factor, resolved in ((1, True), (0.5, False)):
        x = adaptive_grid(np.concatenate([rule[0].ravel(), shorter[0].ravel()]), factor * width)
        assert (moved_mass(x, rule, shorter, factor * width) < 0.01) == resolved
    finer = default_width(*((x[None], w[None] / 2) for x, w in (gauss(160), gauss(128))), 1.0)
    assert finer < width / 2


@pytest.mark.parametrize("at", [0.0, 1e-200, 5.0])
def test_a_single_atom_has_a_width_too(at):
    rule = (np.array([[at]]), np.ones((1, 1)))
    width = default_width(rule, rule, at)
    assert 0 < width <= (at or 1.0)  # zero has no unit
    x = adaptive_grid(rule[0].ravel(), width)
    density = smooth(x, *rule, width, gaussian_kernel)[0, 0] / width
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("far", [10.0, 1e6])
def test_a_grid_follows_tails_to_their_ends_and_through_gaps(scale, far):
    nodes, weights, width = scale * np.array([[0.0, 0.1, far]]), np.array([[0.5, 0.45, 0.05]]), scale * 0.01
    x = fine_grid(nodes.ravel(), width, LORENTZIAN)
    assert (np.diff(x) > 0).all()
    assert x[0] <= -99 * width
    assert x[-1] >= nodes.max() + 99 * width
    density = smooth(x, nodes, weights, width, LORENTZIAN)[0, 0] / width
    outside = mass_outside(x, nodes, weights, width, LORENTZIAN)
    assert 1e-3 < outside < 0.0065
    # Steps of a tenth of the distance: h²/12 ∫|φ″| is 2e-4 at most, measured. A leap over the gap would add 30 at 1e6.
    assert np.trapezoid(density, x) == pytest.approx(1 - outside, abs=3e-4)
    assert x.size < 1000


def test_the_mass_outside_of_a_grid_is_exact():
    x = np.linspace(-0.3, 1.0, 40001)
    jackson, width = jackson_kernel(-1.0, 3.0, None, 30)
    for kernel, s in ((GAUSSIAN, 0.3), (LORENTZIAN, 0.3), (jackson, width)):
        density = smooth(x, NODES, WEIGHTS, s, kernel)[0].mean(axis=0) / s
        # The trapezoidal rule: (b - a) h²/12 |φ″| < 1e-8.
        assert mass_outside(x, NODES, WEIGHTS, s, kernel) == pytest.approx(1 - np.trapezoid(density, x), abs=1e-7)
    assert np.isnan(mass_outside(x, NODES, WEIGHTS, 0.3, named(lambda z: np.exp(-np.abs(z)) / 2)))


def test_the_default_width_of_a_kernel_is_the_smallest_that_is_resolved_by_it():
    rule, shorter = ((x[None], w[None] / 2) for x, w in map(np.polynomial.legendre.leggauss, (40, 32)))
    width = default_width(rule, shorter, 1.0, LORENTZIAN)
    assert width >= default_width(rule, shorter, 1.0)  # analytic in a strip only, so that it converges more slowly
    for factor, resolved in ((1, True), (0.5, False)):
        x = fine_grid(np.concatenate([rule[0].ravel(), shorter[0].ravel()]), factor * width, LORENTZIAN)
        assert (moved_mass(x, rule, shorter, factor * width, LORENTZIAN) < 0.01) == resolved
