"""Floor 2: the Lanczos process with thick restarts, in the complement of locked vectors.

A run begins with a vector b orthogonal to the locked ones. Its rows y₁ … y_q, v₁ … v_j obey

    A y = θ y + σ v₁ (each y),   A v₁ = Σ σ y + α₁ v₁ + β₁ v₂,   A vᵢ = βᵢ₋₁ vᵢ₋₁ + αᵢ vᵢ + βᵢ vᵢ₊₁,

up to components along the locked vectors, which are no larger than their residuals. The small matrix T of θ, σ, α, β is
kept on the host; each step reads a few numbers.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg

from slq._arrays import Array, imag, is_complex, namespace, real
from slq._checks import WRONG, first_product, judge_asymmetry
from slq._products import Products, inner
from slq._rows import Rows
from slq._vectors import breakdown
from slq.errors import NonFiniteError

__all__ = ["Process", "Ritz"]

# As in `slq._recurrence`. With 0.01 the ten roundings that stay in the rows grew from step to step until, in single
# precision, products looked asymmetric.
_DROP = 0.5
_PASSES = 4  # two are enough (Kahan and Parlett) unless all that is left is rounding


class Ritz(NamedTuple):
    """Eigenpairs of the small matrix.

    Attributes
    ----------
    values : (a,) array
    vectors : (a, a) array
        One per column.
    residuals : (a,) array
        The norms ‖A y − θ y‖ of the Ritz vectors, but for the components along locked vectors.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray


class Process:
    """Runs of one operator.

    Attributes
    ----------
    locked : (l,) array
        Eigenvalues (times `unit`) whose vectors are the first rows.
    unit : float
        The power of two by which products are multiplied.
    norm : float
        The largest ‖A v‖ (times `unit`) seen, a lower bound of ‖A‖.
    num_products : int
    size : int
        The rows of the run.
    ended : bool
        The rows span an invariant subspace.
    asymmetry : float
        The largest difference, beside `norm`, of a vᵢᴴA vⱼ and the (vⱼᴴA vᵢ)* that was seen before.
    """

    def __init__(self, products: Products, capacity: int, *, check: bool) -> None:
        A = products.operator
        self._products, self._check = products, check
        self._inner: Callable[[Array, Array], Array] = inner(A)
        self._rows = Rows(capacity, getattr(A, "vecdot", None))
        self._capacity = capacity
        self._n = int(A.shape[0])
        self.locked = np.empty(0)
        self._unit: float | None = None  # until a product is not zero
        self._first_unit = 1.0
        self.norm = self.asymmetry = 0.0
        self.num_products = self.size = 0
        self.ended = False

    @property
    def unit(self) -> float:
        """See above."""
        return self._first_unit if self._unit is None else self._unit

    @property
    def full(self) -> bool:
        """Whether there is no room for another step."""
        return self._rows.size == self._capacity

    @property
    def whole(self) -> bool:
        """Whether the rows span the whole space."""
        return self._rows.size == self._n

    @property
    def room(self) -> int:
        """The dimensions of the complement of the locked vectors."""
        return self._n - len(self.locked)

    def begin(self, b: Array) -> None:
        """Begin a run with a vector (1, n) of any length but zero."""
        self.size, self.ended = 0, False
        self._T = np.zeros((self._capacity + 1, self._capacity + 1))
        self._betas: list[float] = []
        self._dropped: list[float] = []
        b, _, length = self._project(b)
        self._next = b * (1 / length)
        self._rounding = breakdown(b)

    def step(self) -> None:
        """Multiply once more."""
        v, j = self._next, self.size
        w = self._multiply(v)
        self._rows.append(v)
        self.size += 1
        w, h, left = self._project(w)
        self._look(h, left, j)
        self._T[j, j] = h[-1].real
        if left <= self._rounding * self.norm or self.whole:
            left, self.ended = 0.0, True
        else:
            self._next = w * (1 / left)
            self._T[j, j + 1] = self._T[j + 1, j] = left
        self._betas.append(left)

    def _multiply(self, v: Array) -> Array:
        self._products.step = self.num_products
        self.num_products += 1
        if self._unit is None:
            w, self._first_unit = first_product(self._products, v, self._check)
        else:
            w = self._products(v)
        return w if self.unit == 1.0 else w * self.unit

    def _project(self, w: Array) -> tuple[Array, np.ndarray, float]:
        """`w` orthogonal to all rows, the components that it had, and its length."""
        total, before = np.zeros(self._rows.size, dtype=complex), None
        for _ in range(_PASSES):
            w, components = self._rows.remove_from(w)
            left, h = self._read(real(self._inner(w, w)), components)
            total += h[: total.size]  # zeros follow
            before = left + float((np.abs(h) ** 2).sum()) if before is None else before
            if not left < _DROP * before:
                break
            before = left
        return w, total, float(np.sqrt(left))

    def _read(self, squared: Array, components: list[Array]) -> tuple[float, np.ndarray]:
        """Numbers (1,) and (1, r) in one transfer."""
        xp = namespace(squared)
        parts = [real, imag] if any(is_complex(x) for x in components) else [real]
        columns = [xp.reshape(xp.astype(part(x), squared.dtype), (-1,)) for part in parts for x in components]
        seen = self._products.read(xp.concat([squared, *columns])).astype(np.float64)
        left, h = float(seen[0]), seen[1:]
        return left, h if len(parts) == 1 else h[: h.size // 2] + 1j * h[h.size // 2 :]

    def _look(self, h: np.ndarray, left: float, j: int) -> None:
        """Refuse what is not finite; keep the norm, and what tells of asymmetry."""
        length = float(np.sqrt(left**2 + (np.abs(h) ** 2).sum()))
        if not np.isfinite(length):
            raise NonFiniteError(
                f"product {self.num_products} contains NaN or infinity; look for a division by zero, an overflow, bad "
                "data or a state that changes inside the operator",
                probes=[0],
                step=self.num_products - 1,
            )
        if self._unit is None and length > 0:
            self._unit = self._first_unit
        self.norm = max(self.norm, length)
        known = self._T[:j, j]
        if self.norm:
            differences = np.append(h[-1 - j : -1] - known, 1j * h[-1].imag)
            self.asymmetry = max(self.asymmetry, float(np.abs(differences).max()) / self.norm)
            if self._check and self.asymmetry > WRONG:
                judge_asymmetry(self.asymmetry, self._products.eps)

    def ritz(self) -> Ritz:
        """The eigenpairs of T."""
        a = self.size
        values, vectors = scipy.linalg.eigh(self._T[:a, :a])
        return Ritz(values, vectors, self._betas[-1] * np.abs(vectors[-1]))

    def restart(self, ritz: Ritz, keep: np.ndarray) -> None:
        """Let the Ritz vectors number `keep` take the place of the rows of the run."""
        first, q = len(self.locked), len(keep)
        change = scipy.linalg.block_diag(np.eye(first), ritz.vectors[:, keep])
        self._rows.rotate(change)
        self._dropped += np.delete(ritz.values, keep).tolist()
        self._T[:] = 0
        self._T[np.arange(q), np.arange(q)] = ritz.values[keep]
        self._T[q, :q] = self._T[:q, q] = self._betas[-1] * ritz.vectors[-1, keep]
        self.size = q

    def lock(self, old: np.ndarray, ritz: Ritz, new: np.ndarray) -> None:
        """End the run; lock the locked vectors number `old` and its Ritz vectors number `new`, and no others."""
        change = scipy.linalg.block_diag(np.eye(len(self.locked))[:, old], ritz.vectors[:, new])
        self._rows.rotate(change)
        self.locked = np.append(self.locked[old], ritz.values[new])
        self.size = 0

    def vectors(self) -> Array:
        """The locked vectors, (l, n)."""
        return self._rows.combine(np.eye(len(self.locked)))

    def log_share(self, ritz: Ritz, ends: list[float]) -> float:
        """The logarithm of the largest |⟨u, b⟩|/‖b‖ that an eigenvector u beyond one of `ends` can have.

        u is orthogonal to the locked vectors. All Ritz values of the run, those dropped too, lie between the ends.
        """
        if self.ended:
            return -np.inf
        shifts = np.append(self._dropped, ritz.values)
        grown = float(np.log(self._betas).sum())
        with np.errstate(divide="ignore"):  # an end that is a Ritz value tells nothing
            return max(grown - float(np.log(np.abs(end - shifts)).sum()) for end in ends)
