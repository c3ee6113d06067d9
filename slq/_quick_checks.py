"""Floor 2: what ten products say about an operator, in words: cause, measured value, limit, mend."""

import gc
from typing import NamedTuple

from slq._arrays import precision, recurrence_like
from slq._checks import WRONG, rounding, suspect
from slq._memory import is_out_of_memory, out_of_memory
from slq._products import LinearOperator, Products
from slq._ten_products import Measured, measure
from slq.errors import (
    AliasedOutputError,
    NoiseWarning,
    NonFiniteError,
    NotLinearError,
    NotRepeatableError,
    NotSymmetricError,
    PrecisionWarning,
    SlqError,
    SlqWarning,
    SymmetryWarning,
)

__all__ = ["FEW", "QUICK", "Finding", "quick_findings"]

QUICK = ("product", "aliasing", "finiteness", "repeatability", "zero", "scaling", "linearity", "symmetry")

# Products of one vector in one place of equal blocks were equal bit for bit on NumPy, torch and JAX (CPU); sums in a
# random order (index_add of 40 entries a row) differ by 1.2 eps of the norm, dense ones in another place of the block
# (n = 2000) by up to 14. More than this is noise.
FEW = 16.0

_NO_MEMORY = (
    "pass check=False, as the run alone may take less, or let the operator work in smaller pieces (microbatch= of "
    "slq_torch)"
)


class Finding(NamedTuple):
    """What one check found; `problem` is None if it passed or was skipped."""

    name: str
    value: float | None = None
    threshold: float | None = None
    problem: SlqError | SlqWarning | None = None
    mend: str = ""  # or, of a check that passed or was skipped, a remark
    skipped: bool = False


def quick_findings(
    A: LinearOperator, seed: int, batch_size: int | None, products: Products | None = None
) -> tuple[list[Finding], float]:
    """The findings, the most basic first, and the relative error of the products (at least the machine epsilon)."""
    recurrence_like(A.like)  # a dtype that is not floating is refused here
    try:
        measured = _measured(A, seed, batch_size, products)
    except SlqError as error:
        return _none_reached(error), precision(A.like)
    findings = [Finding(name, 0.0, 0.0) for name in QUICK[:3]]
    # Each judgement allows for the errors found before it, so that one cause is reported once.
    eps = measured.eps
    findings.append(_repeatability(measured))
    eps = max(eps, measured.repeatability)
    findings.append(_zero(measured, eps))
    for judge in (_scaling, _linearity):
        finding = judge(measured, eps)
        findings.append(finding)
        if isinstance(finding.problem, PrecisionWarning):
            eps = max(eps, finding.value or 0.0)
    findings.append(_symmetry(measured, eps))
    return findings, eps


def _measured(A: LinearOperator, seed: int, batch_size: int | None, products: Products | None) -> Measured:
    """`measure`, with one vector at a time where memory does not hold more."""
    try:
        return measure(A, seed, batch_size, products)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if batch_size == 1:
            raise out_of_memory(error, "in the check, with one vector at a time", _NO_MEMORY) from error
    gc.collect()  # only here, where the error and its frames, which hold the vectors, are gone
    return _measured(A, seed, 1, products)


def _none_reached(error: SlqError) -> list[Finding]:
    """What ten products tell that ended with an error."""
    name = {AliasedOutputError: "aliasing", NonFiniteError: "finiteness"}.get(type(error), "product")
    found = [Finding(name, 1.0, 0.0, error, str(error).rpartition("; ")[2])]
    at = QUICK.index(name)
    rest = [Finding(other, mend=f"not reached: {name} comes first", skipped=True) for other in QUICK[at + 1 :]]
    return [*(Finding(other, 0.0, 0.0) for other in QUICK[:at]), *found, *rest]


def _repeatability(m: Measured) -> Finding:
    few = FEW * m.eps
    value, limit = m.repeatability, max(few, min(1e3 * m.eps, WRONG))
    mend = (
        "switch off what is random or changes inside the product (dropout: model.eval(); augmentation, shuffling, "
        "a counter, a cache), or seed it anew in each product"
    )
    cause = f"two products of the same vector differ by {value:.2g} of ‖A‖"
    if value > limit:
        problem = NotRepeatableError(f"the operator is not repeatable: {cause}, where {limit:.2g} is the limit; {mend}")
        return Finding("repeatability", value, limit, problem, mend)
    if value > few:
        mend = "make sums keep their order (deterministic algorithms), or trust no more digits than these"
        warning = NoiseWarning(f"the operator is noisy: {cause}, where rounding explains {few:.2g}; {mend}")
        return Finding("repeatability", value, few, warning, mend)
    return Finding("repeatability", value, few)


def _zero(m: Measured, eps: float) -> Finding:
    if m.zero <= FEW * eps:
        return Finding("zero", m.zero, FEW * eps)
    mend = "subtract the product of zero (x ↦ A(x) − A(0)), or leave the constant out"
    problem = NotLinearError(
        f"the operator is affine or not linear: A(0) is {m.zero:.2g} of ‖A‖ and not zero (rounding explains "
        f"{FEW * eps:.2g}); {mend}"
    )
    return Finding("zero", m.zero, FEW * eps, problem, mend)


def _scaling(m: Measured, eps: float) -> Finding:
    cause = f"A(2^{m.exponent} v) differs from 2^{m.exponent} A(v)"
    if m.scaling <= m.underflow and m.scaling > suspect(eps):
        mend = "scale the operator up (x ↦ A(c x)), or multiply in a wider dtype"
        warning = PrecisionWarning(
            f"products underflow: {cause} by {m.scaling:.2g} of ‖A‖ (limit {suspect(eps):.2g}), as their entries are "
            f"at the lower end of the range of the dtype; {mend}"
        )
        return Finding("scaling", m.scaling, suspect(eps), warning, mend)
    return _nonlinearity("scaling", cause, m.scaling, eps)


def _linearity(m: Measured, eps: float) -> Finding:
    return _nonlinearity("linearity", "A(a u + b v) differs from a A(u) + b A(v)", m.linearity, eps)


def _nonlinearity(name: str, cause: str, value: float, eps: float) -> Finding:
    limit = max(WRONG, suspect(eps))
    if value > limit:
        mend = "look for clipping, absolute values or powers in the product, or give the derivative at a point instead"
        problem = NotLinearError(
            f"the operator is not linear: {cause} by {value:.2g} of ‖A‖, where {limit:.2g} is the limit; {mend}"
        )
        return Finding(name, value, limit, problem, mend)
    if value > suspect(eps):
        mend = (
            "switch off reduced precision inside the product (TF32, autocast), tighten inner solvers and finite "
            "differences, or trust no more digits than these"
        )
        warning = PrecisionWarning(
            f"products are less accurate than their dtype: {cause} by {value:.2g} of ‖A‖, where rounding explains "
            f"{rounding(eps):.2g} (limit {suspect(eps):.2g}); {mend}"
        )
        return Finding(name, value, suspect(eps), warning, mend)
    return Finding(name, value, suspect(eps))


def _symmetry(m: Measured, eps: float) -> Finding:
    value, limit = m.symmetry, max(WRONG, suspect(eps))
    mend = "symmetrise it (x ↦ (A x + Aᴴ x)/2), ask for singular values (x ↦ Aᴴ(A x)), or correct its product"
    if value > limit:
        problem = NotSymmetricError(
            f"the operator is not symmetric (Hermitian): ‖A − Aᴴ‖/‖A‖ is about {value:.2g}, where {limit:.2g} is the "
            f"limit; {mend}"
        )
        return Finding("symmetry", value, limit, problem, mend)
    if value > suspect(eps):
        warning = SymmetryWarning(
            f"the operator is slightly asymmetric: ‖A − Aᴴ‖/‖A‖ is about {value:.2g}, where rounding explains "
            f"{rounding(eps):.2g} (limit {suspect(eps):.2g}); {mend}"
        )
        return Finding("symmetry", value, suspect(eps), warning, mend)
    return Finding("symmetry", value, suspect(eps))
