"""Floor 3: the trace of an operator by XTrace: test vectors that are each left out of the space of the others."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from slq._arrays import Array, itemsize, recurrence_like
from slq._check_operator import quick_check
from slq._checks import first_product, judge_difference, size_of_operator
from slq._estimate import Estimate
from slq._memory import forecast_check, require
from slq._operators import aslinearoperator
from slq._orthonormal import gram, orthonormal
from slq._probes import sphere
from slq._products import LinearOperator, Products, local_size, workspace
from slq._source import count, source_of
from slq._vectors import breakdown
from slq.errors import NonFiniteError

__all__ = ["xtrace"]

# The estimates of the test vectors share a space, and their spread does not show the error that they share: measured on
# 15 spectra with 8 to 120 products (400 to 1000 seeds each), the leave-one-out error is 0.65 to 1.04 of the true one.
_SHARED = 1.5


def xtrace(
    A: Any,
    num_products: int = 100,
    *,
    rng: Any = 0,
    check: bool | Mapping[str, str] = True,
    progress: Callable[[int, int], None] | None = None,
) -> Estimate:
    """Estimate tr A of a symmetric or Hermitian operator by XTrace.

    For the trace of A itself: a product with f(A) would take all steps of a Lanczos run, and `spectral_sum` with
    ``method="block"`` then makes more of as many products (docs/methods.md).

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    num_products : int
        How many products to spend, four at least: half on m test vectors, half on a basis of their images. An odd
        number is rounded down; n test vectors are the most.
    rng : {None, int, numpy.random.Generator}
        The seed of the test vectors, which are those of `sphere`.
    check : bool or mapping of str to str
        See `spectral_measure`; ten products.
    progress : callable, optional
        Called as ``progress(products done, products in all)``.

    Returns
    -------
    Estimate
        Unbiased, without quadrature error, and exact to rounding where the rank of A is below m, or m = n. `stderr` is
        1.5 times the leave-one-out error of the paper, with m − 1 degrees of freedom: that alone falls short,
        as the test vectors share a space.

    Raises
    ------
    RequestError
        If an argument is out of range.
    OperatorError
        If A or one of its products is not usable; the subclass and the message say why.
    MemoryForecastError
        If the vectors, about three times m of them, would take more memory than is free.

    Warns
    -----
    SymmetryWarning, NoiseWarning, PrecisionWarning
        If A is a little asymmetric, noisy or nonlinear.

    Notes
    -----
    Let the columns of Q be an orthonormal basis of the images A xⱼ, and Qᵢ one of those with j ≠ i. The estimate is the
    mean over i of tr Qᵢᴴ A Qᵢ + dᵢ ⟨vᵢ, A vᵢ⟩/⟨vᵢ, vᵢ⟩, where vᵢ = (I − Qᵢ Qᵢᴴ) xᵢ is uniform in direction in the dᵢ
    dimensions that Qᵢ leaves. As Qᵢ Qᵢᴴ = Q (I − sᵢ sᵢᴴ) Qᴴ with the normalised columns sᵢ of R⁻ᴴ, A X = Q R, the
    products A X and A Q are all that it takes.

    References
    ----------
    Epperly, Tropp and Webber, XTrace: making the most of every sample in stochastic trace estimation, SIMAX 45 (2024).

    Examples
    --------
    >>> import numpy as np
    >>> estimate = xtrace(np.diag(1 / np.arange(1.0, 501.0) ** 2), 60)
    >>> estimate.stderr < 1e-2 * estimate.value
    True
    """
    A = aslinearoperator(A)
    n = int(A.shape[0])
    m = min(count("num_products", num_products, 4) // 2, n)
    source = source_of(sphere, m, rng, 0)
    watch = check is not False
    _require_memory(A, m, watch)
    products = Products(A)
    if watch:
        expected = check if isinstance(check, Mapping) else None
        products.eps, watch = quick_check(A, products, expected_failures=expected, batch_size=m)
    with np.errstate(over="ignore", invalid="ignore"):  # found in the small matrices, and named
        small = _multiplied(products, source.draw(A, 0, m), watch, progress)
    values = _estimates(small, n)
    spread = values.std(ddof=1) if m > 1 and small.rank < n else 0.0
    return Estimate(
        value=float(values.mean()) / small.unit,
        stderr=float(_SHARED * spread / np.sqrt(m)) / small.unit,
        truncation=0.0,
        truncation_kind="exact",
        rounding=_rounding(small, products.eps) / small.unit,
        dof=float(max(m - 1, 1)),
        products=m + small.rank,
    )


class _Small(NamedTuple):
    """What the products come to, on the host: Q of r columns, X of m; A is scaled by `unit`."""

    squares: np.ndarray  # diag XᴴX
    forms: np.ndarray  # diag XᴴAX, real
    R: np.ndarray  # (r, m): QᴴAX from its factorisation
    W: np.ndarray  # (r, m): QᴴX
    H: np.ndarray  # (r, r): QᴴAQ, made Hermitian
    T: np.ndarray  # (r, m): (AQ)ᴴX, equal to R if A is Hermitian
    unit: float

    @property
    def rank(self) -> int:
        """The number r of columns."""
        return len(self.H)


def _multiplied(products: Products, X: Array, watch: bool, progress: Callable[[int, int], None] | None) -> _Small:
    """Both products; at most three blocks live at a time."""
    m, dot = X.shape[0], getattr(products.operator, "vecdot", None)

    def small(x: Array, y: Array) -> np.ndarray:
        return _read(products, gram(x, y, dot), m)

    products.step = 0
    Y, unit = first_product(products, X, watch)
    if progress is not None:
        progress(m, 2 * m)
    Y = Y if unit == 1.0 else Y * unit
    squares, forms = small(X, X).diagonal().real, small(X, Y).diagonal().real
    largest = float(np.sqrt(small(Y, Y).diagonal().real.max()))
    images = [Y / largest if largest else Y]
    del Y
    Q, R = orthonormal(images.pop(), breakdown(X), lambda x: small(x, x))  # a name here would keep a fourth block
    R = R * largest
    r = int(Q.shape[0])
    products.step = 1
    if r == 0:
        empty = np.zeros((0, m))
        return _Small(squares, forms, empty, empty, np.zeros((0, 0)), empty, unit)
    Z = products(Q)
    if progress is not None:
        progress(m + r, m + r)
    Z = Z if unit == 1.0 else Z * unit
    H, T, W = small(Q, Z), small(Z, X), small(Q, X)
    if watch:
        _judge(products, Q, unit, H, T, R)
    return _Small(squares, forms, R, W, (H + H.conj().T) / 2, T, unit)


def _judge(products: Products, Q: Array, unit: float, H: np.ndarray, T: np.ndarray, R: np.ndarray) -> None:
    """Compare QᴴAQ with its adjoint, and (AQ)ᴴX with Qᴴ(AX): equal if A is Hermitian."""
    # Rows of X have the length √n, so that T is about as large as √n H.
    size = float(np.linalg.norm(H, 2))
    length = float(np.sqrt(products.operator.shape[0]))
    difference = max(float(np.abs(H - H.conj().T).max()), float(np.abs(T - R).max()) / length)
    judge_difference(difference, size, products.eps, lambda: size_of_operator(products, Q[:1, ...], unit))


def _read(products: Products, matrix: Array, m: int) -> np.ndarray:
    """A small matrix on the host, in double precision; raises if it is not finite."""
    values = products.read(matrix)
    values = values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)
    if np.isfinite(values).all():
        return values
    lost = np.flatnonzero(~np.isfinite(values).all(axis=0)).tolist() if products.step == 0 else list(range(m))
    raise NonFiniteError(
        f"the product of step {products.step} of xtrace contains NaN or infinity; all its test vectors share a space, "
        "so that none is left; look for a division by zero, an overflow, bad data or a state that changes inside the "
        "operator",
        probes=lost,
        step=products.step,
    )


def _estimates(small: _Small, n: int) -> np.ndarray:
    """One for each test vector, from the space of the others: (m,)."""
    squares, forms, R, W, H, T, _ = small
    r, m = R.shape
    if r == n:
        return np.full(m, np.trace(H).real)
    # Where directions are missing, the images of the others span them all: nothing is taken out of Q.
    S = np.zeros_like(R)
    if r == m:
        inverse = np.linalg.inv(R)
        S = (inverse / np.linalg.norm(inverse, axis=1, keepdims=True)).conj().T
    along = (S.conj() * W).sum(axis=0)
    U = W - S * along  # coordinates in Q of what is taken out of X
    known = np.trace(H).real - (S.conj() * (H @ S)).sum(axis=0).real
    rest = forms - 2 * (U.conj() * T).sum(axis=0).real + (U.conj() * (H @ U)).sum(axis=0).real
    left = squares - (np.abs(U) ** 2).sum(axis=0)
    return known + rest * (n - r + (r == m)) / left


def _rounding(small: _Small, eps: float) -> float:
    """What rounding of the products may have made."""
    parts = np.abs(np.linalg.eigvalsh(small.H)).sum() if small.rank else 0.0
    return float(4 * eps * (parts + np.abs(small.forms).mean()))


def _require_memory(A: LinearOperator, m: int, watch: bool) -> None:
    like, n = recurrence_like(A.like), local_size(A)

    def needed(rows: int, check: bool) -> int:
        size = itemsize(like)
        run = n * size * 3 * rows + workspace(A, rows)
        return max(run, forecast_check(rows, n, size) + workspace(A, min(rows, 5))) if check else run

    fewer = {f"num_products={2 * rows}": needed(rows, watch) for rows in (m // 2, m // 4, 2) if 2 <= rows < m}
    require(like, needed(m, watch), fewer)
