"""Floor 2: recurrences that a library runs in a loop of its own, behind `slq.lanczos`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from slq import _checks
from slq._arrays import Array, is_array, library_name, to_host
from slq._basis import storage_for
from slq._products import Products, product_error
from slq._recurrence import Tridiagonal, cut_at_end, require_finite
from slq.errors import RequestError, SlqError

__all__ = ["driven", "register_driver"]

Driver = Callable[..., Any]

_DRIVERS: dict[str, Driver] = {}


def register_driver(namespace: str, lanczos: Driver | None) -> None:
    """Let a function run the Lanczos recurrences of operators of a library.

    Parameters
    ----------
    namespace : str
        The library of the operators' arrays, for example ``"jax"``.
    lanczos : callable or None
        ``lanczos(A, V, num_steps, *, reorthogonalize, return_basis)``, with ``basis_dtype`` and ``progress`` where they
        are asked for; V holds unit vectors as rows, in the dtype of the recurrence, and must not be changed. It returns
        what `slq.lanczos` returns, `Tridiagonal`, or None for an operator that it does not run: the loop of the core
        then does. Coefficients may be arrays of the library. If the result has an attribute ``returned``, (k, m) with
        vⱼ₋₁ᴴA vⱼ in column j, symmetry is judged from it. None unregisters.

    Raises
    ------
    RequestError
        If `namespace` is no string, or `lanczos` no function.

    Examples
    --------
    >>> register_driver("numpy", lambda A, V, num_steps, **options: None)  # one that runs nothing
    >>> register_driver("numpy", None)
    """
    if not isinstance(namespace, str):
        raise RequestError(f"register_driver expects the name of a library, got {namespace!r}")
    if lanczos is None:
        _DRIVERS.pop(namespace, None)
        return
    if not callable(lanczos):
        raise RequestError(f"register_driver expects a function like slq.lanczos, got {type(lanczos).__name__}")
    _DRIVERS[namespace] = lanczos


def driven(products: Products, v: Array, num_steps: int, *, check: bool, **options: Any) -> Tridiagonal | None:
    """What the driver of the library of `v` makes of a run, or None where it leaves that to the core."""
    driver = _DRIVERS.get(library_name(v))
    if driver is None:
        return None
    options = {name: value for name, value in options.items() if value is not None}
    try:
        found = driver(products.operator, v, num_steps, **options)
    except (SlqError, MemoryError):
        raise
    except Exception as error:
        raise product_error(error, 0, v.shape) from error
    if found is None:
        return None
    raw_alpha, raw_beta = _on_host(found.alpha), _on_host(found.beta)
    alpha, beta = cut_at_end(raw_alpha, raw_beta, num_steps)
    require_finite(products, alpha, beta, {})
    returned = getattr(found, "returned", None)
    if check and returned is not None and num_steps > 1:
        read = {"alpha": raw_alpha.T, "beta": raw_beta.T, "returned": _on_host(returned).T[1:]}
        stored = storage_for(options.get("basis_dtype") if options["reorthogonalize"] else None, v)
        _checks.judge_steps(read, max(products.eps, stored.eps), partial(_checks.size_of_operator, products, v, 1.0))
    return Tridiagonal(alpha, beta, found.basis)


def _on_host(x: Any) -> np.ndarray:
    return np.asarray(to_host(x) if is_array(x) else x, dtype=np.float64)
