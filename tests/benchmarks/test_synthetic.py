"""The synthetic benchmark: its spectrum, and what one method finds there."""

import numpy as np
import pytest

from benchmarks import synthetic
from benchmarks.synthetic import Statistics


def test_spectrum_is_that_of_the_notebook():
    # the "true" values published with it
    published = Statistics(-1.561000, -1.674432, -1.674432, 1.384709, 1.567618, 26.0)
    np.testing.assert_allclose(synthetic.true(), published, rtol=0, atol=5e-7)


def test_plain_measure_beats_the_published_numbers():
    exact = synthetic.true()
    rows = np.array(synthetic.collect(range(4), ["plain 10 × 70"])["plain 10 × 70"])
    error = Statistics(*np.median(np.abs(rows - np.array(exact)), axis=0))
    # The sampling error of the mean absolute value has a standard deviation of 0.185 %: 2/(n k) times its variance. The
    # median of four is off by three of them once in a thousand times.
    assert error.mean_abs < 3 * 0.00185 * exact.mean_abs
    assert error.interpolated < 0.012  # measured over 20 seeds: median 0.004, at most 0.0193
    assert error.range < 1e-9  # converged


def test_interpolation_meets_the_middle_of_each_step():
    class Rule:
        nodes = np.array([[0.0, 1.0, 2.0]])
        weights = np.array([[0.25, 0.5, 0.25]])

    assert synthetic.interpolated_quantile(Rule(), 0.5) == 1.0
    assert synthetic.interpolated_quantile(Rule(), 0.125 + 0.1875) == pytest.approx(0.5)


def test_table_shows_the_exact_row():
    assert synthetic.table({}).splitlines()[2].startswith("| exact | -1.561000 | -1.674432 | 0.0000 |")
