"""One row of the catalogue of hostile inputs: what goes in, what the user gets, and how a case is judged."""

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from slq import aslinearoperator
from slq.errors import SlqError, SlqWarning
from tests.conftest import Library

__all__ = ["KINDS", "LIBRARIES", "Outcome", "Row", "function", "refused", "right", "row", "warned"]

Outcome = Literal["correct", "warning", "error"]
KINDS: tuple[Outcome, ...] = get_args(Outcome)

# What the test ids and the columns of the table are called, and what `tests.conftest.load` takes.
LIBRARIES = {
    "numpy": ("numpy", "cpu"),
    "strict": ("array_api_strict", "CPU_DEVICE"),
    "strict-device1": ("array_api_strict", "device1"),  # a fake GPU
    "torch": ("torch", "cpu"),
    "jax": ("jax.numpy", "cpu"),
}


@dataclass(frozen=True)
class Row:
    """A hostile input.

    Attributes
    ----------
    id : str
    input, expected : str
        The text of the table.
    cases : function
        Yields the outcome of one input after the other, on one library; raises where one is not as expected.
    libraries : tuple of str
        Those on which there is such an input.
    """

    id: str
    input: str
    expected: str
    cases: Callable[[Library], Iterator[Outcome]]
    libraries: tuple[str, ...] = tuple(LIBRARIES)

    def run(self, library: Library) -> str:
        """The outcomes, each once."""
        outcomes = set(self.cases(library))
        assert outcomes, f"{self.id} has no case"
        return ", ".join(kind for kind in KINDS if kind in outcomes)


def row(name: str, text: str, expected: str, *libraries: str) -> Callable[[Callable], Row]:
    """Make a `Row` of the function of its cases; on all libraries unless some are named."""

    def make(cases: Callable[[Library], Iterator[Outcome]]) -> Row:
        return Row(name, text, expected, cases, libraries or tuple(LIBRARIES))

    return make


def right(exact: Any, tol: float, call: Callable[..., Any], *arguments: Any) -> Outcome:
    """The right number, without a warning: within `tol` of the largest of the `exact` ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _require_close(call(*arguments), exact, tol)
    return "correct"


def refused(
    kind: type[SlqError],
    cause: str,
    mend: str,
    call: Callable[..., Any],
    *arguments: Any,
    look: Callable[[Any], None] | None = None,
) -> Outcome:
    """An error of just this class, whose message names the cause and then what to do; `look` may examine it."""
    raised: SlqError | None = None
    result = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = call(*arguments)
    except SlqError as error:
        raised = error
    assert type(raised) is kind, f"expected {kind.__name__}, got {raised!r} or {result!r}"
    _require_said(raised, cause, mend)
    if look is not None:
        look(raised)
    return "error"


def warned(
    kind: type[SlqWarning], cause: str, mend: str, exact: Any, tol: float, call: Callable[..., Any], *arguments: Any
) -> Outcome:
    """One warning of just this class, whose message names the cause and then what to do, and the right number."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call(*arguments)
    assert [w.category for w in caught] == [kind], f"expected one {kind.__name__}, got {[str(w) for w in caught]}"
    _require_said(caught[0].message, cause, mend)
    _require_close(result, exact, tol)
    return "warning"


def _require_said(said: Any, cause: str, mend: str) -> None:
    assert re.search(f"{cause}.*{mend}", str(said), re.DOTALL), f"{cause!r}, {mend!r} not in {said!r}"


def _require_close(found: Any, exact: Any, tol: float) -> None:
    size = np.abs(exact).max() if tol else 0.0
    np.testing.assert_allclose(found, exact, rtol=0, atol=tol * size, equal_nan=False)


def function(xp: Library, product: Callable[[Any], Any], n: int, dtype: str = "float64", batched: bool = True) -> Any:
    """An operator of a function."""
    return aslinearoperator(product, like=xp.asarray(np.zeros(n), dtype), batched=batched)
