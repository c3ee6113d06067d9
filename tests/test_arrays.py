"""slq/_arrays.py: the same meaning on every array library."""

import types

import numpy as np
import pytest

from slq import _arrays as arrays
from slq._vectors import _project_out
from slq.errors import DtypeError

rng = np.random.default_rng(0)
REAL = rng.normal(size=(3, 5))
COMPLEX = REAL + 1j * rng.normal(size=(3, 5))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_arrays_go_to_the_host_and_back(xp, dtype):
    values = COMPLEX.astype(dtype) if "complex" in dtype else REAL.astype(dtype)
    x = xp.asarray(values)
    assert arrays.to_host(x).dtype == dtype
    np.testing.assert_array_equal(arrays.to_host(x), values)
    back = arrays.from_host(values.astype(np.complex128 if "complex" in dtype else np.float64), x)
    assert back.dtype == x.dtype
    assert arrays.device_of(back) == arrays.device_of(x)
    np.testing.assert_array_equal(arrays.to_host(back), values)


def test_conjugated_torch_views_go_to_the_host():
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(arrays.to_host(torch.tensor(COMPLEX).conj()), COMPLEX.conj())


def test_an_empty_like_carries_library_dtype_and_device(xp):
    x = xp.asarray(REAL, "float32")
    like = arrays.empty_like(x)
    assert like.shape == (0,)
    assert like.dtype == x.dtype
    assert arrays.device_of(like) == arrays.device_of(x)
    assert arrays.library_name(like) == xp.name


def test_arrays_are_told_from_other_objects(xp):
    assert arrays.is_array(xp.asarray(REAL))
    assert not any(arrays.is_array(x) for x in ([1.0], (1.0,), 1.0, None, "text", np.ndarray))


@pytest.mark.parametrize("values", [REAL, COMPLEX], ids=["real", "complex"])
def test_the_inner_product_conjugates_its_first_argument(xp, values):
    other = values[:, ::-1].copy()
    product = arrays.dot(xp.asarray(values), xp.asarray(other))
    np.testing.assert_allclose(arrays.to_host(product), (values.conj() * other).sum(axis=1), rtol=1e-14, atol=1e-14)
    length = arrays.norm(arrays.dot(xp.asarray(values), xp.asarray(values)))
    np.testing.assert_allclose(arrays.to_host(length), np.linalg.norm(values, axis=1), rtol=1e-14)
    assert arrays.to_host(length).dtype == np.float64


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_single_precision_sums_are_accumulated_in_double(xp, dtype):
    if xp.name == "jax":
        pytest.skip("without x64, JAX has no float64 to accumulate in")
    # 2²⁴ + 1 − 2²⁴ is 0 in float32 in any order that adds the 1 to a large number.
    x = xp.asarray(np.array([[2.0**24, 1.0, 1.0, -(2.0**24)]]), dtype)
    assert complex(arrays.to_host(arrays.dot(xp.asarray(np.ones((1, 4)), dtype), x))[0]) == 2.0


def test_small_operations(xp):
    values, factors = REAL.astype(np.float32), np.array([1.0, -2.0, 0.5])
    scaled = arrays.scale_rows(xp.asarray(values), xp.asarray(factors))
    assert arrays.to_host(scaled).dtype == np.float32
    np.testing.assert_array_equal(arrays.to_host(scaled), values * factors[:, None].astype(np.float32))

    block = arrays.set_row(xp.asarray(np.zeros((3, 2, 5))), 1, xp.asarray(REAL))
    np.testing.assert_array_equal(arrays.to_host(block), np.stack([np.zeros((3, 5)), REAL], axis=1))


@pytest.mark.parametrize("values", [REAL, COMPLEX], ids=["real", "complex"])
def test_projection_removes_the_components_along_orthonormal_rows(xp, values):
    rows = np.stack([np.linalg.qr(np.outer(x, [1, 2]) + np.eye(5)[:, :2])[0].T for x in values[:, ::-1]])
    left = arrays.to_host(_project_out(xp.asarray(rows), xp.asarray(values)))
    expected = [v - q.T @ (q.conj() @ v) for q, v in zip(rows, values, strict=True)]
    np.testing.assert_allclose(left, expected, atol=1e-14)


def test_precision_is_that_of_the_dtype(xp):
    assert arrays.precision(xp.asarray(REAL, "float32")) == 2.0**-23
    assert arrays.precision(xp.asarray(COMPLEX)) == 2.0**-52


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_the_recurrence_runs_in_the_dtype_of_the_vectors(xp, dtype):
    like = xp.asarray(np.empty(0), dtype)
    assert arrays.recurrence_like(like) is like


@pytest.mark.parametrize(
    ("library", "dtype"), [("numpy", "float16"), ("torch", "float16"), ("torch", "bfloat16"), ("jax.numpy", "bfloat16")]
)
def test_half_precision_recurrences_run_in_float32(library, dtype):
    module = pytest.importorskip(library)
    like = arrays.recurrence_like(module.zeros(0, dtype=getattr(module, dtype)))
    assert like.dtype == module.float32


def test_a_recurrence_needs_floating_point():
    with pytest.raises(DtypeError, match="expected a floating-point dtype, got int64"):
        arrays.recurrence_like(np.empty(0, dtype=np.int64))


def test_integers_become_the_widest_real_dtype(xp):
    assert arrays.to_host(arrays.promote_inexact(xp.asarray([1, 2]))).dtype == np.float64
    assert arrays.to_host(arrays.promote_inexact(xp.asarray([True, False]))).dtype == np.float64
    x = xp.asarray(REAL, "float32")
    assert arrays.promote_inexact(x) is x


def test_integers_become_float32_where_jax_has_no_float64():
    jax = pytest.importorskip("jax")
    with jax.enable_x64(False):
        assert arrays.promote_inexact(jax.numpy.asarray([1, 2])).dtype == np.float32


@pytest.mark.parametrize("dtype", [object, "datetime64[s]", "U1"])
def test_what_is_no_number_is_refused(dtype):
    with pytest.raises(DtypeError, match="expected a numeric matrix, got dtype"):
        arrays.promote_inexact(np.zeros((2, 2)).astype(int).astype(dtype))


def test_detach_drops_the_history_of_torch_tensors_only():
    torch = pytest.importorskip("torch")
    x = torch.ones(2, requires_grad=True)
    assert not arrays.detach(x).requires_grad
    assert arrays.detach(REAL) is REAL


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", [1, 5, 16, 64, 80])
def test_the_largest_entry_of_each_row(n, order):
    x = np.asarray(np.random.default_rng(n).normal(size=(3, n)), order=order)
    np.testing.assert_array_equal(arrays.largest_entry(x), np.abs(x).max(axis=1))
    x[1, n // 2] = np.nan
    assert np.isnan(arrays.largest_entry(x)).tolist() == [False, True, False]


def test_arrays_of_cupy_are_brought_to_the_host_by_their_own_method():
    array = types.SimpleNamespace(get=lambda: REAL)  # CuPy's refuse every implicit copy
    assert arrays.to_host(array) is REAL


def test_only_a_device_with_a_memory_of_its_own_is_an_accelerator(xp, monkeypatch):
    assert arrays.on_accelerator(xp.asarray(REAL)) == (xp.name == "cupy" or "cuda" in str(xp.device))
    torch = pytest.importorskip("torch")
    assert arrays.on_accelerator(torch.empty(0, device="meta"))
    monkeypatch.setattr(arrays, "library_name", lambda _: "cupy")
    assert arrays.on_accelerator(REAL)
