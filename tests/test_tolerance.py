"""slq/_tolerance.py: an error that is asked for, beside the one that is stated."""

import numpy as np
import pytest

from slq._estimate import Estimate
from slq._tolerance import Tolerance, tolerance_of
from slq.errors import RequestError


def estimate(value=100.0, stderr=1.0, truncation=0.0, dof=np.inf):
    return Estimate(value, stderr, truncation, 0.0, dof, 80)


def test_none_is_asked_for_without_rtol_and_atol():
    assert tolerance_of(None, None, 0.95) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, None, 0.95), "rtol= expects a number >= 0, got -1.0"),
        ((None, "1", 0.95), "atol= expects a number >= 0, got '1'"),
        ((np.nan, None, 0.95), "rtol= expects a number >= 0, got nan"),
        ((True, None, 0.95), "rtol= expects a number >= 0, got True"),
        ((0.0, None, 0.95), "both zero"),
        ((0.1, None, 1.0), "confidence= expects a number between 0 and 1, got 1.0"),
        ((0.1, None, 95), "confidence= expects a number between 0 and 1, got 95"),
    ],
)
def test_what_is_no_tolerance_is_refused(arguments, message):
    with pytest.raises(RequestError, match=message):
        tolerance_of(*arguments)


def test_the_larger_of_both_is_allowed_and_values_may_be_negative():
    assert Tolerance(0.1, 2.0, 0.95).allowed(estimate(100.0)) == 10.0
    assert Tolerance(0.1, 20.0, 0.95).allowed(estimate(-100.0)) == 20.0
    assert Tolerance(0.1, 0.0, 0.95).allowed(estimate(-100.0)) == 10.0


def test_the_error_is_the_sum_of_all_parts_at_the_level_of_a_look():
    tolerance = Tolerance(0.1, 0.0, 0.95)
    # 4 % fail, 2 % on each side: the normal quantile is 2.0537, Student's with 7 degrees of freedom 2.5168.
    assert tolerance.error(estimate(truncation=3.0)) == pytest.approx(5.0537, abs=1e-4)
    assert tolerance.error(estimate(dof=7.0)) == pytest.approx(2.5168, abs=1e-4)
    assert tolerance.error(estimate(), doubled=True) == pytest.approx(2 * 2.0537, abs=1e-4)
    assert tolerance.error(estimate(stderr=None)) == np.inf


def test_so_many_probes_suffice_as_it_says():
    tolerance = Tolerance(0.0, 1.0, 0.9)
    for dof in (np.inf, 7.0):
        needed = tolerance.probes_needed(estimate(dof=dof, truncation=0.5), 4)
        assert needed > 4
        error = [
            tolerance.error(estimate(stderr=np.sqrt(4 / k), truncation=0.5, dof=np.inf if np.isinf(dof) else k - 1))
            for k in (needed, 0.9 * needed)
        ]
        assert error[0] <= 1.0 < error[1]
    assert tolerance.probes_needed(estimate(truncation=1.0), 4) == np.inf
    assert tolerance.probes_needed(estimate(truncation=1.0), 4, truncation=0.0) < np.inf
    assert tolerance.probes_needed(estimate(stderr=0.0), 4) == 1
    assert tolerance.probes_needed(estimate(stderr=None), 4) == np.inf


def test_what_is_unmet_is_told_with_a_mend():
    text = Tolerance(1e-3, 0.0, 0.9).unmet(estimate(), "the budget is spent")
    assert "the tolerance 0.1 (rtol=0.001, atol=0) is not met: the error at confidence 0.9 is 1.75, 80 products" in text
    assert text.endswith("The budget is spent, or a larger tolerance")
    assert "give an atol=" in Tolerance(1e-3, 0.0, 0.9).unmet(estimate(value=0.1), "why")
