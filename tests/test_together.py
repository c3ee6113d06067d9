"""Several operators in step: each measure is that of the operator alone, and each step one call."""

import _thread
import contextlib
import signal
import threading
import traceback
import tracemalloc
import warnings
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

import slq
from slq import _in_step, spectral_measure, spectral_measures
from slq.errors import (
    MemoryForecastError,
    NonFiniteError,
    NotSymmetricError,
    OperatorError,
    OutOfMemoryWarning,
    ProductError,
    RequestError,
    SymmetryWarning,
)

RNG = np.random.default_rng(0)


def symmetric(n):
    A = RNG.normal(size=(n, n))
    return A + A.T


MATRICES = {"large": symmetric(40), "small": symmetric(3), "middle": symmetric(11)}
OPTIONS = {"num_probes": 3, "num_steps": 8}


class Shared(dict):
    """Operators whose products are made together; counts the calls."""

    def __init__(self, matrices, change=None):
        super().__init__({name: slq.aslinearoperator(A) for name, A in matrices.items()})
        self.calls, self._change = [], change

    def matvecs(self, vectors):
        self.calls.append(sorted(vectors))
        products = {name: self[name].matvec(x) for name, x in vectors.items()}
        return products if self._change is None else self._change(len(self.calls), products)


@pytest.fixture(autouse=True)
def _no_thread_survives():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("kind", [dict, Shared])
@pytest.mark.filterwarnings("ignore::slq.errors.ClippedStepsWarning")
def test_each_is_that_of_the_operator_alone(kind, check, batch_size):
    options = {**OPTIONS, "check": check, "batch_size": batch_size}
    found = spectral_measures(kind(MATRICES), **options)
    assert list(found) == list(MATRICES)
    for name, A in MATRICES.items():
        alone = spectral_measure(A, **options)
        np.testing.assert_array_equal(found[name].alpha, alone.alpha)
        np.testing.assert_array_equal(found[name].beta, alone.beta)


@pytest.mark.filterwarnings("ignore::slq.errors.ClippedStepsWarning")
def test_each_step_is_one_call():
    shared = Shared(MATRICES)
    spectral_measures(shared, check=False, **OPTIONS)
    assert shared.calls == [sorted(MATRICES)] * 3 + [["large", "middle"]] * 5  # three steps are all of three dimensions


@pytest.mark.parametrize("kind", [dict, Shared])
def test_progress_counts_all(kind):
    matrices = {name: MATRICES[name] for name in ("large", "middle")}
    seen = []
    spectral_measures(kind(matrices), progress=lambda *at: seen.append(at), **OPTIONS)
    assert seen[-1] == (48, 48)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("kind", [dict, Shared])
def test_warnings_come_once_with_their_place_and_name(kind):
    matrices = {"fine": MATRICES["large"], "skew": MATRICES["middle"].copy()}
    matrices["skew"][0, 1] *= 1 + 1e-4
    with pytest.warns(SymmetryWarning) as record:
        spectral_measures(kind(matrices), **OPTIONS)
    (only,) = record
    assert str(only.message).endswith("(operator 'skew')")
    assert only.filename == __file__


@pytest.mark.parametrize("kind", [dict, Shared])
def test_filters_of_messages_still_match(kind):
    matrices = {"skew": MATRICES["middle"].copy()}
    matrices["skew"][0, 1] *= 1 + 1e-4
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the operator is slightly asymmetric")
        spectral_measures(kind(matrices), **OPTIONS)


def sampler(look):
    """Spheres, after a look at something where the run is."""

    def sample(*args):
        look()
        return slq.sphere(*args)

    return sample


@pytest.mark.parametrize("kind", [dict, Shared])
def test_warnings_of_others_keep_their_text_and_place(kind):
    def look():
        warnings.warn("not ours", RuntimeWarning, stacklevel=1)

    with pytest.warns(RuntimeWarning) as record:
        spectral_measures(kind({"a": MATRICES["middle"]}), probes=sampler(look), **OPTIONS)
    assert {str(w.message) for w in record} == {"not ours"}
    assert {w.lineno for w in record} == {look.__code__.co_firstlineno + 1}


def test_runs_have_the_settings_of_the_caller():
    seen = []
    with np.errstate(under="raise", over="call"):
        spectral_measures(
            Shared({"a": MATRICES["middle"]}), probes=sampler(lambda: seen.append(np.geterr())), **OPTIONS
        )
    assert (seen[0]["under"], seen[0]["over"]) == ("raise", "call")


def test_runs_on_jax_have_the_precision_of_the_caller():
    jax = pytest.importorskip("jax")
    enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with enable_x64(not jax.config.jax_enable_x64):
        matrices = {name: jax.numpy.asarray(MATRICES[name], dtype=float) for name in ("large", "middle")}
        found = spectral_measures(Shared(matrices), **OPTIONS)
        for name, matrix in matrices.items():
            np.testing.assert_array_equal(found[name].alpha, spectral_measure(matrix, **OPTIONS).alpha)


def test_runs_on_devices_have_the_stream_of_the_caller(monkeypatch):
    """Streams are kept for each thread: on another, a run could read a product before it is made."""
    entered = []

    @contextlib.contextmanager
    def on(what):
        entered.append(what)
        yield

    device = SimpleNamespace(type="cuda")
    cuda = SimpleNamespace(current_stream=lambda at: f"stream of {at.type}", stream=on)
    monkeypatch.setitem(_in_step.sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(_in_step, "library_name", lambda _: "torch")
    with _in_step._surroundings(SimpleNamespace(device=device))():
        assert entered == ["stream of cuda"]
    cuda = SimpleNamespace(get_current_stream=lambda: on("stream"))
    monkeypatch.setitem(_in_step.sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(_in_step, "library_name", lambda _: "cupy")
    with _in_step._surroundings(SimpleNamespace(device=on("device")))():
        assert entered[1:] == ["device", "stream"]


class Stop(BaseException):
    """As KeyboardInterrupt."""


@pytest.mark.parametrize("kind", [dict, Shared])
@pytest.mark.parametrize("error", [Stop, ValueError])
@pytest.mark.parametrize("place", ["progress", "probes"])
def test_what_is_raised_in_a_run_reaches_the_caller(kind, error, place):
    def look(*_):
        raise error("here")

    options = {"progress": look} if place == "progress" else {"probes": sampler(look)}
    with pytest.raises(error, match="here"):
        spectral_measures(kind({name: MATRICES[name] for name in ("large", "middle")}), **options, **OPTIONS)


def test_progress_is_called_in_the_thread_of_the_caller():
    threads = set()
    spectral_measures(
        Shared({"a": MATRICES["large"]}), progress=lambda *_: threads.add(threading.current_thread()), **OPTIONS
    )
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize(
    ("products", "words"),
    [
        (
            lambda _, p: p.popitem() and p,
            r"matvecs returned \['large'\] for blocks of \['large', 'middle'\]; expected",
        ),
        (lambda _, p: list(p.values()), r"matvecs returned list for blocks of"),
        (lambda _, p: {**p, "large": p["large"][:1]}, r"returned shape \(1, 40\) for an input of shape \(3, 40\)"),
    ],
)
def test_products_that_are_none(products, words):
    shared = Shared({name: MATRICES[name] for name in ("large", "middle")}, products)
    with pytest.raises(OperatorError, match=words):
        spectral_measures(shared, check=False, **OPTIONS)


def test_operators_have_names():
    with pytest.raises(RequestError, match="operators= expects a mapping from names to operators, got list"):
        spectral_measures([MATRICES["large"]])


def test_shared_products_that_run_out_of_memory():
    """All runs go on with half of their probes; what failed is gone by then."""
    matrices = {name: MATRICES[name] for name in ("large", "middle")}
    failed = []

    class Limited(Shared):
        def matvecs(self, vectors):
            assert not [ref for ref in failed if ref() is not None]
            if sum(map(len, vectors.values())) > 4:
                failed.extend(weakref.ref(x if x.base is None else x.base) for x in vectors.values())
                raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
            return super().matvecs(vectors)

    options = {"num_probes": 5, "num_steps": 8, "check": False}
    with pytest.warns(OutOfMemoryWarning, match="batch_size=2.*operator '(large|middle)'") as record:
        found = spectral_measures(Limited(matrices), **options)
    assert len(record) == len(failed) == 2
    for name, A in matrices.items():
        np.testing.assert_array_equal(found[name].alpha, spectral_measure(A, batch_size=2, **options).alpha)


@pytest.mark.parametrize("kind", [MemoryError, RuntimeError])
def test_shared_products_that_run_out_of_memory_are_let_go_of(kind):
    """A run that begins again holds nothing of what failed, though the others have not yet heard of the error."""
    failed = {}

    class Limited(Shared):
        def matvecs(self, vectors):
            own = np.zeros(10)
            if max(map(len, vectors.values())) > 2:
                failed.update({x.shape[1]: weakref.ref(x if x.base is None else x.base) for x in vectors.values()})
                failed["matvecs"] = weakref.ref(own)
                raise kind("RESOURCE_EXHAUSTED: out of memory")
            return super().matvecs(vectors)

    held = []

    def draw(seed, ids, index, n, like):
        held.extend(what for what in (n, "matvecs") if what in failed and failed[what]() is not None)
        return slq.gaussian(seed, ids, index, n, like)

    matrices = {name: MATRICES[name] for name in ("large", "middle")}
    with pytest.warns(OutOfMemoryWarning):
        spectral_measures(Limited(matrices), num_probes=5, num_steps=8, check=False, probes=draw)
    assert set(failed) == {40, 11, "matvecs"}
    assert not held


def bad_in(name, at, value):
    """From call `at` on, the products of one operator are not finite, or the call raises."""

    def change(call, products):
        if call >= at and isinstance(value, Exception):
            raise value
        if call >= at and name in products:
            products[name] = products[name] * value
        return products

    return change


def test_failure_of_one_keeps_the_others():
    matrices = {name: MATRICES[name] for name in ("large", "middle")}
    shared = Shared(matrices, bad_in("large", 5, np.nan))
    with pytest.raises(NonFiniteError) as caught:
        spectral_measures(shared, check=False, **OPTIONS)
    assert caught.value.__notes__ == ["in the run of operator 'large'"]
    kept = caught.value.partial
    assert list(kept) == ["middle"]
    np.testing.assert_array_equal(
        kept["middle"].alpha, spectral_measure(matrices["middle"], check=False, **OPTIONS).alpha
    )
    ordinary = {"first": MATRICES["large"], "wrong": np.triu(MATRICES["middle"]), "last": MATRICES["middle"]}
    with pytest.raises(NotSymmetricError) as caught:
        spectral_measures(ordinary, **OPTIONS)
    assert list(caught.value.partial) == ["first", "last"]


def test_failure_of_the_shared_product():
    matrices = {name: MATRICES[name] for name in ("large", "middle")}
    with pytest.raises(ProductError, match=r"step 4 raised ValueError.*disk gone") as caught:
        spectral_measures(Shared(matrices, bad_in(None, 5, ValueError("disk gone"))), check=False, **OPTIONS)
    assert {name: m.num_steps for name, m in caught.value.partial.items()} == {"large": 4, "middle": 4}
    assert caught.value.__notes__[0] == "in the run of operator 'large'"
    assert caught.value.__notes__[1].startswith("in the run of operator 'middle', which failed too: ProductError: ")
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__cause__.__traceback__)]
    assert frames.count("_ask") == 1  # those of one run, not of all


def test_interrupt_ends_all_runs():
    def change(call, products):
        if call == 4:
            raise KeyboardInterrupt
        return products

    with pytest.raises(KeyboardInterrupt):
        spectral_measures(Shared({name: MATRICES[name] for name in ("large", "middle")}, change), **OPTIONS)


def test_interrupt_while_a_run_computes_ends_all_runs():
    """The signal comes while the calling thread waits for a run."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in jobs of the background
    try:
        with pytest.raises(KeyboardInterrupt):
            spectral_measures(
                Shared({name: MATRICES[name] for name in ("large", "middle")}),
                probes=sampler(_thread.interrupt_main),
                **OPTIONS,
            )
    finally:
        signal.signal(signal.SIGINT, before)


def test_warning_as_error_ends_all_runs():
    matrices = {"skew": MATRICES["middle"].copy(), "fine": MATRICES["large"]}
    matrices["skew"][0, 1] *= 1 + 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SymmetryWarning):
            spectral_measures(Shared(matrices), **OPTIONS)


def test_memory_of_all_is_forecast(monkeypatch):
    matrices = {name: MATRICES[name] for name in ("large", "middle")}
    alone = max(slq.memory_forecast(A, **OPTIONS) for A in matrices.values())
    monkeypatch.setattr("slq._memory.available", lambda _: alone)
    shared = Shared(matrices)
    with pytest.raises(MemoryForecastError, match=r"these fit: .*batch_size=1 \(.*one operator after the other"):
        spectral_measures(shared, **OPTIONS)
    with pytest.raises(MemoryForecastError):
        spectral_measures(shared, batch_size=10, **OPTIONS)
    assert not shared.calls
    spectral_measures(dict(matrices), **OPTIONS)  # one after the other


@pytest.mark.parametrize("options", [{"probes": slq.steinhaus}, {"probes": np.eye(40)[:9], "num_probes": 1}])
def test_probes_of_other_kinds_take_more(options, monkeypatch):
    shared = Shared({"a": MATRICES["large"], "b": MATRICES["large"]})
    plain = sum(slq.memory_forecast(A, **OPTIONS) for A in shared.values())
    monkeypatch.setattr("slq._memory.available", lambda _: plain)
    with pytest.raises(MemoryForecastError):
        spectral_measures(shared, **{**OPTIONS, **options})
    assert not shared.calls


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_the_peak_is_the_forecast(reorthogonalize):
    class Diagonals(dict):
        def matvecs(self, vectors):
            return {name: x * d[: x.shape[1]] for name, x in vectors.items()}

    d = np.geomspace(1e-2, 1.0, 200_000)
    operators = Diagonals({n: slq.aslinearoperator(lambda x: x, like=d[:n], batched=True) for n in (200_000, 150_000)})
    options = {"num_probes": 2, "num_steps": 6, "reorthogonalize": reorthogonalize, "check": False}
    spectral_measures(operators, **options)  # loads what is loaded when needed
    tracemalloc.start()
    try:
        spectral_measures(operators, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    forecast = sum(slq.memory_forecast(A, **options) for A in operators.values())
    # The forecast is a bound, as NumPy's recurrence needs no third vector at all times: see tests/test_memory.py.
    assert 0.6 * forecast < peak < 1.05 * forecast


def test_no_operators():
    assert spectral_measures({}) == spectral_measures(Shared({})) == {}
