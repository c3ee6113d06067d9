"""Spectral sums and log-determinants with gradients, in the memory of a few vectors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import slq
from slq.errors import DtypeError, RequestError, ShapeError
from slq_jax._differentiable import combine, count, dot, operator, run, start_vectors
from slq_jax._hoisted import array, hoist, no_second_derivative
from slq_jax._quadratic_forms import elementwise, everywhere, spectra

__all__ = ["logdet", "spectral_sum"]

_UNIT_ENTRIES = (slq.sphere, slq.rademacher, slq.steinhaus)  # probes with ‖x‖² = n


def spectral_sum(
    A: Any,
    f: Callable[[jax.Array], jax.Array],
    *,
    like: Any = None,
    batched: bool = False,
    derivative: Callable[[jax.Array], jax.Array] | None = None,
    num_probes: int = 10,
    num_steps: int = 80,
    rng: int = 0,
    probes: Any = slq.sphere,
    reorthogonalize: bool = False,
) -> jax.Array:
    """Estimate tr f(A), differentiable in reverse with respect to whatever A and f are made of.

    Parameters
    ----------
    A : (n, n) array, function or operator
        Real symmetric or complex Hermitian. Of an array the Hermitian part is used. A function multiplies a vector, in
        pure JAX; gradients reach the arrays it closes over. Of an operator of slq or slq_jax it is the ``matvec``.
    f : callable
        See `quadratic_forms`; or a function of NumPy's that JAX has as well, as ``np.log``.
    like : (n,) array
        An example vector, where A is a function: its length and dtype are those of the vectors.
    batched : bool
        The function multiplies blocks, (k, n) -> (k, n), each row a vector; else one vector, (n,) -> (n,).
    derivative : callable, optional
        f′. Default: by `jax.grad`.
    num_probes, num_steps, rng, probes
        See `slq.spectral_measure`; the same probes. Those of a sampler are constants of a compiled function; vectors
        that are given, (k, n), need not be.
    reorthogonalize : bool
        False: for a gradient the recurrence runs twice and keeps no basis. True: once, and keeps it.

    Returns
    -------
    () array
        Real. Its gradient is the unbiased estimate of `slq.spectral_sum_gradient`: E⟨f′(A) x, (∂A) x⟩. NaN where f is
        not finite at a Ritz value.

    Raises
    ------
    RequestError
        If an argument is out of range, A is a function without `like`, or a derivative of the gradient is asked for.
    ShapeError, DtypeError
        If A, f, `like` or probes do not fit together, or float64 would silently become float32.

    Notes
    -----
    Call under `jax.jit`: outside it, each call is traced and compiled anew. Nothing is checked that only products
    show; `slq.spectral_sum` with the same options does, and gives the error.

    The gradient of `quadratic_forms` of `lanczos` is another one: that of the estimate, for which the basis is kept.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> value, slope = jax.value_and_grad(
    ...     lambda scale: spectral_sum(lambda x: scale * x, jnp.square, like=jnp.ones(5), num_steps=3)
    ... )(2.0)
    >>> round(float(value), 4), round(float(slope), 4)  # 5·2², 5·2·2
    (20.0, 20.0)
    """
    num_steps, n, dtype = count(num_steps), *_space(A, like)
    if not isinstance(reorthogonalize, bool | np.bool_):
        raise RequestError(f"reorthogonalize= expects True or False here, got {reorthogonalize!r}")
    V, squared = _probes(probes, num_probes, rng, n, dtype)
    product, arrays, fixed, dtype = _batched(A, V) if batched else operator(A, V)
    V = jax.lax.stop_gradient(V.astype(dtype))
    lengths = jnp.sqrt(dot(V, V))
    masses = lengths**2 if squared is None else jnp.full_like(lengths, squared)
    function, of_f, fixed_of_f = elementwise(_with(f, derivative), lengths.dtype)
    arguments = arrays, fixed, of_f, fixed_of_f, V / lengths[:, None], masses
    return _sum(product, function, num_steps, bool(reorthogonalize), *arguments)


def logdet(A: Any, **options: Any) -> jax.Array:
    """Estimate log det A of a positive definite A, differentiable in reverse with respect to whatever A is made of.

    Parameters
    ----------
    A, **options
        See `spectral_sum`.

    Returns
    -------
    () array
        NaN where a Ritz value is negative.

    Raises
    ------
    SlqError
        As `spectral_sum`.

    References
    ----------
    Dong, Eriksson, Nickisch, Bindel and Wilson, Scalable log determinants for Gaussian process kernel learning, NeurIPS
    2017.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> slopes = jax.grad(lambda d: logdet(lambda x: d * x, like=d, num_probes=400, num_steps=4))(jnp.full(4, 2.0))
    >>> round(float(slopes.sum()), 4)  # tr A⁻¹
    2.0
    """
    return spectral_sum(A, jnp.log, **options)


def _space(A: Any, like: Any) -> tuple[int, Any]:
    """Length and dtype of the vectors."""
    if hasattr(A, "shape") and not hasattr(A, "matvec"):
        A = array("the matrix", A)
        if A.ndim != 2 or A.shape[0] != A.shape[1]:
            raise ShapeError(f"A expects a square matrix, got shape {A.shape}")
        return A.shape[0], A.dtype
    if hasattr(A, "matvec") and hasattr(A, "like"):
        return A.shape[0], A.like.dtype
    if not callable(A):
        raise RequestError(f"A expects a square array, a function or an operator, got {type(A).__name__}")
    if like is None or np.ndim(like) != 1:
        raise RequestError("A is a function, whose vectors nothing tells: pass like=, an example vector of shape (n,)")
    like = array("like", like)
    return like.shape[0], like.dtype


def _probes(probes: Any, num_probes: int, rng: Any, n: int, dtype: Any) -> tuple[jax.Array, float | None]:
    """Start vectors (k, n), and their squared length where that is known."""
    if not callable(probes):
        V = jnp.atleast_2d(start_vectors(probes))
        if V.shape[1] != n:
            raise ShapeError(f"probes= expects shape (k, {n}), each row a vector, got {V.shape}")
        return V, None
    for name, value, least in (("num_probes", num_probes, 1), ("rng", rng, 0)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise RequestError(f"{name}= expects an integer >= {least}, got {value!r}; it is part of the program")
    drawn = probes(int(rng), range(int(num_probes)), None, n, np.empty(0, dtype))
    return start_vectors(drawn), float(n) if probes in _UNIT_ENTRIES else None


def _batched(A: Any, V: jax.Array) -> tuple[Callable, list[Any], list[Any], Any]:
    """What `operator` returns, of a function of blocks."""
    product, arrays, fixed, out = hoist(A, jax.ShapeDtypeStruct(V.shape, V.dtype))
    if getattr(out, "shape", None) != V.shape:
        raise ShapeError(f"A expects to return an array of shape {V.shape}, like its block of vectors, got {out}")
    if out.dtype != V.dtype:
        raise DtypeError(f"A returned {out.dtype} for vectors of {V.dtype}; return the dtype of the vectors")
    return product, arrays, fixed, V.dtype


def _with(f: Callable, derivative: Callable | None) -> Callable:
    """`f` as a function of JAX that has the derivative."""
    f = getattr(jnp, f.__name__) if isinstance(f, np.ufunc) else f
    derivative = getattr(jnp, derivative.__name__) if isinstance(derivative, np.ufunc) else derivative
    for name, g in (("f", f), ("derivative=", derivative)):
        if not callable(g) and (g is not None or name == "f"):
            raise RequestError(f"{name} expects an elementwise function in pure JAX, got {type(g).__name__}")
    if derivative is None:
        return f
    with_derivative = jax.custom_jvp(f)
    with_derivative.defjvp(lambda x, t: (f(*x), derivative(*x) * t[0]))
    return with_derivative


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _sum(
    product: Callable,
    function: Callable,
    num_steps: int,
    full: bool,
    arrays: Any,
    fixed: Any,
    of_f: Any,
    fixed_of_f: Any,
    rows: jax.Array,
    masses: jax.Array,
) -> jax.Array:
    """The mean of masses · vᴴ f(A) v over unit `rows`."""
    (alpha, beta), _ = run(product, num_steps, full, full, arrays, fixed, rows)
    nodes, vectors, _ = spectra(alpha, beta)
    return _mean(function, of_f, fixed_of_f, nodes, vectors[:, 0] ** 2, masses)


def _mean(function: Callable, of_f: Any, fixed_of_f: Any, nodes: Any, weights: Any, masses: Any) -> jax.Array:
    return jnp.mean(masses * jnp.sum(weights * everywhere(function, of_f, fixed_of_f)(nodes), axis=-1))


def _forward(
    product: Callable,
    function: Callable,
    num_steps: int,
    full: bool,
    arrays: Any,
    fixed: Any,
    of_f: Any,
    fixed_of_f: Any,
    rows: jax.Array,
    masses: jax.Array,
) -> Any:
    slope = jnp.vectorize(jax.grad(lambda x: function(of_f, fixed_of_f, x)))

    def solved(alpha: jax.Array, beta: jax.Array) -> tuple[jax.Array, ...]:
        """Nodes, weights, and f′(T) e₁."""
        nodes, vectors, live = spectra(alpha, beta)
        first = vectors[:, 0]
        components = jnp.einsum("kij,kj->ki", vectors, slope(nodes) * first)
        return nodes, first**2, jnp.where(live, components, 0)

    if full:
        coefficients, basis = run(product, num_steps, True, True, arrays, fixed, rows)
        nodes, weights, components = solved(*coefficients)
        u = combine(components, basis[:, :-1])
    else:
        # One loop around both passes: they are the same machine code, so that the second is the first to the bit.
        def go(_: Any, state: Any) -> Any:
            coefficients, u = run(product, num_steps, False, False, arrays, fixed, rows, state[2])
            return *solved(*coefficients), u

        empty = jnp.zeros((len(rows), num_steps), rows.real.dtype)
        nodes, weights, _, u = jax.lax.fori_loop(0, 2, go, (empty, empty, empty, jnp.zeros_like(rows)))
    value = _mean(function, of_f, fixed_of_f, nodes, weights, masses)
    return value, (arrays, fixed, of_f, fixed_of_f, rows, masses, nodes, weights, u)


def _backward(product: Callable, function: Callable, num_steps: int, full: bool, kept: Any, cotangent: Any) -> Any:
    del num_steps, full
    gradients, of_f = _gradients(product, function, kept, cotangent)
    return gradients, None, of_f, None, None, None


_sum.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gradients(product: Callable, function: Callable, kept: Any, cotangent: jax.Array) -> Any:
    """The cotangents of what A and f are made of; in JAX, conjugates of gradients."""
    arrays, fixed, of_f, fixed_of_f, rows, masses, nodes, weights, u = kept
    _, pull = jax.vjp(lambda arrays: product(arrays, fixed, rows), arrays)
    (gradients,) = pull((cotangent / len(rows) * masses)[:, None].astype(rows.dtype) * u.conj())
    _, pull = jax.vjp(lambda of_f: _mean(function, of_f, fixed_of_f, nodes, weights, masses), of_f)
    return gradients, pull(cotangent)[0]


_gradients.defvjp(no_second_derivative, no_second_derivative)
