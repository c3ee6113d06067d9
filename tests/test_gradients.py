"""Gradients of spectral sums: what they are for the same probes, their expectation, and what is refused."""

import numpy as np
import pytest
from scipy import stats

import slq
from slq.errors import (
    MemoryForecastError,
    NotPositiveDefiniteError,
    RequestError,
    SingularError,
)
from tests.problems import N, mix, problem

SPECTRUM = np.linspace(0.5, 4.0, N)
FUNCTIONS = {
    "log": (np.log, lambda t: 1 / t),
    "square root": (np.sqrt, lambda t: 0.5 / np.sqrt(t)),
    "exp": (np.exp, np.exp),
    "inverse": (np.reciprocal, lambda t: -1 / t**2),
    "cube": (lambda t: t**3, lambda t: 3 * t**2),
}


def matrix(dtype=float):
    return problem(SPECTRUM, dtype=dtype).matrix


def directions(dtype=float):
    """∂A/∂θ for two parameters: dense, and a multiple of the identity."""
    X = np.random.default_rng(5).normal(size=(N, N)) + (1j if dtype is complex else 0) * mix(np.eye(N), 3)
    return (X + X.conj().T) / 2, 2 * np.eye(N)


def vjp_of(matrices):
    """Σᵢ Re ⟨uᵢ, dA vᵢ⟩ for each of them."""
    return lambda u, v: np.array([(u.conj() * (v @ dA.T)).sum().real for dA in matrices])


def exact(A, derivative, matrices):
    values, vectors = np.linalg.eigh(A)
    slope = (vectors * derivative(values)) @ vectors.conj().T
    return np.array([np.trace(slope @ dA).real for dA in matrices])


@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")
@pytest.mark.parametrize("reorthogonalize", [False, True])
@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_is_the_exact_mean_over_its_probes(name, dtype, reorthogonalize):
    f, derivative = FUNCTIONS[name]
    A, matrices = matrix(dtype), directions(dtype)
    found = slq.spectral_sum_gradient(
        A, f, vjp_of(matrices), num_probes=4, num_steps=N, reorthogonalize=reorthogonalize
    )
    x = slq.sphere(0, range(4), None, N, A[:0, 0])
    values, vectors = np.linalg.eigh(A)
    u = (vectors * derivative(values) @ vectors.conj().T @ x.T).T
    # Exact after n steps, but for rounding; measured 1e-14.
    np.testing.assert_allclose(found.gradient, vjp_of(matrices)(u, x) / 4, rtol=1e-9)
    value = slq.spectral_sum(A, f, num_probes=4, num_steps=N)
    assert float(found.value) == pytest.approx(float(value), rel=1e-9)
    assert found.value.stderr == pytest.approx(value.stderr, rel=1e-6)
    assert found.stderr is None


def test_is_unbiased_and_its_standard_error_honest():
    """Of 400 seeds, against the dense derivative."""
    A, matrices = matrix(), directions()
    truth = exact(A, np.reciprocal, matrices)
    z = []
    for seed in range(400):
        found = slq.spectral_sum_gradient(
            A, np.log, vjp_of(matrices), num_probes=8, num_steps=12, rng=seed, stderr=True, check=False
        )
        z.append((found.gradient - truth) / found.stderr)
    z = np.array(z)
    # Four standard deviations of the mean of 400 t-distributed numbers (7 degrees of freedom: variance 1.4), and of a
    # fraction of 0.95; measured means -0.08 and -0.15, coverages 0.958 and 0.960.
    assert (np.abs(z.mean(axis=0)) < 4 * np.sqrt(1.4 / 400)).all()
    covered = np.mean(np.abs(z) < stats.t.ppf(0.975, 7), axis=0)
    assert (np.abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 400)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_is_the_same_in_every_library(xp, dtype):
    A, dA = (xp.asarray(x, dtype) for x in (matrix(), directions()[0]))
    space = xp.namespace

    def vjp(u, v):
        return space.sum(u * (v @ dA))

    found = slq.spectral_sum_gradient(A, np.log, vjp, num_probes=3, num_steps=12)
    expected = slq.spectral_sum_gradient(matrix(), np.log, vjp_of(directions()[:1]), num_probes=3, num_steps=12)
    # Rounding of the sum of absolute values, a hundredfold; measured 2e-17 and 6e-10 of it.
    scale = float(np.abs(directions()[0]).sum())
    assert float(found.gradient) == pytest.approx(expected.gradient[0], abs=scale * 100 * float(np.finfo(dtype).eps))


def test_batches_do_not_matter_and_are_told_of():
    blocks, told = [], []

    def vjp(u, v):
        blocks.append(u.shape)
        return (u * v).sum()

    options = {"num_probes": 5, "num_steps": 6}
    whole = slq.spectral_sum_gradient(matrix(), np.log, vjp, **options)
    parts = slq.spectral_sum_gradient(
        matrix(), np.log, vjp, batch_size=2, progress=lambda *x: told.append(x), **options
    )
    assert parts.gradient == pytest.approx(whole.gradient, rel=1e-13)  # rounding of sums; measured 0
    assert blocks == [(5, N), (2, N), (2, N), (1, N)]
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


def test_structures_come_back():
    def vjp(u, v):
        form = (u * v).sum()
        return {"a": (form, np.array([form, 2 * form])), "b": [form]}

    found = slq.spectral_sum_gradient(matrix(), np.log, vjp, num_probes=4, batch_size=2, stderr=True)
    plain = slq.spectral_sum_gradient(matrix(), np.log, vjp, num_probes=4).gradient
    for tree in (found.gradient, found.stderr):
        first = tree["a"][0]
        np.testing.assert_allclose(tree["a"][1], [first, 2 * first])
        assert tree["b"][0] == first
    assert found.gradient["a"][0] == pytest.approx(plain["a"][0])


def test_the_unit_vectors_give_the_trace():
    found = slq.spectral_sum_gradient(
        matrix(), np.log, vjp_of(directions()), probes=np.sqrt(N) * np.eye(N), reorthogonalize=True, num_steps=N
    )
    np.testing.assert_allclose(
        found.gradient, exact(matrix(), np.reciprocal, directions()), rtol=1e-11
    )  # exact after n steps; measured 3e-15
    assert float(found.value) == pytest.approx(np.log(SPECTRUM).sum(), rel=1e-12)
    assert found.value.stderr is None


@pytest.mark.parametrize("sampler", [slq.rademacher, slq.gaussian, slq.steinhaus])
def test_samplers(sampler):
    """Of ‖x‖² differs from n for gaussian probes; complex ones are of a real operator."""

    def vjp(u, v):
        return (u.conj() * v).sum().real

    found = slq.spectral_sum_gradient(matrix(), np.square, vjp, probes=sampler, num_probes=6, num_steps=4)
    moments = slq.spectral_measure(matrix(), probes=sampler, num_probes=6, num_steps=4)
    assert found.gradient == pytest.approx(2 * float(moments.trace()), rel=1e-12)  # ⟨2 A x, x⟩, rounding


@pytest.mark.parametrize("eigenvalues", [np.ones(N), np.r_[np.ones(N - 2), 3.0, 3.0]])
def test_few_distinct_eigenvalues(eigenvalues):
    A = problem(eigenvalues).matrix
    x = slq.sphere(0, range(2), None, N, A[:0, 0])
    found = slq.spectral_sum_gradient(A, np.log, vjp_of(directions()[1:]), probes=x)
    u = np.linalg.solve(A, x.T).T
    np.testing.assert_allclose(found.gradient, vjp_of(directions()[1:])(u, x) / 2, rtol=1e-12)  # rounding


def test_logarithms_of_other_matrices_are_refused_before_the_users_function_is_called():
    def vjp(u, v):
        raise AssertionError

    with pytest.raises(NotPositiveDefiniteError, match="logdet expects positive eigenvalues"):
        slq.spectral_sum_gradient(matrix() - np.eye(N), np.log, vjp)
    with pytest.raises(SingularError, match="cannot tell from zero"):
        slq.spectral_sum_gradient(problem(np.r_[0.0, np.ones(N - 1)]).matrix, np.log, vjp)
    with pytest.raises(RequestError, match="f is nan at the Ritz value"):
        slq.spectral_sum_gradient(matrix() - np.eye(N), np.sqrt, vjp)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reorthogonalize": 5}, "expects True or False here, got 5"),
        ({"stderr": True, "num_probes": 1}, "stderr=True expects two probes or more"),
        ({"num_steps": 0}, "num_steps= expects an integer >= 1"),
        ({"derivative": 3}, "derivative of f cannot be used: f expects a function"),
        ({"batch_size": 0}, "batch_size= expects"),
    ],
)
def test_refused_arguments(options, message):
    with pytest.raises(RequestError, match=message):
        slq.spectral_sum_gradient(matrix(), np.log, vjp_of(directions()), **options)


@pytest.mark.parametrize(
    ("vjp", "message"),
    [
        (3, r"vjp expects a function of two \(k, n\) blocks u, v .* got int"),
        (lambda _u, _v: None, "vjp expects to return an array or a number, .* got NoneType"),
        (lambda u, _: np.zeros(len(u)), "the same each time, got ndarray"),
        (lambda u, _: {len(u): 1.0}, "the same each time, got dict"),
    ],
)
def test_refused_functions(vjp, message):
    with pytest.raises(RequestError, match=message):
        slq.spectral_sum_gradient(matrix(), np.log, vjp, num_probes=3, batch_size=2)


def test_what_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr("slq._memory.available", lambda _: 100_000)
    with pytest.raises(MemoryForecastError, match=r"these fit: reorthogonalize=False"):
        slq.spectral_sum_gradient(
            np.eye(100), np.log, vjp_of([]), num_probes=2, num_steps=100, reorthogonalize=True, check=False
        )
