"""slq/_memory.py: what a run will take, what there is, and what a run really takes."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

import slq
from slq import _host_vectors, _memory
from slq._products import complexified
from slq.errors import MemoryForecastError, RequestError

N = 10**6
D = np.geomspace(1e-2, 1.0, N)
DIAGONAL = slq.aslinearoperator(lambda x: x * D, like=D, batched=True)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("options", "vectors"),
    [
        ({"num_probes": 1, "reorthogonalize": False}, 4),
        ({"num_probes": 3, "reorthogonalize": False}, 4),
        ({"num_probes": 3, "reorthogonalize": False, "batch_size": 1}, 4),
        ({"num_probes": 1, "reorthogonalize": 3}, 4 + 3),
        ({"num_probes": 1, "reorthogonalize": True}, 4 + 8),
        ({"num_probes": 1, "reorthogonalize": True, "basis_dtype": "float32"}, 4 + 8 / 2 + 1),
        ({"num_probes": 1, "reorthogonalize": True, "basis_dtype": "bfloat16"}, 4 + 8 / 4 + 1),
    ],
)
def test_the_peak_is_the_forecast(options, vectors, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(_host_vectors, "compiled", lambda: None)
    rows = options.get("batch_size", options["num_probes"])
    slq.spectral_measure(DIAGONAL, num_probes=1, num_steps=2, check=False)  # loads what is loaded when needed
    tracemalloc.start()
    try:
        slq.spectral_measure(DIAGONAL, num_steps=8, check=False, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A basis in another dtype is widened piece by piece; for such long vectors a piece is one vector.
    assert peak <= 1.05 * rows * N * 8 * vectors
    keep, size = {True: 8, False: 0}.get(options["reorthogonalize"], options["reorthogonalize"]), 8
    size = {"float32": 4, "bfloat16": 2}.get(options.get("basis_dtype"), 8)
    forecast = _memory.forecast(rows, N, keep, 8, size)
    assert peak <= 1.05 * forecast + 8 * N * ("basis_dtype" in options)
    assert forecast <= 1.5 * peak  # it does not refuse what would fit


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_check_before_the_run_keeps_to_its_forecast(batch_size):
    slq.check_operator(DIAGONAL, batch_size=batch_size)
    tracemalloc.start()
    try:
        slq.check_operator(DIAGONAL, batch_size=batch_size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.6 * _memory.forecast_check(batch_size, N, 8) < peak < 1.05 * _memory.forecast_check(batch_size, N, 8)


SHORT = 200_000


def diagonal(n=SHORT):
    d = D[:n]
    return slq.aslinearoperator(lambda x: x * d, like=d, batched=True)


class Hungry:
    """Takes five vectors for each that it multiplies, and says so."""

    shape, like = (SHORT, SHORT), np.empty(0)

    def matvec(self, x):
        return np.stack([x] * 5).sum(axis=0) * D[:SHORT]

    def workspace(self, rows):
        return 5 * rows * SHORT * 8


MADE = {
    "plain": diagonal,
    "shift": lambda: slq.shift(diagonal(), 1.0),
    "shift by a diagonal": lambda: slq.shift(diagonal(), D[:SHORT]),
    "scale": lambda: slq.scale(diagonal(), 2.0),
    "add": lambda: slq.add(diagonal(), diagonal(), diagonal()),
    "precondition": lambda: slq.precondition(diagonal(), D[:SHORT]),
    "restrict to a slice": lambda: slq.restrict(diagonal(), slice(SHORT // 2)),
    "restrict to integers": lambda: slq.restrict(diagonal(), np.arange(SHORT)[::2]),
    "deflate": lambda: slq.deflate(diagonal(), np.eye(2, SHORT)),
    "gram": lambda: slq.gram(diagonal()),
    "generalized": lambda: slq.generalized(diagonal(), D[:SHORT]),
    "complex vectors": lambda: complexified(diagonal()),
    "hungry": Hungry,
    "hungry, shifted": lambda: slq.shift(Hungry(), 1.0),
    "hungry, added": lambda: slq.add(diagonal(), Hungry()),
    "hungry, restricted": lambda: slq.restrict(Hungry(), slice(SHORT // 2)),
    "hungry, deflated": lambda: slq.deflate(Hungry(), np.eye(2, SHORT)),
    "hungry, complex": lambda: complexified(Hungry()),
}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize(
    "options",
    [
        {"num_probes": 2, "reorthogonalize": False, "check": False},
        {"num_probes": 3, "reorthogonalize": False, "batch_size": 1},
        {"num_probes": 6, "reorthogonalize": True},
    ],
    ids=["vectors", "check", "basis"],
)
def test_the_peak_is_what_memory_forecast_says(kind, options):
    operator = MADE[kind]()
    slq.spectral_measure(operator, num_probes=1, num_steps=2)  # loads what is loaded when needed
    tracemalloc.start()
    try:
        slq.spectral_measure(operator, num_steps=5, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    forecast = slq.memory_forecast(operator, num_steps=5, **options)
    assert peak <= 1.05 * forecast
    assert forecast <= 1.5 * peak  # measured 1.43 at most: what is not taken at once, or not always


def test_forecasts_of_nothing_are_refused():
    for name in ("num_probes", "num_steps", "batch_size"):
        with pytest.raises(RequestError, match=f"{name}= expects an integer >= 1, got 0"):
            slq.memory_forecast(np.eye(3), **{name: 0})
    assert slq.memory_forecast(np.eye(3), batch_size=99) == slq.memory_forecast(np.eye(3))


def test_both_sides_of_a_bidiagonalisation_count_the_workspace(monkeypatch):
    needed = []
    monkeypatch.setattr(slq._batches, "require", lambda *a: needed.append(a[1]) or _stop())
    for operator in (diagonal(), Hungry()):
        operator.rmatvec = operator.matvec
        with pytest.raises(RequestError, match="stopped"):
            slq.singular_measure(operator, num_probes=2, num_steps=5)
    assert needed[1] - needed[0] == 2 * 5 * SHORT * 8


def test_what_does_not_fit_is_refused_before_the_first_product(monkeypatch):
    monkeypatch.setattr(_memory, "_host_memory", lambda: 400 * 10**6)
    products = []
    operator = slq.aslinearoperator(lambda x: (products.append(1), x)[1], like=D, batched=True)
    with pytest.raises(MemoryForecastError, match=r"needs about 6\.72 GB, but 400 MB are free; these fit: ") as caught:
        slq.spectral_measure(operator, num_probes=10, num_steps=80)
    assert not products
    text = str(caught.value)
    assert "reorthogonalize=False (320 MB)" in text
    assert "batch_size=1, reorthogonalize=False, check=False (32 MB)" in text
    assert "batch_size=1 (672 MB)" not in text  # would not fit either
    assert isinstance(caught.value, MemoryError)
    # What it names, works.
    slq.spectral_measure(operator, num_probes=10, num_steps=2, batch_size=1, reorthogonalize=False, check=False)


def test_a_request_of_any_size_meets_the_forecast():
    with pytest.raises(MemoryForecastError, match=r"the run needs about [\d.e+]+ TB"):
        slq.spectral_measure(DIAGONAL, num_probes=10**12, num_steps=10**3)
    with pytest.raises(MemoryForecastError, match="no option fits: the vectors alone are too large"):
        slq.spectral_measure(DIAGONAL, num_probes=10**12, num_steps=5, reorthogonalize=False, batch_size=10**11)
    with pytest.raises(MemoryForecastError, match="no option fits"):  # for the coefficients
        slq.spectral_measure(np.eye(3), num_probes=10**12, num_steps=3, batch_size=1)


def test_free_memory_is_that_of_the_container_and_the_machine(tmp_path, monkeypatch):
    free = _memory.available(D)
    assert free is None or free > 10**6
    files = [tmp_path / name for name in ("max", "current", "stat")]
    for file, text in zip(files, ("1000000", "400000", "anon 1\ninactive_file 150000\n"), strict=True):
        file.write_text(text)
    monkeypatch.setattr(_memory, "_CGROUPS", (tuple(map(str, files)),))
    assert _memory._host_memory() == 750_000
    files[0].write_text("max\n")
    assert _memory._host_memory() != 750_000
    monkeypatch.setattr(_memory, "_CGROUPS", ())
    monkeypatch.setattr(_memory, "_table", lambda _: {})
    assert _memory._host_memory() > 10**6  # physical memory
    monkeypatch.setattr(_memory.os, "sysconf_names", {})
    assert _memory._host_memory() is None
    _memory.require(D, 10**18, {})  # nothing tells: nothing is refused


def test_devices_are_asked_for_their_own_memory(monkeypatch):
    cuda = SimpleNamespace(type="cuda")
    torch = SimpleNamespace(cuda=SimpleNamespace(mem_get_info=lambda _: (123, 456)))
    monkeypatch.setitem(_memory.sys.modules, "torch", torch)
    for library, like, expected in (
        ("torch", SimpleNamespace(device=cuda), 123),
        ("cupy", SimpleNamespace(device=SimpleNamespace(mem_info=(7, 9))), 7),
        ("jax", SimpleNamespace(sharding=SimpleNamespace(addressable_devices={_Device()})), 60),
    ):
        monkeypatch.setattr(_memory, "library_name", lambda _, library=library: library)
        assert _memory.available(like) == expected


class _Device:
    def memory_stats(self):
        return {"bytes_limit": 100, "bytes_in_use": 40}


def test_sizes_are_readable():
    assert [_memory._readable(s) for s in (5, 5e3, 5.25e6, 5e9, 5e12, 5e17)] == [
        "5 B", "5 kB", "5.25 MB", "5 GB", "5 TB", "5e+05 TB",
    ]  # fmt: skip


def test_the_local_part_of_a_vector_is_what_counts(monkeypatch):
    class Local:
        shape, like, index = (10**9, 10**9), np.empty(0), slice(0, 1000)

        def matvec(self, x):
            return x

        def vecdot(self, x, y):
            return (x * y).sum(axis=-1)

    needed = []
    monkeypatch.setattr(slq._batches, "require", lambda *a: needed.append(a[1]) or _stop())
    for index in (slice(0, 1000), np.arange(1000)):
        Local.index = index
        with pytest.raises(RequestError, match="stopped"):
            slq.spectral_measure(Local(), num_probes=2, num_steps=5, reorthogonalize=False, check=False)
    assert needed == [2 * 1000 * 4 * 8 + 2 * 5 * 16] * 2  # vectors and coefficients


def _stop():
    raise RequestError("stopped")


def test_singular_values_need_both_sides_and_are_offered_what_they_take(monkeypatch):
    monkeypatch.setattr(_memory, "_host_memory", lambda: 10**6)
    tall = np.ones((3000, 100))
    with pytest.raises(MemoryForecastError, match=r"needs about 20\.8 MB, but 1 MB are free; these fit: ") as caught:
        slq.singular_measure(tall, num_probes=10, num_steps=80)
    assert "basis_dtype" not in str(caught.value)
    assert "check" not in str(caught.value)
    assert "batch_size=1, reorthogonalize=False (112 kB)" in str(caught.value)
    slq.singular_measure(tall, num_probes=10, num_steps=80, batch_size=1, reorthogonalize=False)
    with pytest.raises(MemoryForecastError, match="no option fits"):
        slq.singular_measure(np.ones((10**5, 2)), num_steps=2)
