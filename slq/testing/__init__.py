"""Floor 4: the public battery: operators with exact spectra, and the laws that an array library must keep.

`problems` is the catalogue. The families behind it, with their parameters, are in the modules `graphs`, `structured`,
`physics`, `mixed`, `models`; `spectra` has the lists of eigenvalues.
"""

import slq.testing.graphs as graphs
import slq.testing.mixed as mixed
import slq.testing.models as models
import slq.testing.physics as physics
import slq.testing.spectra as spectra
import slq.testing.structured as structured
from slq.testing._backends import check_backend
from slq.testing._catalogue import problems
from slq.testing._determinants import Determinant, determinants
from slq.testing._kronecker import kronecker_product, kronecker_sum
from slq.testing._problem import TAGS, Problem

__all__ = [
    "TAGS",
    "Determinant",
    "Problem",
    "check_backend",
    "determinants",
    "graphs",
    "kronecker_product",
    "kronecker_sum",
    "mixed",
    "models",
    "physics",
    "problems",
    "spectra",
    "structured",
]
