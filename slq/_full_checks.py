"""Floor 2: how a product behaves as a program: blocks, buffers, state, memory, threads; and against the gradient."""

import gc
import math
import pickle
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from slq._arrays import Array, has_one_shape, library_name, namespace, precision
from slq._check_vectors import draw
from slq._checks import WRONG, rounding
from slq._products import LinearOperator, Products
from slq._quick_checks import FEW, Finding
from slq._ten_products import multiply, size_of
from slq.errors import AliasedOutputError, NotRepeatableError, OperatorError, SlqError

__all__ = ["FULL", "full_findings"]

FULL = ("rows", "order", "strides", "buffers", "state", "memory", "pickling", "threads", "gradient")

_STRIDED = ("numpy", "torch", "cupy")
_REPEATS = 8


def full_findings(A: LinearOperator, seed: int, eps: float) -> Iterator[Finding]:
    """One finding after the other; `eps` is the relative error of the products."""
    length = A.shape[0] ** -0.5
    W = draw(A, seed, [{number: length} for number in (1, 2, 3)])
    case = _Case(A, W, namespace(W).asarray(multiply(Products(A), W), copy=True), eps)
    for name in FULL:
        try:
            yield _CHECKS[name](case)
        except SlqError as error:
            yield Finding(name, 1.0, 0.0, error, str(error).rpartition("; ")[2])


class _Case:
    """An operator, three vectors and their products."""

    def __init__(self, A: LinearOperator, W: Array, Y: Array, eps: float) -> None:
        self.A, self.W, self.Y, self.eps = A, W, Y, eps
        self.size = size_of(A, Y)
        self.library = library_name(W)
        self.is_shared = hasattr(A, "vecdot")  # by processes, which must all come to the same verdict
        self.limit = 50 * rounding(eps)  # as for other sums in another order

    def product(self, x: Array) -> Array:
        """Of a copy: no check suffers from what an operator does to another's input."""
        return multiply(Products(self.A), namespace(x).asarray(x, copy=True))

    def row(self, i: int) -> Array:
        return self.W[i : i + 1, :]

    def error(self, got: Array, wanted: Array) -> float:
        return size_of(self.A, got - wanted) / (self.size or 1.0)

    def flipped(self, x: Array) -> Array:
        return namespace(x).flip(x, axis=0)

    def judge(
        self, name: str, value: float, cause: str, mend: str, kind: type[SlqError] = OperatorError, remark: str = ""
    ) -> Finding:
        if value <= self.limit:
            return Finding(name, value, self.limit, mend=remark)
        problem = kind(
            f"{cause}: they differ by {value:.2g} of their size, where {self.limit:.2g} is the limit; {mend}"
        )
        return Finding(name, value, self.limit, problem, mend)


def _skip(name: str, reason: str) -> Finding:
    return Finding(name, mend=reason, skipped=True)


def _rows(case: _Case) -> Finding:
    single = [namespace(case.W).asarray(case.product(case.row(i)), copy=True) for i in range(3)]
    return case.judge(
        "rows",
        case.error(namespace(case.W).concat(single, axis=0), case.Y),
        "the product of a block is not that of its rows",
        "a block is (k, n), each row a vector: sum over the last axis only, and let no row see another",
    )


def _order(case: _Case) -> Finding:
    return case.judge(
        "order",
        case.error(case.flipped(case.product(case.flipped(case.W))), case.Y),
        "the products of the rows of a block depend on their order",
        "treat all rows alike: nothing may depend on the place in the block",
    )


def _strides(case: _Case) -> Finding:
    if case.library not in _STRIDED or hasattr(case.A, "put"):
        return _skip("strides", f"arrays of {case.library} have no strides to choose, or the operator places its own")
    xp, (k, n) = namespace(case.W), case.W.shape
    strided = xp.reshape(xp.stack([case.W, xp.ones_like(case.W)], axis=-1), (k, 2 * n))[:, ::2]
    return case.judge(
        "strides",
        case.error(multiply(Products(case.A), strided), case.Y),
        "the product of a strided view is not that of a contiguous copy",
        "make the input contiguous inside the product (np.ascontiguousarray, x.contiguous())",
    )


def _buffers(case: _Case) -> Finding:
    if has_one_shape(case.W):
        return _skip("buffers", f"arrays of {case.library} cannot change")
    xp = namespace(case.W)
    buffer = xp.asarray(case.W, copy=True)
    first = multiply(Products(case.A), buffer)
    kept = xp.asarray(first, copy=True)
    case.product(case.flipped(case.W))
    if size_of(case.A, buffer - case.W) != 0:
        mend = "let it keep a copy of its input, never the input itself"
        problem = AliasedOutputError(f"a later product wrote into the input of an earlier one; {mend}")
        return Finding("buffers", 1.0, 0.0, problem, mend)
    reused = first is not buffer and size_of(case.A, first - kept) != 0
    multiply(Products(case.A), buffer)
    buffer[...] = case.flipped(case.W)
    return case.judge(
        "buffers",
        case.error(case.flipped(multiply(Products(case.A), buffer)), case.Y),
        "a buffer with new contents did not give the product of these",
        "do not recognise an input by its identity: compare contents, or compute anew",
        remark="returns the same buffer each time, which is allowed: slq copies what it keeps" if reused else "",
    )


def _state(case: _Case) -> Finding:
    first = namespace(case.W).asarray(case.product(case.row(0)), copy=True)
    value = max(case.error(case.product(case.row(0)), first) for _ in range(_REPEATS))
    limit = FEW * case.eps
    if value <= limit:
        return Finding("state", value, limit)
    mend = "remove what changes with each call (a counter, an update of statistics or of the model)"
    problem = NotRepeatableError(
        f"products of one vector drift: within {_REPEATS} calls by {value:.2g} of their size, where {limit:.2g} is the "
        f"limit; {mend}"
    )
    return Finding("state", value, limit, problem, mend)


def _memory(case: _Case) -> Finding:
    if case.library != "numpy" or case.is_shared:
        return _skip("memory", "only traced for NumPy, and not across processes")
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        case.product(case.row(0))
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(_REPEATS):
            case.product(case.row(0))
        gc.collect()
        value = (tracemalloc.get_traced_memory()[0] - before) / _REPEATS
    finally:
        if not tracing:
            tracemalloc.stop()
    # A product that keeps a vector keeps all of it; the interpreter's own growth stays below a few kilobytes.
    limit = max(case.row(0).nbytes / 2, 4096.0)
    if value <= limit:
        return Finding("memory", value, limit)
    mend = "let go of what a product computed (lists of results, caches, graphs)"
    problem = OperatorError(
        f"memory grows by {value:.3g} bytes with each product, where {limit:.3g} is the limit; {mend}"
    )
    return Finding("memory", value, limit, problem, mend)


def _pickling(case: _Case) -> Finding:
    if case.is_shared:
        return _skip("pickling", "not tried across processes")
    try:
        again = pickle.loads(pickle.dumps(case.A))
    except Exception as error:  # whatever the parts of an operator raise
        return _skip("pickling", f"it does not pickle ({type(error).__name__}: {error}); processes would need that")
    return case.judge(
        "pickling",
        case.error(multiply(Products(again), case.W), case.Y),
        "the operator multiplies differently once it has been pickled",
        "let __getstate__ keep all that the product needs",
    )


def _threads(case: _Case) -> Finding:
    if case.library != "numpy" or case.is_shared:
        return _skip("threads", "only tried with NumPy, and not across processes")
    start, alone = threading.Barrier(2), [case.product(case.row(i)).copy() for i in range(2)]

    def work(i: int) -> float:
        start.wait()
        return max(case.error(case.product(case.row(i)), alone[i]) for _ in range(_REPEATS))

    with ThreadPoolExecutor(2) as pool:
        value = max(pool.map(work, range(2)))
    return case.judge(
        "threads",
        value,
        "two threads that multiply at once get other products",
        "give each call buffers of its own, or hold a lock",
    )


def _gradient(case: _Case) -> Finding:
    gradient_at: Callable[[Array], Array] | None = getattr(case.A, "gradient_at", None)
    if gradient_at is None:
        return _skip("gradient", "it has no gradient_at(displacement), the gradient at displaced parameters")
    value, eps = 0.0, precision(case.W)
    limit = max(WRONG, 10 * eps ** (1 / 3))
    # Central differences are best at a step of eps^(1/3); which displacement is small, only the model knows.
    steps = [step for step in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5) if step > eps ** (1 / 3) / 2]
    for i in range(3):
        w, y = case.W[i, :], case.Y[i, :]
        best = math.inf
        for step in steps:
            ahead, behind = gradient_at(w * step), gradient_at(w * -step)
            slope = (ahead - behind) / (2 * step)
            noise = 100 * eps * size_of(case.A, ahead[None, :]) / step
            size = max(size_of(case.A, slope[None, :]), size_of(case.A, y[None, :]))
            off = max(size_of(case.A, (slope - y)[None, :]) - noise, 0.0)
            best = min(best, off / size if size else 0.0)
            if best <= limit / 10:
                break
        value = max(value, best)
    if value <= limit:
        return Finding("gradient", value, limit)
    mend = "look for detached tensors, custom backward passes and layers that change the parameters they use"
    problem = OperatorError(
        f"the product is not the derivative of the gradient: finite differences differ by {value:.2g}, where "
        f"{limit:.2g} is the limit; {mend}"
    )
    return Finding("gradient", value, limit, problem, mend)


_CHECKS: dict[str, Callable[[_Case], Finding]] = {
    "rows": _rows,
    "order": _order,
    "strides": _strides,
    "buffers": _buffers,
    "state": _state,
    "memory": _memory,
    "pickling": _pickling,
    "threads": _threads,
    "gradient": _gradient,
}
