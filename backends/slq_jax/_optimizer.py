"""The diagonal by which an optimiser of Optax divides."""

from typing import Any

import jax
import jax.numpy as jnp

from slq.errors import RequestError, ShapeError

__all__ = ["adam_diagonal"]


def adam_diagonal(
    opt_state: Any, operator: Any, *, b2: float = 0.999, eps: float = 1e-8, eps_root: float = 0.0
) -> jax.Array:
    """The diagonal √(v̂ + ε_root) + ε of Adam's preconditioner, for `slq.precondition`.

    Parameters
    ----------
    opt_state : tree
        The state of ``optax.adam`` or a relative after at least one update, however deep in chains and wrappers.
    operator : HessianOperator
        Whose parameters are the tree that the optimiser was initialised with.
    b2, eps, eps_root : float, optional
        Those of the optimiser: its state does not hold them. The defaults are Optax's.

    Returns
    -------
    (n,) array
        In the operator's dtype.

    Raises
    ------
    RequestError
        If the state holds the moments of no Adam or of several, of other parameters, or from before the first update;
        or `b2`, `eps` or `eps_root` is out of range.

    Notes
    -----
    The moments are a named tuple with the fields ``count``, ``mu`` and ``nu``. Adam, AdamW, NAdam and Yogi divide by
    this diagonal, and so does AMSGrad, by its running maximum ``nu_max``. RAdam and AdaMax keep the same fields and
    divide by something else: do not pass their states.

    References
    ----------
    Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015, algorithm 1. Cohen et al., Adaptive gradient
    methods at the edge of stability, 2022: the curvature that counts is that of the preconditioned Hessian.

    Examples
    --------
    >>> from typing import Any, NamedTuple
    >>> from slq_jax import hessian_operator
    >>> class AdamState(NamedTuple):  # as in optax
    ...     count: Any
    ...     mu: Any
    ...     nu: Any
    >>> state = AdamState(count=1, mu=jnp.zeros(3), nu=jnp.asarray([1.0, 4.0, 9.0]))
    >>> A = hessian_operator(lambda w, x: jnp.mean((x @ w) ** 2), jnp.zeros(3), jnp.ones((8, 3)))
    >>> print(adam_diagonal(state, A, b2=0.75))
    [2. 4. 6.]
    """
    for name, value, allowed, text in (
        ("b2", b2, 0 <= b2 < 1, "at least 0 and below 1"),
        ("eps", eps, eps >= 0, ">= 0"),
        ("eps_root", eps_root, eps_root >= 0, ">= 0"),
    ):
        if not allowed:
            raise RequestError(f"{name}= expects a number {text}, got {value!r}")
    moments = _only_moments(opt_state)
    count = float(moments.count)
    if not count > 0:
        raise RequestError("the optimiser has made no update yet, so that its second moments are zero; update it first")
    running_maximum = getattr(moments, "nu_max", None)
    second = moments.nu if running_maximum is None else running_maximum
    try:
        flat = operator.ravel(second)
    except (RequestError, ShapeError) as error:
        raise RequestError(
            f"the second moments are of other parameters than the operator's: {error}; make the operator of the tree "
            "that the optimiser was initialised with"
        ) from error
    # In Python's float64: in float32, 1 - 0.999 keeps four digits. Optax corrects the maximum before it takes it.
    unbiased = flat / (1 - b2**count) if running_maximum is None else flat
    return jnp.sqrt(unbiased + eps_root) + eps


def _is_moments(node: Any) -> bool:
    return isinstance(node, tuple) and {"count", "mu", "nu"} <= set(getattr(node, "_fields", ()))


def _only_moments(opt_state: Any) -> Any:
    found = [node for node in jax.tree.leaves(opt_state, is_leaf=_is_moments) if _is_moments(node)]
    if len(found) != 1:
        kind = type(opt_state).__name__
        what = f"{len(found)} of them; pass the part of one optimiser" if found else "none; pass that of optax.adam"
        raise RequestError(
            f"opt_state= expects a state with the moments (count, mu, nu) of one Adam, got a {kind} with {what}"
        )
    return found[0]
