"""Counting coverage: the cells, what each is worth, and whether the page is that of the cases there are."""

import numpy as np
import pytest

import slq
from benchmarks import coverage, coverage_page
from benchmarks.coverage import KINDS, PROBES, Cell, Counts
from benchmarks.coverage_cases import CASES, effective_ranks, plain_deviation

LOG_UNIFORM = Cell("uniform", "log", "plain", 10, CASES["uniform"].many)


@pytest.fixture(scope="module")
def found():
    return coverage.run("uniform", ["plain", "deflated"], seeds=60, block_seeds=0)


def test_there_are_at_least_ten_spectra():
    assert len(CASES) >= 10
    assert all(case.few < case.many for case in CASES.values())


def test_measures_are_those_of_single_runs():
    case = CASES["Strakoš"]
    k, m, measure = next(iter(coverage.independent(case, range(3, 4))))
    alone = slq.spectral_measure(coverage.operator(case), num_probes=k, num_steps=m, rng=3, check=False)
    np.testing.assert_allclose(measure.alpha, alone.alpha, rtol=0, atol=1e-12)  # of the norm, which is one
    assert (measure.seeds, measure.probe_ids, measure.eps) == (alone.seeds, alone.probe_ids, alone.eps)


def test_counts_every_cell_once_for_each_seed(found):
    assert {cell.num_probes for cell in found} == set(PROBES)
    assert len(found) == 2 * 2 * 2 * 3  # kinds, functions, steps, probes
    assert {counts.runs for counts in found.values()} == {60}


def test_coverage_of_a_benign_spectrum_is_near_its_level(found):
    # Binomial: 60 runs at 92.5 % and more give 48 or fewer once in 1000 times.
    assert found[LOG_UNIFORM].covered > 48
    assert found[LOG_UNIFORM].silent == 60


def test_silent_and_spoken_misses_are_told_apart():
    counts = Counts()
    for covered, heavy, unconverged, refused in [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0)]:
        counts.add(bool(covered), bool(heavy), bool(unconverged), bool(refused), 1.0)
    assert (counts.runs, counts.covered, counts.covered_or_said, counts.silent) == (5, 1, 4, 2)


@pytest.mark.parametrize(
    ("covered", "said", "width", "expected"),
    [
        (95, 0, 1.0, "good"),
        (90, 0, 1.0, "silently short"),
        (90, 5, 1.0, "said so"),
        (100, 0, 2.0, "too wide"),
        (100, 0, 0.0, "exact"),
    ],
)
def test_verdicts(covered, said, width, expected):
    counts = Counts()
    for i in range(100):
        counts.add(i < covered, covered <= i < covered + said, False, False, width)
    assert coverage_page.verdict(LOG_UNIFORM, counts) == expected


def test_effective_ranks():
    values = np.append(np.ones(20), np.zeros(9980))
    assert effective_ranks(values) == pytest.approx((20, 20), rel=0.01)  # the mean is no longer negligible: 20/10⁴
    assert effective_ranks(np.linspace(-1, 1, 50))[1] == np.inf


def test_plain_deviation_is_that_of_sphere_probes():
    values = np.linspace(0.0, 1.0, 50) ** 2
    V = slq.sphere(0, range(4000), None, 50, np.empty(0))
    forms = V**2 @ values
    # a sample deviation of 4000 is off by 1/√8000 = 1.1 %: three of these
    assert forms.std() == pytest.approx(plain_deviation(values, 1), rel=0.035)


def test_page_shows_every_case_and_kind():
    text = coverage_page.PAGE.read_text(encoding="utf-8")
    rows = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")]
    assert set(CASES) <= set(rows), "run python -m benchmarks.coverage"
    assert all(f"## {kind.capitalize()}" in text for kind in KINDS)


def test_page_is_written_from_what_was_counted(found):
    text = coverage_page.page(found, ["--seeds 60"])
    assert "python -m benchmarks.coverage --seeds 60\n" in text
    assert "plain: 60 seeds, deflated: 60 seeds" in text
    assert f"{len(found)} cells: " in text
