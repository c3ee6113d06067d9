"""Each hostile input gives a right number, a typed error or a typed warning, on each library."""

import pytest

from tests.conftest import load
from tests.hostile.catalogue import ROWS
from tests.hostile.row import LIBRARIES

CASES = [pytest.param(row, name, id=f"{row.id}-{name}") for row in ROWS for name in row.libraries]


@pytest.mark.parametrize(("row", "name"), CASES)
def test_hostile(row, name):
    outcome = row.run(load(*LIBRARIES[name]))
    assert outcome
