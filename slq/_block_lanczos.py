"""Floor 2: block Lanczos, one Krylov space for all start vectors, on the device where the operator lives."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from slq import _checks
from slq._arrays import Array, is_array, is_complex, namespace
from slq._basis import Storage, storage_for
from slq._lanczos import start
from slq._operators import aslinearoperator
from slq._orthonormal import gram, orthonormal, without
from slq._products import Products, complexified
from slq._source import count
from slq._vectors import breakdown
from slq.errors import NonFiniteError, ProductError

__all__ = ["BlockTridiagonal", "block_lanczos", "run_block"]


class BlockTridiagonal(NamedTuple):
    """Recurrence coefficients of block Lanczos: A Qⱼ = Qⱼ₋₁ βⱼ₋₁ᴴ + Qⱼ αⱼ + Qⱼ₊₁ βⱼ, with start vectors V = Q₁ S.

    Attributes
    ----------
    start : (b, b) array of float64 or complex128
        S: column i holds the coordinates of start vector i, scaled to length one, in the first block.
    alpha, beta : (m, b, b) arrays of float64 or complex128
        Diagonal and subdiagonal blocks of the block tridiagonal T, on the host. The last beta is the residual and not
        part of T. Blocks shrink where the space is exhausted in some directions: rows that are zero in S or in βⱼ
        belong to vectors that the block does not have.
    basis : (M, n) array or None
        The orthonormal Lanczos vectors, one per row, block after block.
    """

    start: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    basis: Array | None = None


def block_lanczos(
    A: Any,
    V: Array,
    num_steps: int,
    *,
    basis_dtype: Any = None,
    return_basis: bool = False,
    check: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> BlockTridiagonal:
    """Run block Lanczos from the space that the rows of V span.

    Parameters
    ----------
    A : operator
        Real symmetric or complex Hermitian; anything that `aslinearoperator` takes.
    V : (b, n) or (n,) array
        Start vectors, one per row, of any length but zero; of the operator's library and device. They may depend on
        each other: the block is then smaller.
    num_steps : int
        The number m of steps; each costs one product with a block of at most b vectors.
    basis_dtype : {None, "float32", "bfloat16", "host"}
        How the basis is kept; see `lanczos`.
    return_basis : bool
        Also return the Lanczos vectors, as they are kept.
    check : bool
        Examine the products for asymmetry on the way; this takes no further product.
    progress : callable, optional
        Called as ``progress(steps done, num_steps)`` after each step.

    Returns
    -------
    BlockTridiagonal

    Raises
    ------
    RequestError
        If `num_steps` is out of range, or a start vector is zero or not finite.
    OperatorError
        If a product has the wrong shape, dtype, library or device, is not finite, or A is not symmetric.

    Notes
    -----
    Each new block is made orthogonal to all blocks before it, and orthonormal in itself, at least twice: from its Gram
    matrix, whose small eigenvalues are raised so that no direction is lost to rounding (shifted Cholesky QR). A
    direction goes when what is left of it is rounding of the norm. The Gram matrices are read by the host: two reads of
    b² numbers for each step of b products.

    References
    ----------
    Golub and Underwood, The block Lanczos method for computing eigenvalues, Mathematical Software III (1977).
    Fukaya, Kannan, Nakatsukasa, Yamamoto and Yanagisawa, Shifted Cholesky QR for computing the QR factorization of
    ill-conditioned matrices, SISC 42 (2020).

    Examples
    --------
    >>> import numpy as np
    >>> run = block_lanczos(np.diag([1.0, 1.0, 2.0]), np.eye(3)[:2], 3)  # sees that 1 is a double eigenvalue
    >>> run.alpha[0].tolist(), bool(run.beta.any())
    ([[1.0, 0.0], [0.0, 1.0]], False)
    """
    A = aslinearoperator(A)
    num_steps = count("num_steps", num_steps)
    if is_array(V) and is_complex(V) and not is_complex(A.like):
        A = complexified(A)
    return run_block(
        Products(A),
        start(A, V)[0],
        num_steps,
        basis_dtype=basis_dtype,
        return_basis=return_basis,
        check=check,
        progress=progress,
    )


def run_block(
    products: Products,
    v: Array,
    num_steps: int,
    *,
    basis_dtype: Any = None,
    return_basis: bool = False,
    check: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> BlockTridiagonal:
    """`block_lanczos` from unit vectors as `start` makes them."""
    run = _Run(products, v, storage_for(basis_dtype, v), check=check)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # found in the coefficients, and named
        for j in range(num_steps):
            products.step = j
            try:
                run.step()
            except (NonFiniteError, ProductError) as error:
                error.partial = run.coefficients(j) if j else None
                raise
            if progress is not None:
                progress(j + 1, num_steps)
            if run.ended:
                break
    return run.coefficients(num_steps)._replace(basis=run.basis() if return_basis else None)


class _Run:
    """The blocks of a run so far, and the next one.

    Attributes
    ----------
    ended : bool
        The space is invariant: there is no next block.
    """

    def __init__(self, products: Products, v: Array, storage: Storage, *, check: bool) -> None:
        self.products, self._storage, self._check = products, storage, check
        self._own_dot = getattr(products.operator, "vecdot", None)
        self._rounding = breakdown(v)
        self._blocks: list[Array] = []
        self._alpha: list[np.ndarray] = []
        self._beta: list[np.ndarray] = []
        self._unit, self._norm = 1.0, 0.0
        self._next, self._start = self._orthonormal(v, 1.0)

    @property
    def ended(self) -> bool:
        return self._next.shape[0] == 0

    def step(self) -> None:
        """One product with the newest block, and the block after it."""
        w, alpha = self._multiply(self._next)
        self._blocks.append(self._storage.narrow(self._next))
        self._alpha.append((alpha + alpha.conj().T) / 2)
        around = _norm(self._alpha[-1]) + (_norm(self._beta[-1]) if self._beta else 0.0)
        self._norm = max(self._norm, around)
        self._next, beta = self._orthonormal(w, self._norm)
        self._beta.append(beta)
        self._norm = max(self._norm, around + _norm(beta))

    def _multiply(self, block: Array) -> tuple[Array, np.ndarray]:
        """A times a block, without what lies along it, and the components of that.

        It goes before the sums for the other blocks are made, which would cancel.
        """
        if self._alpha:
            w = self.products(block)
        else:
            w, self._unit = _checks.first_product(self.products, block, self._check)
        w = w if self._unit == 1.0 else w * self._unit
        components = self._gram(block, w)
        alpha = self._read(components)
        if self._check:
            self._judge(alpha, w)
        return without(w, components, block), alpha

    def _judge(self, alpha: np.ndarray, w: Array) -> None:
        """Compare Qᴴ A Q with its adjoint, and the part along the block before with β: equal if A is Hermitian."""
        differences = [alpha - alpha.conj().T]
        if self._blocks:
            before = self._storage.widen(self._blocks[-1], w)
            differences.append(self._read(self._gram(before, w)) - self._beta[-1].conj().T)
        size = functools.partial(_checks.size_of_operator, self.products, self._next, self._unit)
        seen = max(self._norm, _norm(alpha))
        difference = max(float(np.abs(d).max()) for d in differences)
        eps = max(self.products.eps, self._storage.eps)
        _checks.judge_difference(difference, seen, eps, size)

    def _orthonormal(self, w: Array, scale: float) -> tuple[Array, np.ndarray]:
        """Orthonormal rows, orthogonal to all blocks, and the coordinates in them of what was left of `w`: (r, b).

        Directions in which no more than rounding of `scale` was left are not among them.
        """

        def project(w: Array) -> Array:
            for rows in reversed(self._blocks):
                wide = self._storage.widen(rows, w)
                w = without(w, self._gram(wide, w), wide)
            return w

        return orthonormal(w, self._rounding * scale, lambda x: self._read(self._gram(x, x)), project)

    def _gram(self, x: Array, y: Array) -> Array:
        """All ⟨xᵢ, yⱼ⟩."""
        return gram(x, y, self._own_dot)

    def _read(self, small: Array) -> np.ndarray:
        """A small matrix on the host, in double precision; raises if it is not finite."""
        values = self.products.read(small)
        values = values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)
        if not np.isfinite(values).all():
            first, width = self.products.first_row, self._start.shape[1] if self._alpha else len(values)
            raise NonFiniteError(
                f"the product of step {self.products.step} contains NaN or infinity; the probes of a block share their "
                "space, so that all are lost from this step on; look for a division by zero, an overflow, bad data or "
                "a state that changes inside the operator",
                probes=list(range(first, first + width)),
                step=self.products.step,
            )
        return values

    def coefficients(self, num_steps: int) -> BlockTridiagonal:
        """What is done, as blocks of one size with nothing but zeros after the end."""
        b = self._start.shape[1]
        dtype = np.result_type(self._start, *self._alpha)
        start, alpha, beta = (np.zeros(shape, dtype) for shape in ((b, b), (num_steps, b, b), (num_steps, b, b)))
        start[: len(self._start)] = self._start
        for padded, blocks in ((alpha, self._alpha), (beta, self._beta)):
            for j, block in enumerate(blocks[: len(self._beta)]):  # a step that failed has no beta
                padded[j, : block.shape[0], : block.shape[1]] = block / self._unit
        return BlockTridiagonal(start, alpha, beta)

    def basis(self) -> Array:
        """The Lanczos vectors as they are stored: (M, n)."""
        return namespace(self._blocks[0]).concat(self._blocks)


def _norm(block: np.ndarray) -> float:
    return float(np.linalg.norm(block, 2)) if block.size else 0.0
