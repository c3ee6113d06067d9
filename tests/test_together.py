"""Several operators in step: each measure is that of the operator alone, and each step one call."""

import threading
import warnings

import numpy as np
import pytest

import slq
from slq import spectral_measure, spectral_measures
from slq.errors import MemoryForecastError, NonFiniteError, NotSymmetricError, ProductError, SymmetryWarning

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


def test_warnings_come_once_with_their_place():
    matrices = {"fine": MATRICES["large"], "skew": MATRICES["middle"].copy()}
    matrices["skew"][0, 1] *= 1 + 1e-4
    with pytest.warns(SymmetryWarning) as record:
        spectral_measures(Shared(matrices), **OPTIONS)
    assert [w.category for w in record].count(SymmetryWarning) == 1
    assert record[0].filename == __file__


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


def test_interrupt_ends_all_runs():
    def change(call, products):
        if call == 4:
            raise KeyboardInterrupt
        return products

    with pytest.raises(KeyboardInterrupt):
        spectral_measures(Shared({name: MATRICES[name] for name in ("large", "middle")}, change), **OPTIONS)


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
    with pytest.raises(MemoryForecastError):
        spectral_measures(shared, **OPTIONS)
    assert not shared.calls
    spectral_measures(dict(matrices), **OPTIONS)  # one after the other


def test_no_operators():
    assert spectral_measures({}) == spectral_measures(Shared({})) == {}
