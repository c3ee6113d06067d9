"""What ends a run of the compiled recurrence early, or fails in it, and what is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slq
from slq import _drivers
from slq.errors import NonFiniteError, NotSymmetricError, OutOfMemoryWarning, ProductError, SymmetryWarning
from slq_jax import _driver, hessian_operator
from tests.jax.pure_operators import LINE, N, Operator, diagonal, matrix


@pytest.fixture(autouse=True)
def _drivers_as_before(monkeypatch):
    monkeypatch.setattr(_drivers, "_DRIVERS", dict(_drivers._DRIVERS))


@pytest.fixture
def start(rng):
    return lambda dtype="float64", rows=3, n=N: jnp.asarray(rng.normal(size=(rows, n)), dtype)


def test_progress(start):
    seen = []
    slq.lanczos(Operator(diagonal, LINE), start(), 40, progress=lambda done, total: seen.append((done, total)))
    done = [d for d, _ in seen]
    assert done[0] == 1
    assert done == sorted(set(done))
    assert seen[-1] == (40, 40)
    assert {total for _, total in seen} == {40}


def test_interrupt(start):
    def interrupted(done, total):
        raise KeyboardInterrupt

    operator, V = Operator(diagonal, LINE), start()
    with pytest.raises(KeyboardInterrupt):
        slq.lanczos(operator, V, 20, progress=interrupted)
    assert np.isfinite(slq.lanczos(operator, V, 20).alpha).all()


def gap(arguments, x):
    """A chain whose step from one coordinate to the next is NaN at the tenth."""
    y = jnp.roll(x, 1, -1).at[..., 0].set(0) + jnp.roll(x, -1, -1).at[..., -1].set(0)
    return jnp.where(jnp.abs(x[..., 10:11]) > 0, jnp.nan, y + arguments * x)


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_nan_at_a_later_step(reorthogonalize):
    V = jnp.eye(N)[jnp.asarray([0, 30, 3])]
    operator = Operator(gap, LINE)
    with pytest.raises(NonFiniteError, match="product of step 7 contains NaN or infinity for probe 2") as caught:
        slq.lanczos(operator, V, 9, reorthogonalize=reorthogonalize)
    assert caught.value.probes == [2]
    expected = slq.lanczos(operator, V[:2], 9, reorthogonalize=reorthogonalize)
    np.testing.assert_allclose(caught.value.partial.alpha, expected.alpha, atol=1e-14)  # measured: equal


def test_nan_from_the_first_step(start):
    with pytest.raises(
        NonFiniteError, match=r"the first product contains NaN or infinity for all its probes, \[0, 1, 2\]"
    ):
        slq.lanczos(Operator(diagonal, LINE * np.nan), start(), 5)


def raising(d, x):
    def look(x):
        if np.abs(x[0, 6]) > 0:
            raise ZeroDivisionError("of the user's")
        return x

    x = jax.pure_callback(look, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
    return d * x + jnp.roll(x, 1, -1).at[..., 0].set(0) + jnp.roll(x, -1, -1).at[..., -1].set(0)


RAISED = r"the product of step \d, or of one soon after it, raised .*\(1, 50\), each row a vector: ZeroDiv"


@pytest.mark.parametrize("first", [0, 6])
def test_product_that_raises(first):
    operator, V = Operator(raising, LINE), jnp.eye(N)[None, first]
    with pytest.raises(ProductError, match=RAISED) as caught:
        slq.lanczos(operator, V, 20)
    error = caught.value
    if first == 6:
        assert error.partial is None
    else:
        assert 1 <= error.step <= 6
        assert error.partial.alpha.shape == (1, error.step)
        expected = Operator(raising, LINE)
        slq.register_driver("jax", None)
        with pytest.raises(ProductError) as caught:
            slq.lanczos(expected, V, 20)
        np.testing.assert_allclose(error.partial.alpha, caught.value.partial.alpha[:, : error.step], atol=1e-14)


class XlaRuntimeError(RuntimeError):
    """As JAX calls its errors."""


def test_batches_are_halved_where_memory_runs_out(monkeypatch):
    advance, seen = _driver._advance, []

    def limited(plan, arguments, state, first, last):
        seen.append(len(state.v))
        if len(state.v) > 2:
            raise XlaRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return advance(plan, arguments, state, first, last)

    monkeypatch.setattr(_driver, "_advance", limited)
    operator = Operator(diagonal, LINE)
    with pytest.warns(OutOfMemoryWarning, match="5 probes together ran out of memory: going on with batch_size=2"):
        found = slq.spectral_measure(operator, num_probes=5, num_steps=6)
    assert [rows for i, rows in enumerate(seen) if i == 0 or seen[i - 1] != rows] == [5, 2, 1]
    monkeypatch.setattr(_driver, "_advance", advance)
    expected = slq.spectral_measure(operator, num_probes=5, num_steps=6)
    np.testing.assert_allclose(found.alpha, expected.alpha, rtol=1e-12)  # measured: 1e-15


def test_asymmetric_products_are_refused(start, rng):
    skew = np.triu(rng.normal(size=(N, N)))
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        slq.lanczos(Operator(matrix, skew), start(), 8)
    slq.lanczos(Operator(matrix, skew), start(), 8, check=False)
    slight = np.diag(LINE) + 1e-4 * skew
    with pytest.warns(SymmetryWarning, match="slightly asymmetric"):
        slq.lanczos(Operator(matrix, slight), start(), 8)


@jax.custom_vjp
def one_sided(w):
    return (w**2).sum() ** 2


# The backward pass takes the factor (w²).sum() as constant for the first half of the entries: no symmetric derivative.
def _backward(w, slope):
    constant = jnp.arange(w.size) < w.size // 2
    total = (w**2).sum()
    return (slope * 4 * w * jnp.where(constant, jax.lax.stop_gradient(total), total),)


one_sided.defvjp(lambda w: (one_sided(w), w), _backward)


def test_asymmetric_hessian_is_refused(start, rng):
    operator = hessian_operator(lambda w, _: one_sided(w), rng.normal(size=N), None, check=False)
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        slq.lanczos(operator, start(), 8)


def test_asymmetry_of_a_rounded_basis_is_none(start, recwarn):
    slq.lanczos(Operator(diagonal, LINE * 100), start(), 30, basis_dtype="bfloat16")
    assert not recwarn.list
