"""Quadratic forms e₁ᵀ f(T) e₁ of tridiagonal matrices, with gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from slq.errors import DtypeError, RequestError, ShapeError
from slq_jax._hoisted import array, hoist, no_second_derivative

__all__ = ["elementwise", "everywhere", "quadratic_forms", "spectra"]

# Gauss-Legendre on [0, 1]: the mean of f' over the segment between two close nodes is their divided difference.
_POINTS = (0.5 - 0.15**0.5, 0.5, 0.5 + 0.15**0.5)
_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)


def quadratic_forms(f: Callable[[jax.Array], jax.Array], alpha: jax.Array, beta: jax.Array) -> jax.Array:
    """Compute e₁ᵀ f(T) e₁ for tridiagonal matrices T, differentiable in reverse.

    Parameters
    ----------
    f : callable
        A differentiable elementwise function in pure JAX; gradients reach whatever arrays it closes over. It is called
        on one number at a time (under `jax.vmap`), and never on a node of weight zero.
    alpha, beta : (k, m) or (m,) array
        Diagonals and off-diagonals as `lanczos` returns them: the last column of beta is not part of T, and a zero in
        beta ends a run.

    Returns
    -------
    (k,) or () array
        For a start vector v of length one, an approximation of vᴴ f(A) v.

    Raises
    ------
    RequestError
        If the shapes differ, or a derivative of the gradient is asked for.
    ShapeError
        If f is not elementwise.
    DtypeError
        If alpha, beta or f are not real floating-point, or float64 would silently become float32.

    Notes
    -----
    The gradient is that of Daleckii and Krein, with divided differences of f, and so needs no distinct eigenvalues.

    References
    ----------
    Golub and Welsch, Calculation of Gauss quadrature rules, Math. Comp. 23 (1969); Higham, Functions of matrices, SIAM
    2008, theorem 3.11.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> round(float(quadratic_forms(jnp.square, jnp.array([2.0, 1.0]), jnp.array([3.0, 0.0]))), 4)  # 2² + 3²
    13.0
    """
    alpha, beta = array("alpha", alpha), array("beta", beta)
    if alpha.shape != beta.shape or alpha.ndim not in (1, 2) or alpha.size == 0:
        raise RequestError(
            f"alpha and beta must have one shape (k, m) with k, m >= 1, got {alpha.shape} and {beta.shape}; "
            "the last column of beta is the residual norm (any value, if unknown)"
        )
    dtype = jnp.result_type(alpha, beta)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise DtypeError(f"alpha and beta expect a real dtype, got {dtype}; pass their real parts")
    function, arrays, fixed = elementwise(f, dtype)
    rows = [jnp.atleast_2d(x).astype(dtype) for x in (alpha, beta)]
    values = _forms(function, arrays, fixed, *rows).astype(dtype)
    return values if alpha.ndim == 2 else values[0]


def elementwise(f: Callable[[jax.Array], jax.Array], dtype: Any) -> tuple[Callable, list[Any], list[Any]]:
    """`f` of one number as ``function(arrays, fixed, x)``, with what it closes over."""
    function, arrays, fixed, out = hoist(lambda x: jnp.asarray(f(x)), jax.ShapeDtypeStruct((), dtype))
    if out.shape != ():
        raise ShapeError(f"f expects to be elementwise, () -> (), got {out.shape} for one number; write it with jnp")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise DtypeError(f"f expects to return a real floating-point dtype, got {out.dtype}; convert it (astype)")
    return function, arrays, fixed


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _forms(function: Callable, arrays: Any, fixed: Any, alpha: jax.Array, beta: jax.Array) -> jax.Array:
    return _forward(function, arrays, fixed, alpha, beta)[0]


def _forward(function: Callable, arrays: Any, fixed: Any, alpha: jax.Array, beta: jax.Array) -> Any:
    nodes, vectors, live = spectra(alpha, beta)
    weights = vectors[:, 0] ** 2
    values = jnp.sum(weights * everywhere(function, arrays, fixed)(nodes), axis=-1)
    return values, (arrays, fixed, nodes, vectors, live)


def _backward(function: Callable, kept: Any, cotangents: jax.Array) -> Any:
    arrays, fixed, nodes, vectors, live = kept
    gradients, alpha_bar, beta_bar = _adjoint(function, arrays, fixed, nodes, vectors, live, cotangents)
    return gradients, None, alpha_bar, beta_bar


_forms.defvjp(_forward, _backward)


def everywhere(function: Callable, arrays: Any, fixed: Any) -> Callable:
    """`function` of every entry of an array."""
    return jnp.vectorize(lambda x: function(arrays, fixed, x))


def spectra(alpha: jax.Array, beta: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Nodes (k, m), eigenvectors (k, m, m) in columns, and which steps belong to the runs (k, m).

    A node without weight stands at the node of the largest one, and its eigenvector is zero.
    """
    k, m = alpha.shape
    live = jnp.concatenate([jnp.ones((k, 1), bool), jnp.cumprod(beta[:, :-1] != 0, axis=1) > 0], axis=1)
    beside = jnp.where(live[:, 1:], beta[:, :-1], 0)
    none = jnp.zeros_like(alpha[:, :1])
    sides = jnp.concatenate([none, jnp.abs(beside)], axis=1) + jnp.concatenate([jnp.abs(beside), none], axis=1)
    reach = jnp.max(jnp.where(live, jnp.abs(alpha) + sides, 0), axis=1, keepdims=True)
    # Beyond the spectrum (Gershgorin), so that the eigenvalues of what follows a run come last and mix with none of it.
    diagonal = jnp.where(live, alpha, jnp.where(reach > 0, 2 * reach, 1))
    i = jnp.arange(m)
    T = jnp.zeros((k, m, m), alpha.dtype).at[:, i, i].set(diagonal)
    T = T.at[:, i[1:], i[:-1]].set(beside).at[:, i[:-1], i[1:]].set(beside)
    nodes, vectors = jnp.linalg.eigh(T, symmetrize_input=False)[:2]
    weights = jnp.where(i < live.sum(axis=1, keepdims=True), vectors[:, 0] ** 2, 0)
    weightless = weights == 0  # not so for NaN
    heaviest = jnp.take_along_axis(nodes, jnp.argmax(weights, axis=1, keepdims=True), axis=1)
    return jnp.where(weightless, heaviest, nodes), jnp.where(weightless[:, None], 0, vectors), live


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _adjoint(
    function: Callable,
    arrays: Any,
    fixed: Any,
    nodes: jax.Array,
    vectors: jax.Array,
    live: jax.Array,
    cotangents: jax.Array,
) -> tuple[Any, jax.Array, jax.Array]:
    """The cotangents of what f closes over, of alpha and of beta.

    T = S diag(θ) Sᵀ has the cotangent S (F ∘ s sᵀ) Sᵀ, where s = Sᵀ e₁ and F holds the divided differences f[θᵢ, θⱼ].
    """
    first = vectors[:, 0]
    differences = _divided_differences(function, arrays, fixed, nodes)
    inner = differences * first[:, :, None] * first[:, None, :] * cotangents[:, None, None]
    product = vectors @ inner
    alpha_bar = jnp.where(live, jnp.sum(product * vectors, axis=-1), 0)
    beta_bar = jnp.where(live[:, 1:], 2 * jnp.sum(product[:, :-1] * vectors[:, 1:], axis=-1), 0)
    factors = cotangents[:, None] * first**2
    _, pullback = jax.vjp(lambda arrays: jnp.sum(factors * everywhere(function, arrays, fixed)(nodes)), arrays)
    (gradients,) = pullback(jnp.ones_like(jnp.sum(factors)))
    return gradients, alpha_bar, jnp.concatenate([beta_bar, jnp.zeros_like(alpha_bar[:, :1])], axis=1)


_adjoint.defvjp(no_second_derivative, no_second_derivative)


def _divided_differences(function: Callable, arrays: Any, fixed: Any, nodes: jax.Array) -> jax.Array:
    """f[θᵢ, θⱼ], (k, m, m): the quotient, or for nodes too close for it the mean of f' between them.

    At a relative distance d the quotient has an error of about eps |f| / (d θ), and the mean by three points one of
    d⁶ θ⁶ f⁽⁷⁾ / 2 016 000. Between them stands d = eps^(1/5), 7e-4 in double precision and 0.04 in single.
    """
    f = everywhere(function, arrays, fixed)
    slope = jnp.vectorize(jax.grad(lambda x: function(arrays, fixed, x)))
    x, y = nodes[:, :, None], nodes[:, None, :]
    values = f(nodes)
    close = jnp.abs(x - y) <= float(jnp.finfo(nodes.dtype).eps) ** 0.2 * jnp.maximum(jnp.abs(x), jnp.abs(y))
    gap = jnp.where(close, 0, x - y)
    quotient = (values[:, :, None] - values[:, None, :]) / jnp.where(close, 1, gap)
    start, segment = jnp.broadcast_to(y, gap.shape), jnp.where(close, x - y, 0)
    mean = sum(w * slope(start + p * segment) for p, w in zip(_POINTS, _WEIGHTS, strict=True))
    return jnp.where(close, mean, quotient)
