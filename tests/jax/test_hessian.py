"""Products, by-products, compilation and spectra of the Hessian operator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slq
from slq_jax import HessianOperator, hessian_operator, lanczos


def squares(p, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ p["weight"] + p["bias"]) - y) ** 2)


@pytest.fixture
def params(rng):
    return {"bias": rng.normal(size=3), "weight": rng.normal(size=(4, 3))}


@pytest.fixture
def data(rng):
    return [(rng.normal(size=(size, 4)), rng.uniform(size=(size, 3))) for size in (2, 2, 2, 1)]


@pytest.fixture
def op(params, data):
    return hessian_operator(squares, params, data)


@pytest.fixture
def vectors(rng):
    return lambda *shape: jnp.asarray(rng.normal(size=shape))


def test_is_an_operator(op):
    assert isinstance(op, HessianOperator)
    assert isinstance(op, slq.LinearOperator)
    assert slq.aslinearoperator(op) is op
    assert op.shape == (15, 15)
    assert (op.like.shape, op.like.dtype) == ((0,), jnp.float64)


def test_block_is_its_rows_one_at_a_time(op, vectors, distance):
    v = vectors(3, 15)
    products = op.matvec(v)
    assert products.shape == v.shape
    for i in range(3):  # measured: 0, but a compiler may order sums by the shape
        assert distance(op.matvec(v[i]), products[i]) < 1e-14
    assert np.array_equal(op.matvec(v[None]), products[None])
    assert op.matvec(jnp.zeros((0, 15))).shape == (0, 15)


def test_loss_and_gradient_are_those_of_jax(op, params, data):
    whole = tuple(np.concatenate(part) for part in zip(*data, strict=True))
    loss, gradient = jax.value_and_grad(squares)(params, whole)
    expected = np.concatenate([gradient["bias"], np.ravel(gradient["weight"])])
    np.testing.assert_allclose(op.gradient(), expected, rtol=0, atol=1e-14)  # measured: 1e-16
    assert isinstance(op.loss(), float)
    assert op.loss() == pytest.approx(float(loss), rel=1e-14)


def test_central_differences(op, params, data, vectors):
    """They share nothing with automatic differentiation: of losses for the gradient, of gradients for the product."""
    v, step = vectors(15), 1e-5
    direction = op.unravel(v)
    ends = [
        hessian_operator(squares, {k: p + sign * step * direction[k] for k, p in params.items()}, data)
        for sign in (1, -1)
    ]
    # Step² times a third derivative, and rounding over the step. Measured over four seeds: 6e-9.
    assert (ends[0].loss() - ends[1].loss()) / (2 * step) == pytest.approx(float(op.gradient() @ v), rel=1e-7)
    difference = (ends[0].gradient() - ends[1].gradient()) / (2 * step)
    np.testing.assert_allclose(difference, op.matvec(v), rtol=0, atol=1e-7)


def test_loss_linear_in_the_parameters(dense, rng):
    op = hessian_operator(lambda w, x: (x @ w).mean(), np.ones(4), rng.normal(size=(6, 4)))
    assert not dense(op).any()


def test_later_operators_of_a_function_compile_nothing(rng, distance, caplog):
    """Parameters and data are arguments of what was compiled, never constants in it."""
    traces = 0

    def quartic(w, x):
        nonlocal traces
        traces += 1
        return jnp.mean((x @ w) ** 4)

    def check():
        """A new operator at a new point, of new data, against the formula."""
        w, x, v = rng.normal(size=3), rng.normal(size=(8, 3)), rng.normal(size=(2, 3))
        op = hessian_operator(quartic, w, [x[:4], x[4:]])
        product, gradient = op.matvec(jnp.asarray(v)), op.gradient()
        # Measured: 1e-15.
        assert op.loss() == pytest.approx(np.mean((x @ w) ** 4), rel=1e-13)
        assert distance(gradient, 4 * (x @ w) ** 3 @ x / 8) < 1e-13
        assert distance(product, v @ (12 * x.T @ np.diag((x @ w) ** 2) @ x / 8)) < 1e-13

    check()
    seen = traces
    with jax.log_compiles(), caplog.at_level("WARNING"):
        check()
    # The check that the loss is a function of its arguments traces it once more, and compiles nothing.
    assert traces == seen + 1
    assert [record.message for record in caplog.records if not record.message.startswith("Finished tracing loss")] == []


def test_parameters_are_those_of_construction(rng, dense):
    """Arrays of NumPy can be written to later; the operator does not follow."""
    w = rng.normal(size=64)
    op = hessian_operator(lambda w, _: (w**4).sum(), w, None)
    before = dense(op)
    w *= 2
    assert np.array_equal(dense(op), before)


def test_loss_may_be_compiled_already(params, data, op, vectors, distance):
    v = vectors(15)
    jitted = hessian_operator(jax.jit(squares), params, data)
    assert distance(jitted.matvec(v), op.matvec(v)) < 1e-14  # measured: 0


def test_half_precision_parameters_give_a_float32_operator(params, data, distance, vectors):
    data, dtype = data[:1], jnp.bfloat16
    half = {name: leaf.astype(dtype) for name, leaf in params.items()}
    op = hessian_operator(squares, half, [(x.astype(dtype), y) for x, y in data])
    assert op.like.dtype == jnp.float32
    v = vectors(2, 15).astype(jnp.float32)
    product, gradient = op.matvec(v), op.gradient()
    assert product.dtype == gradient.dtype == jnp.float32
    # The same weights and data in float64. Measured over 20 seeds: at most 4 machine epsilons of bfloat16.
    wide = {name: leaf.astype(jnp.float64) for name, leaf in half.items()}
    reference = hessian_operator(squares, wide, [(x.astype(dtype).astype(jnp.float64), y) for x, y in data])
    eps = float(jnp.finfo(dtype).eps)
    assert distance(product, reference.matvec(v.astype(jnp.float64))) < 16 * eps
    assert distance(gradient, reference.gradient()) < 16 * eps


def test_mixed_precision_is_as_wide_as_its_widest_leaf():
    params = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones((), jnp.float64), "c": jnp.ones(1, jnp.bfloat16)}
    op = hessian_operator(lambda p, _: p["a"].sum() ** 2 * p["b"] * p["c"][0], params, None)
    assert op.like.dtype == op.matvec(jnp.ones(4)).dtype == jnp.float64


def test_float32_operator_without_x64(rng):
    jax.config.update("jax_enable_x64", False)
    op = hessian_operator(lambda w, x: jnp.mean((x @ w) ** 4), np.float32([1, 2]), rng.normal(size=(3, 2)))
    assert op.like.dtype == op.matvec(jnp.ones(2)).dtype == op.gradient().dtype == jnp.float32


def test_spectrum_is_that_of_the_dense_matrix(op, dense):
    """As many steps as dimensions: Lanczos is exact at the ends, and every quadratic form is."""
    matrix = dense(op)
    exact = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    measure = slq.spectral_measure(op, num_probes=3, num_steps=15, rng=1)
    # Measured: 2e-15 of the norm, and 2e-14 of the forms.
    np.testing.assert_allclose(measure.support, exact[[0, -1]], rtol=0, atol=1e-8 * abs(exact).max())
    x = np.asarray(slq.sphere(1, range(3), None, 15, op.like))
    for power in (1, 2, 3):
        forms = measure.quadratic_forms(lambda t, power=power: t**power)
        expected = np.einsum("ki,ij,kj->k", x, np.linalg.matrix_power(matrix, power), x)
        np.testing.assert_allclose(forms, expected, rtol=1e-10)


def test_first_product_inside_a_trace(params, data, vectors, distance):
    """What is kept for later products are numbers, not tracers."""
    op, v = hessian_operator(squares, params, data), vectors(2, 15)
    traced = jax.jit(op.matvec)(v)
    assert distance(op.matvec(v), traced) < 1e-14  # measured: 0
    alpha, _ = lanczos(op, v, 4)
    assert distance(alpha, slq.lanczos(op, v, 4).alpha) < 1e-13  # measured: 2e-16
