"""Memory that runs out in the middle: fewer probes at a time, the same numbers."""

import gc
import weakref

import numpy as np
import pytest

import slq
from slq._memory import is_out_of_memory
from slq.errors import MemoryForecastError, OutOfMemoryError, OutOfMemoryWarning, ProductError

A = np.diag(np.arange(1.0, 31.0))


class DeviceError(RuntimeError):
    """Called as torch and CuPy call theirs."""


DeviceError.__name__ = "OutOfMemoryError"


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
            raise type(self.error)(*self.error.args)  # a new one, which holds no frames of earlier calls
        return x @ A


ERRORS = [
    MemoryError("no"),
    DeviceError("CUDA out of memory"),
    XlaRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000 bytes"),
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


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_one_probe_is_too_many(error):
    options = {"num_probes": 2, "num_steps": 6}
    words = rf"\({type(error).__name__}: .*\)"
    with (
        pytest.raises(OutOfMemoryError, match=rf"with one probe alone {words}; pass reortho.*'host'.*microbatch=") as e,
        pytest.warns(OutOfMemoryWarning),
    ):
        slq.spectral_measure(Limited(0, error), check=False, **options)
    assert isinstance(e.value, ProductError)
    assert isinstance(e.value, MemoryError)
    assert type(error) in (type(e.value.__cause__), type(e.value.__cause__.__cause__))
    assert e.value.partial is None
    with pytest.raises(OutOfMemoryError, match=rf"in the check, with one vector at a time {words}; pass check=False"):
        slq.spectral_measure(Limited(0, error), **options)


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_what_ended_before_is_kept(error):
    class Later(Limited):
        def matvec(self, x):
            if self.calls == 0:
                self.rows = 0
            return super().matvec(x)

    options = {"num_probes": 4, "num_steps": 6, "batch_size": 2, "check": False}
    words = r"what was computed before is kept in `\.partial`"
    with pytest.raises(OutOfMemoryError, match=words) as caught, pytest.warns(OutOfMemoryWarning):
        slq.spectral_measure(Later(9, error, calls=9), **options)
    assert caught.value.step == 0  # of the run of one probe
    assert caught.value.partial.probe_ids == (0, 1)
    np.testing.assert_array_equal(caught.value.partial.alpha, slq.spectral_measure(A, **options).alpha[:2])


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("check", [True, False])
def test_memory_is_free_before_probes_run_again(error, check):
    """No block of what failed is held by the error, its frames or its context when the next is multiplied."""
    alive: list[tuple[int, weakref.ref]] = []

    class Watched(Limited):
        def matvec(self, x):
            assert not [rows for rows, ref in alive if rows > self.rows and ref() is not None and len(x) < rows]
            alive.append((len(x), weakref.ref(x if x.base is None else x.base)))
            return super().matvec(x)

    gc.disable()  # what is free is so by count of references, or as the run collects it
    try:
        with pytest.warns(OutOfMemoryWarning):
            slq.spectral_measure(Watched(2, error, calls=1), num_probes=9, num_steps=6, check=check)
    finally:
        gc.enable()
    assert {rows for rows, _ in alive} >= {9, 4, 2}


def test_bidiagonalisation_goes_on_too():
    class Rectangular(Limited):
        def rmatvec(self, x):
            return self.matvec(x)

    with pytest.warns(OutOfMemoryWarning, match="4 probes together ran out of memory: going on with batch_size=2"):
        found = slq.singular_measure(Rectangular(2, ERRORS[1]), num_probes=4, num_steps=6)
    exact = slq.singular_measure(Rectangular(9, ERRORS[1]), num_probes=4, num_steps=6, batch_size=2)
    np.testing.assert_array_equal(found.alpha, exact.alpha)
    with pytest.raises(OutOfMemoryError, match="or an integer, or let the operator"):
        slq.singular_measure(Rectangular(0, ERRORS[1]), num_probes=1, num_steps=6)


def test_check_operator_writes_down_what_ran_out():
    entries = slq.check_operator(Limited(0, ERRORS[0]), on_fail=None)
    assert entries[0]["status"] == "failed"
    assert entries[0]["mend"].startswith("pass check=False")
    assert slq.check_operator(Limited(1, ERRORS[0])) == slq.check_operator(A, batch_size=1)


def test_libraries_say_so_in_these_words():
    """More than any address space holds, asked of each library itself."""
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**16)
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as caught:
        np.empty(10**17)
    assert is_out_of_memory(caught.value)
    jnp = pytest.importorskip("jax.numpy")
    with pytest.raises(RuntimeError) as caught:
        jnp.zeros(10**14, dtype="float32").block_until_ready()
    assert is_out_of_memory(caught.value)


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
    assert not is_out_of_memory(ValueError("RESOURCE_EXHAUSTED"))
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
