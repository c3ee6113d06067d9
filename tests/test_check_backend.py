"""slq/testing/_backends.py: the laws hold on every library, and a library that breaks one is found out."""

import types

import array_api_strict as xps
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slq.errors import BackendError, RequestError
from slq.testing import check_backend


def test_the_laws_hold_on_every_library(xp):
    findings = check_backend(xp.namespace, device=xp.device)
    assert len({f["name"] for f in findings}) == len(findings) >= 50
    assert {f["status"] for f in findings} == {"pass"}
    for f in findings:
        assert set(f) == {"name", "status", "value", "threshold", "detail"}
        assert f["value"] <= f["threshold"]


def test_the_default_device():
    assert {f["status"] for f in check_backend(np)} == {"pass"}


def failed(xp):
    return {f["name"].split(", ")[0] for f in check_backend(xp, on_fail=None) if f["status"] == "fail"}


def narrow(asarray):
    """float64 that silently becomes float32."""

    def wrapped(values, /, *, dtype=None, **options):
        array = asarray(values, dtype=dtype, **options)
        is_wide = array.dtype == xps.float64
        return xps.astype(array, xps.float32) if is_wide else array

    return wrapped


def rounded(function):
    """Products with the precision of a tensor core: ten bits."""

    def wrapped(*args, **options):
        result = function(*args, **options)
        dtype = result.dtype
        if dtype not in (xps.float32, xps.float64):
            return result
        return result + xps.asarray(2.0**-11, dtype=dtype) * result

    return wrapped


def zero(function):
    return lambda *args: 0 * function(*args)


def unconjugated(_):
    return lambda x1, x2, /, *, axis=-1: xps.sum(x1 * x2, axis=axis)


def skipped(_):
    return lambda x: x


def swapped(where):
    return lambda condition, x1, x2, /: where(condition, x2, x1)


Array = type(xps.zeros(1))

FAULTS = {
    # whose function is replaced, its name, by what, and a law that must break
    "vecdot does not conjugate": (xps, "vecdot", unconjugated, "coefficients are those of numpy"),
    "conj does nothing": (xps, "conj", skipped, "full runs find every eigenvalue"),
    "float64 becomes float32": (xps, "asarray", narrow, "arrays keep dtype and values"),
    "products are rounded to ten bits": (Array, "__matmul__", rounded, "coefficients are those of numpy"),
    "block products are zero": (xps, "matmul", zero, "full runs find every eigenvalue"),
    "the square root is a little wrong": (xps, "sqrt", rounded, "quadrature is exact to degree 2m minus 1"),
    "where takes the other branch": (xps, "where", swapped, "runs end in invariant subspaces"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_library_is_found_out(monkeypatch, fault):
    owner, name, change, law = FAULTS[fault]
    assert failed(xps) == set()
    monkeypatch.setattr(owner, name, change(getattr(owner, name)))
    assert law in failed(xps)
    with pytest.raises(BackendError, match=rf"array_api_strict breaks \d+ of \d+ laws: .*{law}"):
        check_backend(xps)


def test_jax_without_float64_fails_and_is_told_why():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    try:
        findings = check_backend(jnp, on_fail=None)
    finally:
        jax.config.update("jax_enable_x64", before)
    wide = [f for f in findings if f["name"].endswith(("float64", "complex128"))]
    assert {f["status"] for f in wide} == {"fail"}
    assert {f["status"] for f in findings if f not in wide} == {"pass"}
    assert all("float64" in f["detail"] or "complex128" in f["detail"] for f in wide)


def test_dtypes_that_a_library_lacks_are_skipped():
    lacking = types.SimpleNamespace(__name__="lacking", asarray=np.asarray, float64=np.float64, float32=np.float32)
    findings = check_backend(lacking)
    assert {f["status"] for f in findings if "complex" in f["name"]} == {"skip"}
    assert {f["status"] for f in findings if "float" in f["name"]} == {"pass"}


def test_other_wishes_are_refused():
    with pytest.raises(RequestError, match=r'on_fail= expects "raise" or None, got .ignore.'):
        check_backend(np, on_fail="ignore")
