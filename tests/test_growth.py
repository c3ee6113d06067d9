"""slq/_growth.py: a measure that grows by parts."""

from typing import Any

import numpy as np
import pytest

import slq
from slq._growth import Growth
from slq._operators import aslinearoperator
from slq.errors import MemoryForecastError, NotSymmetricError
from tests.problems import problem, uniform

A = problem(uniform(24)).matrix


def growth(A=A, **options):
    given: dict[str, Any] = {
        "probes": slq.sphere, "rng": 3, "first_probe": 2, "reorthogonalize": True, "basis_dtype": None,
        "batch_size": None, "check": True,
    }  # fmt: skip
    return Growth(aslinearoperator(A), **given | options)


def test_parts_are_those_of_one_run_and_all_products_are_counted():
    parts = growth()
    joined = parts.add(0, 1, 9, None) | parts.add(1, 3, 9, None)
    whole = slq.spectral_measure(A, num_probes=4, num_steps=9, rng=3, first_probe=2)
    assert joined.probe_ids == whole.probe_ids == (2, 3, 4, 5)
    np.testing.assert_allclose(joined.alpha, whole.alpha, atol=1e-13)
    parts.add(0, 1, 5, None)
    assert parts.spent == 4 * 9 + 5


def test_the_check_is_made_once():
    calls = []

    def product(x):
        calls.append(len(x))
        return x @ A

    parts = growth(aslinearoperator(product, like=np.zeros(24), batched=True))
    for first in range(2):
        parts.add(first, 1, 4, None)
    assert sum(calls) == 10 + 2 * 4
    with pytest.raises(NotSymmetricError):
        growth(np.triu(A)).add(0, 1, 4, None)


def test_complex_probes_of_a_real_operator_leave_its_own_products_real():
    parts = growth(probes=slq.steinhaus)
    assert parts.is_complex
    assert parts.add(0, 1, 4, None).is_complex
    assert parts.plain_products().operator.like.dtype == np.float64
    plain = growth()
    assert plain.plain_products() is plain.products


def test_rows_and_steps_are_what_half_of_the_free_memory_takes(monkeypatch):
    # A run of one probe of 24 numbers takes 8·24·(4 + m) + 16·m bytes: 20 steps 4928.
    monkeypatch.setattr("slq._growth.available", lambda _: 2 * 4928)
    parts = growth(check=False)
    assert 16 <= parts.most_steps(24) <= 20
    assert parts._rows(8, 4) == 2
    monkeypatch.setattr("slq._memory.available", lambda _: 100)
    with pytest.raises(MemoryForecastError, match="are free"):
        parts.add(0, 1, 4, None)
