"""Floor 2: the loop of the Lanczos recurrence. Nothing is read from a device between the first product and the last."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from slq import _checks
from slq._arrays import Array, fused, imag, is_complex, is_numpy, namespace, precision, real, to_host
from slq._basis import Basis
from slq._host_vectors import host_vectors
from slq._products import Products, product_error
from slq._quadrature import run_lengths
from slq._vectors import device_vectors
from slq.errors import NonFiniteError, ProductError

__all__ = ["Recurrence", "Tridiagonal", "breakdown", "length_of"]

# A residual of fewer roundings than this of the norm seen so far is an invariant subspace. Measured where it should be
# zero (2 to 6 distinct eigenvalues, dense, n up to 2000): up to 640. Missing one does no harm, as the run goes on with
# tiny weights; ending a run too early would, and in float32 the bulk below outliers is not far above ten.
_BREAKDOWN = {True: 1000.0, False: 10.0}

# Where a projection takes more than half of ‖w‖², what it leaves of the basis is no longer rounding of what is left of
# w, and a second one is due (Daniel, Gragg, Kaufman and Stewart 1976).
_DROP = 0.5


class Tridiagonal(NamedTuple):
    """Recurrence coefficients of k runs of m steps: A Vᵢ = Vᵢ Tᵢ + βᵢₘ vᵢ,ₘ₊₁ eₘᵀ.

    Attributes
    ----------
    alpha, beta : (k, m) array of float64
        Diagonals and off-diagonals of the Tᵢ, on the host. The last column of beta is the residual norm. A zero in beta
        ends a run: its Krylov space is invariant, what follows is zero.
    basis : (k, m, n) array or None
        The Lanczos vectors, in the library and on the device of the operator.
    """

    alpha: np.ndarray
    beta: np.ndarray
    basis: Array | None = None


def breakdown(v: Array) -> float:
    """How small a residual is zero, relative to the norm seen so far."""
    return _BREAKDOWN[bool(namespace(v).finfo(v.dtype).bits > 32)] * precision(v)


class Recurrence:
    """Runs of one operator from a block of unit vectors.

    Attributes
    ----------
    products : Products
    needs_second_pass : bool
        A projection took so much of a vector that a second one was due, but was not made; repeat the runs with two.
    """

    def __init__(
        self, products: Products, v: Array, basis: Basis, everything: Basis, *, check: bool, passes: int
    ) -> None:
        A = products.operator
        self.products = products
        self._faults: dict[int, str] = {}  # by probe; on the host only, where looking costs nothing
        self.needs_second_pass = False
        self._basis, self._everything = basis, everything
        self._check = check
        self._passes = passes
        projecting = max(basis.capacity, everything.capacity) > 0
        if is_numpy(v) and not hasattr(A, "vecdot"):
            self._work = host_vectors(A, v, projecting)
        else:
            self._work = device_vectors(A, v)
        self._rounding = breakdown(v)
        self._columns: dict[str, list[Array]] = {}
        self._unit = 1.0  # the power of two by which products are multiplied

    def coefficients(
        self, v: Array, num_steps: int, progress: Callable[[int, int], None] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Alpha and beta of `num_steps` steps, (k, m) each; `v` is written over."""
        try:
            return self._run(v, num_steps, progress)
        except Exception as error:
            # A device reports an error after the fact: with a later product, or when the coefficients are read.
            lost = None if self._work.on_host else self._first_lost()
            if lost is None:
                raise
            cause = (error.__cause__ if isinstance(error, ProductError) else None) or error
            failed = product_error(cause, lost, v.shape)
            failed.partial = self._before(lost)
        raise failed from cause

    def _run(
        self, v: Array, num_steps: int, progress: Callable[[int, int], None] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        xp, work = namespace(v), self._work
        v = work.adopt(v)
        before: Array | None = None
        b = norm_seen = xp.zeros_like(real(v[:, 0]))
        for j in range(num_steps):
            self.products.step = j
            try:
                if j == 0:
                    y, self._unit = _checks.first_product(self.products, v, self._check)
                    w, a, returned = work.open(y if self._unit == 1.0 else y * self._unit, None, b, v, False)
                    del y
                else:
                    w, a, returned = work.multiply_and_open(self.products, self._unit, before, b, v, self._check)
            except ProductError as error:
                if work.on_host or self._first_lost() is None:
                    error.partial = self._before(j)
                raise
            if work.on_host:
                self._look_for_faults(a, w, v)
            a, a_imag = real(a), (imag(a) if is_complex(v) and self._check else None)
            w, squared = work.close(w, a, v)
            self._basis.append(v)
            if self._everything is not self._basis:
                self._everything.append(v)
            if self._basis.size:
                w, squared = self._project(w, squared)
            b_before = b
            b, factors, norm_seen = length_of(squared, a, b_before, norm_seen, self._rounding)
            before, v = v, work.normalise(w, factors)
            self._note(alpha=a, beta=b, imag=a_imag, gap=None if returned is None else xp.abs(returned - b_before))
            if progress is not None:
                progress(j + 1, num_steps)
            if work.on_host and not b.any():
                break  # every run met an invariant subspace
        found, read = self._read(num_steps)
        self._require_finite(*found)
        if "drop" in read:
            alive = (read["beta"] > 0) & np.isfinite(read["drop"])
            self.needs_second_pass = bool((read["drop"][alive] < _DROP).any())
        if self._check:
            _checks.judge_steps(read, max(self.products.eps, self._basis.eps))
        return found

    def _project(self, w: Array, squared: Array) -> tuple[Array, Array]:
        """`w` orthogonal to the basis, and its squared length."""
        for taken in range(2):
            w = self._basis.remove_from(w, self._work)
            left = real(self._work.dot(w, w))
            if self._work.on_host:
                enough = not (left < _DROP * squared).any()
            else:
                enough = taken + 1 >= self._passes
                if enough and self._passes == 1:
                    self._note(drop=left / real(squared))
            squared = left
            if enough:
                break
        return w, squared

    def _note(self, **values: Array | None) -> None:
        for name, value in values.items():
            if value is not None:
                self._columns.setdefault(name, []).append(value)

    def _first_lost(self) -> int | None:
        """The first step whose coefficients a device cannot give, as the product they come from has failed."""
        for step, a in enumerate(self._columns.get("alpha", [])):
            try:
                to_host(a)
            except Exception:  # whatever the library raises
                return step
        return None

    def _before(self, step: int) -> Tridiagonal | None:
        """What was computed before a step."""
        self._columns = {name: column[:step] for name, column in self._columns.items() if name in ("alpha", "beta")}
        return Tridiagonal(*self._read(step)[0]) if step else None

    def _read(self, num_steps: int) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
        """One transfer for everything that was noted: alpha and beta, (k, num_steps) each; and all of it by steps."""
        columns = {name: column for name, column in self._columns.items() if column}
        xp = namespace(columns["alpha"][0])
        rows = to_host(xp.stack([x for column in columns.values() for x in column])).astype(np.float64)
        ends = np.cumsum([len(column) for column in columns.values()])[:-1]
        read = dict(zip(columns, np.split(rows, ends), strict=True))
        alpha, beta = (np.zeros((rows.shape[1], num_steps)) for _ in range(2))
        for row, length in enumerate(run_lengths(read["beta"].T)):
            alpha[row, :length] = read["alpha"][:length, row] / self._unit
            beta[row, :length] = read["beta"][:length, row] / self._unit
        return (alpha, beta), read

    def _look_for_faults(self, a: np.ndarray, w: np.ndarray, v: np.ndarray) -> None:
        for row in np.flatnonzero(~np.isfinite(a)).tolist():
            bad = np.flatnonzero(~np.isfinite(w[row]))
            if bad.size and row not in self._faults:
                self._faults[row] = (
                    f": {bad.size} of {w.shape[1]} entries, the first at {bad[0]}, where no entry of the input was "
                    f"larger than {np.abs(v[row]).max():.3g}"
                )

    def _require_finite(self, alpha: np.ndarray, beta: np.ndarray) -> None:
        """Raise for runs that met NaN or infinity; the others are kept in the error."""
        finite = np.isfinite(alpha) & np.isfinite(beta)
        bad = np.flatnonzero(~finite.all(axis=1)).tolist()
        if not bad:
            return
        steps = finite[bad].argmin(axis=1)
        first, worst = int(steps.min()), bad[int(steps.argmin())]
        lost = [i + self.products.first_row for i in bad]
        error = NonFiniteError(
            f"the product of step {first} contains NaN or infinity for probe {worst + self.products.first_row}"
            f"{self._faults.get(worst, '')}; probes {lost} are lost, the others are in `.partial`; "
            "look for a division by zero, an overflow, bad data or a state that changes inside the operator",
            probes=lost,
            step=first,
        )
        good = finite.all(axis=1)
        error.partial = Tridiagonal(alpha[good], beta[good]) if good.any() else None
        raise error


@fused
def length_of(
    squared: Array, a: Array, b_before: Array, norm_seen: Array, rounding: float
) -> tuple[Array, Array, Array]:
    """β, what makes w the next vector, and the norm seen so far; where w is rounding, the run ends with zeros."""
    xp = namespace(squared)
    b = xp.sqrt(real(squared))
    norm_seen = xp.maximum(xp.abs(a) + b_before + b, norm_seen)
    alive = b > rounding * norm_seen  # false for NaN too, which the last look finds in alpha
    zero = xp.zeros_like(b)
    return xp.where(alive, b, zero), xp.where(alive, 1 / xp.where(alive, b, xp.ones_like(b)), zero), norm_seen
