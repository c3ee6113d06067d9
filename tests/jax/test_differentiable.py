"""Lanczos coefficients and quadratic forms, and their gradients, against dense algebra and central differences."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slq
from slq_jax._differentiable import lanczos, quadratic_forms
from slq_jax._quadratic_forms import _divided_differences

N = 24
LOSSES = {
    "log": lambda alpha, beta: jnp.mean(quadratic_forms(jnp.log, alpha, beta)),
    "coefficients": lambda alpha, beta: jnp.sum(jnp.sin(alpha) + beta**2 * jnp.arange(alpha.shape[-1])),
}


def spd(rng, n=N, kind=float):
    """Eigenvalues between about 0.5 and 4.5."""
    X = rng.normal(size=(n, n)) + (1j * rng.normal(size=(n, n)) if kind is complex else 0)
    return jnp.asarray(X @ X.conj().T / np.linalg.norm(X, 2) ** 2 * 4 + 0.5 * np.eye(n))


def exact(f, A, v):
    """vᴴ f(A) v for v of length one, by a dense eigendecomposition."""
    nodes, vectors = jnp.linalg.eigh(A)
    return jnp.sum(jnp.abs(vectors.conj().T @ (v / jnp.linalg.norm(v))) ** 2 * f(nodes))


def slope(f, x, direction, h=1e-6):
    """Central difference: within 2e-8 of the gradient, measured, and 1e-7 at ten times the step (h²)."""
    f = jax.jit(f)
    return float(f(x + h * direction) - f(x - h * direction)) / (2 * h)


def symmetric(X):
    return (X + X.conj().T) / 2


@pytest.fixture
def A(rng):
    return spd(rng)


@pytest.fixture
def V(rng):
    return jnp.asarray(rng.normal(size=(3, N)))


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("kind", [float, complex])
def test_values_are_those_of_slq(rng, kind, reorthogonalize):
    A, V = spd(rng, kind=kind), spd(rng, kind=kind)[:3] * jnp.asarray([[1e-200], [1.0], [1e200]])
    alpha, beta = lanczos(A, V, 10, reorthogonalize=reorthogonalize)
    expected = slq.lanczos(np.asarray(A), np.asarray(V), 10, reorthogonalize=reorthogonalize)
    # Before convergence the coefficients are determined to some roundings of ‖A‖ = 4.5; measured 2e-15.
    np.testing.assert_allclose(alpha, expected.alpha, atol=1e-12)
    np.testing.assert_allclose(beta, expected.beta, atol=1e-12)


def test_one_vector_is_a_block_of_one(A, V):
    for one, block in zip(lanczos(A, V[0], 5), lanczos(A, V[:1], 5), strict=True):
        np.testing.assert_array_equal(one, block[0])
    assert quadratic_forms(jnp.log, *lanczos(A, V[0], 5)).shape == ()


def test_functions_and_arrays_agree(A, V):
    for x, y in zip(lanczos(lambda v: A @ v, V, 8), lanczos(A, V, 8), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-12)  # products may round in another order; see above


def test_length_of_the_start_does_not_matter(A, V):
    def loss(V):
        return LOSSES["coefficients"](*lanczos(A, V, 6))

    np.testing.assert_allclose(loss(V), loss(7 * V), rtol=1e-13)
    gradient = jax.jit(jax.grad(loss))(V)
    # Homogeneous of degree 0, so Euler's theorem: the gradient is orthogonal to each row; measured 1e-15.
    np.testing.assert_allclose(jnp.sum(gradient * V, axis=1), 0, atol=1e-12)


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("f", [jnp.log, jnp.exp, lambda x: 1 / x], ids=["log", "exp", "inverse"])
def test_gradient_of_a_full_run_is_exact(A, V, f, reorthogonalize, distance):
    def estimate(A, V):
        return jnp.sum(quadratic_forms(f, *lanczos(A, V, N, reorthogonalize=reorthogonalize)))

    by_A, by_V = jax.jit(jax.grad(estimate, (0, 1)))(A, V)
    of_A, of_V = jax.grad(lambda A, V: sum(exact(f, symmetric(A), v) for v in V), (0, 1))(A, V)
    # m = n is exact, and so is its gradient; measured 1e-14.
    assert distance(by_A, of_A) < 1e-11
    assert distance(by_V, of_V) < 1e-11


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_gradient_after_outliers_converged(rng, reorthogonalize, distance):
    n = 120
    U = np.linalg.qr(rng.normal(size=(n, n)))[0]
    eigenvalues = np.concatenate([np.linspace(1, 2, n - 5), [10, 30, 100, 1000, 1e4]])
    A, v = jnp.asarray(U * eigenvalues @ U.T), jnp.asarray(rng.normal(size=n))

    def estimate(A):
        return quadratic_forms(jnp.log, *lanczos(A, v, 40, reorthogonalize=reorthogonalize))

    # Converged before 20 steps, so exact; the vectors lose orthogonality (False). Measured 1e-12, condition number 1e4;
    # without what keeps the multipliers orthogonal, 1e72.
    assert distance(jax.jit(jax.grad(estimate))(A), jax.grad(lambda A: exact(jnp.log, symmetric(A), v))(A)) < 1e-9


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("kind", [float, complex])
def test_gradient_of_a_short_run(rng, kind, reorthogonalize, loss):
    A, V = spd(rng, kind=kind), spd(rng, kind=kind)[:3]

    def estimate(A, V):
        return loss(*lanczos(A, V, 7, reorthogonalize=reorthogonalize))

    by_A, by_V = jax.jit(jax.grad(estimate, (0, 1)))(A, V)
    dA, dV = spd(rng, kind=kind), spd(rng, kind=kind)[:3]
    # For complex x, JAX's gradient g says df = Re Σ g dx.
    assert float(jnp.sum(by_A * dA).real) == pytest.approx(slope(lambda A: estimate(A, V), A, dA), rel=1e-7)
    assert float(jnp.sum(by_V * dV).real) == pytest.approx(slope(lambda V: estimate(A, V), V, dV), rel=1e-7)


def test_complex_operator_of_real_vectors(rng, V):
    A = spd(rng, kind=complex)
    alpha, beta = lanczos(lambda v: A @ v, V, 5)
    expected = slq.lanczos(np.asarray(A), np.asarray(V, complex), 5)
    np.testing.assert_allclose(alpha, expected.alpha, atol=1e-12)  # as above
    assert alpha.dtype == beta.dtype == jnp.float64
    gradient = jax.grad(lambda V: jnp.sum(lanczos(A, V, 5)[0]))(V)
    assert gradient.dtype == V.dtype


def test_gradients_reach_what_functions_close_over(rng, V):
    X, order = jnp.asarray(rng.normal(size=(30, N)) / 5), jnp.asarray(rng.permutation(N))

    def estimate(parameters, order):
        X, noise, shift = parameters
        coefficients = lanczos(lambda v: (X.T @ (X @ v[order]))[jnp.argsort(order)] + noise * v, V[:, order], 6)
        return jnp.sum(quadratic_forms(lambda x: jnp.log(x + shift), *coefficients))

    def of_order(order):  # a symmetric permutation of XᵀX
        P = jnp.eye(N)[order]
        return lambda p: jnp.sum(
            quadratic_forms(
                lambda x: jnp.log(x + p[2]), *lanczos(P.T @ (p[0].T @ p[0]) @ P + p[1] * jnp.eye(N), V[:, order], 6)
            )
        )

    parameters = X, jnp.asarray(0.3), jnp.asarray(0.1)
    got = jax.jit(jax.grad(estimate))(parameters, order)  # the order is traced and has no gradient
    expected = jax.jit(jax.grad(of_order(order)))(parameters)
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-11)  # two orders of rounding; measured 1e-15


def test_under_vmap_and_scan(rng, V):
    As = jnp.stack([spd(rng) for _ in range(3)])
    gradient = jax.jit(jax.grad(lambda A: LOSSES["log"](*lanczos(A, V, 6))))
    one_by_one = jnp.stack([gradient(A) for A in As])
    np.testing.assert_allclose(
        jax.vmap(gradient)(As), one_by_one, atol=1e-12
    )  # batched products may round otherwise; see above

    def summed(As):
        step = lambda total, A: (total + LOSSES["log"](*lanczos(lambda v: A @ v, V, 6)), None)  # noqa: E731
        return jax.lax.scan(step, 0.0, As)[0]

    np.testing.assert_allclose(jax.vmap(symmetric)(jax.jit(jax.grad(summed))(As)), one_by_one, atol=1e-12)


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("spectrum", [[2.0], [1.0, 2.0, 5.0], [0.0, 1.0, 3.0]], ids=str)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_breakdown(rng, spectrum, dtype, reorthogonalize, distance):
    U = np.linalg.qr(rng.normal(size=(N, N)))[0]
    eigenvalues = np.repeat(spectrum, N // len(spectrum))
    A, V = jnp.asarray(U * eigenvalues @ U.T, dtype), jnp.asarray(rng.normal(size=(2, N)), dtype)

    def f(x):
        return jnp.log(x + 1)

    def estimate(A, V):
        return jnp.sum(quadratic_forms(f, *lanczos(A, V, 9, reorthogonalize=reorthogonalize)))

    alpha, beta = lanczos(A, V, 9, reorthogonalize=reorthogonalize)
    steps = len(spectrum)
    assert (beta[:, : steps - 1] > 0).all()
    if dtype == jnp.float64:  # in single precision, where ten roundings end a run, slq may go on as well
        assert not beta[:, steps - 1 :].any()
        assert not alpha[:, steps:].any()
    by_A, by_V = jax.jit(jax.grad(estimate, (0, 1)))(A, V)
    F = (f(eigenvalues[:, None]) - f(eigenvalues)) / np.where(
        same := np.equal.outer(eigenvalues, eigenvalues), 1, (eigenvalues[:, None] - eigenvalues)
    )
    F = np.where(same, 1 / (eigenvalues + 1), F)  # Daleckii and Krein
    units = np.asarray(V, float) / np.linalg.norm(V, axis=1, keepdims=True)
    of_A = sum(U @ (F * np.outer(U.T @ q, U.T @ q)) @ U.T for q in units)
    f_units = units @ (U * f(eigenvalues) @ U.T)
    of_V = 2 * (f_units - units * np.sum(f_units * units, axis=1, keepdims=True))
    of_V = of_V / np.linalg.norm(V, axis=1, keepdims=True)
    tolerance = 1000 * float(jnp.finfo(dtype).eps)  # measured: 8 roundings
    assert distance(by_A, of_A) < tolerance
    assert np.linalg.norm(by_V - of_V) < tolerance


def test_nothing_is_evaluated_without_weight():
    """The run ends after one step at 4: f is a pole or a domain error at every other number."""
    alpha, beta = jnp.asarray([[4.0, 0.0, 0.0]]), jnp.asarray([[0.0, 0.0, 0.0]])

    def f(x):
        return jnp.where(x == 4.0, x**1.5, jnp.nan)

    value, pullback = jax.vjp(lambda a, b: quadratic_forms(f, a, b), alpha, beta)
    by_alpha, by_beta = pullback(jnp.ones(1))
    assert value.tolist() == [8.0]
    np.testing.assert_array_equal(by_alpha, [[3.0, 0.0, 0.0]])
    np.testing.assert_array_equal(by_beta, np.zeros((1, 3)))


def test_a_run_may_end_at_zero_eigenvalues():
    """Nodes 0 and 2, both of weight ½; a padded node at 0 would mix with the first."""
    alpha, beta = jnp.asarray([1.0, 1.0, 0.0, 0.0]), jnp.asarray([1.0, 0.0, 0.0, 0.0])
    value, gradient = jax.value_and_grad(lambda a: quadratic_forms(jnp.exp, a, beta))(alpha)
    assert value == pytest.approx((1 + np.e**2) / 2, rel=1e-14)  # some roundings
    # S (F ∘ s sᵀ) Sᵀ by hand, with s = (1, 1)/√2 and F = [[1, f[0, 2]], [f[0, 2], e²]]; some roundings
    mixed = (np.e**2 - 1) / 2
    np.testing.assert_allclose(gradient[:2], [(1 + np.e**2 + 2 * mixed) / 4, (1 + np.e**2 - 2 * mixed) / 4], rtol=1e-13)
    np.testing.assert_array_equal(gradient[2:], 0)


@pytest.mark.parametrize("gap", [0.0, 1e-13, 1e-9, 1e-5, 7e-4, 8e-4, 1e-2])
def test_divided_differences_of_close_nodes(gap):
    nodes = jnp.asarray([[1.0, 1.0 + gap]])
    got = _divided_differences(lambda _arrays, _fixed, x: jnp.log(x), [], [], nodes)
    gap = float(nodes[0, 1] - 1)  # as rounded
    expected = np.log1p(gap) / gap if gap else 1.0
    # eps/7.4e-4 = 3e-13 where the quotient takes over from the mean
    np.testing.assert_allclose(got[0], [[1.0, expected], [expected, 1 / (1 + gap)]], rtol=3e-13)


def test_the_last_beta_is_no_part_of_the_matrix(A, V):
    alpha, beta = lanczos(A, V, 5)
    gradient = jax.grad(lambda b: jnp.sum(quadratic_forms(jnp.log, alpha, b)))(beta)
    assert not gradient[:, -1].any()
    np.testing.assert_array_equal(
        quadratic_forms(jnp.log, alpha, beta), quadratic_forms(jnp.log, alpha, beta.at[:, -1].set(9.0))
    )


def test_nan_stays_visible(A, V):
    alpha, beta = jax.jit(lambda A, V: lanczos(A, V, 3))(A.at[0, 0].set(jnp.nan), V)
    assert jnp.isnan(quadratic_forms(jnp.log, alpha, beta)).all()
    alpha, _ = jax.jit(lambda V: lanczos(A, V, 3))(V.at[1].set(0.0))
    np.testing.assert_array_equal(jnp.isnan(alpha).any(axis=1), [False, True, False])


def test_arrays_that_functions_close_over_are_let_go(V):
    A = jnp.eye(N)
    alive = weakref.ref(A)
    jax.grad(lambda A: lanczos(lambda v: A @ v, V, 2)[0].sum())(A)
    del A
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_memory_of_the_gradient_is_one_basis(reorthogonalize):
    k, m, n = 4, 30, 5000
    V, d = jnp.asarray(np.random.default_rng(0).normal(size=(k, n))), jnp.linspace(1.0, 2.0, n)

    def loss(d):
        return LOSSES["log"](*lanczos(lambda v: d * v, V, m, reorthogonalize=reorthogonalize))

    memory = jax.jit(jax.grad(loss)).lower(d).compile().memory_analysis()
    # The basis and less than twelve blocks (k, n); differentiating the loop itself takes 4 (False) and 39 (True) bases.
    assert memory.temp_size_in_bytes < (m + 1 + 12) * k * n * 8
