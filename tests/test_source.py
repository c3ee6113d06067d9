"""slq/_source.py: start vectors from samplers of the user's own, and what is said about bad ones."""

import numpy as np
import pytest

import slq
from slq._arrays import to_host
from slq.errors import DependentProbesWarning, PlacementError, RequestError, ShapeError
from tests.problems import problem, uniform

N = 24
A = problem(uniform(N))
OPTIONS = {"num_probes": 4, "num_steps": 9}


def same(seed, probe_ids, index, n, like):
    """Forgets the numbers of the probes."""
    return slq.sphere(seed, [0] * len(probe_ids), index, n, like)


def opposite(seed, probe_ids, index, n, like):
    return slq.sphere(seed, [i // 2 for i in probe_ids], index, n, like) * np.array([[1.0], [-1.0]] * 2)


def unscaled(seed, probe_ids, index, n, like):
    return slq.sphere(seed, probe_ids, index, n, like) / n**0.5


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (same, "probes 0 and 1 are the same: estimates get no error bar; a sampler must return independent vectors"),
        (opposite, "probes [02] and [13] are the same"),
        (unscaled, "their mean square is 0.0417, not 1: estimates get no error bar"),
    ],
)
def test_probes_that_depend_on_each_other_get_no_error_bar(sampler, message):
    with pytest.warns(DependentProbesWarning, match=message) as caught:
        measure = slq.spectral_measure(A.matrix, probes=sampler, **OPTIONS)
    assert caught[0].filename == __file__
    assert measure.sampler == "dependent"
    estimate = measure.trace()
    assert estimate.stderr is None
    assert estimate.interval() == (-np.inf, np.inf)
    assert "± ?" in str(estimate)


@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")
def test_probes_that_depend_on_each_other_are_found_on_every_library(xp):
    matrix = xp.asarray(A.matrix)
    with pytest.warns(DependentProbesWarning, match="probes 0 and 1 are the same"):
        slq.spectral_measure(matrix, probes=same, **OPTIONS)
    honest = slq.spectral_measure(matrix, probes=lambda *a: slq.gaussian(*a), **OPTIONS)
    assert honest.sampler == "<lambda>"
    assert honest.trace().stderr > 0
    np.testing.assert_allclose(
        honest.alpha, slq.spectral_measure(matrix, probes=slq.gaussian, **OPTIONS).alpha, atol=1e-12
    )


def test_complex_probes_are_judged_too():
    complex_ = problem(uniform(N), dtype=complex).matrix
    assert slq.spectral_measure(complex_, probes=lambda *a: slq.steinhaus(*a), **OPTIONS).trace().stderr > 0
    with pytest.warns(DependentProbesWarning, match="are the same"):
        slq.spectral_measure(complex_, probes=lambda s, ids, *a: 1j * slq.steinhaus(s, [3] * len(ids), *a), **OPTIONS)


def test_few_coordinates_repeat_by_chance():
    # Signs of three coordinates: two of four probes are one in most cases.
    small = problem([1.0, 2.0, 3.0]).matrix
    measure = slq.spectral_measure(small, probes=lambda *a: slq.rademacher(*a), num_probes=4, num_steps=3)
    assert measure.sampler == "<lambda>"


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda x: 0 * x, RequestError, "are zero or not finite"),
        (lambda x: np.nan * x, RequestError, "are zero or not finite"),
        (lambda x: x[1:], ShapeError, r"the sampler returned 3 vectors for 4 numbers in probe_ids; it must return a"),
        (lambda x: x[0], ShapeError, "the sampler returned 1 vectors for 4 numbers in probe_ids"),
        (lambda x: x[:, 1:], ShapeError, r"V expects shape \(k, 24\) .* got \(4, 23\)"),
        (lambda x: x.tolist(), PlacementError, "V is of list"),
    ],
)
def test_what_is_no_block_of_probes_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        slq.spectral_measure(A.matrix, probes=lambda *a: wrong(slq.gaussian(*a)), **OPTIONS)


# Complex vectors, real operators


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_steinhaus_probes_of_a_real_operator(xp, dtype):
    measure = slq.spectral_measure(xp.asarray(A.matrix, dtype), probes=slq.steinhaus, **OPTIONS)
    assert measure.is_complex
    x = slq.steinhaus(0, range(4), None, N, np.empty(0, complex))
    tolerance = {"float64": 1e-9, "float32": 1e-4}[dtype]  # of `test_smooth_functions_agree_with_the_same_probes`
    np.testing.assert_allclose(measure.quadratic_forms(np.log), A.forms(x, np.log), rtol=tolerance)


def test_complex_vectors_of_a_real_operator(xp):
    x = np.random.default_rng(0).normal(size=(2, 3, N))
    x = x[0] + 1j * x[1]
    matrix = xp.asarray(A.matrix)
    measure = slq.spectral_measure(matrix, probes=xp.asarray(x), num_steps=9)
    np.testing.assert_allclose(measure.quadratic_forms(np.log), A.forms(x, np.log), rtol=1e-9)
    run = slq.lanczos(matrix, xp.asarray(x), 9, return_basis=True)
    np.testing.assert_allclose(run.alpha, measure.alpha, atol=1e-12)
    first = to_host(run.basis)[:, 0]
    np.testing.assert_allclose(first, x / np.linalg.norm(x, axis=1)[:, None], atol=1e-15)


def test_complex_vectors_of_an_operator_that_holds_a_part():
    # One process that holds all coordinates, in an order of its own.
    order = np.random.default_rng(1).permutation(N)

    class Shard:
        shape, like, index = (N, N), np.empty(0), order

        def matvec(self, x):
            return x @ A.matrix[np.ix_(order, order)]

    measure = slq.spectral_measure(Shard(), probes=slq.steinhaus, **OPTIONS)
    whole = slq.spectral_measure(A.matrix, probes=slq.steinhaus, **OPTIONS)
    np.testing.assert_allclose(measure.alpha, whole.alpha, atol=1e-12)
