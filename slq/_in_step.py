"""Floor 3: runs that stop at each product, so that those of all are made together.

Each run is in a thread of its own, which only moves while the calling thread waits for it: never two at once. All that
is the user's, products and progress, is called in the calling thread, whose settings may be its own.
"""

import contextlib
import contextvars
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from queue import SimpleQueue
from typing import Any

from slq._arrays import Array, library_name
from slq._memory import is_out_of_memory
from slq._products import LinearOperator
from slq.errors import OperatorError

__all__ = ["Run", "advance_together"]

Result = Callable[[], Any]


class Run:
    """Work with an operator that stops at each product until that is given.

    Parameters
    ----------
    A : LinearOperator
    work : callable
        (operator, progress) -> result.
    progress : callable or None
        Called in the thread that calls `advance`.
    around : callable
        Gives a context in which the run moves, each time.
    """

    def __init__(
        self,
        A: LinearOperator,
        work: Callable[[Any, Any], Any],
        progress: Callable[..., None] | None,
        around: Callable[[], contextlib.AbstractContextManager[Any]],
    ) -> None:
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._questions: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._progress, self._around = progress, around
        report = None if progress is None else lambda *numbers: self._ask("progress", numbers)
        target = contextvars.copy_context().run  # NumPy's errstate among them
        arguments = (self._work, work, _Waiting(A, self._ask), report, _surroundings(A.like))
        self._thread = threading.Thread(target=target, args=arguments, daemon=True)

    def advance(self, product: Any = None) -> tuple[str, Any]:
        """Go on with a product: ("product", the next block to multiply), or ("end", a function giving the result)."""
        with self._around():
            if self._thread.ident is None:
                self._thread.start()
            else:
                self._answers.put(product)
            del product
            kind, value = self._questions.get()
            while kind == "progress":
                self._answers.put(self._told(*value))
                kind, value = self._questions.get()
        return kind, value

    def _told(self, *numbers: int) -> "_Failure | None":
        try:
            self._progress(*numbers)  # type: ignore[misc]
        except Exception as error:  # it ends this run, as it would without others
            return _Failure(error)
        return None

    def end(self) -> None:
        """Give up, if the run has not ended."""
        if self._thread.is_alive():
            self._answers.put(_Failure(_Cancelled()))
            self._thread.join()

    def _work(
        self,
        work: Callable[[Any, Any], Any],
        A: "_Waiting",
        report: Any,
        surroundings: Callable[[], contextlib.AbstractContextManager[Any]],
    ) -> None:
        try:
            with surroundings():
                found = work(A, report)
        except _Cancelled:
            return
        except BaseException as error:  # whatever it is, somebody waits
            self._questions.put(("end", _raising(error)))
        else:
            self._questions.put(("end", lambda: found))

    def _ask(self, kind: str, value: Any) -> Any:
        self._questions.put((kind, value))
        answer = self._answers.get()
        if isinstance(answer, _Failure):
            try:
                raise answer.error.with_traceback(answer.traceback)
            finally:
                del answer  # else this frame, the error and its frames hold each other
        return answer


def advance_together(
    runs: Mapping[str, Run], matvecs: Callable[[dict[str, Array]], Mapping[str, Array]]
) -> Generator[tuple[str, Result], None, None]:
    """Let each run go to its next product, make all products at once, and so on; the results as the runs end.

    Parameters
    ----------
    runs : mapping of str to Run
    matvecs : callable
        The products of blocks, by names.
    """
    try:
        asked = {}
        answers: dict[str, Any] = dict.fromkeys(runs)
        while answers:
            for name in list(answers):
                kind, value = runs[name].advance(answers.pop(name))
                if kind == "product":
                    asked[name] = value
                else:
                    yield name, value
                del value
            answers, asked = _products(matvecs, asked), {}
    finally:
        for run in runs.values():
            run.end()


def _products(matvecs: Callable[[dict[str, Array]], Mapping[str, Array]], asked: dict[str, Array]) -> dict[str, Any]:
    """The products, or in their places why there are none: each run then says what it had before."""
    if not asked:
        return {}
    try:
        products = matvecs(dict(asked))
        if not isinstance(products, Mapping) or not products.keys() >= asked.keys():
            found = sorted(products) if isinstance(products, Mapping) else type(products).__name__
            raise OperatorError(f"matvecs returned {found} for blocks of {sorted(asked)}; expected a product for each")
        return {name: products[name] for name in asked}
    except Exception as error:
        if not is_out_of_memory(error):
            return dict.fromkeys(asked, _Failure(error))
        words = f"{type(error).__name__}: {error}"
    # Each run has an error of its own: one for all would hold the vectors of those that begin again, and what the
    # product has made so far.
    return {name: _Failure(MemoryError(words)) for name in asked}


class _Cancelled(BaseException):
    """Ends the thread of a run that is not to go on."""


class _Failure:
    """An error in place of an answer, and where it was raised: each run that raises it again adds frames of its own."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.traceback = error, error.__traceback__


class _Waiting:
    """An operator whose products come from elsewhere."""

    def __init__(self, A: LinearOperator, ask: Callable[[str, Array], Array]) -> None:
        self.shape, self.like, self._ask = A.shape, A.like, ask
        for name in ("vecdot", "index", "put"):
            if hasattr(A, name):
                setattr(self, name, getattr(A, name))

    def matvec(self, x: Array, /) -> Array:
        return self._ask("product", x)


def _raising(error: BaseException) -> Result:
    def result() -> Any:
        raise error

    return result


def _surroundings(like: Array) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """What libraries keep for each thread: that of this thread, as a context to enter in another."""
    library = library_name(like)
    device: Any = getattr(like, "device", None)
    stack = contextlib.ExitStack
    if library == "torch" and getattr(device, "type", "cpu") == "cuda":
        cuda = sys.modules["torch"].cuda
        stream = cuda.current_stream(device)
        return lambda: cuda.stream(stream)
    if library == "cupy":
        stream = sys.modules["cupy"].cuda.get_current_stream()
        return lambda: _entered(stack(), device, stream)
    if library == "jax":
        jax = sys.modules["jax"]
        wide, precision = jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision
        enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
        return lambda: _entered(stack(), enable_x64(wide), jax.default_matmul_precision(precision))
    return contextlib.nullcontext


def _entered(
    stack: contextlib.ExitStack, *contexts: contextlib.AbstractContextManager[Any]
) -> contextlib.AbstractContextManager[Any]:
    for context in contexts:
        stack.enter_context(context)
    return stack
