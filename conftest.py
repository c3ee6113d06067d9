"""Run every fenced `python` block of README.md and docs/*.md; `output` blocks say what the block above them printed."""

import contextlib
import io
import re
import tempfile
from collections.abc import Iterable

from sybil import Document, Example, Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

# Fences that hold no program. Anything else is refused, so that no block goes unrun because of its label.
SHOWN = {"console", "sh", "text", "toml", "yaml", "bibtex", "{math}", "{toctree}", "{eval-rst}", "{include}"}

find_fences = FencedCodeBlockLexer(r"[^\n]*", mapping={"language": "arguments", "source": "source"})
run_python = PythonEvaluator()


def run(example: Example) -> None:
    """Execute a block in the namespace of its page and keep what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run_python(example)
    example.namespace["_printed"] = printed.getvalue()


def compare(example: Example) -> None:
    """Compare a block with what the block above it printed."""
    assert example.parsed.rstrip() == example.namespace.pop("_printed").rstrip()


EVALUATORS = {"python": run, "output": compare}


def parse(document: Document) -> Iterable[Region]:
    """All code of a page, in order; code that a reader could take for a program but nothing would run is an error."""
    outside = document.text
    for fence in find_fences(document):
        outside = outside.replace(document.text[fence.start : fence.end], "")
        label, source = fence.lexemes["arguments"].strip().split(" ")[0], fence.lexemes["source"]
        if label in EVALUATORS:
            yield Region(fence.start, fence.end, source, EVALUATORS[label])
        elif label not in SHOWN:
            line = document.text.count("\n", 0, fence.start) + 1
            raise ValueError(f"{document.path}:{line}: a block labelled {label!r} is not run; label it python")
    if re.search(r"\n\n(?: {4}|\t)", outside):
        raise ValueError(f"{document.path}: an indented code block is not run; use a fence")


def enter(namespace: dict) -> None:
    """Give the page a directory of its own for the files it writes."""
    namespace["_page"] = page = contextlib.ExitStack()
    page.enter_context(contextlib.chdir(page.enter_context(tempfile.TemporaryDirectory())))


pytest_collect_file = Sybil(
    [parse],
    patterns=["README.md", "docs/*.md"],
    setup=enter,
    teardown=lambda namespace: namespace["_page"].close(),
).pytest()
