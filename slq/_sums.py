"""Floor 3: sums over the spectrum in one call."""

from collections.abc import Callable
from typing import Any

import numpy as np

from slq._estimate import Estimate
from slq._functions import try_function
from slq._methods import measured

__all__ = ["logdet", "spectral_sum"]


def spectral_sum(A: Any, f: Callable[[np.ndarray], Any], *, method: str = "slq", **options: Any) -> Estimate:
    """Estimate tr f(A) of a symmetric or Hermitian operator.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    f : callable
        Acts element by element on a NumPy array of Ritz values.
    method : {"slq", "block", "krylov"}
        How ``num_probes * num_steps`` products are spent; docs/methods.md has the errors of each. "slq": independent
        probes. "block": they share a Krylov space, and eigenvalues that it found count exactly
        (`SpectralMeasure.deflate`). "krylov": half of the probes span a space whose part of the sum is known, the
        others sample the rest (Krylov-aware estimation); of the options it takes ``num_probes`` and ``num_steps``, two
        of each at least, ``rng``, ``first_probe``, ``check``, ``progress``, and ``batch_size`` for the other half.
    **options
        Those of `spectral_measure`; keep a measure instead to ask it several questions.

    Returns
    -------
    Estimate

    Raises
    ------
    SlqError
        What `spectral_measure` and `SpectralMeasure.trace` raise. What f returns is looked at before the first product.
    RequestError
        If there is no such method, or it does not take one of the options.

    References
    ----------
    Chen and Hallman, Krylov-aware stochastic trace estimation, SIMAX 44 (2023).
    """
    try_function(f)
    return measured(A, method, options).trace(f)


def logdet(
    A: Any, *, lower: float | None = None, allow_singular: bool = False, method: str = "slq", **options: Any
) -> Estimate:
    """Estimate log det A of a positive definite operator.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    lower, allow_singular
        See `SpectralMeasure.logdet`.
    method : {"slq", "block", "krylov"}
        See `spectral_sum`.
    **options
        Those of `spectral_measure`.

    Returns
    -------
    Estimate

    Raises
    ------
    NotPositiveDefiniteError
        If a Ritz value is negative, or (SingularError) rounding cannot tell it from zero.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(logdet(4 * np.eye(10), num_steps=5)), 6)  # 10 log 4
    13.862944
    """
    return measured(A, method, options).logdet(lower=lower, allow_singular=allow_singular)
