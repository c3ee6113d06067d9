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


def test_deflate_is_the_deflated_measure_of_independent_probes():
    measure = slq.spectral_measure(A, **OPTIONS).deflate()
    assert slq.logdet(A, method="deflate", **OPTIONS) == measure.logdet()


@pytest.mark.filterwarnings("ignore::slq.errors.SlqWarning")
def test_a_tolerance_takes_fewer_products_where_outliers_are_deflated():
    values = np.concatenate([np.linspace(0.1, 1, 4975), np.geomspace(10, 1000, 25)])
    B = slq.aslinearoperator(lambda x: x * values, like=values, batched=True)
    options = {"rtol": 1e-2, "max_products": 3000, "check": False}
    hits = []
    for seed in range(20):
        plain = slq.spectral_sum(B, np.sqrt, rng=seed, **options)
        deflated = slq.spectral_sum(B, np.sqrt, method="deflate", rng=seed, **options)
        assert deflated.converged
        assert deflated.products < plain.products / 2
        hits.append(abs(deflated.value - np.sqrt(values).sum()) <= 1e-2 * np.sqrt(values).sum())
    assert np.mean(hits) >= 0.85  # of a nominal 95 %: less in one of 60 such sets of 20


def test_unknown_methods_and_options():
    with pytest.raises(RequestError, match="method= expects one of 'slq', 'deflate', 'block', 'krylov', got 'lanczos'"):
        slq.spectral_sum(A, np.sqrt, method="lanczos")
    with pytest.raises(RequestError, match="method='krylov' does not take probes=, only batch_size, check"):
        slq.logdet(A, method="krylov", probes=slq.rademacher)
    for known in ({"signs": (1, 1)}, {"lower": 0.1}, {"upper": 3.0}):
        with pytest.raises(RequestError, match=f"no bracket of its quadrature error, but {next(iter(known))}="):
            slq.spectral_sum(A, np.sqrt, method="krylov", **OPTIONS, **known)
    with pytest.raises(RequestError, match="but this is a block run; leave it out"):
        slq.spectral_sum(A, lambda t: t**-2, signs=(1, -1), lower=0.01, method="block", **OPTIONS)
    with pytest.raises(RequestError, match="method='slq' and 'deflate' can, but method='krylov' was asked for"):
        slq.logdet(A, method="krylov", rtol=0.1)
