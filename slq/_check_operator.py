"""Floor 2: does an operator keep what it promises? The door to the checks, and what becomes of their findings."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from slq._full_checks import FULL, full_findings
from slq._operators import aslinearoperator
from slq._probes import seed_of
from slq._products import LinearOperator, Products
from slq._quick_checks import QUICK, Finding, quick_findings
from slq.errors import RequestError, SlqWarning

__all__ = ["check_operator", "quick_check"]


def check_operator(
    A: Any,
    *,
    rng: Any = 0,
    level: str = "quick",
    expected_failures: Mapping[str, str] | None = None,
    on_fail: str | None = "raise",
    batch_size: int | None = None,
) -> list[dict[str, Any]]:
    """Check that an operator is linear, symmetric (Hermitian) and repeatable, and its product well behaved.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    rng : int, None or numpy Generator
        The seed of the random vectors.
    level : {"quick", "full"}
        "quick" multiplies ten vectors: shape, dtype, library, device, finiteness, a written input, noise, A(0) = 0,
        scaling, linearity, symmetry. "full" adds about sixty products: one row or many, the order of the rows, strided
        and reused buffers, drift, memory, pickling, threads, and the gradient of a model.
    expected_failures : mapping of str to str, optional
        Names of checks that may fail, each with the reason; they neither raise nor warn.
    on_fail : {"raise", "warn", None}
        What becomes of a failure: an error, a warning (of class SlqWarning), or nothing but its line in the result.
    batch_size : int, optional
        How many vectors "quick" multiplies together: five at most, the default. With one, memory is that of a product
        and about four vectors.

    Returns
    -------
    list of dict
        One for each check, with the keys ``name``; ``status``: "passed", "warned", "failed", "expected" or "skipped";
        ``value`` and ``threshold``, relative to the size of A where there is one to measure; and ``mend``: what to do,
        or the reason.

    Raises
    ------
    RequestError
        If an argument is out of range, or `expected_failures` names no check.
    OperatorError
        If a check fails; the subclass and the message say what, how much, and what to do. NotRepeatableError comes
        before NotLinearError, and that before NotSymmetricError: the first is the cause of the others.

    Warns
    -----
    SymmetryWarning, NoiseWarning, PrecisionWarning
        If an error is more than rounding explains but no more than 1 % of A.

    Notes
    -----
    For independent standard normal u and v, E|uᴴ(A − Aᴴ)v|² = ‖A − Aᴴ‖² and E‖A v‖² = ‖A‖² (Frobenius norms), whatever
    A is. The estimate of ‖A − Aᴴ‖/‖A‖ is the root of the mean over six pairs of six vectors. Ten times too small it is,
    measured, in none of 4000 cases if A − Aᴴ is dense, and in three if it is one entry or has rank two.

    Examples
    --------
    >>> import numpy as np
    >>> [entry["status"] for entry in check_operator(np.diag([1.0, 2.0, 3.0]))][-1]
    'passed'
    """
    if level not in ("quick", "full"):
        raise RequestError(f'level= expects "quick" or "full", got {level!r}')
    if on_fail not in ("raise", "warn", None):
        raise RequestError(f'on_fail= expects "raise", "warn" or None, got {on_fail!r}')
    expected = _expected(expected_failures)
    A, seed = aslinearoperator(A), seed_of(rng)
    findings, eps = quick_findings(A, seed, _rows(batch_size))
    entries = _settle(findings, expected, on_fail)
    if level == "full":
        first = next((f for f in findings[:3] if f.problem is not None), None)
        if first is None:
            found: Iterable[Finding] = full_findings(A, seed, eps)
        else:
            found = (Finding(name, mend=f"not reached: {first.name} comes first", skipped=True) for name in FULL)
        entries += _settle(found, expected, on_fail)
    return entries


def quick_check(
    A: LinearOperator, products: Products, *, expected_failures: Mapping[str, str] | None, batch_size: int
) -> tuple[float, bool]:
    """The ten products of `check_operator`, which raise, or warn at the place that called its caller.

    Returns
    -------
    eps : float
        The relative error of the products: the machine epsilon, or the noise or loss of precision that was found.
    symmetric : bool
        Whether nothing was found wrong with the symmetry, so that it may be watched during a run.
    """
    expected = _expected(expected_failures)
    findings, eps = quick_findings(A, 0, batch_size, products)
    entries = _settle(findings, expected, "raise", stacklevel=4)
    return eps, entries[-1]["status"] == "passed" and not expected


def _expected(expected_failures: Mapping[str, str] | None) -> dict[str, str]:
    if not isinstance(expected_failures, Mapping | None):
        raise RequestError(
            "expected_failures= expects a mapping from the name of a check to the reason, got "
            f"{type(expected_failures).__name__}"
        )
    expected = dict(expected_failures or {})
    unknown = [name for name in expected if name not in QUICK + FULL]
    if unknown:
        raise RequestError(f"expected_failures= names no check: {unknown}; the checks are {', '.join(QUICK + FULL)}")
    return expected


def _rows(batch_size: Any) -> int | None:
    if batch_size is None or (isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size >= 1):
        return batch_size
    raise RequestError(f"batch_size= expects an integer >= 1, got {batch_size!r}")


def _settle(
    findings: Iterable[Finding], expected: Mapping[str, str], on_fail: str | None, stacklevel: int = 3
) -> list[dict[str, Any]]:
    """Raise, warn, or write down."""
    entries = []
    for name, value, threshold, problem, mend, skipped in findings:
        status = "skipped" if skipped else "passed"
        if problem is None:
            if name in expected and not skipped:
                mend = f"passed, though expected to fail ({expected[name]}): take it out of expected_failures"
        elif name in expected:
            status, mend = "expected", expected[name]
        else:
            status = "warned" if isinstance(problem, SlqWarning) else "failed"
            warning = problem if isinstance(problem, SlqWarning) else SlqWarning(str(problem))
            if warning is not problem and on_fail == "raise":
                raise problem
            if on_fail is not None:
                warnings.warn(warning, stacklevel=stacklevel)
        entries.append({"name": name, "status": status, "value": value, "threshold": threshold, "mend": mend})
    return entries
