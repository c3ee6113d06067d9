"""Floor 1: what the products of a run tell about an operator for free."""

import functools
import warnings
from collections.abc import Callable, Mapping

import numpy as np

from slq._arrays import Array, dot, imag, is_complex, largest_entry, matmul, namespace, norm, real, to_host
from slq._check_vectors import draw
from slq._products import Products, inner
from slq.errors import AliasedOutputError, NonFiniteError, NotSymmetricError, SymmetryWarning

__all__ = [
    "WRONG",
    "first_product",
    "judge_asymmetry",
    "judge_difference",
    "judge_steps",
    "prescale",
    "rounding",
    "size_of_operator",
    "suspect",
]

# Fifty times what rounding explains is suspect, and nothing under 1e-8 is; a hundredth of the norm is wrong where
# precision can tell.
_SUSPECT = 1e-8
WRONG = 1e-2

_LOUD = 50.0  # roundings of ‖A‖: a difference of no more may be rounding, whatever it is beside small products

_TINY = float(np.finfo(np.float64).tiny)

# Squares of numbers beyond these binary exponents overflow or lose digits.
_SAFE_EXPONENT = {True: 300, False: 20}
_LARGEST_EXPONENT = {True: 1023, False: 127}  # of the dtype itself


def first_product(products: Products, v: Array, check: bool) -> tuple[Array, float]:
    """Multiply: w = A v and the power of two that brings it to order one (1.0 if it is near enough).

    One read: the size of each row of w and, if `check`, prints of v from before and after the product, the lengths,
    and the vᵢᴴA vⱼ, whose asymmetry is that of A. Rows that are not finite are left to the end of the runs, unless
    there are no others.
    """
    xp, A = namespace(v), products.operator
    custom = hasattr(A, "vecdot")  # then rows may be parts of vectors: ask the operator, and skip local products
    before = _prints(v) if check else []
    w = products(v)
    size = real(norm(inner(A)(w, w))) if custom else largest_entry(w)
    columns = [size]
    pairs = check and not custom and v.shape[0] > 1
    unit_rows = w / xp.where((size > 0) & xp.isfinite(size), size, xp.ones_like(size))[:, None] if pairs else w
    if pairs:
        forms = matmul(xp.conj(v) if is_complex(v) else v, unit_rows.T)
        columns.append(xp.astype(norm(dot(unit_rows, unit_rows)), size.dtype))
        for part in (real, imag) if is_complex(v) else (real,):
            columns.extend(part(forms)[i, :] for i in range(v.shape[0]))
    if check:
        columns.extend(xp.astype(x, size.dtype) for x in (*before, *_prints(v)))
    seen = products.read(xp.stack(columns)).astype(np.float64)
    prints = len(before)
    if check and not np.array_equal(seen[-2 * prints : -prints], seen[-prints:]):
        raise AliasedOutputError("the product wrote into its input; let it work on a copy, or return a new array")
    finite = np.isfinite(seen[0])
    if not finite.any():
        probes = list(range(products.first_row, products.first_row + finite.size))
        raise NonFiniteError(
            f"the first product contains NaN or infinity for all its probes, {probes}, from finite input; "
            "look for a division by zero, an overflow or bad data inside the operator",
            probes=probes,
            step=0,
        )
    if pairs and finite.all() and seen[0].any():
        _judge_products(products, unit_rows, seen, A.shape[0])
    return w, prescale(seen[0], v)


def prescale(sizes: np.ndarray, v: Array) -> float:
    """The power of two that brings the largest finite one of `sizes` to order one, or 1.0 if it is near enough."""
    exponent = int(np.frexp(sizes[np.isfinite(sizes)].max(initial=0.0))[1])
    wide = bool(namespace(v).finfo(v.dtype).bits > 32)
    if abs(exponent) <= _SAFE_EXPONENT[wide]:
        return 1.0
    return float(np.ldexp(1.0, min(-exponent, _LARGEST_EXPONENT[wide])))  # less than order one for subnormal sizes


def _prints(v: Array) -> list[Array]:
    """A few numbers of each row that change with it: a copy would take the memory of another block."""
    xp, last = namespace(v), v.shape[-1] - 1
    parts = [real(v), imag(v)] if is_complex(v) else [v]
    return [x for part in parts for x in (xp.sum(part, axis=-1), part[:, 0], part[:, last // 2], part[:, last])]


def _judge_products(products: Products, unit_rows: Array, seen: np.ndarray, n: int) -> None:
    """`seen` as `first_product` read it; `unit_rows` are the products, each divided by its largest entry."""
    k, largest, eps = seen.shape[1], seen[0].max(), products.eps
    size = seen[0] / largest  # relative: keeps the extremes finite
    lengths, forms = seen[1] * size, seen[2 : 2 + k] * size
    if is_complex(unit_rows):
        forms = forms + 1j * seen[2 + k : 2 + 2 * k] * size
    # For random unit vectors E|uᴴ(A − Aᴴ)v|² = ‖A − Aᴴ‖²/n² and E‖Av‖² = ‖A‖²/n (Frobenius norms).
    skew = np.abs(forms - forms.conj().T)
    asymmetry = float(np.sqrt(n * (skew**2).sum() / (k * (k - 1)) / np.mean(lengths**2)))
    if asymmetry <= suspect(eps):
        return
    unit = prescale(seen[0], unit_rows)
    if skew.max() * (largest * unit) > _LOUD * eps * size_of_operator(products, unit_rows, unit):
        judge_asymmetry(asymmetry, eps)


def size_of_operator(products: Products, ahead: Array, unit: float) -> float:
    """`unit` ‖A‖ or somewhat less: vectors that A nearly annihilates leave rounding of it, which looks asymmetric.

    Two more products tell: of random vectors, and of vectors `ahead` that were made of such rounding, if of any.
    """
    A = products.operator
    strangers = draw(A, 0, [{i: A.shape[0] ** -0.5} for i in range(ahead.shape[0])])
    sizes = []
    for x in (ahead, strangers):
        y = products(x) * unit
        lengths, images = (to_host(norm(inner(A)(z, z))).astype(np.float64) for z in (x, y))
        sizes.append((images / np.where(lengths > 0, lengths, np.inf)).max())
    return float(max(sizes))


def judge_steps(read: Mapping[str, np.ndarray], eps: float, size_of_a: Callable[[], float]) -> None:
    """Compare βⱼ₋₁ = vⱼᴴA vⱼ₋₁ with vⱼ₋₁ᴴA vⱼ, and αⱼ = vⱼᴴA vⱼ with its real part: equal if A is Hermitian.

    `read` holds rows of steps, as `Recurrence` noted them: alpha, beta, returned (from the second step on), and
    imaginary parts. A step whose β has become small beside ‖A v‖ says nothing: its vectors are orthogonal to rounding
    over β only. Where all that was seen may be rounding, `size_of_a` decides.
    """
    size_of_a = functools.cache(size_of_a)
    alpha, beta = np.abs(read["alpha"]), read["beta"]
    size = np.sqrt(alpha**2 + beta**2)  # ‖A v‖
    size[1:] = np.sqrt(size[1:] ** 2 + beta[:-1] ** 2)
    size = np.maximum.accumulate(size)  # where v is nearly annihilated, all that is left is rounding of ‖A‖

    def asymmetry(difference: np.ndarray, size: np.ndarray) -> np.ndarray:
        ratio = difference / np.maximum(size, _TINY)
        if (ratio > suspect(eps)).any():
            ratio = np.where(difference > _LOUD * eps * size_of_a(), ratio, 0.0)
        return ratio

    if "returned" in read:
        b = beta[: len(read["returned"])]
        gap = np.hypot(read["returned"] - b, read.get("returned_imag", 0.0))
        beside = size[1 : len(gap) + 1]
        told = asymmetry(np.where(b > 1e-2 * beside, gap, 0.0), beside)
        judge_asymmetry(float(told[0].max()), eps)  # the second product: to second order that of the first two
        late = np.flatnonzero(told.max(axis=1) > suspect(eps))
        if late.size and late[0] > 0:
            _warn_of_drift(int(late[0]) + 1, float(told[late[0]].max()))
    if "imag" in read:
        judge_asymmetry(float(asymmetry(np.abs(read["imag"]), size).max()), eps)


def judge_difference(difference: float, size: float, eps: float, size_of_a: Callable[[], float]) -> None:
    """Raise or warn if entries of a projection and of its adjoint differ by more than rounding of ‖A‖.

    `size` is that of what was seen so far; where all that may be rounding, `size_of_a` decides.
    """
    if difference > suspect(eps) * size and difference > _LOUD * eps * size_of_a():
        judge_asymmetry(difference / size, eps)


def _warn_of_drift(step: int, asymmetry: float) -> None:
    warnings.warn(
        f"the operator seemed symmetric at first, but at step {step} vᴴAu and (uᴴAv)* differ by {asymmetry:.2g} of "
        "‖A v‖; look for a state that changes from product to product",
        SymmetryWarning,
        stacklevel=6,
    )


def rounding(eps: float) -> float:
    """The largest ‖A − Aᴴ‖/‖A‖ that products of precision `eps` showed of symmetric operators.

    Measured, n = 10³…10⁶: 70 machine epsilons in float64, 10 in float32, one in float16 and bfloat16.
    """
    return (70 if eps < 1e-10 else 10 if eps < 1e-5 else 1) * eps


def suspect(eps: float) -> float:
    """The relative error from which on products of precision `eps` are suspect."""
    return max(_SUSPECT, 50 * rounding(eps))


def judge_asymmetry(asymmetry: float, eps: float) -> None:
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
