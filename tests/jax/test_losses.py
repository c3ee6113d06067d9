"""Losses in closed form: beside plain formulas, automatic derivatives, PyTorch, and where textbook formulas fail."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slq.errors import DataError
from slq_jax import hessian_operator
from slq_jax._losses import BinaryCrossEntropy, CrossEntropy, SquaredError
from tests.jax.loss_cases import CLASSES, ENTRIES, EPS, KEY, WEIGHTS, case_of, summed


def of_torch(loss):
    """The loss of the same options in the PyTorch adapter."""
    slq_torch = pytest.importorskip("slq_torch")
    torch = pytest.importorskip("torch")
    names = [name for name in ("ignore_index", "label_smoothing", "class_dim") if hasattr(loss, name)]
    options = {name: getattr(loss, name) for name in names}
    for name in ("class_weights", "pos_weight"):
        if getattr(loss, name, None) is not None:
            options[name] = torch.tensor(getattr(loss, name), dtype=torch.float64)
    return getattr(slq_torch, type(loss).__name__)(**options)


def plain(loss, z, y):
    """The summed loss and its gradient, entry by entry in NumPy."""
    z, y = np.asarray(z), np.asarray(y)
    if isinstance(loss, SquaredError):
        return ((z - y) ** 2).sum(), 2 * (z - y)
    if isinstance(loss, BinaryCrossEntropy):
        s, w = 1 / (1 + np.exp(-z)), 1.0 if loss.pos_weight is None else np.array(loss.pos_weight)
        return -(w * y * np.log(s) + (1 - y) * np.log(1 - s)).sum(), (1 - y) * s - w * y * (1 - s)
    z = np.moveaxis(z, loss.class_dim, -1)
    weights = np.ones(3) if loss.class_weights is None else np.array(loss.class_weights)
    total, gradient = 0.0, np.zeros(z.shape)
    for row in np.ndindex(y.shape):
        if y[row] != loss.ignore_index:
            p = np.exp(z[row]) / np.exp(z[row]).sum()
            target = weights * ((1 - loss.label_smoothing) * np.eye(3)[y[row]] + loss.label_smoothing / 3)
            total, gradient[row] = total - target @ np.log(p), target.sum() * p - target
    return total, np.moveaxis(gradient, -1, loss.class_dim)


@pytest.mark.parametrize("name", [*CLASSES, *ENTRIES])
def test_value_and_gradient_are_those_of_the_formula(name, rng, distance):
    loss, z, batch = case_of(name, rng)
    value, gradient = plain(loss, z, batch[1])
    found = jax.value_and_grad(summed(loss, batch))(z)
    # Nothing but rounding lies between. Measured over ten seeds: at most 7e-16.
    assert float(found[0]) == pytest.approx(value, rel=1e-13)
    assert distance(found[1], gradient) < 1e-13


@pytest.mark.parametrize("name", [*CLASSES, *ENTRIES])
def test_products_are_automatic_second_derivatives(name, rng, distance):
    loss, z, batch = case_of(name, rng)
    t = jnp.asarray(rng.normal(size=z.shape))
    expected = jax.jvp(jax.grad(summed(loss, batch)), (z,), (t,))[1]
    # Nothing but rounding lies between. Measured over ten seeds: at most 1.3e-15.
    assert distance(loss.hessian_product(z, batch, t), expected) < 1e-13
    assert distance(jax.jit(loss.hessian_product)(z, batch, t), expected) < 1e-13


@pytest.mark.parametrize("name", [*CLASSES, *ENTRIES])
def test_agrees_with_the_torch_adapter(name, rng, distance):
    loss, z, batch = case_of(name, rng)
    torch = pytest.importorskip("torch")
    theirs, t = of_torch(loss), jnp.asarray(rng.normal(size=z.shape))
    their_z, their_t = (torch.tensor(np.asarray(x)) for x in (z, t))
    their_batch = None, torch.tensor(np.asarray(batch[1]))
    for ours, expected in zip(loss(z, batch), theirs(their_z, their_batch), strict=True):
        assert float(ours) == pytest.approx(float(expected), rel=1e-13)
    # Nothing but rounding lies between. Measured over ten seeds: at most 5e-16.
    gradient = torch.func.grad(lambda z: theirs(z, their_batch)[0])(their_z)
    assert distance(jax.grad(summed(loss, batch))(z), gradient) < 1e-13
    product = loss.hessian_product(z, batch, t)
    assert distance(product, theirs.hessian_product(their_z, their_batch, their_t)) < 1e-13
    np.testing.assert_array_equal(loss.rows(z), theirs.rows(their_z))
    np.testing.assert_array_equal(loss.from_rows(loss.rows(z), z), z)


@pytest.mark.parametrize("gap", [1.0, 10.0, 20.0, 60.0])
def test_confident_cross_entropy_is_right_in_single_precision(gap, distance):
    """1 − p is 1e-9 at a gap of 20, below rounding."""
    z, batch = jnp.asarray([[gap, 0.0, 1.0, -2.0]], jnp.float32), (None, jnp.asarray([0]))
    found = jnp.stack([CrossEntropy().hessian_product(z, batch, t[None])[0] for t in jnp.eye(4, dtype=jnp.float32)])
    assert distance(found, exact_matrix(z)) < 8 * EPS  # measured: at most 1e-7


def exact_matrix(z):
    """diag p − p pᵀ with every entry right: 1 − p_c is the sum of the others."""
    p = np.asarray(jax.nn.softmax(z.astype(jnp.float64)))[0]
    exact = -np.outer(p, p)
    np.fill_diagonal(exact, [p[c] * np.delete(p, c).sum() for c in range(len(p))])
    return exact


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_cross_entropy_of_narrow_logits_is_semidefinite(dtype, rng, distance):
    z = jnp.asarray(6 * rng.normal(size=(1, 50)), dtype)
    product = partial(CrossEntropy().hessian_product, z, (None, jnp.asarray([0])))
    found = jax.vmap(product)(jnp.eye(50, dtype=dtype)[:, None])[:, 0]
    assert found.dtype == jnp.float32
    exact = exact_matrix(z)
    assert distance(found, exact) < 8 * EPS  # measured: at most 3.3e-7, in half precision too
    lowest = np.linalg.eigvalsh((found + found.T) / 2)[0]
    assert lowest > -8 * EPS * np.linalg.norm(exact)  # its exact smallest value is zero


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError(), BinaryCrossEntropy()], ids=lambda x: type(x).__name__)
def test_precision_of_narrow_outputs(loss, dtype, rng):
    """Half precision is taken as float32, in which 1001 counts; bfloat16 takes it for 1000."""
    z = jnp.asarray(rng.normal(size=(1001, 1)), dtype)
    y = jnp.zeros(1001, jnp.int32) if isinstance(loss, CrossEntropy) else jnp.zeros((1001, 1), dtype)
    expected = jnp.float64 if dtype == jnp.float64 else jnp.float32
    value, weight = loss(z, (None, y))
    found = [value, weight, loss.hessian_product(z, (None, y), z), loss.sampled_gradients(z, (None, y), KEY)]
    assert {x.dtype for x in found} == {jnp.dtype(expected)}
    assert float(weight) == 1001
    assert jax.grad(summed(loss, (None, y)))(z).dtype == dtype


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_confident_binary_cross_entropy(dtype):
    z = jnp.asarray([[20.0, -20.0, 40.0, 0.0]], dtype)
    found = BinaryCrossEntropy().hessian_product(z, (None, jnp.ones_like(z)), jnp.ones_like(z))
    exact = 1 / (1 + np.exp(z.astype(jnp.float64))) / (1 + np.exp(-z.astype(jnp.float64)))
    # Measured: a third of eps; σ (1 − σ) is zero in single precision.
    np.testing.assert_allclose(found, exact, rtol=8 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_extreme_logits(dtype, rng):
    """Nothing overflows, and each number is the limit: of classes in a tie, p is a half."""
    z = jnp.asarray([[1e4, -1e4, 0.0], [1e4, 1e4, -1e4]], dtype)
    batch, t = (None, jnp.asarray([1, 0])), jnp.asarray(rng.normal(size=(2, 3)), dtype)
    loss = CrossEntropy(label_smoothing=0.3)
    product = loss.hessian_product(z, batch, t)
    tie = np.array([1.0, -1.0, 0.0]) * float(t[1, 0] - t[1, 1]) / 4
    rtol = 8 * float(jnp.finfo(dtype).eps)  # a handful of roundings
    np.testing.assert_allclose(product, np.stack([np.zeros(3), tie]), rtol=rtol)
    sampled = loss.sampled_gradients(z, batch, KEY)
    np.testing.assert_allclose(abs(sampled), [[0, 0, 0], [0.5, 0.5, 0]], rtol=rtol)
    # The first row has -log p = (0, 2e4, 1e4) and mean 1e4; the second (log 2, log 2, 2e4 + log 2).
    value, gradient = jax.value_and_grad(summed(loss, batch))(z)
    np.testing.assert_allclose(value, 0.7 * 2e4 + 0.3 * 1e4 + 0.7 * np.log(2) + 0.1 * (3 * np.log(2) + 2e4), rtol=rtol)
    np.testing.assert_allclose(gradient[0], np.array([1, 0, 0]) - [0.1, 0.8, 0.1], rtol=4 * rtol)  # 0.9 - 1 cancels
    z, y = jnp.asarray([1e4, -1e4, 1e4, -1e4], dtype), (None, jnp.asarray([0.0, 0.0, 1.0, 1.0], dtype))
    value, gradient = jax.value_and_grad(summed(BinaryCrossEntropy(), y))(z)
    assert (float(value), gradient.tolist()) == (2e4, [1, 0, 0, -1])
    assert not BinaryCrossEntropy().hessian_product(z, y, z).any()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint32", "int32", "int64", "uint64"])
def test_labels_that_do_not_count(dtype, rng):
    """They add nothing, wherever they point; without one that counts, all is zero."""
    number = 255 if dtype.startswith("u") else -100
    loss, z = CrossEntropy(ignore_index=number, class_weights=WEIGHTS), jnp.asarray(rng.normal(size=(4, 3)))
    some, none = np.array([0, number, 2, number], dtype), np.full(4, number, dtype)
    kept = jnp.asarray([0, 2])
    for found, expected in zip(loss(z, (None, some)), loss(z[kept], (None, kept)), strict=True):
        assert float(found) == pytest.approx(float(expected), rel=1e-15)
    for found in (
        loss.hessian_product(z, (None, some), z),
        loss.sampled_gradients(z, (None, some), KEY),
        jax.grad(summed(loss, (None, some)))(z),
    ):
        assert not found[jnp.asarray([1, 3])].any()
        assert found[kept].all()
    assert [float(x) for x in loss(z, (None, none))] == [0, 0]
    assert not loss.hessian_product(z, (None, none), z).any()
    hidden = z.at[1].set(jnp.asarray([-jnp.inf, 0.0, 0.0]))  # 0 times infinity would be no number
    assert float(loss(hidden, (None, some))[0]) == float(loss(z, (None, some))[0])


@pytest.mark.parametrize("label", [3, -1, 2**31 - 1])
def test_labels_that_are_no_class_give_no_number(label, rng):
    """JAX would take the last class, or count from the end."""
    z, batch = jnp.asarray(rng.normal(size=(2, 3))), (None, jnp.asarray([0, label]))
    loss = CrossEntropy()
    assert all(np.isnan(x) for x in loss(z, batch))
    assert np.isnan(loss.hessian_product(z, batch, z)[1]).all()
    assert np.isnan(loss.sampled_gradients(z, batch, KEY)[1]).all()
    with pytest.raises(DataError, match=r"the loss of batch 0 is nan"):
        hessian_operator(lambda z, batch: loss(z, batch), z, batch)


@pytest.mark.parametrize("name", ["both", "class_dim", "squares", "pos_weight"])
def test_one_example_after_another(name, rng, distance):
    """Under vmap, rows do not interact."""
    loss, z, (_, y) = case_of(name, rng)
    one = jax.vmap(lambda z, y, t: loss.hessian_product(z[None], (None, y[None]), t[None])[0])
    assert distance(one(z, y, z), loss.hessian_product(z, (None, y), z)) < 1e-14  # measured over four seeds: 0
    value, weight = jax.vmap(lambda z, y: loss(z[None], (None, y[None])))(z, y)
    assert float(value.sum()) == pytest.approx(float(loss(z, (None, y))[0]), rel=1e-14)
    assert float(weight.sum()) == pytest.approx(float(loss(z, (None, y))[1]), rel=1e-14)


@pytest.mark.parametrize("name", ["tokens", "both", "squares", "pos_weight"])
def test_in_hessians(name, rng, dense, distance):
    """Of a linear model the Hessian is Jᵀ H J / weight, with J the inputs."""
    loss, z, (_, y) = case_of(name, rng)
    x = rng.normal(size=(*z.shape[:-1], 2))
    W = rng.normal(size=(2, 3))
    op = hessian_operator(lambda W, batch: loss(batch[0] @ W, batch), W, (x, np.asarray(y)))
    z, units = jnp.asarray(x @ W), jnp.eye(6).reshape(6, 2, 3)
    columns = [jnp.einsum("...i,...j->ij", x, loss.hessian_product(z, (None, y), x @ t)) for t in units]
    expected = jnp.stack(columns).reshape(6, 6) / loss(z, (None, y))[1]
    assert distance(dense(op), expected) < 1e-13  # measured over four seeds: at most 3e-16
