"""The table of tolerances: its operators, and what it counts."""

import pytest

from benchmarks import tolerances
from benchmarks.tolerances import Outcome, Row


def test_ten_positive_definite_operators():
    found = tolerances.problems()
    assert len(found) == 10
    assert all("positive definite" in problem.tags for problem in found.values())


def test_table_counts_what_is_within_the_tolerance():
    truth = tolerances.problems()["uniform"].logdet()
    outcomes = [Outcome(truth * 1.009, 100, True), Outcome(truth * 1.02, 300, False), Outcome(float("nan"), 200, True)]
    line = tolerances.table([Row("slq", "uniform", 1e-2, outcomes)]).splitlines()[-1]
    assert line == "| uniform | 0.01 | slq | 3 | 33.3 % | 66.7 % | 200 |"


def test_slq_runs_to_a_tolerance():
    problem = tolerances.problems()["uniform"]
    found = tolerances.ours(problem, 1e-2, 0, on_operator=False)
    assert found.claimed
    # the level is 95 %: this seed is one of those that meet it
    assert found.value == pytest.approx(problem.logdet(), rel=1e-2)
    assert 0 < found.products <= problem.n  # all unit vectors would give it exactly
