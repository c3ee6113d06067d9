"""Three operators with exact spectra, the same in every array library."""

import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import scipy.fft
import scipy.sparse

import slq


def placement(backend: str) -> Callable[[Any], Any]:
    """The function that places a NumPy array: on a GPU where the library finds one (CUDA_VISIBLE_DEVICES= hides it).

    Raises NotImplementedError where there is nothing to measure, which asv takes as "skip".
    """
    if find_spec(backend) is None:
        raise NotImplementedError(f"{backend} is not installed")
    if backend == "torch":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return lambda x: torch.asarray(x, device=device)
    if backend == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)  # the same precision everywhere
        return jax.numpy.asarray
    if backend == "cupy":
        import cupy

        if not cupy.cuda.is_available():
            raise NotImplementedError("cupy finds no GPU")
        return cupy.asarray
    return np.asarray


def multiply(A: slq.LinearOperator, x: Any, times: int) -> float:
    """A^times x of a block of vectors; reading an entry waits for it.

    Each product needs the one before, as in Lanczos. The norms of these operators keep float64 within its range.
    """
    for _ in range(times):
        x = A.matvec(x)
    return float(x[0, 0])


class Problem:
    """An operator of dimension `n`, and how it is measured.

    `width` is the smoothing at which densities are compared: the narrowest (within a factor of two) at which quadrature
    no longer dominates the error.
    """

    n: int
    width: float
    num_probes: int
    num_steps: int
    reorthogonalize: bool

    def eigenvalues(self) -> np.ndarray:
        """All eigenvalues, or each distinct one if all have the same number of copies."""
        raise NotImplementedError

    def shares(self, V: np.ndarray) -> np.ndarray:
        """(k, n) vectors -> (k, r): the squared length of each in the eigenspace of each of `eigenvalues`."""
        raise NotImplementedError

    def build(self, backend: str, place: Callable[[Any], Any]) -> Any:
        """Make the operator of arrays that `place` made."""
        raise NotImplementedError

    @cache  # noqa: B019 - the problems live as long as the process
    def operator(self, backend: str) -> slq.LinearOperator:
        return slq.aslinearoperator(self.build(backend, placement(backend)))

    def measure(self, backend: str, rng: int = 0) -> slq.SpectralMeasure:
        return slq.spectral_measure(
            self.operator(backend),
            num_probes=self.num_probes,
            num_steps=self.num_steps,
            reorthogonalize=self.reorthogonalize,
            rng=rng,
        )

    def probes(self, rng: int, like: Any) -> Any:
        """The block of probes that `measure` draws."""
        return slq.sphere(rng, range(self.num_probes), None, self.n, like)


class Laplacian(Problem):
    """The Laplacian of a square grid with fixed boundary, plus the identity: sparse, with a smooth spectrum."""

    side = 200
    n = side**2
    width = 0.2
    num_probes, num_steps, reorthogonalize = 10, 50, False

    def eigenvalues(self) -> np.ndarray:
        line = 2 - 2 * np.cos(np.pi * np.arange(1, self.side + 1) / (self.side + 1))
        return 1 + np.add.outer(line, line).ravel()

    def shares(self, V: np.ndarray) -> np.ndarray:
        modes = scipy.fft.dstn(V.reshape(-1, self.side, self.side), type=1, norm="ortho", axes=(1, 2))
        return modes.reshape(V.shape) ** 2

    def build(self, backend: str, place: Callable[[Any], Any]) -> Any:
        if backend == "jax":
            return slq.aslinearoperator(self._stencil(), like=place(np.zeros(self.n)), batched=True)
        line = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(self.side,) * 2, dtype=float)
        matrix = (scipy.sparse.kronsum(line, line) + scipy.sparse.eye_array(self.n)).tocsr()
        if backend == "torch":
            import torch

            parts = [place(part) for part in (matrix.indptr, matrix.indices, matrix.data)]
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # "CSR support is in beta state"
                csr = torch.sparse_csr_tensor(*parts, size=matrix.shape, check_invariants=True)
            return slq.aslinearoperator(lambda x: (csr @ x.T).T, like=place(np.zeros(self.n)), batched=True)
        if backend == "cupy":
            from cupyx.scipy.sparse import csr_matrix

            return csr_matrix(matrix)
        return matrix

    def _stencil(self) -> Callable[[Any], Any]:
        import jax

        @jax.jit
        def product(x: jax.Array) -> jax.Array:
            u = jax.numpy.pad(x.reshape(-1, self.side, self.side), ((0, 0), (1, 1), (1, 1)))
            neighbours = u[:, :-2, 1:-1] + u[:, 2:, 1:-1] + u[:, 1:-1, :-2] + u[:, 1:-1, 2:]
            return (5 * u[:, 1:-1, 1:-1] - neighbours).reshape(x.shape)

        return product


class HessianLike(Problem):
    """A dense matrix with the spectrum of a network's Hessian: 20 outliers, geometric in 1..100, over a narrow bulk.

    Random signs and cosine transforms spread its eigenvectors over all coordinates; a few reflections would not.
    """

    n = 1000
    width = 5e-4
    num_probes, num_steps, reorthogonalize = 10, 80, True

    def eigenvalues(self) -> np.ndarray:
        bulk = 1e-2 * np.random.default_rng(0).chisquare(1, size=self.n - 20) + 1e-3
        return np.concatenate([bulk, np.geomspace(1, 100, 20)])

    def shares(self, V: np.ndarray) -> np.ndarray:
        return self._coordinates(V) ** 2

    def build(self, backend: str, place: Callable[[Any], Any]) -> Any:
        Q = self._coordinates(np.eye(self.n))
        A = (Q * self.eigenvalues()) @ Q.T
        return place((A + A.T) / 2)

    def _coordinates(self, V: np.ndarray) -> np.ndarray:
        first, second = np.random.default_rng(1).choice([-1.0, 1.0], size=(2, self.n))
        return scipy.fft.dct(scipy.fft.dct(V * first, norm="ortho") * second, norm="ortho")


class Diagonal(Problem):
    """A large diagonal as a function: the product costs next to nothing, so that the recurrence is what is measured."""

    copies = 100
    n = 10**6
    width = 0.05
    num_probes, num_steps, reorthogonalize = 2, 20, False

    def eigenvalues(self) -> np.ndarray:
        return np.geomspace(1e-2, 1, self.n // self.copies)

    def shares(self, V: np.ndarray) -> np.ndarray:
        return (V**2).reshape(len(V), -1, self.copies).sum(axis=-1)

    def build(self, backend: str, place: Callable[[Any], Any]) -> Any:
        d = place(np.repeat(self.eigenvalues(), self.copies))
        return slq.aslinearoperator(lambda x: x * d, like=d, batched=True)


def problem(name: str) -> Problem:
    return _PROBLEMS[name]


_PROBLEMS = {"laplacian": Laplacian(), "hessian_like": HessianLike(), "diagonal": Diagonal()}
