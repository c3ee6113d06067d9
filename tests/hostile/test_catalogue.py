"""Each hostile input gives a right number, a typed error or a typed warning, on each library."""

import re

import pytest

from tests.conftest import load
from tests.hostile import table
from tests.hostile.catalogue import ROWS
from tests.hostile.row import LIBRARIES

CASES = [pytest.param(row, name, id=f"{row.id}-{name}") for row in ROWS for name in row.libraries]


@pytest.mark.parametrize(("row", "name"), CASES)
def test_hostile(row, name):
    assert row.run(load(*LIBRARIES[name]))


def test_every_row_is_there_once_and_in_order():
    assert [row.id for row in ROWS] == [f"H{i:02d}" for i in range(1, 54)]


def test_the_page_is_that_of_the_catalogue():
    if not table.PAGE.exists():
        pytest.skip("the documentation is not beside the tests")
    lines = table.PAGE.read_text("utf-8").splitlines()
    written = [re.split(r" \| ", line.strip("| "))[:3] for line in lines if line.startswith("| H")]
    assert written == [[row.id, row.input, row.expected] for row in ROWS], "run python -m tests.hostile.table"
