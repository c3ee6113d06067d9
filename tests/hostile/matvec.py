"""H01-H13: what the product returns."""

import gc
import importlib
import itertools
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

import slq
from slq._arrays import namespace
from slq.errors import (
    AliasedOutputError,
    DtypeError,
    DtypeWarning,
    NonFiniteError,
    PlacementError,
    ProductError,
    RequestError,
    ShapeError,
)
from tests.conftest import Library
from tests.hostile.row import Outcome, function, refused, right, row, warned
from tests.problems import K, M, N, indefinite, problem

A = problem(indefinite(N))
V = np.random.default_rng(0).normal(size=(K, N))
NAN, INF = float("nan"), float("inf")
MUTABLE = ("numpy", "strict", "strict-device1", "torch")  # JAX's arrays cannot be written into


def moments(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """vᴴA v and ‖A v‖² of each unit start vector."""
    return np.stack([alpha[:, 0], alpha[:, 0] ** 2 + beta[:, 0] ** 2])


UNIT = V / np.linalg.norm(V, axis=1)[:, None]
EXACT = np.stack([A.forms(UNIT, lambda t: t), A.forms(UNIT, np.square)])
MOMENTS = 1e-13  # measured: 2e-15


def run(xp: Library, operator: Any, rows: np.ndarray = V) -> np.ndarray:
    """Two moments by Lanczos, with all its checks."""
    return moments(*slq.lanczos(operator, xp.asarray(rows), M)[:2])


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
    count = r".*1 of 24 entries, the first at 5, where no entry of the input was larger" if xp.name == "numpy" else ""
    for step, value in itertools.product((0, 1, M - 1), (NAN, INF)):
        cause = f"product of step {step} contains NaN or infinity for probe 1{count}"
        yield refused(
            NonFiniteError,
            cause,
            "look for",
            lambda step=step, value=value: run(xp, spoiled(xp, step, value, [1])),
            kept([1], step),
        )
    broken = A.matrix.copy()
    broken[3, 3] = NAN
    for operator in (broken, np.full((N, N), 1e308)):  # bad data; an overflow
        yield refused(
            NonFiniteError, "NaN or infinity, from finite input", "look for", lambda m=operator: measure(xp, m)
        )


def measure(xp: Library, matrix: np.ndarray) -> Any:
    return slq.spectral_measure(xp.asarray(matrix), num_probes=K, num_steps=M)


@row("H02", "NaN in some rows of a block", "`NonFiniteError` naming these probes, by their number in the whole run")
def h02(xp: Library) -> Iterator[Outcome]:
    for step in (0, 2):
        yield refused(
            NonFiniteError,
            r"probes \[0, 2\] are lost, the others are in `.partial`",
            "look for",
            lambda step=step: run(xp, spoiled(xp, step, NAN, [0, 2])),
            kept([0, 2], step),
        )

    def look(error: NonFiniteError) -> None:
        assert (error.probes, error.step) == ([1], 2)
        np.testing.assert_allclose(error.partial.quadratic_forms(np.square), A.forms(V[:1], np.square), rtol=1e-12)

    yield refused(
        NonFiniteError,
        r"for probe 1.*probes \[1\] are lost",
        "look for",
        lambda: slq.spectral_measure(
            spoiled(xp, M + 2, NAN, [0], 1), probes=xp.asarray(V), num_steps=M, batch_size=1, check=False
        ),
        look,
    )


@row(
    "H03",
    "start vector with NaN, infinity, no length, or of the wrong shape",
    "`RequestError` or `ShapeError` before any product",
)
def h03(xp: Library) -> Iterator[Outcome]:
    def changed(value: float) -> np.ndarray:
        rows = V.copy()
        rows[1] = value
        return rows

    calls: list[int] = []
    operator = function(xp, lambda x: calls.append(1) or x, N)
    for rows in (changed(NAN), changed(INF), changed(0.0)):
        for call in (run, _given):
            yield refused(
                RequestError,
                r"start vectors \[1\] are zero or not finite",
                "needs a direction",
                lambda rows=rows, call=call: call(xp, operator, rows),
            )
    for rows in (V[:, 1:], np.zeros((0, N)), np.zeros((1, 1, N)), V[0, :5]):
        for call in (run, _given):
            yield refused(
                ShapeError, "expects", "each row a start vector", lambda rows=rows, call=call: call(xp, operator, rows)
            )
    assert not calls


def _given(xp: Library, operator: Any, rows: np.ndarray) -> Any:
    return slq.spectral_measure(operator, probes=xp.asarray(rows), num_steps=M)


@row(
    "H04",
    "product of n + 1 entries, (n, 1) or (1, n) for (n,), a scalar, `None`",
    "`ShapeError` (`PlacementError` for what is no array) at the first product: no ravel, no broadcasting",
)
def h04(xp: Library) -> Iterator[Outcome]:
    def reshaped(shape: tuple[int, ...]) -> Callable[[Any], Any]:
        return lambda x: namespace(x).reshape(x, shape)

    wrong_one = {
        "n + 1": lambda x: namespace(x).concat([x, x[:1]]),
        "column": reshaped((N, 1)),
        "row": reshaped((1, N)),
        "0-d": lambda x: x[0],
    }
    wrong_block = {
        "n + 1": lambda x: namespace(x).concat([x, x[:, :1]], axis=1),
        "n - 1": lambda x: x[:, 1:],
        "transpose": lambda x: x.T,
        "flat": reshaped((-1,)),
        "one row": lambda x: x[:1, :],
        "stack": lambda x: x[:, :, None],
    }
    for batched, products in ((False, wrong_one), (True, wrong_block)):
        for product in products.values():
            for call in (run, lambda _, operator: slq.spectral_measure(operator)):
                yield refused(
                    ShapeError,
                    r"returned shape \(.*\) for an input of shape \(.*24,?\)",
                    "keeps the shape of its input|expected",
                    lambda f=product, b=batched, call=call: call(xp, function(xp, f, N, batched=b)),
                )
    for value in (None, 2.0, [1.0] * N):
        for batched in (False, True):
            yield refused(
                PlacementError,
                f"returned {type(value).__name__}",
                "expected an array of",
                lambda value=value, b=batched: run(xp, function(xp, lambda _: value, N, batched=b)),
            )


@row(
    "H05",
    "product of another dtype",
    "float32 from float64: `DtypeWarning` once, errors those of the lower; integers: converted, `DtypeWarning`; "
    "complex from real, objects (NumPy): `DtypeError`",
)
def h05(xp: Library) -> Iterator[Outcome]:
    whole = np.diag(np.arange(1.0, N + 1))

    def cast(dtype: str, matrix: np.ndarray) -> Any:
        matrix = xp.asarray(matrix)
        kind = getattr(namespace(matrix), dtype)
        return function(xp, lambda x: namespace(x).astype(x @ matrix, kind), N)

    # Products of float32 are off by up to N/2 roundings of their size, in the worst case.
    yield warned(
        DtypeWarning, "returns dtype .*float32", "give like=", lambda: run(xp, cast("float32", A.matrix)), EXACT, 1e-6
    )

    def precision() -> float:
        return slq.spectral_measure(cast("float32", A.matrix), num_probes=K, num_steps=M).trace().rounding

    single = 4 * 2.0**-23 * N * np.mean(np.abs(indefinite(N)))  # 4 eps tr|A|, as the probes see it
    yield warned(DtypeWarning, "which limits the precision", "give like=", precision, single, 0.5)

    ones = np.eye(N)[:K]  # unit vectors, whose products are whole numbers
    yield warned(
        DtypeWarning,
        "int64.*is converted each time",
        "give like=",
        lambda: run(xp, cast("int64", whole), ones),
        np.stack([np.arange(1.0, K + 1), np.arange(1.0, K + 1) ** 2]),
    )
    yield refused(
        DtypeError, "returned dtype .*complex", "give like=", lambda: run(xp, function(xp, lambda x: x * 1j, N))
    )
    if xp.name == "numpy":
        yield refused(
            DtypeError,
            "returned dtype object",
            "give like=",
            lambda: run(xp, function(xp, lambda x: x.astype(object), N)),
        )


@row(
    "H06",
    "product on another device",
    "`PlacementError` naming both; nothing is copied in secret",
    "strict",
    "strict-device1",
    "torch",
)
def h06(xp: Library) -> Iterator[Outcome]:
    other = "meta" if xp.name == "torch" else next(d for d in _devices(xp) if d != xp.device)

    def moved(x: Any) -> Any:
        return x.to(other) if xp.name == "torch" else x.to_device(other)

    for call in (run, lambda _, operator: slq.spectral_measure(operator)):
        yield refused(
            PlacementError,
            re.escape(f"an array on {other} for one on"),
            "move the operator's data",
            lambda call=call: call(xp, function(xp, moved, N)),
        )
    start = moved(xp.asarray(V))
    yield refused(
        PlacementError,
        re.escape(f"V is on {other}"),
        "move V there",
        lambda: slq.lanczos(xp.asarray(A.matrix), start, M),
    )


def _devices(xp: Library) -> list[Any]:
    return [xp.namespace.Device(name) for name in ("CPU_DEVICE", "device1")]


@row(
    "H07",
    "product of another library, or a matrix, masked array, sparse array or list",
    "`PlacementError` naming both",
)
def h07(xp: Library) -> Iterator[Outcome]:
    other, name = (np.asarray, "numpy") if xp.name != "numpy" else (_strict, "array_api_strict")
    own = namespace(xp.asarray(V)).__name__.removeprefix("array_api_compat.").split(".")[0]
    wrong: dict[str, Callable[[Any], Any]] = {
        f"an array of {name} for one of {own}": lambda x: other(np.zeros(tuple(x.shape))),
        "csr_array.*expected an array of": lambda x: scipy.sparse.csr_array(np.zeros(tuple(x.shape))),
        "list.*expected an array of": lambda _: [[0.0] * N] * K,
    }
    if xp.name == "numpy":
        wrong |= {"a NumPy matrix": lambda x: x.view(np.matrix), "a NumPy MaskedArray": np.ma.masked_array}
    if xp.name == "torch":
        wrong["a sparse tensor"] = lambda x: x.to_sparse()
    for cause, product in wrong.items():
        for call in (run, lambda _, operator: slq.spectral_measure(operator, num_probes=K)):
            yield refused(
                PlacementError,
                cause,
                "convert it|like its input|return np.asarray",
                lambda f=product, call=call: call(xp, function(xp, f, N)),
            )


def _strict(values: np.ndarray) -> Any:
    return importlib.import_module("array_api_strict").asarray(values)


@row(
    "H08",
    "product that returns its very input, or writes into it",
    "unchanged (the identity): the right answer; written into: `AliasedOutputError` (JAX's arrays cannot be)",
)
def h08(xp: Library) -> Iterator[Outcome]:
    identity = function(xp, lambda x: x, N)
    yield right(lambda: run(xp, identity), np.ones((2, K)), 1e-14)
    yield right(lambda: slq.spectral_measure(identity, num_probes=K).nodes, np.ones((K, N)), 1e-14)
    if xp.name == "jax":
        return
    matrix = xp.asarray(A.matrix)

    def doubled(x: Any) -> Any:
        x *= 2.0
        return x

    def centred(x: Any) -> Any:
        x -= namespace(x).mean(x, axis=1)[:, None]
        return x @ matrix

    def nudged(x: Any) -> Any:
        x[:, 7] = 0.0
        return x @ matrix

    for product in (doubled, centred, nudged):
        for call in (run, lambda _, operator: slq.spectral_measure(operator, num_probes=K)):
            yield refused(
                AliasedOutputError,
                "wrote into its input",
                "work on a copy",
                lambda f=product, call=call: call(xp, function(xp, f, N)),
            )


@row("H09", "the same buffer returned by each product", "the right answer: copied on receipt", *MUTABLE)
def h09(xp: Library) -> Iterator[Outcome]:
    matrix, buffer = xp.asarray(A.matrix), {}

    def product(x: Any) -> Any:
        y = buffer.setdefault(tuple(x.shape), xp.asarray(np.zeros(tuple(x.shape))))
        y[...] = x @ matrix
        return y

    yield right(lambda: run(xp, function(xp, product, N)), EXACT, MOMENTS)
    for option in (True, 3, False):
        yield right(
            lambda option=option: slq.spectral_measure(
                function(xp, product, N), probes=xp.asarray(V), num_steps=M, reorthogonalize=option
            ).quadratic_forms(np.square),
            A.forms(V, np.square),
            MOMENTS,
        )


def raises_at(xp: Library, at: int, error: Exception) -> Any:
    calls, matrix = itertools.count(), xp.asarray(A.matrix)

    def product(x: Any) -> Any:
        if next(calls) == at:
            raise error
        return x @ matrix

    return function(xp, product, N)


@row(
    "H10",
    "product that raises an error of its own",
    "`ProductError` with the `step`, chained to it; what was done before is in `partial`",
)
def h10(xp: Library) -> Iterator[Outcome]:
    for step, kind in itertools.product((0, 1, M - 1), (ZeroDivisionError, OSError)):
        original = kind("the disk is gone")

        def look(error: ProductError, step: int = step, original: Exception = original) -> None:
            assert error.__cause__ is original
            assert error.step == step
            assert (error.partial is None) == (step == 0)
            if step:
                assert error.partial.alpha.shape == (K, step)
                np.testing.assert_allclose(error.partial.alpha[:, 0], EXACT[0], rtol=0, atol=MOMENTS)

        yield refused(
            ProductError,
            f"product of step {step} raised {kind.__name__} .*the disk is gone",
            "correct the product",
            lambda step=step, original=original: run(xp, raises_at(xp, step, original)),
            look,
        )

    def whole_batches(error: ProductError) -> None:
        np.testing.assert_allclose(error.partial.quadratic_forms(np.square), A.forms(V[:2], np.square), rtol=1e-12)

    yield refused(
        ProductError,
        "product of step 3 raised KeyError",
        "correct the product",
        lambda: slq.spectral_measure(
            raises_at(xp, 2 * M + 3, KeyError("x")), probes=xp.asarray(V), num_steps=M, batch_size=1, check=False
        ),
        whole_batches,
    )


@row(
    "H11",
    "arrays that are computed later, so that a fault shows later",
    "`NonFiniteError` or `ProductError` (JAX: an error in a callback) with the step at which it happened",
    "strict",
    "strict-device1",
    "torch",
    "jax",
)
def h11(xp: Library) -> Iterator[Outcome]:
    for step in (1, 4, M - 1):  # nothing is looked at between the first product and the last
        yield refused(
            NonFiniteError,
            f"product of step {step} contains NaN",
            "look for",
            lambda step=step: run(xp, spoiled(xp, step, NAN, [2])),
            kept([2], step),
        )
    if xp.name != "jax":
        return
    for step in (0, 4, M - 1):

        def look(error: ProductError, step: int = step) -> None:
            assert error.step == step
            assert (error.partial is None) == (step == 0)
            if step:
                np.testing.assert_allclose(error.partial.alpha[:, 0], EXACT[0], rtol=0, atol=MOMENTS)

        yield refused(
            ProductError,
            f"product of step {step} raised .*the disk is gone",
            "correct the product",
            lambda step=step: run(xp, _calls_back(xp, step)),
            look,
        )
    yield refused(
        ProductError, "the disk is gone", "correct", lambda: slq.spectral_measure(_calls_back(xp, 0), num_probes=K)
    )


def _calls_back(xp: Library, at: int) -> Any:
    jax, calls = sys.modules["jax"], itertools.count()

    def on_host(x: Any) -> np.ndarray:
        time.sleep(0.01)  # the loop is ahead of the products by now
        if next(calls) == at:
            raise OSError("the disk is gone")
        return np.asarray(x) @ A.matrix

    return function(xp, lambda x: jax.pure_callback(on_host, jax.ShapeDtypeStruct(x.shape, x.dtype), x), N)


@row(
    "H12",
    "product that requires a gradient, or makes its input require one",
    "the right answer: detached, and no graph grows with the steps",
    "torch",
)
def h12(xp: Library) -> Iterator[Outcome]:
    matrix, steps = xp.asarray(A.matrix).requires_grad_(), 200
    yield right(lambda: run(xp, matrix), EXACT, MOMENTS)
    yield right(lambda: run(xp, function(xp, lambda x: x.requires_grad_() @ matrix, N)), EXACT, MOMENTS)
    alive = []

    def product(x: Any) -> Any:
        alive.append(0)
        if len(alive) in (20, steps):
            gc.collect()
            alive[-1] = sum(type(o) is xp.namespace.Tensor and o.grad_fn is not None for o in gc.get_objects())
        return x @ matrix

    slq.lanczos(function(xp, product, N), xp.asarray(V), steps, reorthogonalize=False)
    yield right(lambda: alive[-1] - alive[19], 0)


@row(
    "H13",
    "read-only, not contiguous, negative strides, 0-d, memory-mapped",
    "the right answer; a 0-d array is no matrix: `ShapeError`",
)
def h13(xp: Library) -> Iterator[Outcome]:
    matrix = xp.asarray(A.matrix)
    views = [matrix.T, namespace(matrix).flip(namespace(matrix).flip(matrix, axis=0), axis=0)]
    wide = namespace(matrix).stack([matrix, matrix], axis=-1)
    views.append(wide[:, :, 1])
    products: list[Callable[[Any], Any]] = [lambda x: (matrix @ x.T).T]
    starts = [xp.asarray(np.ascontiguousarray(V.T)).T]
    if xp.name == "numpy":
        frozen = A.matrix.copy()
        frozen.setflags(write=False)
        views += [frozen, A.matrix[::-1, ::-1][::-1, ::-1], np.asfortranarray(A.matrix)]
        rows = V.copy()
        rows.setflags(write=False)
        starts += [rows, V[:, ::-1].copy()[:, ::-1], np.asfortranarray(V)]

        def read_only(x: np.ndarray) -> np.ndarray:
            y = (x @ matrix)[:, ::-1].copy()[:, ::-1]
            y.setflags(write=False)
            return y

        products.append(read_only)
    for view in views:
        yield right(lambda view=view: run(xp, view), EXACT, MOMENTS)
    for product in products:
        yield right(lambda product=product: run(xp, function(xp, product, N)), EXACT, MOMENTS)
    for start in starts:
        yield right(lambda start=start: moments(*slq.lanczos(matrix, start, M)[:2]), EXACT, MOMENTS)
    yield right(lambda: run(xp, slq.scale(matrix, np.asarray(2.0))) / [[2], [4]], EXACT, MOMENTS)
    yield refused(ShapeError, r"got an array of shape \(\)", "", lambda: slq.aslinearoperator(xp.asarray(2.0)))
    if xp.name == "numpy":
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "matrix.npy", A.matrix)
            mapped = np.load(Path(folder) / "matrix.npy", mmap_mode="r")
            yield right(lambda: run(xp, mapped), EXACT, MOMENTS)
            del mapped
