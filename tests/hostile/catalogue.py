"""The catalogue of hostile inputs: one row for each, in the order of their ids."""

from tests.hostile import (
    buffers,
    errorbars,
    functions,
    losses,
    models,
    modes,
    parameters,
    products,
    promises,
    requests,
    spectra,
    traced,
)
from tests.hostile.row import Row

__all__ = ["ROWS"]

_SECTIONS = (
    products,
    buffers,
    promises,
    spectra,
    functions,
    requests,
    errorbars,
    models,
    losses,
    parameters,
    modes,
    traced,
)

ROWS = [entry for section in _SECTIONS for entry in vars(section).values() if isinstance(entry, Row)]
