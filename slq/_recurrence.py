"""Floor 2: the loop of the Lanczos recurrence. Nothing is read from a device between the first product and the last."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from slq import _checks
from slq._arrays import Array, imag, is_complex, is_numpy, namespace, real, to_host
from slq._basis import Basis
from slq._host_vectors import host_vectors
from slq._products import Products, product_error
from slq._quadrature import run_lengths
from slq._vectors import breakdown, device_vectors
from slq.errors import NonFiniteError, ProductError

__all__ = ["Recurrence", "Tridiagonal", "Until", "cut_at_end", "require_finite"]

Until = Callable[[np.ndarray, np.ndarray], bool]  # (alpha, beta) so far, (k, steps) each -> whether they are enough

# Where a projection takes more than half of ‖w‖², what it leaves of the basis is no longer rounding of what is left of
# w, and a second one is due (Daniel, Gragg, Kaufman and Stewart 1976).
_DROP = 0.5

_FIRST_LOOK, _LOOK = 4, 2  # steps before a run is first asked whether to end, and between looks, or an eighth


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
        self, v: Array, num_steps: int, progress: Callable[[int, int], None] | None, until: Until | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Alpha and beta of `num_steps` steps, or of fewer if `until` says so, (k, m) each; `v` is written over."""
        try:
            return self._run(v, num_steps, progress, until)
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
        self, v: Array, num_steps: int, progress: Callable[[int, int], None] | None, until: Until | None
    ) -> tuple[np.ndarray, np.ndarray]:
        xp, work = namespace(v), self._work
        v = work.adopt(v)
        before: Array | None = None
        b = norm_seen = xp.zeros_like(real(v[:, 0]))
        look = _FIRST_LOOK
        for j in range(num_steps):
            self.products.step = j
            w, a, squared = self._multiply(j, before, b, v)
            self._basis.append(v)
            if self._everything is not self._basis:
                self._everything.append(v)
            if self._basis.size:
                w, squared = self._project(w, squared)
            before = v
            v, b, norm_seen = work.finish(w, squared, a, b, norm_seen, self._rounding)
            self._note(alpha=a, beta=b)
            if progress is not None:
                progress(j + 1, num_steps)
            if work.on_host and not b.any():
                num_steps = num_steps if until is None else j + 1
                break  # every run met an invariant subspace
            if until is not None and j + 1 == look < num_steps:
                look += max(_LOOK, look // 8)
                if self._enough(j + 1, until):
                    num_steps = j + 1
                    break
        found, read = self._read(num_steps)
        require_finite(self.products, *found, self._faults)
        if "drop" in read:
            alive = (read["beta"] > 0) & np.isfinite(read["drop"])
            self.needs_second_pass = bool((read["drop"][alive] < _DROP).any())
        if self._check:
            size = functools.partial(_checks.size_of_operator, self.products, v, self._unit)
            _checks.judge_steps(read, max(self.products.eps, self._basis.eps), size)
        return found

    def _enough(self, steps: int, until: Until) -> bool:
        """Whether to end the runs here; also where NaN makes it useless to go on."""
        alpha, beta = self._read(steps)[0]
        return not (np.isfinite(alpha).all() and np.isfinite(beta).all()) or until(alpha, beta)

    def _multiply(self, j: int, before: Array | None, b: Array, v: Array) -> tuple[Array, Array, Array]:
        """The product of step j without its components along this vector and the one before, α, and ‖w‖²."""
        work, squared = self._work, None
        try:
            if before is None:
                y, self._unit = _checks.first_product(self.products, v, self._check)
                w, a, returned = work.open(y if self._unit == 1.0 else y * self._unit, None, b, v, False)
            elif work.on_host:
                w, a, returned = work.multiply_and_open(self.products, self._unit, before, b, v, self._check)
            else:
                w, a, returned, squared = work.begin(self.products, self._unit, before, b, v, self._check)
        except ProductError as error:
            if work.on_host or self._first_lost() is None:
                error.partial = self._before(j)
            raise
        if work.on_host:
            self._look_for_faults(a, w, v)  # before `close` spreads them
        if squared is None:
            w, squared = work.close(w, real(a), v)
        if returned is not None:
            self._note(returned=real(returned), returned_imag=imag(returned) if is_complex(v) else None)
        if is_complex(v) and self._check:
            self._note(imag=imag(a))
        return w, real(a), squared

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
        return cut_at_end(read["alpha"].T / self._unit, read["beta"].T / self._unit, num_steps), read

    def _look_for_faults(self, a: np.ndarray, w: np.ndarray, v: np.ndarray) -> None:
        for row in np.flatnonzero(~np.isfinite(a)).tolist():
            bad = np.flatnonzero(~np.isfinite(w[row]))
            if bad.size and row not in self._faults:
                self._faults[row] = (
                    f": {bad.size} of {w.shape[1]} entries, the first at {bad[0]}, where no entry of the input was "
                    f"larger than {self._work.largest(v, row):.3g}"
                )


def cut_at_end(alpha: np.ndarray, beta: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (k, steps) as (k, num_steps) arrays with nothing but zeros after the end of each run."""
    cut_alpha, cut_beta = (np.zeros((len(beta), num_steps)) for _ in range(2))
    for row, length in enumerate(run_lengths(beta)):
        cut_alpha[row, :length] = alpha[row, :length]
        cut_beta[row, :length] = beta[row, :length]
    return cut_alpha, cut_beta


def require_finite(products: Products, alpha: np.ndarray, beta: np.ndarray, faults: Mapping[int, str]) -> None:
    """Raise for runs that met NaN or infinity; the others are kept in the error.

    `faults` tells more of rows.
    """
    finite = np.isfinite(alpha) & np.isfinite(beta)
    bad = np.flatnonzero(~finite.all(axis=1)).tolist()
    if not bad:
        return
    steps = finite[bad].argmin(axis=1)
    first, worst = int(steps.min()), bad[int(steps.argmin())]
    lost = [i + products.first_row for i in bad]
    error = NonFiniteError(
        f"the product of step {first} contains NaN or infinity for probe {worst + products.first_row}"
        f"{faults.get(worst, '')}; probes {lost} are lost, the others are in `.partial`; "
        "look for a division by zero, an overflow, bad data or a state that changes inside the operator",
        probes=lost,
        step=first,
    )
    good = finite.all(axis=1)
    error.partial = Tridiagonal(alpha[good], beta[good]) if good.any() else None
    raise error
