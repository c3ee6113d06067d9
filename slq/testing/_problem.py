"""A matrix that is known by its product and by its exact spectrum."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from slq._arrays import Array, library_name
from slq._operators import aslinearoperator
from slq._products import LinearOperator
from slq.errors import DtypeError, NotPositiveDefiniteError, RequestError, SingularError

__all__ = ["TAGS", "Problem", "Product", "ones", "require"]

Product: TypeAlias = Callable[[np.ndarray], np.ndarray]  # (k, n) -> (k, n)

TAGS = {
    "graph": "an adjacency matrix or a Laplacian",
    "structured": "a matrix of linear algebra or of signal processing",
    "physics": "a lattice, a ring or a chain of spins",
    "mixed": "given eigenvalues, eigenvectors spread over all coordinates",
    "random": "a random matrix, its spectrum computed densely and near a limit law",
    "model": "the Hessian of a model at parameters where it is known",
    "complex": "Hermitian, not real",
    "positive definite": "all eigenvalues positive, beyond rounding",
    "singular": "an eigenvalue is zero, or not to be told from it in double precision",
    "indefinite": "eigenvalues of both signs",
    "few levels": "at most twelve distinct eigenvalues: Lanczos must stop there",
}

_LARGEST_DENSE = 4096  # 134 MB in float64


def ones(n: int) -> np.ndarray:
    """N multiplicities of one, which take no memory."""
    return np.broadcast_to(np.int64(1), (n,))


def require(holds: bool, expected: str, **given: Any) -> None:
    """Raise RequestError unless the parameters of a family are what it is defined for."""
    if not holds:
        raise RequestError(
            f"expected {expected}, got {', '.join(f'{name}={value!r}' for name, value in given.items())}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Problem:
    """A symmetric or Hermitian matrix A whose eigenvalues are known in closed form.

    Attributes
    ----------
    name : str
        Unique in the catalogue; says the parameters.
    n : int
        The dimension.
    product : callable
        x -> the product of A with each row of the NumPy array x: (k, n) -> (k, n). Matrix-free.
    levels : callable
        () -> (values, multiplicities), arrays of one length: the spectrum as its formula gives it, in its order.
        A value may occur more than once.
    formula : str
        The eigenvalues, as text.
    source : str
        Where the formula is from: paper or book, or "derived: " and the reason.
    hard_for : str
        What goes wrong here in a program that is not careful.
    family : str
        ``"graph"``, ``"structured"``, ``"physics"``, ``"mixed"``, ``"random"`` or ``"model"``.
    is_complex : bool
        Whether A is Hermitian with complex entries.
    modes : callable or None
        x -> the coordinates of each row of x in an orthonormal eigenbasis, in the order of `levels` (each of whose
        multiplicities is then one): (k, n) -> (k, n).
    data : mapping of str to array
        For models, what defines the Hessian: inputs, weights.
    """

    name: str
    n: int
    product: Product
    levels: Callable[[], tuple[np.ndarray, np.ndarray]]
    formula: str
    source: str
    hard_for: str
    family: str
    is_complex: bool = False
    modes: Product | None = None
    data: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Problem({self.name!r}, n={self.n})"

    @cached_property
    def tags(self) -> frozenset[str]:
        """The family, and which of the properties in `TAGS` the spectrum has."""
        values, _ = self.distinct()
        rounding = 8 * np.finfo(float).eps * np.abs(values).max()
        holds = {
            "complex": self.is_complex,
            "positive definite": values[0] > rounding,
            "singular": (np.abs(values) <= rounding).any(),
            "indefinite": values[0] < -rounding and values[-1] > rounding,
            "few levels": values.size <= 12,
        }
        return frozenset({self.family, *(tag for tag, held in holds.items() if held)})

    def eigenvalues(self) -> np.ndarray:
        """All n eigenvalues in increasing order, equal ones repeated: (n,) array."""
        values, counts = self.levels()
        return np.sort(np.repeat(values, counts))

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct eigenvalues in increasing order, and their multiplicities: two (r,) arrays.

        Values that double precision cannot tell apart, nearer to their neighbour than 8 roundings of the norm, are one.
        """
        values, counts = self.levels()
        order = np.argsort(values, kind="stable")
        values, counts = values[order], counts[order]
        first = np.diff(values, prepend=-np.inf) > 8 * np.finfo(float).eps * np.abs(values).max()
        starts = np.flatnonzero(first)
        multiplicities = np.add.reduceat(counts, starts)
        # The mean of what was merged, as an offset from its first: equal values keep every bit.
        offsets = (values - values[starts][np.cumsum(first) - 1]) * counts
        return values[starts] + np.add.reduceat(offsets, starts) / multiplicities, multiplicities

    @property
    def norm(self) -> float:
        """The largest eigenvalue in size."""
        return float(np.abs(self.levels()[0]).max())

    def trace(self, f: Callable[[np.ndarray], Any] | None = None) -> float:
        """Sum f over the eigenvalues; without f, the eigenvalues themselves."""
        values, counts = self.levels()
        return float(np.sum(counts * (values if f is None else f(values))))

    def logdet(self) -> float:
        """Sum the logarithms of the eigenvalues.

        Raises
        ------
        NotPositiveDefiniteError
            If an eigenvalue is negative, or (SingularError) zero.
        """
        if "positive definite" not in self.tags:
            lowest = float(self.levels()[0].min())
            kind = NotPositiveDefiniteError if "indefinite" in self.tags else SingularError
            raise kind(
                f"{self.name} has the eigenvalue {lowest:.6g}, so its log-determinant does not exist; take a problem "
                'tagged "positive definite"'
            )
        return self.trace(np.log)

    def matrix(self) -> np.ndarray:
        """The dense matrix, (n, n).

        Raises
        ------
        RequestError
            If n is above 4096.
        """
        if self.n > _LARGEST_DENSE:
            raise RequestError(
                f"{self.name} as a dense matrix would take {8 * self.n**2 * (1 + self.is_complex) / 1e9:.3g} GB "
                f"(n = {self.n}, at most {_LARGEST_DENSE}); use operator() or product"
            )
        rows = self.product(np.eye(self.n, dtype=complex if self.is_complex else float))
        return np.ascontiguousarray(rows.T)

    def forms(self, x: np.ndarray, f: Callable[[np.ndarray], Any]) -> np.ndarray:
        """Compute xᵢᴴ f(A) xᵢ for each row of x: what a probe should find.

        Parameters
        ----------
        x : (k, n) array
            Probes, in NumPy.
        f : callable
            Acts element by element on an array of eigenvalues.

        Returns
        -------
        (k,) array

        Raises
        ------
        RequestError
            If the eigenvectors have no formula and n is above 4096.

        Notes
        -----
        From `modes` where there is a formula for the eigenvectors, else from a dense eigendecomposition.
        """
        if self.modes is not None:
            values, coordinates = self.levels()[0], self.modes(x)
        else:
            values, vectors = np.linalg.eigh(self.matrix())
            coordinates = x @ vectors.conj()
        return np.abs(coordinates) ** 2 @ f(values)

    def operator(self, xp: Any = None, device: Any = None, dtype: Any = None) -> LinearOperator:
        """Make an operator of an array library.

        Parameters
        ----------
        xp : namespace, optional
            An Array API namespace; NumPy by default, for which the operator is the matrix-free product. Any other
            library gets the dense matrix.
        device : optional
            A device of that library; its default if left out.
        dtype : str or dtype, optional
            ``"float64"`` or ``"complex128"`` by default. In NumPy, products of a narrower dtype are computed in double
            precision and rounded.

        Returns
        -------
        LinearOperator

        Raises
        ------
        DtypeError
            If the library made another dtype of it.
        RequestError
            If the matrix would be dense and n is above 4096.
        """
        name = dtype or ("complex128" if self.is_complex else "float64")
        xp = np if xp is None else xp
        kind = getattr(xp, name) if isinstance(name, str) else name
        place = {} if device is None else {"device": device}
        like = xp.asarray(np.empty(0), dtype=kind, **place)
        if library_name(like) != "numpy":
            return aslinearoperator(_placed(xp, self.matrix(), name, kind, place))
        return aslinearoperator(self._rounded, n=self.n, like=like, batched=True)

    def _rounded(self, x: np.ndarray) -> np.ndarray:
        wide = np.promote_types(x.dtype, np.float64)
        return self.product(x.astype(wide, copy=False)).astype(x.dtype, copy=False)


def _placed(xp: Any, values: np.ndarray, name: Any, dtype: Any, place: Mapping[str, Any]) -> Array:
    placed = xp.asarray(values, dtype=dtype, **place)
    if placed.dtype != dtype:
        raise DtypeError(
            f"{xp.__name__} made {placed.dtype} of a matrix asked for in {name}; ask for a dtype that it has, or "
            'enable this one (JAX: jax.config.update("jax_enable_x64", True))'
        )
    return placed
