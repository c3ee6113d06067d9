"""Each hostile input gives a right number, a typed error or a typed warning, on each library, as docs/hostile.md says.

Where an outcome changes, `python -m tests.hostile.table` writes the page anew.
"""

import warnings

import numpy as np
import pytest

from slq import errors
from tests.conftest import load
from tests.hostile import table
from tests.hostile.catalogue import ROWS
from tests.hostile.row import LIBRARIES, refused, right, warned

CASES = [pytest.param(row, name, id=f"{row.id}-{name}") for row in ROWS for name in row.libraries]
TEXT = table.PAGE.read_text("utf-8")
SHOWN, MADE_WITH = table.cells(TEXT)


@pytest.mark.parametrize(("row", "name"), CASES)
def test_hostile(row, name):
    assert row.run(load(*LIBRARIES[name])) == SHOWN[row.id, name]


def test_every_row_of_the_plan_is_there_once():
    assert [row.id for row in ROWS] == [*(f"H{number:02}" for number in range(1, 77)), "H76b"]
    assert all(row.libraries and set(row.libraries) <= set(LIBRARIES) for row in ROWS)


def test_the_page_shows_the_catalogue():
    assert table.page(SHOWN, MADE_WITH) == TEXT, "run python -m tests.hostile.table"
    assert set(SHOWN) == {(row.id, name) for row in ROWS for name in row.libraries}
    assert table.FAILED not in TEXT


def test_classes_that_rows_name_exist():
    words = {word.strip("`:;,.()") for row in ROWS for word in row.expected.split()}
    named = {word for word in words if word.endswith(("Error", "Warning"))}
    assert named
    assert named <= set(errors.__all__)


# A case that cannot fail would show nothing.


def gives(result=1.0, warning=None, error=None):
    if warning is not None:
        warnings.warn(warning, stacklevel=2)
    if error is not None:
        raise error
    return result


GRID = errors.GridWarning("the grid is short; extend it")
WIDTH = errors.WidthError("the width is zero; use another")


@pytest.mark.parametrize(
    "judge",
    [
        lambda: right(1.0, 1e-9, gives, 1.1),
        lambda: right(1.0, 0.1, gives, np.nan),
        lambda: right(1.0, 0.1, gives, 1.0, GRID),
        lambda: refused(errors.WidthError, "zero", "another", gives),
        lambda: refused(errors.RequestError, "zero", "another", gives, 1.0, None, WIDTH),
        lambda: refused(errors.WidthError, "zero", "a shift", gives, 1.0, None, WIDTH),
        lambda: refused(errors.WidthError, "width", "another", gives, 1.0, None, ValueError("the width; another")),
        lambda: warned(errors.GridWarning, "short", "extend", 1.0, 0.1, gives, 1.0),
        lambda: warned(errors.SlqWarning, "short", "extend", 1.0, 0.1, gives, 1.0, GRID),
        lambda: warned(errors.GridWarning, "short", "leave it out", 1.0, 0.1, gives, 1.0, GRID),
        lambda: warned(errors.GridWarning, "short", "extend", 1.0, 0.1, gives, 1.2, GRID),
        lambda: warned(errors.GridWarning, "short", "extend", 1.0, 0.1, gives, np.nan, GRID),
    ],
)
def test_what_is_not_as_expected_is_a_failure(judge):
    with pytest.raises((AssertionError, errors.GridWarning, ValueError)):
        judge()


def test_what_is_as_expected_has_an_outcome():
    assert right(1.0, 0.1, gives, 1.05) == "correct"
    assert refused(errors.WidthError, "zero", "another", gives, 1.0, None, WIDTH) == "error"
    assert warned(errors.GridWarning, "short", "extend", 1.0, 0.1, gives, 1.05, GRID) == "warning"
