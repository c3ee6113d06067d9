"""Floor 3: gradients of spectral sums with respect to what an operator depends on."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from slq._arrays import Array, from_host, is_array, is_complex, itemsize, namespace, real, recurrence_like, scale_rows
from slq._batches import Batches, clipped, memory_needed, require_directions, warn_if_clipped
from slq._check_operator import quick_check
from slq._coefficients import Coefficients
from slq._derivatives import slopes
from slq._estimate import Estimate
from slq._functions import Function, evaluate, try_function
from slq._ghosts import ghost_warning
from slq._logdet import logdet
from slq._measure import SpectralMeasure
from slq._memory import require
from slq._operators import aslinearoperator
from slq._probes import Sampler, sphere
from slq._products import Products, complexified, local_size
from slq._questions import spectral_sum
from slq._recurrence import Tridiagonal
from slq._source import count, source_of
from slq._two_pass import Values, apply_function
from slq.errors import RequestError

__all__ = ["SpectralSumGradient", "spectral_sum_gradient"]


class SpectralSumGradient(NamedTuple):
    """A spectral sum and its gradient.

    Attributes
    ----------
    value : Estimate
        Of tr f(A), from the same probes.
    gradient : array, number, or tuple, list or dict of them
        Of tr f(A), in the structure that `vjp` returns.
    stderr : of the structure of `gradient`, or None
        Its standard errors from the spread of the probes, if they were asked for.
    """

    value: Estimate
    gradient: Any
    stderr: Any = None


def spectral_sum_gradient(
    A: Any,
    f: Function,
    vjp: Callable[[Array, Array], Any],
    *,
    derivative: Function | None = None,
    stderr: bool = False,
    num_probes: int = 10,
    num_steps: int = 80,
    rng: Any = 0,
    probes: Sampler | Array = sphere,
    first_probe: int = 0,
    reorthogonalize: bool = False,
    batch_size: int | None = None,
    check: bool | Mapping[str, str] = True,
    progress: Callable[[int, int], None] | None = None,
) -> SpectralSumGradient:
    """Estimate tr f(A) and its gradient with respect to the parameters θ of A: E⟨f′(A) x, (∂A/∂θ) x⟩ over probes x.

    Parameters
    ----------
    A : operator
        Anything that `aslinearoperator` takes.
    f : callable
        See `spectral_sum`; ``np.log`` for the log-determinant.
    vjp : callable
        ``vjp(u, v)`` with two (k, n) blocks of vectors, of the library, device and precision of the recurrence, returns
        Σᵢ ∂⟨uᵢ, A vᵢ⟩/∂θ (its real part, where they are complex): an array, a number, or a tuple, list or dict of
        them. It is called once for each batch of probes, with u = f′(A) v.
    derivative : callable, optional
        f′. Default: known for ``np.log``, ``np.sqrt``, ``np.exp``, ``np.reciprocal`` and others of NumPy's functions,
        else by differences of f at the Ritz values (measured: eleven digits and more).
    stderr : bool
        Also estimate the standard error of each entry of the gradient; `vjp` is then called with one probe at a time.
    num_probes, num_steps, rng, first_probe, batch_size, check, progress
        See `spectral_measure`.
    probes : sampler or (k, n) array
        See `spectral_measure`. Of given vectors the result is the mean of xᵢᴴ f(A) xᵢ and its gradient: the trace if
        the mean of xᵢ xᵢᴴ is the identity, as that of √n eᵢ.
    reorthogonalize : bool
        False: the recurrence runs twice, and memory is seven vectors per probe. True: once, and keeps all its vectors;
        for operators with outliers, where it needs fewer steps, and for products that are not repeatable to the bit.

    Returns
    -------
    SpectralSumGradient
        The named tuple (value, gradient, stderr).

    Raises
    ------
    RequestError
        If an argument is out of range, f or its derivative is not finite on the spectrum, or `vjp` returns something
        else than numbers, or another structure each time.
    NotPositiveDefiniteError
        If f is ``np.log`` and a Ritz value is negative, or (SingularError) rounding cannot tell it from zero.
    NotRepeatableError
        If the products of the two passes differ so much that the gradient would have no two correct digits.
    OperatorError, MemoryForecastError
        As `spectral_measure`.

    Warns
    -----
    NoiseWarning
        If the products of the two passes differ a little.
    PrecisionWarning
        If differences of f give its derivative to less than six digits.
    SlqWarning
        Those of `spectral_measure` and `SpectralMeasure.trace`.

    Notes
    -----
    The estimate is unbiased for any f, up to the error of f′(A) x after m steps, and it is not the gradient of the
    estimate of tr f(A): for the same probes the two differ by their sampling errors.

    References
    ----------
    Dong, Eriksson, Nickisch, Bindel and Wilson, Scalable log determinants for Gaussian process kernel learning, NeurIPS
    2017.

    Examples
    --------
    The derivative of log det(A + θ) at θ = 1 is tr (A + 1)⁻¹:

    >>> import numpy as np
    >>> A = np.diag(np.linspace(1.0, 3.0, 100))
    >>> found = spectral_sum_gradient(A + np.eye(100), np.log, lambda u, v: (u * v).sum(), stderr=True)
    >>> print(f"{found.gradient:.1f} ± {found.stderr:.1f}, exactly {np.sum(1 / (np.diag(A) + 1)):.1f}")
    35.1 ± 0.3, exactly 34.7
    """
    try_function(f)
    A = aslinearoperator(A)
    if not isinstance(reorthogonalize, bool | np.bool_):
        raise RequestError(
            f"reorthogonalize= expects True or False here, got {reorthogonalize!r}: the first few vectors would not do"
        )
    num_steps, asked = clipped(num_steps, A.shape[0], reorthogonalize), num_steps
    source = source_of(probes, num_probes, rng, first_probe)
    if source.is_complex and not is_complex(A.like):
        A = complexified(A)
    rows = source.num_probes if batch_size is None else min(source.num_probes, count("batch_size", batch_size))
    if stderr and source.num_probes < 2:
        raise RequestError("stderr=True expects two probes or more, got one: their spread is the error")
    full, watch = bool(reorthogonalize), check is not False
    _require_memory(A, rows, source.num_probes, num_steps, full, watch)
    require_directions(A, source, rows)
    products = Products(A)
    if watch:
        expected = check if isinstance(check, Mapping) else None
        products.eps, watch = quick_check(A, products, expected_failures=expected, batch_size=rows)
    slope, mean = slopes(f, derivative), _Mean(vjp, one_by_one=stderr)

    def at_nodes(runs: Tridiagonal) -> Values:
        _require_defined(f, runs, A.shape[0], products.eps)
        return slope

    def run(v: Array, report: Callable[[int, int], None] | None) -> Tridiagonal:
        runs, u = apply_function(products, v, num_steps, at_nodes, reorthogonalize=full, check=watch, progress=report)
        lengths = from_host(np.sqrt(batches.squared_norms), real(v))
        mean.add(scale_rows(u, lengths), scale_rows(v, lengths))
        return runs

    batches = Batches(products, source, run, reorthogonalize=full)
    batches.add_all(rows, progress)
    measure = batches.measure()
    ghosts = None if full else ghost_warning(measure)
    if ghosts is not None:
        warnings.warn(ghosts, stacklevel=2)
    warn_if_clipped(measure, asked, num_steps)
    return SpectralSumGradient(_value(measure, f), mean.value(), mean.stderr() if stderr else None)


def _require_memory(A: Any, rows: int, num_probes: int, num_steps: int, full: bool, check: bool) -> None:
    """Refuse what does not fit: the runs, and the probes, f′(A) x and what adds it up on top; a basis twice."""
    like = recurrence_like(A.like)

    def needed(rows: int, full: bool) -> int:
        options = {"num_probes": num_probes, "num_steps": num_steps, "reorthogonalize": full, "check": check}
        beside = rows * local_size(A) * itemsize(like) * (3 + num_steps * full)
        return memory_needed(A, batch_size=rows, **options) + beside

    fitting = {"batch_size=1": needed(1, full), "reorthogonalize=False": needed(rows, False)}
    require(like, needed(rows, full), fitting | {"batch_size=1, reorthogonalize=False": needed(1, False)})


def _require_defined(f: Function, runs: Tridiagonal, n: int, eps: float) -> None:
    """Raise before the second pass, and before the user's `vjp`, what asking for the value raises in the end."""
    found = Coefficients(runs.alpha, runs.beta, n, eps=eps)
    if f is np.log:
        logdet(found, None, False)
    else:
        used = found.weights > 0
        evaluate(f, found.nodes[used], found.weights[used])


def _value(measure: SpectralMeasure, f: Function) -> Estimate:
    if measure.sampler == "fixed":  # what the vectors are to each other, only the caller knows: no error bar
        measure = measure.changed(sampler="dependent")
    estimate, reservations = logdet(measure, None, False) if f is np.log else spectral_sum(measure, f, float(measure.n))
    for reservation in reservations:
        warnings.warn(reservation, stacklevel=3)
    return estimate


class _Mean:
    """The mean over probes of what `vjp` returns, and its spread (Welford 1962)."""

    def __init__(self, vjp: Callable[[Array, Array], Any], *, one_by_one: bool) -> None:
        if not callable(vjp):
            raise RequestError(
                "vjp expects a function of two (k, n) blocks u, v that returns the gradient of the sum of uᵢᴴ A vᵢ, "
                f"got {type(vjp).__name__}"
            )
        self._vjp, self._one_by_one = vjp, one_by_one
        self._count = 0
        self._mean: Any = None  # the sum, where no spread is asked for
        self._squares: Any = None

    def add(self, u: Array, v: Array) -> None:
        """A batch of probes, (k, n) each."""
        k = int(v.shape[0])
        if not self._one_by_one:
            new = _settled(self._vjp(u, v))
            self._mean = new if self._count == 0 else _together(lambda a, b: a + b, self._mean, new)
            self._count += k
            return
        found = [_settled(self._vjp(u[i : i + 1, ...], v[i : i + 1, ...])) for i in range(k)]
        for new in found:
            self._count += 1
            if self._count == 1:
                self._mean, self._squares = new, _together(lambda a: 0 * a, new)
                continue
            step = _together(lambda a, b: a - b, new, self._mean)
            weight = 1 - 1 / self._count
            self._squares = _together(lambda s, d, w=weight: s + w * _squared(d), self._squares, step)
            self._mean = _together(lambda a, d, c=self._count: a + d / c, self._mean, step)

    def value(self) -> Any:
        return self._mean if self._one_by_one else _together(lambda a: a / self._count, self._mean)

    def stderr(self) -> Any:
        k = self._count
        return _together(lambda s: (s / (k * (k - 1))) ** 0.5, self._squares)


def _squared(x: Any) -> Any:
    return real(x * namespace(x).conj(x)) if is_array(x) and is_complex(x) else abs(x) ** 2


def _settled(tree: Any) -> Any:
    """What `vjp` returned, if it is made of numbers."""
    return _together(lambda leaf: leaf, tree)


def _together(act: Callable[..., Any], *trees: Any) -> Any:
    """`act` on the leaves of trees of one structure."""
    first = trees[0]
    same = all(type(tree) is type(first) for tree in trees)
    if isinstance(first, dict) and same and all(tree.keys() == first.keys() for tree in trees):
        return {key: _together(act, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, tuple | list) and same and len({len(tree) for tree in trees}) == 1:
        parts = [_together(act, *leaves) for leaves in zip(*trees, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    shapes = {getattr(tree, "shape", ()) for tree in trees}
    if all(is_array(x) or isinstance(x, int | float | complex | np.number) for x in trees) and len(shapes) == 1:
        return act(*trees)
    raise RequestError(
        f"vjp expects to return an array or a number, or a tuple, list or dict of them, the same each time, got "
        f"{' and '.join(sorted({type(tree).__name__ for tree in trees}))}"
    )
