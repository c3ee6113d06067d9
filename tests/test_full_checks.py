"""slq/_full_checks.py: each check has an operator that passes it and one that fails it."""

import re
import threading
import tracemalloc

import numpy as np
import pytest

from slq import check_operator
from slq._full_checks import FULL
from slq.errors import AliasedOutputError, NotRepeatableError, OperatorError, ProductError
from tests.problems import N, indefinite, problem

SYMMETRIC = problem(indefinite(N)).matrix


class Matrix:
    """A well-behaved operator, which the failing ones derive from."""

    shape, like = (N, N), np.empty(0)

    def __init__(self):
        self.matrix = SYMMETRIC

    def matvec(self, x):
        return x @ self.matrix


class SizeMatters(Matrix):
    def matvec(self, x):  # as it should be in the blocks of five that "quick" makes
        return x @ SYMMETRIC * (1.0 if len(x) == 5 else 1 + 1e-3 * len(x))


class PlaceMatters(Matrix):
    def matvec(self, x):  # in blocks of three only, which "quick" does not make
        return x @ SYMMETRIC * (1.0 if len(x) != 3 else np.array([[1.0], [1.0], [1.001]]))


class Contiguous(Matrix):
    def matvec(self, x):  # reads the memory, whatever the strides
        base = x if x.base is None or x.flags.c_contiguous else x.base.reshape(-1)[: x.size].reshape(x.shape)
        return base @ SYMMETRIC


class RefusesStrides(Matrix):
    def matvec(self, x):
        if not x.flags.c_contiguous:
            raise ValueError("the array is not contiguous")
        return x @ SYMMETRIC


class CachesByIdentity(Matrix):
    def __init__(self):
        super().__init__()
        self.known = {}

    def matvec(self, x):
        found = self.known.get(id(x))
        self.known = {id(x): (x, x @ SYMMETRIC if found is None or found[0] is not x else found[1])}
        return self.known[id(x)][1].copy()


class WritesIntoEarlierInput(Matrix):
    before = None

    def matvec(self, x):
        y = x @ SYMMETRIC
        if self.before is not None and len(x) == 3:
            self.before[...] = 0.0
        self.before = x
        return y


class Drifts(Matrix):
    calls = 0

    def matvec(self, x):
        self.calls += len(x) == 1  # "quick" multiplies five at once
        return x @ SYMMETRIC * (1 + 1e-3 * max(self.calls - 4, 0))


class Hoards(Matrix):
    kept = ()

    def matvec(self, x):
        self.kept = (*self.kept, np.ones(10_000))
        return x @ SYMMETRIC


class ForgetsWhenPickled(Matrix):
    def __getstate__(self):
        return {"matrix": np.eye(N)}


class Unpicklable(Matrix):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class SharesBuffer(Matrix):
    """Both threads write into one buffer before either reads it; alone, the wait runs out."""

    def __init__(self):
        super().__init__()
        self.buffer = np.empty((5, N))
        self.both = threading.Barrier(2)

    def matvec(self, x):
        if threading.current_thread() is threading.main_thread():
            return x @ SYMMETRIC
        out = self.buffer[: len(x)]
        self.both.wait(10)
        np.matmul(x, SYMMETRIC, out=out)
        self.both.wait(10)
        return out.copy()


class Quartic(Matrix):
    """The Hessian of ½ θᵀ S θ + Σ θ⁴/4 at θ = 0.3, of which the product knows all or only the first part."""

    def __init__(self, quartic=True):
        super().__init__()
        self.quartic = quartic

    def gradient_at(self, displacement):
        theta = 0.3 + displacement
        return theta @ SYMMETRIC + theta**3

    def matvec(self, x):
        return x @ SYMMETRIC + (3 * 0.3**2 * x if self.quartic else 0.0)


class Linear(Quartic):
    """A loss without curvature; `slope` is its gradient, `hidden` what a cut graph hides."""

    def __init__(self, hidden=0.0):
        super().__init__()
        self.hidden = hidden

    def gradient_at(self, displacement):
        rounding = np.spacing(0.1) * np.round(np.sin(1e9 * displacement))
        return 0.1 + rounding + self.hidden * displacement

    def matvec(self, x):
        return np.zeros_like(x)


class Buffered(Matrix):
    def __init__(self):
        super().__init__()
        self.buffer = np.empty((5, N))

    def matvec(self, x):
        return np.matmul(x, SYMMETRIC, out=self.buffer[: len(x)])


FAILING = [
    (
        SizeMatters(),
        "rows",
        OperatorError,
        "the product of a block is not that of its rows: they differ by .*; a block",
    ),
    (PlaceMatters(), "order", OperatorError, "depend on their order: they differ by .*; treat all rows alike"),
    (Contiguous(), "strides", OperatorError, "the product of a strided view is not that .*; make the input contiguous"),
    (RefusesStrides(), "strides", ProductError, "raised ValueError for a block .* the array is not contiguous"),
    (CachesByIdentity(), "buffers", OperatorError, "a buffer with new contents did not give .*; do not recognise"),
    (
        WritesIntoEarlierInput(),
        "buffers",
        AliasedOutputError,
        "wrote into the input of an earlier one; let it keep a copy",
    ),
    (Drifts(), "state", NotRepeatableError, "products of one vector drift: within 8 calls by .*; remove what changes"),
    (Hoards(), "memory", OperatorError, r"memory grows by 8.*e\+04 bytes with each product, .*; let go"),
    (ForgetsWhenPickled(), "pickling", OperatorError, "differently once it has been pickled: .*; let __getstate__"),
    (SharesBuffer(), "threads", OperatorError, "two threads that multiply at once .*; give each call buffers"),
    (Quartic(quartic=False), "gradient", OperatorError, "not the derivative of the gradient: .*; look for detached"),
    (
        Linear(hidden=1.0),
        "gradient",
        OperatorError,
        "not the derivative of the gradient: finite differences differ by 1",
    ),
]


# Faults that more than one check meets, and rightly.
ALSO = {PlaceMatters: {"rows", "buffers"}, Drifts: {"pickling", "threads"}}


@pytest.mark.parametrize("case", FAILING, ids=lambda case: type(case[0]).__name__)
def test_each_fault_is_found_by_its_check(case):
    A, name, error, message = case
    entries = {e["name"]: e for e in check_operator(A, level="full", on_fail=None)}
    assert entries[name]["status"] == "failed"
    assert entries[name]["value"] > entries[name]["threshold"]
    failed = {n for n, e in entries.items() if e["status"] == "failed"}
    assert failed == {name} | ALSO.get(type(A), set())
    others = {other: "another fault of the same" for other in FULL if other != name}
    with pytest.raises(error, match=re.compile(message)):
        check_operator(type(A)() if isinstance(A, Drifts) else A, level="full", expected_failures=others)


def test_every_check_can_fail():
    assert {case[1] for case in FAILING} == set(FULL)


@pytest.mark.parametrize("A", [Matrix(), Quartic(), Buffered(), Linear(), SYMMETRIC], ids=lambda A: type(A).__name__)
def test_good_operators_pass(A):
    entries = {e["name"]: e for e in check_operator(A, level="full")}
    skipped = {name for name, e in entries.items() if e["status"] == "skipped"}
    assert {e["status"] for e in entries.values()} <= {"passed", "skipped"}
    assert skipped == (set() if hasattr(A, "gradient_at") else {"gradient"})
    assert ("same buffer each time" in entries["buffers"]["mend"]) == isinstance(A, Buffered)


def test_what_depends_on_one_process_is_not_judged_for_several():
    class Shared(Matrix):
        def vecdot(self, x, y):
            return np.vecdot(x, y)

        def put(self, block):
            return block

    entries = check_operator(Shared(), level="full")
    skipped = {e["name"]: e["mend"] for e in entries if e["status"] == "skipped"}
    assert set(skipped) == {"strides", "memory", "pickling", "threads", "gradient"}
    assert all("across processes" in skipped[name] for name in ("memory", "pickling", "threads"))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_every_library_passes(xp, dtype):
    A = problem(indefinite(N), dtype=complex if "complex" in dtype else float).matrix
    entries = {e["name"]: e for e in check_operator(xp.asarray(A, dtype), level="full")}
    assert {e["status"] for e in entries.values()} <= {"passed", "skipped"}
    if xp.name != "numpy":
        assert "NumPy" in entries["memory"]["mend"]
        assert "NumPy" in entries["threads"]["mend"]
    if xp.name in ("jax", "array_api_strict"):
        assert "strides" in entries["strides"]["mend"]
    if xp.name == "jax":
        assert entries["buffers"]["mend"] == "arrays of jax cannot change"
    assert "gradient_at" in entries["gradient"]["mend"]


def test_memory_that_is_traced_already_stays_traced():
    tracemalloc.start()
    try:
        entries = {e["name"]: e for e in check_operator(Hoards(), level="full", on_fail=None)}
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
    assert entries["memory"]["status"] == "failed"
    check_operator(Matrix(), level="full")
    assert not tracemalloc.is_tracing()


def test_what_does_not_pickle_is_skipped_with_the_reason():
    entry = check_operator(Unpicklable(), level="full")[8 + FULL.index("pickling")]
    assert entry["status"] == "skipped"
    assert "cannot pickle '_thread.lock' object" in entry["mend"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_single_precision_gradients_pass(dtype):
    class Narrow(Quartic):
        like = np.empty(0, dtype=dtype)

        def gradient_at(self, displacement):
            return super().gradient_at(displacement).astype(dtype)

        def matvec(self, x):
            return super().matvec(x).astype(dtype)

    for seed in range(5):
        entry = check_operator(Narrow(), level="full", rng=seed)[-1]
        assert (entry["name"], entry["status"]) == ("gradient", "passed")
