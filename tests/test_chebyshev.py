"""slq/_chebyshev.py: the Jackson kernel in closed form against the damped series of modified moments."""

import numpy as np
import pytest
from scipy.fft import dct

from slq._chebyshev import Jackson, broadening, damping, jackson_kernel
from tests.problems import hessian_like, indefinite, measure_of, strakos, uniform

# The series and the closed form agree to 2e-12 of the largest value up to 512 terms (measured): the series is rounded.
SAME = 1e-11


def moments_of(alpha, beta, kernel):
    """e₁ᵀ Tⱼ(T) e₁ by the recurrence of the Chebyshev polynomials: no node, no weight, no eigenvalue problem."""
    T = (np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1) - kernel.centre * np.eye(alpha.size)) / (
        kernel.half
    )
    vectors = [np.eye(alpha.size)[0], T[0]]
    while len(vectors) < kernel.count:
        vectors.append(2 * T @ vectors[-1] - vectors[-2])
    return np.array(vectors)[: kernel.count, 0]


def series(moments, kernel):
    """The damped series at Chebyshev's points, increasing, by a cosine transform."""
    points = kernel.grid().size
    coefficients = np.zeros(points)
    coefficients[: kernel.count] = damping(kernel.count) * moments
    angles = np.pi * (np.arange(points) + 0.5) / points
    return dct(coefficients, type=3)[::-1] / (np.pi * kernel.half * np.sin(angles))


@pytest.mark.parametrize("spectrum", [uniform, indefinite, strakos, hessian_like], ids=lambda s: s.__name__)
@pytest.mark.parametrize("num_steps", [1, 2, 9, 60])
def test_nodes_and_coefficients_give_the_same_density(spectrum, num_steps):
    measure = measure_of(spectrum(100), num_steps=num_steps, num_probes=1)
    kernel, width = jackson_kernel(*measure.support, 0.1 if num_steps == 1 else None, 2 * num_steps)
    mu = moments_of(measure.alpha[0], measure.beta[0], kernel)
    angles = np.arccos((measure.nodes[0] - kernel.centre) / kernel.half)
    of_nodes = np.cos(np.arange(kernel.count)[:, None] * angles) @ measure.weights[0]
    np.testing.assert_allclose(of_nodes, mu, atol=1e-12)  # rounding of 120 terms: at most 3e-14, measured
    x = kernel.grid()
    density = sum(w * kernel.values(x, t, width) for t, w in zip(measure.nodes[0], measure.weights[0], strict=True))
    expected = series(mu, kernel)
    np.testing.assert_allclose(density / width, expected, atol=SAME * expected.max())


@pytest.mark.parametrize("count", [1, 2, 3, 10, 77, 512])
@pytest.mark.parametrize("node", [-1.7, -0.2, 0.3, 1.1, 2.3], ids=str)
def test_the_mass_is_one_wherever_the_node_is(count, node):
    kernel = Jackson(0.3, 2.0, count)
    x = kernel.grid()
    values = kernel.values(x, node, 1.0)
    assert (values >= 0).all()  # the kernel is a square
    step = np.pi / x.size
    # The trapezoidal rule in x is sin δ/δ times the one in the angle, which is exact for fewer terms than points.
    assert np.trapezoid(values, x) == pytest.approx(np.sin(step) / step, abs=1e-10)
    assert abs(1 - np.sin(step) / step) < 2e-6  # of 1024 points or more
    assert kernel.values(np.array([-1.8, 2.4, 9.0]), node, 1.0).tolist() == [0, 0, 0]
    assert not kernel.values(x, 2.4, 1.0).any()


@pytest.mark.parametrize("count", [2, 10, 77])
def test_the_part_below_is_the_integral(count):
    kernel, nodes = Jackson(0.3, 2.0, count), np.array([-1.7, 0.0, 0.4, 2.29])
    # In the angle the kernel is a cosine polynomial: Gauss-Legendre with more points than terms integrates it.
    points, weights = np.polynomial.legendre.leggauss(400)
    for x in (-1.2, 0.3, 2.2):
        high = np.arccos((x - 0.3) / 2)
        angles = high + (np.pi - high) * (points + 1) / 2
        values = [kernel.values(0.3 + 2 * np.cos(angles), node, 1.0) * 2 * np.sin(angles) for node in nodes]
        expected = np.array(values) @ weights * (np.pi - high) / 2
        np.testing.assert_allclose(kernel.below(x, nodes, 1.0), expected, atol=1e-9)  # arccos near ±1: 1e-10
    np.testing.assert_allclose(kernel.below(-1.7, nodes, 1.0), 0, atol=1e-14)
    np.testing.assert_allclose(kernel.below(2.3, nodes, 1.0), 1, atol=1e-14)


def test_broadening_is_the_standard_deviation_in_the_middle():
    for count in (2, 9, 80):
        kernel = Jackson(0.0, 1.0, count)
        x = kernel.grid()
        values = kernel.values(x, 0.0, 1.0)
        # Exact but for the factor sin δ/δ of the rule, see above.
        assert np.sqrt(np.trapezoid(x * x * values, x)) == pytest.approx(broadening(count), rel=2e-6)
    assert broadening(1000) == pytest.approx(np.pi / 1000, rel=2e-3)


def test_narrower_widths_take_more_moments_up_to_the_most():
    counts = []
    for width in (0.5, 0.1, 0.02):
        kernel, used = jackson_kernel(-1.0, 3.0, width, 1000)
        assert 0.6 * width < used <= width  # one moment less would be too wide
        assert kernel.centre == 1.0
        assert kernel.half > 2.0
        counts.append(kernel.count)
    assert counts == sorted(counts)
    most, widest = jackson_kernel(-1.0, 3.0, None, 40)
    assert most.count == 40
    assert jackson_kernel(-1.0, 3.0, 1e-6, 40) == (most, widest)
    assert widest == pytest.approx(np.pi * most.half / 40, rel=0.05)  # π a/N up to 3/(2N)


def test_the_interval_leaves_room_for_what_the_steps_have_not_met():
    # T_{m-1}(t)² of the support is one at most on all m nodes, so by Gauss's exactness a probe's mass where it exceeds
    # Q is at most 1/Q. With all 2m moments, that is 4e-5 outside of the interval for 20 steps and more.
    for m in (20, 80, 300):
        kernel, _ = jackson_kernel(-1.0, 1.0, None, 2 * m)
        assert np.cosh((m - 1) * np.arccosh(kernel.half)) ** -2 < 4e-5


def test_widths_at_a_place_follow_the_angle():
    kernel, width = jackson_kernel(-1.0, 1.0, None, 200)
    middle, side, end = kernel.widths(np.array([0.0, 0.6 * kernel.half, kernel.half]), width)
    assert middle == width
    assert side == pytest.approx(0.8 * width)
    assert end == pytest.approx(width * np.sin(4 * np.pi / 201))  # where the support ends
