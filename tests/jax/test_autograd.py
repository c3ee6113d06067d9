"""Spectral sums with gradients in the memory of a few vectors: against dense algebra, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slq
from slq.errors import DtypeError, RequestError, ShapeError
from slq_jax import logdet, spectral_sum

N = 24


def points():
    return jnp.linspace(0.0, 1.0, N)


def theta():
    return jnp.array([-1.0, -1.5])


def kernel(theta):
    """A Gaussian kernel of some length, and noise."""
    x = points()
    return jnp.exp(-((x[:, None] - x) ** 2) / 2 / jnp.exp(2 * theta[0])) + jnp.exp(theta[1]) * jnp.eye(N)


def unit():
    """Vectors whose mean x xᵀ is the identity: the trace, without an error."""
    return {"probes": np.sqrt(N) * jnp.eye(N), "num_steps": N}


def dense(f, K):
    return jnp.sum(f(jnp.linalg.eigvalsh(K)))


KINDS = {
    "matrix": lambda theta: (kernel(theta), {}),
    "function": lambda theta: (lambda x: kernel(theta) @ x, {"like": points()}),
    "function of blocks": lambda theta: (lambda X: X @ kernel(theta), {"like": points(), "batched": True}),
}


@pytest.mark.parametrize("reorthogonalize", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_log_determinants_of_all_unit_vectors_are_exact(kind, reorthogonalize):
    def estimate(theta):
        A, options = KINDS[kind](theta)
        return logdet(A, reorthogonalize=reorthogonalize, **unit(), **options)

    value, gradient = jax.jit(jax.value_and_grad(estimate))(theta())
    expected, slope = jax.value_and_grad(lambda theta: jnp.linalg.slogdet(kernel(theta))[1])(theta())
    # Exact after n steps; measured 7e-15.
    np.testing.assert_allclose(value, expected, rtol=1e-8)
    np.testing.assert_allclose(gradient, slope, rtol=1e-8)


@pytest.mark.parametrize("f", [jnp.exp, np.sqrt, lambda t: t**3 + t, lambda t: jnp.log(t + 1)])
def test_functions(f):
    g = jnp.sqrt if f is np.sqrt else f
    found = jax.jit(jax.value_and_grad(lambda theta: spectral_sum(kernel(theta), f, reorthogonalize=True, **unit())))(
        theta()
    )
    expected = jax.value_and_grad(lambda theta: dense(g, kernel(theta)))(theta())
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10)  # rounding, a condition of 71


def test_what_f_closes_over_has_a_gradient():
    found = jax.jit(
        jax.grad(lambda c: spectral_sum(kernel(theta()), lambda t: jnp.log(t + c), **unit(), reorthogonalize=True))
    )(0.5)
    expected = jax.grad(lambda c: dense(lambda t: jnp.log(t + c), kernel(theta())))(0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-10)  # rounding


def test_a_given_derivative():
    found = jax.grad(lambda theta: spectral_sum(kernel(theta), jnp.square, derivative=lambda t: 2 * t, **unit()))(
        theta()
    )
    np.testing.assert_allclose(found, jax.grad(lambda theta: jnp.sum(kernel(theta) ** 2))(theta()), rtol=1e-8)


def test_complex_hermitian_matrices(rng):
    X = rng.normal(size=(N, N)) + 1j * rng.normal(size=(N, N))
    X = jnp.asarray(X @ X.conj().T / N + np.eye(N))
    skew = 1j * jnp.asarray(np.triu(np.ones((N, N)), 1) - np.tril(np.ones((N, N)), -1)) * 0.05

    def A(t):
        return X + t**2 * skew

    found = jax.grad(lambda t: logdet(A(t), reorthogonalize=True, **unit()))(0.3)
    expected = jax.grad(lambda t: jnp.linalg.slogdet(A(t))[1])(0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-9)  # rounding


@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")  # few eigenvalues of a kernel carry its determinant
@pytest.mark.parametrize("sampler", [slq.sphere, slq.gaussian, slq.rademacher])
def test_is_what_the_core_computes(sampler):
    """Value and gradient, for the same probes."""
    options = {"num_probes": 4, "num_steps": 9, "probes": sampler, "rng": 3, "reorthogonalize": True}
    value, gradient = jax.value_and_grad(lambda theta: logdet(kernel(theta), **options))(theta())

    def vjp(u, v):
        return jax.grad(lambda theta: jnp.sum(u * (v @ kernel(theta))))(theta())

    found = slq.spectral_sum_gradient(kernel(theta()), np.log, vjp, **options)
    np.testing.assert_allclose(value, float(found.value), rtol=1e-10)  # rounding
    np.testing.assert_allclose(gradient, found.gradient, rtol=1e-10)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_the_second_pass_is_the_first_to_the_bit(kind):
    """Far beyond the convergence of an outlier, where any other rounding would give other vectors: f(A) = A²/2."""
    d = jnp.asarray(np.r_[np.linspace(0.1, 1, 199), 1e3], kind)

    def estimate(d):
        return spectral_sum(lambda x: d * x, lambda t: t**2 / 2, like=d, num_steps=150, num_probes=3)

    found = jax.jit(jax.grad(estimate))(d)
    x = slq.sphere(0, range(3), None, 200, np.empty(0, kind))
    # f′(A) x = A x is exact after two steps: what is left is rounding of ‖A‖; measured 7e-7 and 2e-16 of it.
    np.testing.assert_allclose(found, np.asarray(d) * (x**2).mean(axis=0), atol=1e3 * 20 * float(jnp.finfo(kind).eps))


def test_an_invariant_subspace_ends_the_sum():
    found = jax.grad(lambda c: logdet(c * jnp.eye(N), num_steps=10, num_probes=3))(2.0)
    np.testing.assert_allclose(found, N / 2, rtol=1e-13)  # rounding


def test_memory_does_not_grow_with_the_steps():
    n, k = 50_000, 2

    def temporaries(num_steps):
        def estimate(d):
            return logdet(lambda X: X * d, like=d, batched=True, num_steps=num_steps, probes=V)

        V = jnp.ones((k, n)).at[1, ::2].set(-1)
        compiled = jax.jit(jax.grad(estimate)).lower(jnp.linspace(1.0, 2.0, n)).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (8 * k * n)

    few, many = temporaries(5), temporaries(60)
    assert many == pytest.approx(few, abs=0.5)  # and (k, m, m) of the tridiagonal matrices
    assert many < 6  # measured 5.0 blocks of vectors


def test_a_derivative_of_the_gradient_is_refused():
    with pytest.raises(RequestError, match="logdet and spectral_sum have first derivatives only"):
        jax.hessian(lambda theta: logdet(kernel(theta), num_steps=5))(theta())


@pytest.mark.parametrize(
    ("A", "options", "error", "message"),
    [
        (lambda x: x, {}, RequestError, "pass like=, an example vector"),
        ("A", {}, RequestError, "A expects a square array, a function or an operator, got str"),
        (np.ones((2, 3)), {}, ShapeError, r"A expects a square matrix, got shape \(2, 3\)"),
        (np.eye(3), {"rng": None}, RequestError, "rng= expects an integer >= 0, got None"),
        (np.eye(3), {"num_probes": 0}, RequestError, "num_probes= expects an integer >= 1"),
        (np.eye(3), {"num_steps": 0}, RequestError, "num_steps= expects an integer >= 1"),
        (np.eye(3), {"reorthogonalize": 2}, RequestError, "expects True or False here, got 2"),
        (np.eye(3), {"probes": np.ones((2, 4))}, ShapeError, r"probes= expects shape \(k, 3\)"),
        (lambda X: X[:1], {"like": np.ones(3), "batched": True}, ShapeError, r"A expects to return .* shape \(10, 3\)"),
        (
            lambda X: X.astype("float32"),
            {"like": np.ones(3), "batched": True},
            DtypeError,
            "A returned float32 for vectors of float64",
        ),
    ],
)
def test_refused_arguments(A, options, error, message):
    with pytest.raises(error, match=message):
        logdet(A, **options)


@pytest.mark.parametrize("options", [{"f": 3}, {"f": jnp.log, "derivative": 3}])
def test_refused_functions(options):
    with pytest.raises(RequestError, match="expects an elementwise function in pure JAX, got int"):
        spectral_sum(np.eye(3), **options)
