"""Floor 3: from a rectangular operator to the measure of its singular values."""

from collections.abc import Callable
from typing import Any

from slq._arrays import Array
from slq._batches import Batches, clipped, require_memory, warn_if_clipped
from slq._golub_kahan import RightSpace, bidiagonalize
from slq._gram import rectangular
from slq._measure import SpectralMeasure
from slq._probes import Sampler, sphere
from slq._products import Products
from slq._source import count, source_of

__all__ = ["singular_measure"]


def singular_measure(
    A: Any,
    *,
    num_probes: int = 10,
    num_steps: int = 80,
    rng: Any = 0,
    probes: Sampler | Array = sphere,
    first_probe: int = 0,
    reorthogonalize: bool | int = True,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SpectralMeasure:
    """Estimate the distribution of the singular values of an operator by Golub-Kahan bidiagonalisation.

    Parameters
    ----------
    A : (p, n) operator
        With an adjoint; anything that `gram` takes, but functions: make them ``matvec`` and ``rmatvec`` of an object
        with ``shape`` and ``like``.
    num_probes, num_steps, rng, probes, first_probe, batch_size, progress
        See `spectral_measure`. A step is a product with A and one with its adjoint; probes have n entries.
    reorthogonalize : bool or int
        See `lanczos`; on both sides.

    Returns
    -------
    SpectralMeasure
        Of √(AᴴA), with ``singular`` set: n values, zeros among them if p < n. ``trace(f)`` is the sum of f over them:
        ``trace()`` the nuclear norm, ``count(low, high)`` a numerical rank.

    Raises
    ------
    OperatorError
        If A has no adjoint, or one that does not fit, or a product is not usable.
    RequestError
        If an argument is out of range.

    Warns
    -----
    ClippedStepsWarning
        If a run was cut at the dimension.
    OutOfMemoryWarning
        See `spectral_measure`.

    Notes
    -----
    ``spectral_measure(gram(A))`` is the measure of the squares; its small nodes are lost in the rounding of the large
    ones, while those of the bidiagonal matrix keep their digits.

    References
    ----------
    Golub and Kahan, Calculating the singular values and pseudo-inverse of a matrix, SIAM J. Numer. Anal. B 2 (1965).

    Examples
    --------
    >>> import numpy as np
    >>> measure = singular_measure(np.diag([1.0, 2.0, 3.0])[:, :2], num_steps=2)
    >>> [round(s, 6) for s in measure.support]
    [1.0, 2.0]
    """
    A = rectangular(A)
    least = min(A.shape[1], A.shape[0] + 1)  # distinct values, with zero where A has fewer rows than columns
    num_steps, asked = clipped(num_steps, least, reorthogonalize), num_steps
    source = source_of(probes, num_probes, rng, first_probe)
    rows = source.num_probes if batch_size is None else min(source.num_probes, count("batch_size", batch_size))
    right = RightSpace(A)
    require_memory(
        right,
        num_probes=source.num_probes,
        batch_size=rows,
        num_steps=num_steps,
        reorthogonalize=reorthogonalize,
        check=False,
        left=A.shape[0],
    )
    products = Products(right)

    def run_all(v: Array, report: Callable[[int, int], None] | None) -> Any:
        first_row = products.first_row
        return bidiagonalize(A, v, num_steps, reorthogonalize=reorthogonalize, progress=report, first_row=first_row)

    batches = Batches(products, source, run_all, singular=True, reorthogonalize=reorthogonalize)
    batches.add_all(rows, progress)
    measure = batches.measure()
    warn_if_clipped(measure, asked, num_steps)
    return measure
