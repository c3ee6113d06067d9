"""Lanczos coefficients and quadratic forms with gradients, for a log-determinant inside a loss."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slq.adapters import breakdown
from slq.errors import DtypeError, RequestError, ShapeError
from slq_jax._hoisted import array, hoist, no_second_derivative
from slq_jax._quadratic_forms import quadratic_forms

__all__ = ["combine", "count", "dot", "lanczos", "operator", "quadratic_forms", "run", "start_vectors"]


class Coefficients(NamedTuple):
    """What `lanczos` returns.

    Attributes
    ----------
    alpha, beta : (k, m) or (m,) array
        Diagonals and off-diagonals of the tridiagonal matrices, on the device.
    """

    alpha: jax.Array
    beta: jax.Array


def lanczos(matvec: Any, V: jax.Array, num_steps: int, *, reorthogonalize: bool = True) -> Coefficients:
    """Run the Lanczos recurrence, differentiable in reverse with respect to the operator and the start vectors.

    Parameters
    ----------
    matvec : callable, operator or (n, n) array
        The product of a real symmetric or complex Hermitian operator with one vector, (n,) -> (n,), in pure JAX;
        gradients reach whatever arrays it closes over. Of an operator of slq or slq_jax it is the
        ``matvec``, whose numbers are constants. Of an array the Hermitian part is used, as in `jnp.linalg.eigh`.
    V : (k, n) or (n,) array
        Start vectors, one per row, of any length but zero; float32, float64 or their complex kinds.
    num_steps : int
        The number m of steps; each costs one product with the block, and one pullback of it in the gradient.
    reorthogonalize : bool
        True: against all earlier vectors, twice, and once in the adjoint. False: the three-term recurrence alone (see
        Notes for how far its gradient can be trusted); without a gradient, it keeps no basis.

    Returns
    -------
    Coefficients
        The named tuple (alpha, beta), real. The last column of beta is the residual norm; a zero in beta ends a run,
        and what follows it is zero. Both are as from `slq.lanczos`. They are NaN where a product is, and for a start
        vector of zeros that is known only inside `jax.jit`.

    Raises
    ------
    RequestError
        If `num_steps`, `reorthogonalize` or `matvec` is not as described, a start vector is zero or not finite, or a
        derivative of the gradient is asked for.
    ShapeError
        If V is not a block of vectors, or a product does not have the shape of its vector.
    DtypeError
        If V or a product has a dtype without a recurrence, or float64 would silently become float32.

    Notes
    -----
    The adjoint keeps the (k, m + 1, n) basis and nothing else from the forward pass, and holds one more copy of the
    operator's arrays. It assumes that the operator is symmetric for the parameters at hand. With
    ``reorthogonalize=False`` it is exact for the recurrence as long as no Ritz value has converged; later alpha and
    beta depend on rounding, and so do their gradients. Those of quadratic forms were right to 1e-12 for some spectra
    and wrong in every digit for others (float32, outliers, m = 120).

    Call under `jax.jit`: outside it, each call is traced and compiled anew.

    References
    ----------
    Krämer, Moreno-Muñoz, Roy and Hauberg, Gradients of functions of large matrices, NeurIPS 2024.

    Examples
    --------
    The gradient of the negative log marginal likelihood of a Gaussian process, up to a constant:

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.linspace(0.0, 1.0, 50)
    >>> y, probes = jnp.sin(6 * x), jax.random.rademacher(jax.random.key(0), (20, 50), dtype=x.dtype)
    >>> def loss(log_scale):
    ...     K = jnp.exp(-((x[:, None] - x) ** 2) / jnp.exp(log_scale)) + 0.1 * jnp.eye(50)
    ...     logdet = 50 * jnp.mean(quadratic_forms(jnp.log, *lanczos(K, probes, 10)))
    ...     return 0.5 * (y @ jax.scipy.sparse.linalg.cg(lambda v: K @ v, y)[0] + logdet)
    >>> bool(jnp.isfinite(jax.jit(jax.grad(loss))(-2.0)))
    True
    """
    num_steps = count(num_steps)
    if not isinstance(reorthogonalize, bool | np.bool_):
        raise RequestError(f"reorthogonalize= expects True or False, got {reorthogonalize!r}; use slq.lanczos for more")
    V = start_vectors(V)
    product, arrays, fixed, dtype = operator(matvec, V)
    rows = jnp.atleast_2d(V).astype(dtype)
    rows = rows / jax.lax.stop_gradient(jnp.max(jnp.abs(rows), axis=1, keepdims=True))  # squares of extremes: finite
    rows = rows / jnp.sqrt(dot(rows, rows))[:, None]
    alpha, beta = _coefficients(product, num_steps, bool(reorthogonalize), arrays, fixed, rows)
    return Coefficients(alpha, beta) if V.ndim == 2 else Coefficients(alpha[0], beta[0])


def count(value: Any) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        hint = "; mark it static in jax.jit" if isinstance(value, jax.core.Tracer) else ""
        raise RequestError(f"num_steps= expects an integer >= 1, got {value!r}{hint}")
    return int(value)


def start_vectors(V: Any) -> jax.Array:
    """V as an array of one or two dimensions whose rows have a direction, as far as that is known."""
    V = array("V", V)
    if V.ndim not in (1, 2) or 0 in V.shape:
        raise ShapeError(f"V expects shape (k, n) or (n,) with k, n >= 1, each row a start vector, got {V.shape}")
    if not isinstance(V, jax.core.Tracer):
        rows = np.atleast_2d(np.asarray(V))
        bad = np.flatnonzero(~(np.isfinite(rows).all(axis=1) & rows.any(axis=1)))
        if bad.size:
            raise RequestError(f"start vectors {bad.tolist()} are zero or not finite; a start vector needs a direction")
    return V


def operator(matvec: Any, V: jax.Array) -> tuple[Callable, list[Any], list[Any], Any]:
    """A product (arrays, fixed, (k, n) block) -> (k, n), what of its arrays has gradients, the rest, and the dtype."""
    n = V.shape[-1]
    matvec = getattr(matvec, "matvec", matvec)
    if not callable(matvec):
        if not hasattr(matvec, "shape"):
            raise RequestError(f"matvec expects a function of one vector or an (n, n) array, got {matvec!r}")
        A = array("the matrix", matvec)
        if A.shape != (n, n):
            raise ShapeError(f"the matrix expects shape ({n}, {n}), as V holds vectors of {n} entries, got {A.shape}")
        dtype = jnp.result_type(A, V)
        return _times, [((A + A.conj().T) / 2).astype(dtype)], [], dtype
    out = jax.eval_shape(lambda x: matvec(x), jax.ShapeDtypeStruct((n,), V.dtype))
    dtype = jnp.result_type(V, out.dtype) if hasattr(out, "dtype") else V.dtype
    like = jax.ShapeDtypeStruct((n,), dtype)
    moved, arrays, fixed, out = hoist(matvec, like)
    if getattr(out, "shape", None) != (n,):
        raise ShapeError(f"matvec expects to return an array of shape ({n},), like its vector, got {out}; return A @ x")
    if out.dtype != dtype:
        raise DtypeError(f"matvec returned {out.dtype} for a vector of {dtype}; return the dtype of the vector")

    def product(arrays: list[Any], fixed: list[Any], block: jax.Array) -> jax.Array:
        return jax.vmap(lambda x: moved(arrays, fixed, x))(block)

    return product, arrays, fixed, dtype


def _times(arrays: list[Any], fixed: list[Any], block: jax.Array) -> jax.Array:
    del fixed
    return block @ arrays[0].T


def dot(x: jax.Array, y: jax.Array) -> jax.Array:
    """The real part of ⟨x, y⟩, row by row."""
    return jnp.sum(x.conj() * y, axis=-1).real


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _coefficients(product: Callable, num_steps: int, full: bool, arrays: Any, fixed: Any, rows: jax.Array) -> Any:
    return run(product, num_steps, full, full, arrays, fixed, rows)[0]


def _forward(product: Callable, num_steps: int, full: bool, arrays: Any, fixed: Any, rows: jax.Array) -> Any:
    coefficients, basis = run(product, num_steps, full, True, arrays, fixed, rows)
    return coefficients, (arrays, fixed, basis, coefficients)


def _backward(product: Callable, num_steps: int, full: bool, kept: Any, cotangents: Any) -> Any:
    del num_steps
    arrays, fixed, basis, coefficients = kept
    gradients, rows = _adjoint(product, full, arrays, fixed, basis, coefficients, cotangents)
    return gradients, None, rows


_coefficients.defvjp(_forward, _backward)


def run(
    product: Callable,
    num_steps: int,
    full: bool,
    keep: bool,
    arrays: Any,
    fixed: Any,
    rows: jax.Array,
    components: jax.Array | None = None,
) -> tuple[tuple[jax.Array, jax.Array], Any]:
    """Alpha and beta, (k, m) each, and the (k, m + 1, n) basis if `keep`, else Σⱼ components[:, j] vⱼ."""
    k, n = rows.shape
    total = None if components is None else jnp.zeros_like(rows)
    basis = jnp.zeros((k, num_steps + 1, n), rows.dtype).at[:, 0].set(rows) if keep else None
    zero = jnp.zeros(k, rows.real.dtype)
    rounding = breakdown(rows)

    def step(carry: Any, j: jax.Array) -> Any:
        before, b, v, norm_seen, basis, total = carry
        total = None if components is None else total + components[:, j, None] * v
        w = product(arrays, fixed, v) - b[:, None] * before
        a = dot(v, w)
        w = w - a[:, None] * v
        for _ in range(2 if full else 0):
            w = w - combine(_components(basis, w), basis)
        length = jnp.sqrt(dot(w, w))
        norm_seen = jnp.maximum(jnp.abs(a) + b + length, norm_seen)
        alive = length > rounding * norm_seen
        w = w * jnp.where(alive, 1 / jnp.where(alive, length, 1), 0)[:, None]
        b = jnp.where(alive, length, 0)
        basis = basis.at[:, j + 1].set(w) if keep else None
        return (v, b, w, norm_seen, basis, total), (a, b)

    start: Any = (jnp.zeros_like(rows), zero, rows, zero, basis, total)
    (*_, basis, total), (alpha, beta) = jax.lax.scan(step, start, jnp.arange(num_steps))
    return (alpha.T, beta.T), basis if keep else total


def _components(basis: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.einsum("kmn,kn->km", basis.conj(), w)


def combine(components: jax.Array, basis: jax.Array) -> jax.Array:
    return jnp.einsum("km,kmn->kn", components, basis)


# The equations of the adjoint, for one row; ⟨x, y⟩ = xᴴy, q₁ is the unit start vector, x̄ the cotangent of x. The
# Lagrangian of a run with its orthogonalisation written out, A qⱼ = Σᵢ hᵢⱼ qᵢ (i ≤ j + 1) and ⟨qᵢ, qⱼ⟩ = δᵢⱼ, has
# multipliers λⱼ of the steps and a Hermitian Γ of the orthogonality. That its derivatives vanish says
#
#     by hᵢⱼ:  ⟨qⱼ, λⱼ⟩ = ᾱⱼ,  ⟨qⱼ₊₁, λⱼ⟩ = β̄ⱼ,  ⟨qᵢ, λⱼ⟩ = 0 for i < j,
#     by qⱼ:   βⱼ₋₁ λⱼ₋₁ = A λⱼ − αⱼ λⱼ − βⱼ λⱼ₊₁ + Σᵢ Γᵢⱼ qᵢ,     λₘ₊₁ = 0.
#
# The first line fixes Γ: it is tridiagonal, Γⱼ₊₁,ⱼ = βⱼ (ᾱⱼ − ᾱⱼ₊₁) with ᾱₘ₊₁ = 0. From λₘ = ᾱₘ qₘ + β̄ₘ qₘ₊₁ down,
#
#     λⱼ₋₁ = Pⱼ (A λⱼ − αⱼ λⱼ − βⱼ λⱼ₊₁ + cⱼ βⱼ qⱼ₊₁) / βⱼ₋₁ + ᾱⱼ₋₁ qⱼ₋₁ + β̄ⱼ₋₁ qⱼ,     cⱼ = ᾱⱼ − ᾱⱼ₊₁,
#
# where Pⱼ removes the components along q₁ … qⱼ. The three-term recurrence keeps only its neighbours orthogonal: Pⱼ
# removes qⱼ alone, β̄ⱼ₋₁ is less by ⟨qⱼ₋₁, λⱼ⟩, and what stands left of ᾱⱼ₋₁ qⱼ₋₁ loses its component along qⱼ₋₁ by
# cⱼ₋₁ = ᾱⱼ₋₁ − ⟨qⱼ₋₁, it⟩ in the place of ᾱⱼ₋₁. In both, q̄₁ is what Pⱼ acts on for j = 1, and θ̄ = Σⱼ ⟨λⱼ, (∂A/∂θ) qⱼ⟩;
# one pullback of x ↦ A x at qⱼ gives that term and A λⱼ. (JAX's cotangents are the conjugates of these.) A zero βⱼ
# ended the run: its cotangent, which the length of a vanishing vector does not define, and its 1/βⱼ count as zero.
@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _adjoint(
    product: Callable, full: bool, arrays: Any, fixed: Any, basis: jax.Array, coefficients: Any, cotangents: Any
) -> tuple[Any, jax.Array]:
    """The cotangents of `arrays` and of the unit start vectors."""
    alpha, beta, alpha_bar, beta_bar = (x.T[..., None] for x in (*coefficients, *cotangents))  # (m, k, 1)
    beta_bar = jnp.where(beta > 0, beta_bar, 0)
    inverse = jnp.where(beta > 0, 1 / jnp.where(beta > 0, beta, 1), 0)
    num_steps, zero = alpha.shape[0], jnp.zeros_like(alpha[:1])
    of_step = jnp.arange(num_steps)

    def step(carry: Any, x: Any) -> Any:
        gradients, after, lam, c = carry
        j, a, b, inverse_before, a_bar, b_bar = x
        before, v = basis[:, jnp.maximum(j - 1, 0)], basis[:, j]
        _, pullback = jax.vjp(lambda arrays, v: product(arrays, fixed, v), arrays, v)
        gradient, w = pullback(lam.conj())
        w = w.conj() - a * lam - b * after + c * b * basis[:, j + 1]
        if full:  # once is enough, and none is not: 5e-13 with one and with two, overflow without (m = n = 120)
            w = w - combine(jnp.where(jnp.arange(num_steps + 1) <= j, _components(basis, w), 0), basis)
            w = w * inverse_before + b_bar * v
            c_before = a_bar - alpha_bar[j]
        else:
            w = (w - dot(v, w)[:, None] * v) * inverse_before + (b_bar - dot(before, lam)[:, None]) * v
            c_before = a_bar = a_bar - dot(before, w)[:, None]
        carry = jax.tree.map(jnp.add, gradients, gradient), lam, w + a_bar * before, c_before
        return carry, None

    last = alpha_bar[-1] * basis[:, -2] + beta_bar[-1] * basis[:, -1]
    start = (jax.tree.map(jnp.zeros_like, arrays), jnp.zeros_like(last), last, alpha_bar[-1])
    shifted = [
        jnp.concatenate([first, x[:-1]]) for first, x in ((zero + 1, inverse), (zero, alpha_bar), (zero, beta_bar))
    ]
    (gradients, _, rows, _), _ = jax.lax.scan(step, start, (of_step, alpha, beta, *shifted), reverse=True)
    return gradients, rows.conj()


_adjoint.defvjp(no_second_derivative, no_second_derivative)
