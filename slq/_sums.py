"""Floor 3: sums over the spectrum in one call, from a fixed number of products or to a tolerance."""

from collections.abc import Callable
from typing import Any

import numpy as np

from slq import _logdet, _questions, _truncation
from slq._adaptive import estimate_to_tolerance
from slq._arrays import is_array
from slq._estimate import Estimate
from slq._functions import try_function
from slq._measure import SpectralMeasure
from slq._methods import measured
from slq._source import count
from slq._tolerance import tolerance_of
from slq.errors import RequestError, SlqWarning

__all__ = ["logdet", "spectral_sum"]


def spectral_sum(
    A: Any,
    f: Callable[[np.ndarray], Any],
    *,
    method: str = "slq",
    signs: tuple[int, int] | None = None,
    lower: float | None = None,
    upper: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    confidence: float = 0.95,
    max_products: int | None = None,
    **options: Any,
) -> Estimate:
    """Estimate tr f(A) of a symmetric or Hermitian operator, to a tolerance if one is given.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    f : callable
        Acts element by element on a NumPy array of Ritz values.
    method : {"slq", "deflate", "block", "krylov"}
        How ``num_probes * num_steps`` products are spent; docs/methods.md has the errors of each. "slq": independent
        probes. "deflate": likewise, and eigenvalues that they found count exactly (`SpectralMeasure.deflate`). "block":
        besides, they share a Krylov space. "krylov": half of the probes span a space whose part of the sum is known,
        the others sample the rest (Krylov-aware estimation); of the options it takes ``num_probes`` and ``num_steps``,
        two of each at least, ``rng``, ``first_probe``, ``check``, ``progress``, and ``batch_size`` for the other half.
        A tolerance takes one of the first two.
    signs, lower, upper
        See `SpectralMeasure.trace`: what is known of f and of the spectrum makes the quadrature error a bound.
    rtol, atol : float, optional
        Probes and steps are added until sampling error (at `confidence`), quadrature error and rounding together are
        at most max(atol, rtol·abs(value)). Where n products are cheaper and the matrix they give fits, n ≤ 4096, its
        eigenvalues give the exact sum. Without either, `num_probes` runs of `num_steps` steps.
    confidence : float
        With which the tolerance is to hold.
    max_products : int, optional
        Most products to spend, the ten of ``check=True`` aside. With a tolerance, None stops at once where the
        forecast, from eight probes or more, exceeds 100,000. Without one, as many of the `num_probes` run as it allows.
    **options
        Those of `spectral_measure`; keep a measure instead to ask it several questions. With a tolerance, `num_probes`
        is the least number of probes (1), `num_steps` the largest number of steps (what half of the free memory takes,
        at most n and 2000), and `progress` is called as ``progress(products done, forecast of all)``.

    Returns
    -------
    Estimate
        Its ``converged`` says whether the tolerance is met, its ``products`` counts all that were spent.

    Raises
    ------
    SlqError
        What `spectral_measure` and `SpectralMeasure.trace` raise. What f returns is looked at before the first product.
    RequestError
        If there is no such method, or it does not take one of the options; if a tolerance is not a number ≥ 0, both are
        zero, or `probes` are given vectors, which cannot be added to.

    Warns
    -----
    ToleranceWarning
        If the tolerance is not met, with the reason and the products that it would take.

    Notes
    -----
    The first probe runs until its quadrature error is a tenth of the tolerance, or probes cost less than more steps.
    Its plug-in error forecasts the number of probes; they are added, at most as many again as there are, until the
    error that is stated is within the tolerance. Other than sphere probes are judged by their spread: from eight on,
    with Student's t at a level that makes good for looking several times (0.8 of the failures allowed, measured).

    References
    ----------
    Golub and Meurant, Matrices, Moments and Quadrature with Applications, Princeton (2010), for the stopping of
    quadratures; Chow and Robbins, On the asymptotic theory of fixed-width sequential confidence intervals, Ann. Math.
    Statist. 36 (1965), for that of probes.
    Chen and Hallman, Krylov-aware stochastic trace estimation, SIMAX 44 (2023).

    Examples
    --------
    >>> import numpy as np
    >>> estimate = spectral_sum(np.diag(np.linspace(1, 2, 500)), np.sqrt, rtol=1e-3)
    >>> estimate.converged
    True
    """
    try_function(f)
    tolerance = tolerance_of(rtol, atol, confidence)
    known: dict[str, Any] = {"signs": signs, "lower": lower, "upper": upper}
    if tolerance is None:
        return measured(A, method, _capped(options, max_products)).trace(f, **known)

    def question(m: SpectralMeasure) -> tuple[Estimate, list[SlqWarning]]:
        m = m.changed(deflated=deflated)
        return _questions.spectral_sum(m, f, float(m.n), prior=_truncation.prior(m, f, **known))

    deflated = _of_tolerance(method)

    return estimate_to_tolerance(A, question, tolerance, max_products=max_products, **options)


def logdet(
    A: Any,
    *,
    method: str = "slq",
    lower: float | None = None,
    upper: float | None = None,
    allow_singular: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    confidence: float = 0.95,
    max_products: int | None = None,
    **options: Any,
) -> Estimate:
    """Estimate log det A of a positive definite operator, to a tolerance if one is given.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    lower, upper, allow_singular
        See `SpectralMeasure.logdet`.
    method, rtol, atol, confidence, max_products, **options
        See `spectral_sum`. A log-determinant near zero needs an `atol`.

    Returns
    -------
    Estimate

    Raises
    ------
    NotPositiveDefiniteError
        If a Ritz value is negative, or (SingularError) rounding cannot tell it from zero.

    Warns
    -----
    ToleranceWarning
        See `spectral_sum`.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(logdet(4 * np.eye(10), num_steps=5)), 6)  # 10 log 4
    13.862944
    """
    tolerance = tolerance_of(rtol, atol, confidence)
    if tolerance is None:
        measure = measured(A, method, _capped(options, max_products))
        return measure.logdet(lower=lower, upper=upper, allow_singular=allow_singular)

    def question(m: SpectralMeasure) -> tuple[Estimate, list[SlqWarning]]:
        return _logdet.logdet(m.changed(deflated=deflated), lower, allow_singular, upper)

    deflated = _of_tolerance(method)
    return estimate_to_tolerance(A, question, tolerance, max_products=max_products, **options)


def _of_tolerance(method: Any) -> bool:
    """Whether a search for a tolerance deflates."""
    if method not in ("slq", "deflate"):
        raise RequestError(
            f"rtol= and atol= add probes, which method='slq' and 'deflate' can, but method={method!r} was asked for; "
            "take one of these, or leave the tolerance out"
        )
    return bool(method == "deflate")


def _capped(options: dict[str, Any], max_products: int | None) -> dict[str, Any]:
    """The options of a measure that takes no more products: fewer probes, or one with fewer steps."""
    if max_products is None:
        return options
    limit = count("max_products", max_products)
    steps = min(count("num_steps", options.get("num_steps", 80)), limit)
    if is_array(options.get("probes")):
        raise RequestError("max_products= would drop some of the vectors given by probes=; pass fewer, or num_steps=")
    return options | {"num_steps": steps, "num_probes": min(options.get("num_probes", 10), limit // steps)}
