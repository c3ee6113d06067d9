"""slq/_methods.py: the methods of spectral sums by name."""

import numpy as np
import pytest

import slq
from slq.errors import RequestError
from tests.problems import problem, uniform

A = problem(uniform(24)).matrix
OPTIONS = {"num_probes": 4, "num_steps": 5}


def test_slq_is_the_default():
    assert slq.spectral_sum(A, np.sqrt, **OPTIONS) == slq.spectral_sum(A, np.sqrt, method="slq", **OPTIONS)
    assert slq.logdet(A, **OPTIONS) == slq.logdet(A, method="slq", **OPTIONS)


def test_block_is_the_deflated_measure_of_a_shared_space():
    measure = slq.spectral_measure(A, block=True, **OPTIONS).deflate()
    assert slq.spectral_sum(A, np.sqrt, method="block", **OPTIONS) == measure.trace(np.sqrt)


def test_unknown_methods_and_options():
    with pytest.raises(RequestError, match="method= expects one of 'slq', 'block', 'krylov', got 'lanczos'"):
        slq.spectral_sum(A, np.sqrt, method="lanczos")
    with pytest.raises(RequestError, match="method='krylov' does not take probes=, only batch_size, check"):
        slq.logdet(A, method="krylov", probes=slq.rademacher)
