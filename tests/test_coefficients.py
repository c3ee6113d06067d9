"""slq/_coefficients.py: what is kept of a run, and what follows from it at once."""

import copy
import pickle

import numpy as np
import pytest

import slq
from slq import SpectralMeasure
from slq.errors import RequestError, SingularError
from tests.problems import indefinite, measure_of, uniform

ALPHA = np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
BETA = np.array([[0.5, 0.25, 0.125], [0.0, 0.0, 0.0]])


def small(**fields):
    """Two runs of a 10-dimensional operator, the second of which ended at its first step."""
    return SpectralMeasure(**{"alpha": ALPHA, "beta": BETA, "n": 10} | fields)


def test_defaults_are_those_of_given_vectors():
    measure = small()
    assert measure.sampler == "fixed"
    assert measure.seeds == (0, 0)
    assert measure.probe_ids == (0, 1)
    np.testing.assert_array_equal(measure.squared_norms, [10.0, 10.0])
    assert (measure.num_probes, measure.num_steps) == (2, 3)


def test_sizes_and_supports():
    measure = small()
    assert measure.products == 4
    assert measure.exact.tolist() == [False, True]
    nodes = np.linalg.eigvalsh([[1.0, 0.5, 0.0], [0.5, 2.0, 0.25], [0.0, 0.25, 3.0]])
    np.testing.assert_allclose(measure.nodes, [nodes, [4.0] * 3], rtol=1e-14)
    assert measure.support == (pytest.approx(nodes[0]), 4.0)
    assert measure.scale == 4.0
    assert small(alpha=-ALPHA).scale == 4.0
    np.testing.assert_allclose(measure.weights.sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_array_equal(measure.residuals[1], 0.0)
    assert (measure.residuals[0] <= 0.125).all()


def test_arrays_cannot_be_changed():
    measure = small()
    for name in ("alpha", "beta", "squared_norms", "nodes", "weights", "residuals"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(measure, name)[0] = 7.0
    with pytest.raises(TypeError):
        measure.provenance["library"] = "mine"
    with pytest.raises(AttributeError):
        measure.n = 3


def test_later_changes_of_the_inputs_do_not_matter():
    alpha = ALPHA.copy()
    measure = small(alpha=alpha)
    alpha[:] = 0
    np.testing.assert_array_equal(measure.alpha, ALPHA)


def test_truncation_keeps_the_first_steps():
    cut = small().truncate(2)
    np.testing.assert_array_equal(cut.alpha, ALPHA[:, :2])
    np.testing.assert_array_equal(cut.beta, BETA[:, :2])
    np.testing.assert_allclose(cut.nodes[0], np.linalg.eigvalsh([[1.0, 0.5], [0.5, 2.0]]), rtol=1e-15)
    assert cut.exact.tolist() == [False, True]
    assert type(cut) is SpectralMeasure
    np.testing.assert_array_equal(small().truncate(3).alpha, ALPHA)


@pytest.mark.parametrize("steps", [0, 4, -1, 2.0, "2", None])
def test_truncation_needs_steps_that_there_are(steps):
    with pytest.raises(RequestError, match="truncate expects 1 to 3 steps, got"):
        small().truncate(steps)


@pytest.mark.parametrize(("steps", "shorter"), [(1, None), (2, 1), (5, 4), (10, 8), (80, 64)])
def test_the_shorter_rule_has_four_fifths_of_the_steps(steps, shorter):
    measure = SpectralMeasure(np.ones((1, steps)), np.ones((1, steps)), 100)
    assert (measure.shorter and measure.shorter.num_steps) == shorter


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": ALPHA[:, :2]}, r"one shape \(k, m\), or .*none of them zero, got \(2, 2\) and \(2, 3\)"),
        ({"alpha": ALPHA[0], "beta": BETA[0]}, r"one shape \(k, m\), or .*none of them zero, got \(3,\)"),
        ({"alpha": ALPHA[:0], "beta": BETA[:0]}, r"one shape \(k, m\), or .*none of them zero, got \(0, 3\)"),
        ({"seeds": (1,)}, "one entry for each of the 2 probes"),
        ({"probe_ids": (1, 2, 3)}, "one entry for each of the 2 probes"),
        ({"squared_norms": np.ones(5)}, "one entry for each of the 2 probes"),
        ({"alpha": ALPHA * np.nan}, "alpha and beta must be finite, and beta not negative"),
        ({"beta": BETA + np.inf}, "alpha and beta must be finite, and beta not negative"),
        ({"beta": -BETA}, "alpha and beta must be finite, and beta not negative"),
        ({"alpha": -ALPHA, "singular": True}, r"alpha of Golub-Kahan runs \(singular=True\) must not be negative"),
        ({"singular": 1}, "singular expects True or False, got 1"),
    ],
)
def test_coefficients_are_checked(fields, message):
    with pytest.raises(RequestError, match=message):
        small(**fields)


def test_the_state_makes_the_same_measure():
    measure = measure_of(uniform(12), num_steps=5)
    again = SpectralMeasure(**measure.state())
    assert again.state().keys() == measure.state().keys()
    for name, value in measure.state().items():
        np.testing.assert_array_equal(again.state()[name], value)
    other = measure.changed(n=13)
    assert (other.n, measure.n) == (13, 12)


# Neither works: a mapping proxy cannot be pickled. Results then cannot cross process boundaries.
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_measures_can_be_copied_and_pickled(duplicate):
    measure = measure_of(indefinite(12), num_steps=5)
    again = duplicate(measure)
    np.testing.assert_array_equal(again.nodes, measure.nodes)
    assert again.provenance == measure.provenance
    assert str(again.trace()) == str(measure.trace())


def test_provenance_says_where_coefficients_come_from(xp):
    measure = slq.spectral_measure(xp.asarray(np.eye(3), "float32"), num_probes=1, num_steps=1)
    assert dict(measure.provenance) == {
        "slq": slq.__version__,
        "library": xp.name,
        "dtype": measure.provenance["dtype"],
        "reorthogonalize": True,
    }
    assert "float32" in measure.provenance["dtype"]
    assert measure.eps == 2.0**-23


# Singular values


def singular(**fields):
    """Three Golub-Kahan runs of a 10-column operator: one goes on, one ended in a null vector, one in a zero beta."""
    alpha = np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 7.0], [5.0, 7.0, 7.0]])
    beta = np.array([[0.5, 0.25, 0.125], [3.0, 7.0, 7.0], [0.0, 7.0, 7.0]])
    return SpectralMeasure(**{"alpha": alpha, "beta": beta, "n": 10, "sampler": "sphere", "singular": True} | fields)


def test_nodes_of_golub_kahan_runs_are_singular_values():
    measure = singular()
    B = np.array([[1.0, 0.5, 0], [0, 2.0, 0.25], [0, 0, 3.0]])
    np.testing.assert_allclose(measure.nodes, [np.linalg.svd(B)[1][::-1], [0.0, 5.0, 5.0], [5.0] * 3], atol=1e-15)
    np.testing.assert_allclose(measure.weights[0], np.linalg.svd(B)[2][::-1, 0] ** 2, atol=1e-15)
    np.testing.assert_allclose(measure.weights[1:], [[0.36, 0.64, 0], [1, 0, 0]], rtol=1e-14)
    assert measure.exact.tolist() == [False, True, True]
    assert measure.lengths.tolist() == [3, 2, 1]
    assert measure.products == 2 * 6
    assert singular(singular=False).products == 3 + 3 + 1
    assert singular(singular=False).exact.tolist() == [False, False, True]


def test_everything_else_follows():
    measure = singular()
    w, t = measure.weights, measure.nodes
    assert measure.trace().value == pytest.approx(10 * (w * t).sum(axis=1).mean())
    assert measure.trace(lambda s: s**2).value == pytest.approx(10 * (1 + 16 + 25) / 3)  # ‖A v₁‖² = α₁²
    # Even powers are polynomials of AᴴA, up to degree 2m − 1 of that; odd ones are not.
    assert measure.moment(2).truncation == 0
    assert measure.moment(10).truncation == 0
    assert measure.moment(12).truncation > 0
    assert measure.moment(1).truncation > 0
    density = measure.density(width=0.5)
    assert np.trapezoid(density.value, density.x) == pytest.approx(1, abs=1e-9)
    cut = measure.truncate(2)
    assert cut.singular
    np.testing.assert_allclose(cut.nodes[0], np.linalg.svd([[1.0, 0.5], [0, 2.0]])[1][::-1], rtol=1e-14)
    assert measure.count(high=0.0).value == pytest.approx(10 * 0.36 / 3)
    again = pickle.loads(pickle.dumps(measure))
    assert again.singular
    text = measure.summary()
    assert text.startswith("Singular value measure of an operator of dimension 10")
    assert "support of the singular values: [0, 5]" in text
    assert "sum of the singular values" in text
    assert "below zero" not in text


def test_null_vectors_make_a_singular_log_determinant():
    with pytest.raises(SingularError, match="logdet met the Ritz value 0 "):
        singular().logdet()
    assert singular().logdet(allow_singular=True).value == -np.inf


def test_unions_do_not_mix_singular_values_and_eigenvalues():
    with pytest.raises(RequestError, match=r"different values of singular: \[False, True\]; they measure different"):
        singular() | singular(singular=False, seeds=(1, 1, 1))
    assert (singular() | singular(seeds=(1, 1, 1))).singular


def test_files_keep_the_kind(tmp_path):
    singular().save(tmp_path / "measure.npz")
    again = SpectralMeasure.load(tmp_path / "measure.npz")
    assert again.singular
    np.testing.assert_array_equal(again.nodes, singular().nodes)
