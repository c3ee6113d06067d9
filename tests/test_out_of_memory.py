"""Memory that runs out in the middle: fewer probes at a time, the same numbers."""

import numpy as np
import pytest

import slq
from slq._memory import is_out_of_memory
from slq.errors import MemoryForecastError, OutOfMemoryWarning, ProductError

A = np.diag(np.arange(1.0, 31.0))


class OutOfMemoryError(RuntimeError):
    """As torch and CuPy call theirs."""


class XlaRuntimeError(RuntimeError):
    """As JAX calls all of its errors."""


class Limited:
    """Multiplies at most so many rows, after some calls that still had memory."""

    shape, like = A.shape, np.empty(0)

    def __init__(self, rows, error, calls=0):
        self.rows, self.error, self.calls = rows, error, calls

    def matvec(self, x):
        self.calls -= 1
        if len(x) > self.rows and self.calls < 0:
            raise self.error
        return x @ A


ERRORS = [
    MemoryError("no"),
    OutOfMemoryError("CUDA out of memory"),
    XlaRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("calls", [0, 5])
def test_probes_run_again_in_smaller_batches(error, calls):
    exact = slq.spectral_measure(A, num_probes=10, num_steps=6, batch_size=2)
    operator = Limited(2, error, calls)
    with pytest.warns(OutOfMemoryWarning) as w:
        found = slq.spectral_measure(operator, num_probes=10, num_steps=6)
    assert [str(x.message) for x in w] == [
        f"{before} probes together ran out of memory: going on with batch_size={after}, from the same probe; pass that "
        "to begin with"
        for before, after in ((10, 5), (5, 2))
    ]
    assert {x.filename for x in w} == {__file__}
    assert found.probe_ids == exact.probe_ids == tuple(range(10))
    np.testing.assert_array_equal(found.alpha, exact.alpha)
    np.testing.assert_array_equal(found.beta, exact.beta)


def test_what_is_done_is_not_done_again():
    """Batches that ended before memory ran out stay."""
    operator = Limited(1, ERRORS[1], calls=8)  # the first of three batches of two, of six steps, without a check
    seen = []
    with pytest.warns(OutOfMemoryWarning, match="2 probes together"):
        found = slq.spectral_measure(
            operator, num_probes=6, num_steps=6, batch_size=2, check=False, progress=lambda *at: seen.append(at)
        )
    assert found.probe_ids == tuple(range(6))
    exact = slq.spectral_measure(A, num_probes=6, num_steps=6)
    np.testing.assert_allclose(found.nodes, exact.nodes, rtol=1e-12)


def test_one_probe_is_too_many():
    with pytest.raises(ProductError) as caught, pytest.warns(OutOfMemoryWarning):
        slq.spectral_measure(Limited(0, ERRORS[1]), num_probes=2, num_steps=6, check=False)
    assert "pass reorthogonalize=False or an integer" in caught.value.__notes__[0]
    with pytest.raises(ProductError):
        slq.spectral_measure(Limited(0, ERRORS[1]), num_probes=2, num_steps=6)  # found by the check
    with pytest.raises(MemoryError, match="no"):
        slq.spectral_measure(Limited(0, ERRORS[0]), num_probes=2, num_steps=6)


def test_other_errors_pass():
    with pytest.raises(ProductError, match="ValueError"):
        slq.spectral_measure(Limited(2, ValueError("else")), num_probes=3, num_steps=6, check=False)


def test_what_says_that_memory_is_out():
    assert all(is_out_of_memory(error) for error in ERRORS)
    chained = ProductError("failed")
    chained.__cause__ = ERRORS[1]
    assert is_out_of_memory(chained)
    assert is_out_of_memory(MemoryForecastError("x"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(None)


class WithWorkspace(Limited):
    def workspace(self, rows):
        return 10_000 * rows


def test_forecast_counts_the_workspace(monkeypatch):
    plain, more = Limited(10, ERRORS[0]), WithWorkspace(10, ERRORS[0])
    options = {"num_probes": 8, "num_steps": 6}
    own = slq.memory_forecast(more, **options) - slq.memory_forecast(plain, **options)
    assert own == 80_000
    assert slq.memory_forecast(more, batch_size=2, **options) < slq.memory_forecast(more, **options) - 50_000
    monkeypatch.setattr("slq._memory.available", lambda _: 60_000)
    slq.spectral_measure(plain, **options)
    with pytest.raises(MemoryForecastError, match=r"these fit: batch_size=1 \("):
        slq.spectral_measure(more, **options)
