"""benchmarks/methods.py, which writes docs/methods.md."""

import numpy as np

from benchmarks import methods

TEXT = methods.PAGE.read_text("utf-8")


def test_the_page_has_every_question_spectrum_and_method():
    """Where one is added, `python -m benchmarks.methods` writes the page anew."""
    headings = [line.removeprefix("### ") for line in TEXT.splitlines() if line.startswith("### ")]
    assert headings == [*methods.QUESTIONS, methods.DENSITY]
    rows = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| ")]
    for name in methods.spectra():
        assert [row[0] for row in rows].count(name) == len(headings)
    assert {cell for row in rows if row[0] == "spectrum" for cell in row[1:]} == set(methods.METHODS)


def test_the_peer_is_unbiased():
    """The mean of 4000 estimates within 4 of its standard errors."""
    spectrum, draw = 1 / np.arange(1.0, 61.0), np.random.default_rng(0)
    found = np.array([methods.hutch(spectrum, 10, draw) for _ in range(4000)])
    assert abs(found.mean() - spectrum.sum()) <= 4 * found.std() / np.sqrt(4000)


def test_all_methods_are_compared_at_equal_products():
    found = methods.errors(methods.spectra()["spiked"], 5, 20, seed=0)
    assert set(found) == {
        *(
            (question, method)
            for question in methods.QUESTIONS
            for method in methods.METHODS
            if method != methods.SHORT
        ),
        ("tr A", methods.SHORT),
        *((methods.DENSITY, method) for method in methods.METHODS[:5]),
    }
    assert np.isfinite(list(found.values())).all()
