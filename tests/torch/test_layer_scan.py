"""Each layer and loss of torch gives what docs/layers.md says; none is silently wrong.

Where an outcome changes, with another torch, `python -m tests.torch.layer_scan` writes the page anew.
"""

import re

import pytest

from tests.torch.layer_scan import ENTRIES, PAGE, Found, examine, page

SHOWN = dict(
    re.findall(r"^\| ([^|]+?) \| (right|by differences|refused|wrong) \|", PAGE.read_text("utf-8"), re.MULTILINE)
)


@pytest.mark.parametrize("name", ENTRIES)
def test_outcome(name):
    assert examine(name).outcome == SHOWN[name]


def test_page_shows_all():
    assert set(SHOWN) == set(ENTRIES)
    assert len(ENTRIES) >= 90
    assert "wrong" not in SHOWN.values()


def test_page_counts():
    text = page({"a": Found("right", "", 0.0, 3e-16, 0.0), "b": Found("refused", "Error: no | yes")})
    prose = " ".join(text.split())
    assert "for 2 layers and losses" in prose
    assert "1 right, 0 by differences" in prose
    assert "| a | right | 1e-15 | 0 |  |" in text
    assert "| b | refused | – | – | Error: no / yes |" in text
