"""H08-H13: what the product does to its input and its buffers, and when its errors show."""

import gc
import importlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import slq
from slq._arrays import namespace
from slq.errors import AliasedOutputError, NonFiniteError, ProductError, ShapeError
from tests.conftest import Library
from tests.hostile.products import EXACT, MOMENTS, NAN, A, V, kept, measured, moments, run, spoiled
from tests.hostile.row import Outcome, function, refused, right, row
from tests.problems import K, M, N

MUTABLE = ("numpy", "strict", "strict-device1", "torch")  # JAX's arrays cannot be written into


@row(
    "H08",
    "product that returns its very input, or writes into it",
    "unchanged (the identity): the right answer; written into: `AliasedOutputError` (JAX's arrays cannot be)",
)
def h08(xp: Library) -> Iterator[Outcome]:
    identity = function(xp, lambda x: x, N)
    yield right(np.ones((2, K)), 1e-14, run, xp, identity)
    yield right(np.ones((K, N)), 1e-14, lambda: slq.spectral_measure(identity, num_probes=K).nodes)
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

    for product, call in itertools.product((doubled, centred, nudged), (run, measured)):
        operator = function(xp, product, N)
        yield refused(AliasedOutputError, "wrote into its input", "work on a copy", call, xp, operator)


@row("H09", "the same buffer returned by each product", "the right answer: copied on receipt", *MUTABLE)
def h09(xp: Library) -> Iterator[Outcome]:
    matrix, buffer = xp.asarray(A.matrix), {}

    def product(x: Any) -> Any:
        y = buffer.setdefault(tuple(x.shape), xp.asarray(np.zeros(tuple(x.shape))))
        y[...] = x @ matrix
        return y

    def forms(reorthogonalize: Any) -> np.ndarray:
        A = function(xp, product, N)
        run = slq.spectral_measure(A, probes=xp.asarray(V), num_steps=M, reorthogonalize=reorthogonalize)
        return run.quadratic_forms(np.square)

    yield right(EXACT, MOMENTS, run, xp, function(xp, product, N))
    for option in (True, 3, False):
        yield right(A.forms(V, np.square), MOMENTS, forms, option)


def raises_at(xp: Library, at: int, error: Exception) -> Any:
    calls, matrix = itertools.count(), xp.asarray(A.matrix)

    def product(x: Any) -> Any:
        if next(calls) == at:
            raise error
        return x @ matrix

    return function(xp, product, N)


def done_before(step: int, cause: Exception | None = None) -> Callable[[ProductError], None]:
    """The error is chained, and holds the steps before."""

    def look(error: ProductError) -> None:
        assert error.__cause__ is cause if cause is not None else error.__cause__ is not None
        assert error.step == step
        assert (error.partial is None) == (step == 0)
        if step:
            assert error.partial.alpha.shape == (K, step)
            np.testing.assert_allclose(error.partial.alpha[:, 0], EXACT[0], rtol=0, atol=MOMENTS)

    return look


@row(
    "H10",
    "product that raises an error of its own",
    "`ProductError` with the `step`, chained to it; what was done before is in `partial`",
)
def h10(xp: Library) -> Iterator[Outcome]:
    for step, kind in itertools.product((0, 1, M - 1), (ZeroDivisionError, OSError)):
        error, cause = kind("the disk is gone"), f"product of step {step} raised {kind.__name__} .*the disk is gone"
        look = done_before(step, error)
        yield refused(ProductError, cause, "correct the product", run, xp, raises_at(xp, step, error), look=look)

    def whole_batches(error: ProductError) -> None:
        np.testing.assert_allclose(error.partial.quadratic_forms(np.square), A.forms(V[:2], np.square), rtol=1e-12)

    fails = raises_at(xp, 2 * M + 3, KeyError("x"))
    one_by_one = {"probes": xp.asarray(V), "num_steps": M, "batch_size": 1, "check": False}
    call = partial(slq.spectral_measure, fails, **one_by_one)
    cause = "product of step 3 raised KeyError"
    yield refused(ProductError, cause, "correct the product", call, look=whole_batches)


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
        cause = f"product of step {step} contains NaN"
        yield refused(NonFiniteError, cause, "look for", run, xp, spoiled(xp, step, NAN, [2]), look=kept([2], step))
    if xp.name == "jax":
        for step in (0, 1, 4, M - 1):
            cause = f"product of step {step} raised .*the disk is gone"
            look = done_before(step)
            yield refused(ProductError, cause, "correct the product", run, xp, calls_back(xp, step), look=look)
        cause = "product of step 0 raised .*the disk is gone"
        yield refused(ProductError, cause, "correct the product", measured, xp, calls_back(xp, 0))


def calls_back(xp: Library, at: int) -> Any:
    jax, calls = importlib.import_module("jax"), itertools.count()

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
    matrix, steps, alive = xp.asarray(A.matrix).requires_grad_(), 200, []
    yield right(EXACT, MOMENTS, run, xp, matrix)
    yield right(EXACT, MOMENTS, run, xp, function(xp, lambda x: x.requires_grad_() @ matrix, N))

    def product(x: Any) -> Any:
        alive.append(0)
        if len(alive) in (20, steps):
            gc.collect()
            alive[-1] = sum(type(o) is xp.namespace.Tensor and o.grad_fn is not None for o in gc.get_objects())
        return x @ matrix

    def growth() -> int:
        slq.lanczos(function(xp, product, N), xp.asarray(V), steps, reorthogonalize=False)
        return alive[-1] - alive[19]

    yield right(0, 0.0, growth)


@row(
    "H13",
    "read-only, not contiguous, negative strides, 0-d, memory-mapped",
    "the right answer; a 0-d array is no matrix: `ShapeError`",
)
def h13(xp: Library) -> Iterator[Outcome]:
    matrix = xp.asarray(A.matrix)
    library = namespace(matrix)
    views = [matrix.T, library.flip(library.flip(matrix)), library.stack([matrix, matrix], axis=-1)[:, :, 1]]
    views.append(function(xp, lambda x: (matrix @ x.T).T, N))
    starts = [xp.asarray(np.ascontiguousarray(V.T)).T]
    if xp.name == "numpy":
        views += [frozen(A.matrix), A.matrix[::-1, ::-1].copy()[::-1, ::-1], np.asfortranarray(A.matrix)]
        views.append(function(xp, lambda x: frozen((x @ matrix)[:, ::-1])[:, ::-1], N))
        starts += [frozen(V), V[:, ::-1].copy()[:, ::-1], np.asfortranarray(V)]
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "matrix.npy", A.matrix)
            yield right(EXACT, MOMENTS, run, xp, np.load(Path(folder) / "matrix.npy", mmap_mode="r"))
    for view in views:
        yield right(EXACT, MOMENTS, run, xp, view)
    for start in starts:
        yield right(EXACT, MOMENTS, lambda start=start: moments(*slq.lanczos(matrix, start, M)[:2]))
    yield right(EXACT * [[2], [4]], MOMENTS, run, xp, slq.scale(matrix, np.asarray(2.0)))
    yield refused(ShapeError, "expected a matrix with 2 dim", r"got.* \(\)", slq.aslinearoperator, xp.asarray(2.0))


def frozen(rows: np.ndarray) -> np.ndarray:
    copy = rows.copy()
    copy.setflags(write=False)
    return copy
