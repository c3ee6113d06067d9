"""slq/_kernels.py: kernels by name, and what of them lies where."""

import numpy as np
import pytest
from scipy.integrate import quad

from slq._kernels import GAUSSIAN, LORENTZIAN, gaussian_kernel, named
from slq.errors import RequestError


@pytest.mark.parametrize("shape", [GAUSSIAN, LORENTZIAN], ids=lambda s: s.name)
@pytest.mark.parametrize("z", [-7.0, -1.0, 0.0, 0.5, 3.0])
def test_the_part_below_is_the_integral(shape, z):
    integral, error = quad(shape.function, -np.inf, z, epsabs=1e-13)
    assert shape.below(2 + 0.1 * z, np.array(2.0), 0.1) == pytest.approx(integral, abs=1e-12 + error)


def test_widths_are_a_standard_deviation_and_half_a_width_at_half_maximum():
    variance, _ = quad(lambda z: z * z * GAUSSIAN.function(z), -np.inf, np.inf)
    assert variance == pytest.approx(1, abs=1e-9)  # the error that quad states
    peak, half = LORENTZIAN.values(np.array([3.0, 3.2]), 3.0, 0.2)
    assert half == pytest.approx(peak / 2, rel=1e-14)
    np.testing.assert_array_equal(GAUSSIAN.widths(np.arange(3.0), 0.1), 0.1)


def test_the_far_left_of_a_lorentzian_keeps_its_digits():
    # 1/(π|z|) to leading order; ½ + arctan(z)/π has no digit left there.
    assert LORENTZIAN.below(-1e20, np.array(0.0), 1.0) == pytest.approx(1e-20 / np.pi, rel=1e-14)


def test_kernels_have_names_and_functions_are_taken_as_they_are():
    assert named("gaussian") is named(gaussian_kernel) is GAUSSIAN
    assert named("lorentzian") is LORENTZIAN
    box = named(lambda z: (np.abs(z) < 0.5).astype(float))
    assert box.name == "custom"
    assert box.below(0.0, np.zeros(1), 1.0) is None
    for wrong in ("cauchy", 3, None):
        with pytest.raises(RequestError, match=r"'gaussian', 'lorentzian', 'jackson', or a function of .*, got"):
            named(wrong)
