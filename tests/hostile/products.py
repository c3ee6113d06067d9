"""H01-H07: what the product returns: values, shape, dtype, device, library."""

import importlib
import itertools
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse

import slq
from slq._arrays import namespace
from slq.errors import (
    DtypeError,
    DtypeWarning,
    NonFiniteError,
    PlacementError,
    RequestError,
    ShapeError,
)
from tests.conftest import Library
from tests.hostile.row import Outcome, function, refused, row, warned
from tests.problems import K, M, N, indefinite, problem

A = problem(indefinite(N))
V = np.random.default_rng(0).normal(size=(K, N))
NAN, INF = float("nan"), float("inf")


def moments(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """vᴴA v and ‖A v‖² of each unit start vector."""
    return np.stack([alpha[:, 0], alpha[:, 0] ** 2 + beta[:, 0] ** 2])


UNIT = V / np.linalg.norm(V, axis=1)[:, None]
EXACT = np.stack([A.forms(UNIT, lambda t: t), A.forms(UNIT, np.square)])
MOMENTS = 1e-13  # measured: 2e-15


def run(xp: Library, operator: Any, rows: np.ndarray = V) -> np.ndarray:
    """Two moments by Lanczos, with all its checks."""
    return moments(*slq.lanczos(operator, xp.asarray(rows), M)[:2])


def measured(xp: Library, operator: Any, **options: Any) -> Any:
    """The default way in, with checks of its own."""
    return slq.spectral_measure(operator, num_steps=M, **options)


def spoiled(xp: Library, at: int, value: float, rows: list[int], k: int = K) -> Any:
    """A, but for one entry of some rows of the product number `at`."""
    calls, matrix, spoil = itertools.count(), xp.asarray(A.matrix), np.zeros((k, N))
    spoil[rows, 5] = value
    return function(xp, lambda x: x @ matrix + xp.asarray(spoil) if next(calls) == at else x @ matrix, N)


def kept(probes: list[int], step: int) -> Callable[[NonFiniteError], None]:
    """The error names these probes and this step, and keeps the others."""
    others = [i for i in range(K) if i not in probes]

    def look(error: NonFiniteError) -> None:
        assert (error.probes, error.step) == (probes, step)
        np.testing.assert_allclose(moments(*error.partial[:2]), EXACT[:, others], rtol=0, atol=MOMENTS)

    return look


@row(
    "H01",
    "NaN or infinity in the product of step j",
    "`NonFiniteError` with `step`, `probes`, and the other probes in `partial`; on NumPy also how many entries, the "
    "first, and the largest of the input",
)
def h01(xp: Library) -> Iterator[Outcome]:
    count = ": 1 of 24 entries, the first at 5, where no entry of the input was larger" if xp.name == "numpy" else ";"
    for step, value in itertools.product((0, 1, M - 1), (NAN, INF)):
        cause = f"product of step {step} contains NaN or infinity for probe 1{count}"
        yield refused(NonFiniteError, cause, "look for", run, xp, spoiled(xp, step, value, [1]), look=kept([1], step))
    broken = A.matrix.copy()
    broken[3, 3] = NAN
    for matrix in (broken, np.full((N, N), 1e308)):  # bad data; an overflow
        yield refused(
            NonFiniteError, "NaN or infinity, from finite input", "look for", measured, xp, xp.asarray(matrix)
        )


@row("H02", "NaN in some rows of a block", "`NonFiniteError` naming these probes, by their number in the whole run")
def h02(xp: Library) -> Iterator[Outcome]:
    cause = r"probes \[0, 2\] are lost, the others are in `.partial`"
    for step in (0, 2):
        operator = spoiled(xp, step, NAN, [0, 2])
        yield refused(NonFiniteError, cause, "look for", run, xp, operator, look=kept([0, 2], step))

    def look(error: NonFiniteError) -> None:
        assert (error.probes, error.step) == ([1], 2)
        np.testing.assert_allclose(error.partial.quadratic_forms(np.square), A.forms(V[:1], np.square), rtol=1e-12)

    one_by_one = {"probes": xp.asarray(V), "num_steps": M, "batch_size": 1, "check": False}
    call = partial(slq.spectral_measure, spoiled(xp, M + 2, NAN, [0], 1), **one_by_one)
    yield refused(NonFiniteError, r"for probe 1.*probes \[1\] are lost", "look for", call, look=look)


@row(
    "H03",
    "start vector with NaN, infinity, no length, or of the wrong shape",
    "`RequestError` or `ShapeError` before any product",
)
def h03(xp: Library) -> Iterator[Outcome]:
    calls: list[int] = []
    operator = function(xp, lambda x: calls.append(1) or x, N)

    def given(rows: np.ndarray) -> Any:
        return slq.spectral_measure(operator, probes=xp.asarray(rows), num_steps=M)

    for value in (NAN, INF, 0.0):
        rows = V.copy()
        rows[1] = value
        for call in (given, partial(run, xp, operator)):
            yield refused(RequestError, r"start vectors \[1\] are zero or not finite", "needs a direction", call, rows)
    for rows in (V[:, 1:], np.zeros((0, N)), np.zeros((1, 1, N)), V[0, :5]):
        for call in (given, partial(run, xp, operator)):
            yield refused(ShapeError, "expects", "each row a start vector", call, rows)
    assert not calls


def reshaped(*shape: int) -> Callable[[Any], Any]:
    return lambda x: namespace(x).reshape(x, shape)


@row(
    "H04",
    "product of n + 1 entries, (n, 1) or (1, n) for (n,), a scalar, `None`",
    "`ShapeError` (`PlacementError` for what is no array) at the first product: no ravel, no broadcasting",
)
def h04(xp: Library) -> Iterator[Outcome]:
    wrong_one = [lambda x: namespace(x).concat([x, x[:1]]), reshaped(N, 1), reshaped(1, N), lambda x: x[0]]
    wrong_block = [
        lambda x: namespace(x).concat([x, x[:, :1]], axis=1),
        lambda x: x[:, 1:],
        lambda x: x.T,
        reshaped(-1),
        lambda x: x[:1, :],
        lambda x: x[:, :, None],
    ]
    for batched, products in ((False, wrong_one), (True, wrong_block)):
        for product, call in itertools.product(products, (run, measured)):
            yield refused(
                ShapeError,
                r"returned shape \(.*\) for an input of shape \(.*24,?\)",
                "keeps the shape of its input",
                call,
                xp,
                function(xp, product, N, batched=batched),
            )
    for value, batched in itertools.product((None, 2.0, [1.0] * N), (False, True)):
        operator = function(xp, partial(always, value), N, batched=batched)
        yield refused(PlacementError, f"returned {type(value).__name__}", "expected an array of", run, xp, operator)


def always(value: Any, _: Any) -> Any:
    return value


@row(
    "H05",
    "product of another dtype",
    "float32 from float64: `DtypeWarning` once, errors those of the lower; integers: converted, `DtypeWarning`; "
    "complex from real, objects (NumPy): `DtypeError`",
)
def h05(xp: Library) -> Iterator[Outcome]:
    def cast(dtype: str, matrix: np.ndarray) -> Any:
        own = xp.asarray(matrix)
        kind = getattr(namespace(own), dtype)
        return function(xp, lambda x: namespace(x).astype(x @ own, kind), N)

    single = cast("float32", A.matrix)
    # Each entry of a product is rounded by 2⁻²⁴ of itself: the moments by no more than 3 · 2⁻²⁴ of ‖A v‖ ‖A‖.
    yield warned(DtypeWarning, "returns dtype .*float32", "give like=", EXACT, 2e-7, run, xp, single)
    stated = 4 * 2.0**-23 * N * np.mean(np.abs(indefinite(N)))  # 4 eps tr|A|, as far as the probes see it
    mend = "limits the precision.*give like="
    yield warned(
        DtypeWarning, "float32", mend, stated, 0.5, lambda: measured(xp, single, num_probes=K).trace().rounding
    )
    whole = np.arange(1.0, N + 1)
    units = np.eye(N)[:K]  # whose products are whole numbers
    yield warned(
        DtypeWarning,
        "int64.*is converted each time",
        "give like=",
        np.stack([whole[:K], whole[:K] ** 2]),
        0.0,
        run,
        xp,
        cast("int64", np.diag(whole)),
        units,
    )
    wrong = [("complex", lambda x: x * 1j)]
    if xp.name == "numpy":
        wrong.append(("object", lambda x: x.astype(object)))
    for name, product in wrong:
        yield refused(DtypeError, f"returned dtype .*{name}", "give like=", run, xp, function(xp, product, N))


@row(
    "H06",
    "product or start vector on another device",
    "`PlacementError` naming both; nothing is copied in secret",
    "strict",
    "strict-device1",
    "torch",
)
def h06(xp: Library) -> Iterator[Outcome]:
    if xp.name == "torch":
        other = "meta"
    else:
        other = next(d for d in map(xp.namespace.Device, ("CPU_DEVICE", "device1")) if d != xp.device)

    def moved(x: Any) -> Any:
        return x.to(other) if xp.name == "torch" else x.to_device(other)

    places = re.escape(f"an array on {other} for one on {xp.device}")
    for call in (run, measured):
        yield refused(PlacementError, places, "move the operator's data", call, xp, function(xp, moved, N))
    places = re.escape(f"V is on {other} but the operator multiplies on {xp.device}")
    yield refused(PlacementError, places, "move V there", slq.lanczos, xp.asarray(A.matrix), moved(xp.asarray(V)), M)


@row(
    "H07",
    "product of another library, or a matrix, masked array, sparse array or list",
    "`PlacementError` naming both",
)
def h07(xp: Library) -> Iterator[Outcome]:
    other = importlib.import_module("array_api_strict" if xp.name == "numpy" else "numpy")
    wrong: dict[str, Callable[[Any], Any]] = {
        f"an array of {other.__name__} for one of {xp.name}": lambda x: other.zeros(tuple(x.shape)),
        "csr_array": lambda x: scipy.sparse.csr_array(np.zeros(tuple(x.shape))),
        "list": partial(always, [[0.0] * N] * K),
    }
    if xp.name == "numpy":
        wrong |= {"a NumPy matrix": lambda x: x.view(np.matrix), "a NumPy MaskedArray": np.ma.array}
    if xp.name == "torch":
        wrong["a sparse tensor"] = lambda x: x.to_sparse()
    for (cause, product), call in itertools.product(wrong.items(), (run, measured)):
        operator = function(xp, product, N)
        yield refused(PlacementError, cause, "convert it|like its input|return np.asarray", call, xp, operator)
