"""slq/_check_operator.py: what becomes of the findings."""

import json
import warnings

import numpy as np
import pytest
import scipy.sparse

from slq import aslinearoperator, check_operator
from slq._check_operator import quick_check
from slq._full_checks import FULL
from slq._products import Products
from slq._quick_checks import QUICK
from slq.errors import (
    NotSymmetricError,
    OperatorError,
    PrecisionWarning,
    ProductError,
    RequestError,
    ShapeError,
    SlqWarning,
    SymmetryWarning,
)
from tests.problems import N, indefinite, problem

SYMMETRIC = problem(indefinite(N)).matrix
TRIANGULAR = np.triu(SYMMETRIC)
SLIGHT = SYMMETRIC + 1e-4 * TRIANGULAR


def statuses(entries):
    return {e["name"]: e["status"] for e in entries}


@pytest.mark.parametrize(("level", "names"), [("quick", QUICK), ("full", QUICK + FULL)])
def test_the_result_has_a_line_for_each_check(level, names):
    entries = check_operator(SYMMETRIC, level=level)
    assert tuple(e["name"] for e in entries) == names
    assert all(tuple(e) == ("name", "status", "value", "threshold", "mend") for e in entries)
    assert all(e["value"] <= e["threshold"] for e in entries if e["status"] == "passed")
    assert json.loads(json.dumps(entries)) == entries  # plain Python values


def test_a_failure_raises_warns_or_is_written_down():
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        check_operator(TRIANGULAR)
    with pytest.warns(SlqWarning, match="not symmetric") as caught:
        entries = check_operator(TRIANGULAR, on_fail="warn")
    assert (len(caught), caught[0].category, caught[0].filename) == (1, SlqWarning, __file__)
    assert statuses(entries)["symmetry"] == "failed"
    assert "symmetrise it" in entries[-1]["mend"]
    assert entries[-1]["value"] > entries[-1]["threshold"] == 1e-2
    assert check_operator(TRIANGULAR, on_fail=None) == entries  # in silence: warnings are errors here


@pytest.mark.parametrize("on_fail", ["raise", "warn"])
def test_a_warning_warns(on_fail):
    with pytest.warns(SymmetryWarning, match="slightly asymmetric") as caught:
        entries = check_operator(SLIGHT, on_fail=on_fail)
    assert caught[0].filename == __file__
    assert statuses(entries)["symmetry"] == "warned"
    assert check_operator(SLIGHT, on_fail=None) == entries


@pytest.mark.parametrize("A", [TRIANGULAR, SLIGHT], ids=["failure", "warning"])
def test_an_expected_failure_is_silent(A):
    entry = check_operator(A, expected_failures={"symmetry": "upwind scheme"})[-1]
    assert (entry["status"], entry["mend"]) == ("expected", "upwind scheme")


def test_an_expected_failure_that_passes_is_said():
    entry = check_operator(SYMMETRIC, expected_failures={"symmetry": "upwind scheme"})[-1]
    assert entry["status"] == "passed"
    assert entry["mend"] == "passed, though expected to fail (upwind scheme): take it out of expected_failures"


def test_only_what_is_expected_is_forgiven():
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        check_operator(TRIANGULAR, expected_failures={"linearity": "clipped"})


@pytest.mark.parametrize("level", ["quick", "full"])
def test_after_a_product_that_fails_nothing_is_reached(level):
    A = aslinearoperator(lambda x: x[:, 1:], like=np.zeros(N), batched=True)
    entries = check_operator(A, level=level, on_fail=None)
    assert statuses(entries).pop("product") == "failed"
    assert {e["status"] for e in entries[1:]} == {"skipped"}
    assert {e["mend"] for e in entries[1:]} == {"not reached: product comes first"}
    with pytest.raises(ShapeError, match="keeps the shape"):
        check_operator(A, level=level)


def test_the_first_failure_raises_before_the_rest_is_computed():
    calls = []

    def product(x):
        calls.append(len(x))
        return x @ TRIANGULAR

    with pytest.raises(NotSymmetricError, match="not symmetric"):
        check_operator(aslinearoperator(product, like=np.zeros(N), batched=True), level="full")
    assert sum(calls) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "thorough"}, r"level= expects \"quick\" or \"full\", got 'thorough'"),
        ({"on_fail": "ignore"}, r"on_fail= expects \"raise\", \"warn\" or None, got 'ignore'"),
        (
            {"expected_failures": {"symetry": "typo"}},
            r"names no check: \['symetry'\]; the checks are product, .*gradient",
        ),
        ({"expected_failures": ["symmetry"]}, "expects a mapping from the name of a check to the reason, got list"),
        ({"batch_size": 0}, "batch_size= expects an integer >= 1, got 0"),
        ({"batch_size": 2.0}, "batch_size= expects an integer >= 1, got 2.0"),
        ({"rng": "seed"}, "rng= expects None"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        check_operator(SYMMETRIC, **options)


def test_the_seed_decides():
    first, same, other = (check_operator(SYMMETRIC, rng=seed) for seed in (3, 3, 4))
    assert first == same != other
    assert check_operator(SYMMETRIC, rng=np.random.default_rng(5)) == check_operator(
        SYMMETRIC, rng=np.random.default_rng(5)
    )
    check_operator(SYMMETRIC, rng=None)


def test_what_aslinearoperator_takes_is_checked():
    assert statuses(check_operator(scipy.sparse.csr_array(SYMMETRIC)))["symmetry"] == "passed"
    with pytest.raises(OperatorError, match="cannot make an operator of int"):
        check_operator(3)


def quick(A, expected_failures=None, batch_size=5):
    return quick_check(A, Products(A), expected_failures=expected_failures, batch_size=batch_size)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_quick_check_returns_the_accuracy_of_the_products(dtype):
    assert quick(aslinearoperator(SYMMETRIC.astype(dtype))) == (np.finfo(dtype).eps, True)


def test_the_quick_check_returns_noise_and_lost_precision():
    rng, size = np.random.default_rng(0), np.linalg.norm(SYMMETRIC)

    def product(x):  # for x of length one, the error of two products is 1e-3 of ‖A‖/√N in the root mean square
        return x @ SYMMETRIC + 1e-3 * size / N * rng.normal(size=x.shape) / 2**0.5

    A = aslinearoperator(product, like=np.zeros(N), batched=True)
    noise, symmetric = quick(A, expected_failures={"repeatability": "sampled"})
    assert not symmetric
    assert 5e-4 < noise < 2e-3  # one vector of length 0.9 to 1.4, and 24 entries of noise
    single = aslinearoperator(lambda x: x.astype("f4").astype("f8") @ SYMMETRIC, like=np.zeros(N), batched=True)

    def measure():
        return quick_check(single, Products(single), expected_failures=None, batch_size=1)[0]

    with pytest.warns(PrecisionWarning, match="less accurate") as caught:
        assert 1e-8 < measure() < 1e-6
    with open(__file__, encoding="utf-8") as source:  # the warning points at who called `measure`
        assert "< measure() <" in source.readlines()[caught[0].lineno - 1]


def test_the_quick_check_raises_what_is_wrong():
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        quick(aslinearoperator(TRIANGULAR))
    with pytest.raises(ProductError, match="raised ZeroDivisionError"):
        quick(aslinearoperator(lambda x: x * (1 / 0), like=np.zeros(N)))
    with pytest.raises(RequestError, match="names no check"):
        quick(aslinearoperator(TRIANGULAR), expected_failures={"skew": "?"})


def test_warnings_of_the_operator_itself_pass_through():
    def product(x):
        warnings.warn("slow", ResourceWarning, stacklevel=2)
        return x @ SYMMETRIC

    with pytest.warns(ResourceWarning, match="slow"):
        check_operator(aslinearoperator(product, like=np.zeros(N), batched=True))
