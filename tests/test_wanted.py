"""slq/_wanted.py: which values are asked for."""

import numpy as np
import pytest

from slq._wanted import Request

VALUES = np.array([0.5, -3.0, 2.0, -1.0, 2.5])


@pytest.mark.parametrize(
    ("which", "k", "expected"),
    [
        ("LA", 3, [2.5, 2.0, 0.5]),
        ("SA", 2, [-3.0, -1.0]),
        ("LM", 3, [-3.0, 2.5, 2.0]),
        ("BE", 3, [2.5, -3.0, 2.0]),
        ("BE", 4, [2.5, -3.0, 2.0, -1.0]),
        ("BE", 1, [2.5]),
        ("LA", 9, [2.5, 2.0, 0.5, -1.0, -3.0]),
        ("BE", 9, [2.5, -3.0, 2.0, -1.0, 0.5]),
    ],
)
def test_the_first_of_a_ranking(which, k, expected):
    assert VALUES[Request(k, which).ranking(VALUES)[:k]].tolist() == expected


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_a_handicap_decides_ties(which):
    values = np.array([2.0, 2.0, 2.0]) * (-1 if which == "SA" else 1)
    assert Request(2, which).ranking(values, np.array([1e-9, 0.0, 1e-9]))[0] == 1


@pytest.mark.parametrize(
    ("which", "values", "expected"),
    [
        ("LA", [3.0, 2.0], [1.75 + 0.5]),
        ("SA", [-3.0, -2.0], [-2.25]),
        ("LM", [-3.0, 2.0], [2.25, -2.25]),
        ("BE", [-3.0, 2.0], [-3.25, 2.25]),
    ],
)
def test_ends_beyond_which_an_eigenvalue_would_belong(which, values, expected):
    assert Request(2, which).ends(np.array(values), 0.25) == expected


def test_of_both_ends_the_high_one_has_the_odd_one():
    assert Request(1, "BE").ends(np.array([2.0]), 0.25) == [2.25]
    assert Request(3, "BE").ends(np.array([-1.0, 4.0, 2.0]), 0.25) == [-1.25, 2.25]


@pytest.mark.parametrize(
    ("which", "expected"),
    [("LA", [2.5, 2.0, -3.0]), ("SA", [-3.0, 2.0, 2.5]), ("LM", [-3.0, 2.5, 2.0]), ("BE", [-3.0, 2.0, 2.5])],
)
def test_the_order_for_the_user(which, expected):
    values = np.array([2.0, -3.0, 2.5])
    assert values[Request(3, which).order(values)].tolist() == expected
