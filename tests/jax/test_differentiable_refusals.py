"""What `lanczos` and `quadratic_forms` of the JAX adapter refuse, with the cause and the cure in the message."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slq.errors import DtypeError, RequestError, ShapeError
from slq_jax._differentiable import lanczos, quadratic_forms


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize(
    "f",
    [
        lambda a: jnp.sum(lanczos(a * jnp.eye(2), jnp.ones(2), 2)[0]),
        lambda a: quadratic_forms(jnp.log, a * jnp.ones(2), jnp.ones(2)),
    ],
    ids=["lanczos", "quadratic_forms"],
)
def test_second_derivatives_are_refused(f, derivative):
    with pytest.raises(RequestError, match=r"first derivatives only.*got a request for a derivative of their gradient"):
        derivative(jax.grad(f))(2.0)


@pytest.mark.parametrize("num_steps", [0, -1, 2.0, True, None])
def test_bad_num_steps(num_steps):
    with pytest.raises(RequestError, match=r"num_steps= expects an integer >= 1, got"):
        lanczos(np.eye(4), np.ones(4), num_steps)


def test_traced_num_steps():
    with pytest.raises(RequestError, match=r"num_steps= expects.*mark it static in jax\.jit"):
        jax.jit(lambda m: lanczos(np.eye(4), np.ones(4), m))(3)


BAD_ARGUMENTS = {
    "reorthogonalize": (dict(reorthogonalize=3), RequestError, r"expects True or False, got 3; use slq\.lanczos"),
    "V of three dimensions": (dict(V=np.ones((1, 1, 4))), ShapeError, r"V expects shape \(k, n\) or \(n,\).*1, 1, 4"),
    "no vectors": (dict(V=np.ones((0, 4))), ShapeError, r"V expects shape .*got \(0, 4\)"),
    "zero vector": (
        dict(V=np.eye(4)[:3] * [[1], [0], [1]]),
        RequestError,
        r"start vectors \[1\] are zero or not finite",
    ),
    "infinite vector": (dict(V=np.full(4, np.inf)), RequestError, r"start vectors \[0\] are zero or not finite"),
    "integers": (dict(V=np.ones(4, int)), DtypeError, r"V expects float32, .*got int64; convert it \(astype\)"),
    "half": (dict(V=jnp.ones(4, jnp.bfloat16)), DtypeError, r"V expects float32, .*got bfloat16; convert it"),
    "matrix of integers": (dict(matvec=np.eye(4, dtype=int)), DtypeError, r"the matrix expects float32, .*got int64"),
    "matrix shape": (dict(matvec=np.eye(5)), ShapeError, r"the matrix expects shape \(4, 4\).*got \(5, 5\)"),
    "no operator": (dict(matvec=None), RequestError, r"matvec expects a function of one vector or .*got None"),
    "product shape": (dict(matvec=lambda v: v[:2]), ShapeError, r"matvec expects to return .*\(4,\).*return A @ x"),
    "product tuple": (dict(matvec=lambda v: (v, v)), ShapeError, r"matvec expects to return an array of shape \(4,\)"),
    "product dtype": (dict(matvec=lambda v: v.astype(jnp.float32)), DtypeError, r"returned float32 for .* of float64"),
}


@pytest.mark.parametrize(("change", "error", "match"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments(change, error, match):
    arguments = {"matvec": np.eye(4), "V": np.ones(4), "num_steps": 2} | change
    with pytest.raises(error, match=match):
        lanczos(**arguments)


def test_float64_without_x64():
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(DtypeError, match=r"V is float64, which JAX would silently make single.*jax_enable_x64"):
        lanczos(np.eye(4), np.ones(4), 2)


BAD_FORMS = {
    "shapes": (jnp.log, np.ones((2, 3)), np.ones((2, 2)), RequestError, r"one shape \(k, m\).*\(2, 3\) and \(2, 2\)"),
    "no steps": (jnp.log, np.ones((2, 0)), np.ones((2, 0)), RequestError, r"k, m >= 1, got \(2, 0\)"),
    "integers": (jnp.log, np.ones(2, int), np.ones(2), DtypeError, r"alpha expects float32, .*got int64"),
    "complex": (jnp.log, np.ones(2, complex), np.ones(2), DtypeError, r"expect a real dtype, got complex128"),
    "not elementwise": (lambda x: jnp.ones(3) * x, np.ones(2), np.ones(2), ShapeError, r"elementwise, .*got \(3,\)"),
    "not real": (lambda x: x * 1j, np.ones(2), np.ones(2), DtypeError, r"f expects to return a real .*got complex128"),
}


@pytest.mark.parametrize(("f", "alpha", "beta", "error", "match"), BAD_FORMS.values(), ids=BAD_FORMS)
def test_bad_forms(f, alpha, beta, error, match):
    with pytest.raises(error, match=match):
        quadratic_forms(f, alpha, beta)
