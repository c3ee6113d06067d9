"""The HTML page: self-contained, escaped, well-formed."""

from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from slq.report import html_page


class Balance(HTMLParser):
    """Collects text and checks that every opened element is closed."""

    void = frozenset({"meta", "link", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.text, self.sources = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def page():
    ax = Figure().add_subplot()
    rows = [("name", "value"), ("<script>alert(1)</script>", "1 & 2")]
    return html_page("A < B", ["first", "second & third"], ax, 'a "caption"', [("Table <1>", rows)])


def test_page_is_well_formed_and_complete(page):
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    text = "".join(parser.text)
    for part in ("A < B", "second & third", 'a "caption"', "Table <1>", "1 & 2", "<script>alert(1)</script>"):
        assert part in text


def test_page_needs_no_network_and_runs_no_script(page):
    parser = Balance()
    parser.feed(page)
    assert all(source.startswith("data:") for source in parser.sources)
    assert len(parser.sources) == 2
    assert "<script" not in page
