"""slq/_settled.py: whether a quadrature error is falling."""

import numpy as np
import pytest

from slq._questions import spectral_sum
from slq._settled import ask
from tests.problems import hessian_like, measure_of, uniform


def question(measure):
    return spectral_sum(measure, np.log, float(measure.n))


def test_where_it_falls_fast_the_last_change_is_enough():
    measure = measure_of(uniform(60), num_probes=2, num_steps=15)
    assert ask(question, measure)[0] == question(measure)[0]


def test_where_it_does_not_fall_it_is_infinite_and_the_true_error_explains_why():
    spectrum = hessian_like(400)
    measure = measure_of(spectrum, num_probes=2, num_steps=10)  # all of them go into the 20 outliers
    plain = question(measure)[0]
    # Measured: the last change is 79, the error 281, and the changes do not fall.
    assert abs(plain.value - np.log(spectrum).sum()) > 3 * plain.truncation
    assert ask(question, measure)[0].truncation == np.inf


@pytest.mark.parametrize("steps", [1, 24])
def test_no_error_and_one_step_are_left_alone(steps):
    measure = measure_of(uniform(24), num_steps=steps)
    assert ask(question, measure)[0] == question(measure)[0]
