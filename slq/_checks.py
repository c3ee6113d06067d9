"""Floor 1: what the first products tell about an operator for free."""

import warnings

import numpy as np

from slq._arrays import Array, dot, is_complex, namespace, norm, precision, real, to_host
from slq._products import LinearOperator, apply, inner
from slq.errors import AliasedOutputError, NonFiniteError, NotSymmetricError, SymmetryWarning

__all__ = ["WRONG", "judge_second_product", "look_at_first_product", "require_finite", "rounding", "suspect"]

# Fifty times what rounding explains is suspect, and nothing under 1e-8 is; a hundredth of the norm is wrong where
# precision can tell.
_SUSPECT = 1e-8
WRONG = 1e-2

# Squares of numbers beyond these binary exponents overflow or lose digits.
_SAFE_EXPONENT = {True: 300, False: 20}


def look_at_first_product(A: LinearOperator, v: Array, w: Array, before: Array | None) -> float:
    """Judge w = A v and return the power of two that brings it to order one (1.0 if it is near enough).

    `before` is a copy of v from before the product, or None if nothing but finiteness is to be judged. One read: the
    size of each row of w, what the product changed in v, the lengths, and the vᵢᴴA vⱼ, whose asymmetry is that of A.
    """
    xp = namespace(v)
    custom = hasattr(A, "vecdot")  # then rows may be parts of vectors: ask the operator, and skip local products
    size = real(norm(inner(A)(w, w))) if custom else xp.max(xp.abs(w), axis=-1)
    columns = [size]
    pairs = before is not None and not custom and v.shape[0] > 1
    if before is not None:
        columns.append(xp.astype(xp.max(xp.abs(v - before), axis=-1), size.dtype))
    unit_rows = w / xp.where((size > 0) & xp.isfinite(size), size, xp.ones_like(size))[:, None] if pairs else w
    if pairs:
        products = xp.matmul(xp.conj(v) if is_complex(v) else v, unit_rows.T)
        columns.append(xp.astype(norm(dot(unit_rows, unit_rows)), size.dtype))
        for part in (xp.real, xp.imag) if is_complex(v) else (lambda x: x,):
            columns.extend(part(products)[i, :] for i in range(v.shape[0]))
    seen = to_host(xp.stack(columns)).astype(np.float64)
    _require_finite_rows(seen[0])
    if before is not None and seen[1].any():
        raise AliasedOutputError("the product wrote into its input; let it work on a copy, or return a new array")
    if pairs and seen[0].any():
        _judge_products(A, unit_rows, seen)
    exponent = int(np.frexp(seen[0].max())[1])
    safe = _SAFE_EXPONENT[bool(xp.finfo(v.dtype).bits > 32)]
    return 1.0 if abs(exponent) <= safe else float(np.ldexp(1.0, min(-exponent, 1023)))


def _require_finite_rows(sizes: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(sizes)).tolist()
    if bad:
        raise NonFiniteError(
            f"the first product contains NaN or infinity for probes {bad}, from finite input; "
            "look for a division by zero, an overflow or bad data inside the operator",
            probes=bad,
            step=0,
        )


def _judge_products(A: LinearOperator, unit_rows: Array, seen: np.ndarray) -> None:
    """`seen` as `look_at_first_product` read it; `unit_rows` are the products, each divided by its largest entry."""
    k, largest, eps = seen.shape[1], seen[0].max(), precision(A.like)
    size = seen[0] / largest  # relative: keeps the extremes finite
    lengths, products = seen[2] * size, seen[3 : 3 + k] * size
    if len(seen) > 3 + k:
        products = products + 1j * seen[3 + k :] * size
    # For random unit vectors E|uᴴ(A − Aᴴ)v|² = ‖A − Aᴴ‖²/n² and E‖Av‖² = ‖A‖²/n (Frobenius norms).
    skew = np.abs(products - products.conj().T)
    asymmetry = float(np.sqrt(A.shape[0] * (skew**2).sum() / (k * (k - 1)) / np.mean(lengths**2)))
    if asymmetry <= suspect(eps):
        return
    # Vectors that A nearly annihilates leave nothing but rounding to compare: one more product tells the size of A.
    again = apply(A, unit_rows, like=A.like)
    gain = to_host(norm(dot(again, again))).astype(np.float64) / np.maximum(seen[2], np.finfo(np.float64).tiny)
    if skew.max() * largest > 50 * eps * gain.max():
        _judge_asymmetry(asymmetry, eps)


def judge_second_product(alpha: np.ndarray, beta: np.ndarray, returned: np.ndarray, eps: float) -> None:
    """Compare β₀ = v₁ᴴA v₀ with v₀ᴴA v₁ of each run: sees a single probe's asymmetry, to second order."""
    going = (beta[:, 0] > 0) & np.isfinite(alpha) & np.isfinite(returned)
    if going.any():
        size = np.sqrt(beta[:, 0] ** 2 + alpha**2 + beta[:, 1] ** 2)[going]  # ‖A v₁‖
        _judge_asymmetry(float((np.abs(returned - beta[:, 0])[going] / size).max()), eps)


def rounding(eps: float) -> float:
    """The largest ‖A − Aᴴ‖/‖A‖ that products of precision `eps` showed of symmetric operators.

    Measured, n = 10³…10⁶: 70 machine epsilons in float64, 10 in float32, one in float16 and bfloat16.
    """
    return (70 if eps < 1e-10 else 10 if eps < 1e-5 else 1) * eps


def suspect(eps: float) -> float:
    """The relative error from which on products of precision `eps` are suspect."""
    return max(_SUSPECT, 50 * rounding(eps))


def _judge_asymmetry(asymmetry: float, eps: float) -> None:
    """Raise or warn if an estimate of ‖A − Aᴴ‖/‖A‖ is more than products of precision `eps` explain."""
    limit = suspect(eps)
    mend = "symmetrise it (x ↦ (A x + Aᴴ x)/2), fix its product, or pass check=False"
    if asymmetry > max(WRONG, limit):
        raise NotSymmetricError(
            f"the operator is not symmetric (Hermitian): ‖A − Aᴴ‖/‖A‖ is about {asymmetry:.2g}; {mend}"
        )
    if asymmetry > limit:
        warnings.warn(
            f"the operator is slightly asymmetric: ‖A − Aᴴ‖/‖A‖ is about {asymmetry:.2g}, rounding explains "
            f"{limit:.2g}; {mend}",
            SymmetryWarning,
            stacklevel=5,
        )


def require_finite(alpha: np.ndarray, beta: np.ndarray, probe: int) -> None:
    """Raise if the coefficients of a run are not finite, naming the first such step."""
    bad = np.flatnonzero(~(np.isfinite(alpha) & np.isfinite(beta)))
    if bad.size:
        raise NonFiniteError(
            f"the product of step {bad[0]} contains NaN or infinity for probe {probe}, from finite input; "
            "look for a division by zero, an overflow or a state that changes inside the operator",
            probes=[probe],
            step=int(bad[0]),
        )
