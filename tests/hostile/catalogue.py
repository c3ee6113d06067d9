"""The catalogue of hostile inputs: one row for each, in the order of their ids."""

from tests.hostile import matvec, operators, requests
from tests.hostile.row import Row

__all__ = ["ROWS"]

ROWS = [entry for module in (matvec, operators, requests) for entry in vars(module).values() if isinstance(entry, Row)]
