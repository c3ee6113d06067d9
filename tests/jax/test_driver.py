"""The compiled recurrence gives what the core's loop gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slq
from slq import _drivers
from slq.errors import RequestError
from slq_jax import _driver, hessian_operator
from tests.jax.pure_operators import LINE, N, Operator, diagonal, matrix

DTYPES = ["float64", "float32"]


@pytest.fixture(autouse=True)
def _drivers_as_before(monkeypatch):
    monkeypatch.setattr(_drivers, "_DRIVERS", dict(_drivers._DRIVERS))


@pytest.fixture
def start(rng):
    return lambda dtype="float64", rows=3, n=N: jnp.asarray(rng.normal(size=(rows, n)), dtype)


@pytest.fixture
def both():
    """A run by the driver, whether it was one, and the same run by the core."""

    def run(*arguments, **options):
        answered = []

        def watched(*arguments, **options):
            answered.append(_driver.lanczos(*arguments, **options))
            return answered[-1]

        slq.register_driver("jax", watched)
        found = slq.lanczos(*arguments, **options)
        slq.register_driver("jax", None)
        expected = slq.lanczos(*arguments, **options)
        slq.register_driver("jax", _driver.lanczos)
        return found, answered[0] is not None, expected

    return run


def require_equal(found, expected, tolerance):
    """Coefficients, relative to the largest."""
    size = max(np.abs(expected.alpha).max(), np.abs(expected.beta).max(), 1e-300)
    np.testing.assert_array_equal(found.beta == 0, expected.beta == 0)
    np.testing.assert_allclose(found.alpha, expected.alpha, rtol=0, atol=tolerance * size)
    np.testing.assert_allclose(found.beta, expected.beta, rtol=0, atol=tolerance * size)


def test_registered():
    assert _drivers._DRIVERS["jax"] is _driver.lanczos


# Fewer than a block of the basis, one, one and a bit; more than there are steps.
@pytest.mark.parametrize("reorthogonalize", [True, False, 0, 1, 7, 8, 9, 100])
@pytest.mark.parametrize("num_steps", [1, 20])
def test_any_basis(num_steps, reorthogonalize, start, both):
    found, by_driver, expected = both(Operator(diagonal, LINE), start(), num_steps, reorthogonalize=reorthogonalize)
    assert by_driver
    require_equal(found, expected, 1e-13)  # measured: 1e-15; sums run in another order


@pytest.mark.parametrize("dtype", DTYPES)
def test_basis_is_returned(dtype, start, both):
    found, by_driver, expected = both(Operator(diagonal, LINE, dtype), start(dtype), 20, return_basis=True)
    assert by_driver
    assert found.basis.shape == (3, 20, N)
    assert found.basis.dtype == dtype
    # Measured: 4 roundings in the coefficients; 30 in the basis, which grow with the steps.
    eps = np.finfo(dtype).eps
    require_equal(found, expected, 20 * eps)
    np.testing.assert_allclose(found.basis, expected.basis, rtol=0, atol=500 * eps)


def test_start_vectors_are_kept(start):
    V = start()
    before = np.array(V)
    slq.lanczos(Operator(diagonal, LINE), V, 3)
    np.testing.assert_array_equal(V, before)


@pytest.mark.parametrize("options", [{"basis_dtype": "host"}, {"reorthogonalize": 4, "return_basis": True}])
def test_what_is_left_to_the_core(options, start, both):
    found, by_driver, expected = both(Operator(diagonal, LINE), start(), 12, **options)
    assert not by_driver
    np.testing.assert_array_equal(found.alpha, expected.alpha)


def test_operators_without_a_pure_product_are_left_to_the_core(start, both):
    operator = Operator(diagonal, LINE)
    operator.linear = lambda: None
    assert not both(operator, start(), 5)[1]
    assert not both(jnp.diag(jnp.asarray(LINE)), start(), 5)[1]


@pytest.mark.parametrize(
    ("dtype", "basis_dtype"), [("float64", "float32"), ("float64", jnp.bfloat16), ("float32", "bfloat16")]
)
def test_narrow_basis(dtype, basis_dtype, start, both):
    found, by_driver, expected = both(Operator(diagonal, LINE, dtype), start(dtype), 20, basis_dtype=basis_dtype)
    assert by_driver
    # Two passes leave 2⁻⁷·2⁻⁷ of what a pass finds, itself rounding: measured 1e-9 in float64, 6e-7 in float32.
    require_equal(found, expected, 1e-6 if dtype == "float64" else 1e-5)
    # The loss of orthogonality is of second order in 2⁻⁸; measured: 7e-5 beyond the spectrum.
    T = [np.diag(a) + np.diag(b, 1) + np.diag(b, -1) for a, b in zip(found.alpha, found.beta[:, :-1], strict=True)]
    assert np.abs(np.linalg.eigvalsh(T) - 0.5).max() < 1.5 + 2.0**-12


ENDINGS = {"identity": (np.ones(N), 1), "zero": (np.zeros(N), 1), "three": (np.repeat([1.0, 2, 5], [20, 20, 10]), 3)}


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ENDINGS)
def test_runs_end_early(name, dtype, reorthogonalize, start, both):
    values, length = ENDINGS[name]
    seen = []
    found, by_driver, expected = both(
        Operator(diagonal, values, dtype), start(dtype), 10, reorthogonalize=reorthogonalize
    )
    assert by_driver
    assert (np.argmin(found.beta > 0, axis=1) + 1 == length).all()
    assert (found.alpha[:, length:] == 0).all()
    require_equal(found, expected, 20 * np.finfo(dtype).eps)  # measured: 1 rounding
    slq.lanczos(Operator(diagonal, values, dtype), start(dtype), 10, progress=lambda *at: seen.append(at))
    assert seen[-1] == (10, 10)


def test_one_run_ends_before_the_others(start, both):
    V = start().at[1].set(jnp.eye(N)[3])
    found, _, expected = both(Operator(diagonal, LINE), V, 10)
    assert (found.beta[1] == 0).all()
    assert (found.beta[[0, 2]] > 0).all()
    require_equal(found, expected, 1e-13)


SCALES = [("float64", e) for e in (-200, -100, 100, 200)] + [("float32", e) for e in (-30, -10, 10, 30)]


@pytest.mark.parametrize(("dtype", "exponent"), SCALES)
def test_extreme_scales_are_left_to_the_core(dtype, exponent, start, both):
    """Squares of such products overflow or vanish; the core scales them."""
    found, by_driver, expected = both(Operator(diagonal, LINE * 10.0**exponent, dtype), start(dtype), 12)
    assert not by_driver
    np.testing.assert_array_equal(found.alpha, expected.alpha)
    assert np.isfinite(found.beta).all()


@pytest.mark.parametrize(("dtype", "exponent"), [("float64", 60), ("float64", -60), ("float32", 5), ("float32", -5)])
def test_large_scales_are_not(dtype, exponent, start, both):
    found, by_driver, expected = both(Operator(diagonal, LINE * 10.0**exponent, dtype), start(dtype), 12)
    assert by_driver
    require_equal(found, expected, 100 * np.finfo(dtype).eps)


def orthogonality(found):
    basis = np.asarray(found.basis, np.float64)
    return max(np.abs(b @ b.T - np.eye(len(b))).max() for b in basis)


@pytest.mark.parametrize("dtype", DTYPES)
def test_orthogonality_beside_outliers(dtype, start, both):
    values = np.concatenate([LINE[:-3], {"float64": [1e4, 1e6, 1e8], "float32": [1e2, 1e3, 1e4]}[dtype]])
    found, by_driver, expected = both(Operator(diagonal, values, dtype), start(dtype), 30, return_basis=True)
    assert by_driver
    assert (found.beta > 0).all()
    # Rounding times a small factor. Measured, for both: 4 roundings.
    assert max(map(orthogonality, (found, expected))) < 30 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_second_pass_where_it_is_due(dtype, rng, both, monkeypatch):
    """Each product is mostly what the basis has: what one projection leaves of that is as large as the rest."""
    v, u = np.linalg.qr(rng.normal(size=(N, 2)))[0].T
    operator = Operator(matrix, np.diag(LINE) + 0.01 / np.finfo(dtype).eps * np.outer(v, u), dtype)
    arguments, options = (operator, jnp.asarray(v[None], dtype), 12), {"return_basis": True, "check": False}
    found, by_driver, expected = both(*arguments, **options)
    assert by_driver
    # Twice is enough (Giraud, Langou, Rozložník and van den Eshof 2005): rounding times a small factor.
    assert max(map(orthogonality, (found, expected))) < 30 * np.finfo(dtype).eps
    monkeypatch.setattr(_driver, "_DROP", 0.0)  # without it
    jax.clear_caches()
    once = slq.lanczos(*arguments, **options)
    jax.clear_caches()
    assert orthogonality(once) > 1e-4


def test_options_mean_what_they_do_in_the_core():
    op = hessian_operator(lambda w, _: (w**4).sum() / 12, np.arange(1.0, 9), None)
    V = jnp.ones((1, 8))
    for numpy, python in ((np.True_, True), (np.False_, False), (np.int64(3), 3)):
        assert np.array_equal(*(slq.lanczos(op, V, 6, reorthogonalize=kind).beta for kind in (numpy, python)))
    with pytest.raises(RequestError, match="basis_dtype= expects None"):
        slq.lanczos(op, V, 6, basis_dtype="nonsense")
