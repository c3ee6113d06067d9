"""Floor 2: the recurrence coefficients of a set of probes, and the quadrature rules they define."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from slq._block_rules import block_lengths, block_rules, block_sizes
from slq._deflation import deflated_weights, exact_nodes
from slq._estimate import Sampling
from slq._quadrature import gauss_rules, run_lengths, singular_rules, singular_run_lengths
from slq.errors import RequestError

__all__ = ["Coefficients"]


@dataclass(frozen=True, eq=False, repr=False)
class Coefficients:
    """What Lanczos runs leave behind: 2m numbers per probe, and who the probes were.

    Parameters
    ----------
    alpha, beta : (k, m) array of float64, or (g, m, b, b) of float64 or complex128
        The recurrence coefficients; the last column of beta is the residual norm, a zero in beta ends a run. In four
        dimensions, those of g runs of block Lanczos from b = k/g probes each, as `BlockTridiagonal` describes them.
    n : int
        Dimension of the operator.
    sampler : str
        Name of the distribution of the probes; ``"fixed"`` for given vectors, which define no trace.
    seeds, probe_ids : (k,) tuple of int
        Probe i is number ``probe_ids[i]`` of seed ``seeds[i]``.
    squared_norms : (k,) array
        ‖xᵢ‖² of the unscaled probes: n, except for Gaussian probes and given vectors.
    is_complex : bool
        Whether the probes are complex.
    eps : float
        Machine epsilon of the operator's products.
    provenance : mapping of str to str, int, float or bool
        Where the coefficients come from: version, library, dtype, device, options.
    singular : bool
        Whether they are those of Golub-Kahan runs from right vectors, A V = U B, Aᴴ U = V Bᴴ + β v eᵀ: alpha and beta
        (not negative) are then the diagonals and superdiagonals of the B, a zero in either ends a run, and the nodes
        are singular values of A instead of eigenvalues.
    start : (g, b, b) array
        The coordinates of the probes in the first blocks of block Lanczos runs; empty for others.
    deflated : bool
        Whether nodes that are eigenvalues of known multiplicity have the mass 1/n, not that which the probes show.

    Raises
    ------
    RequestError
        If a field is not what it should be: shapes, signs, finiteness, types, or a probe that occurs twice.
    """

    alpha: np.ndarray
    beta: np.ndarray
    n: int
    sampler: str = "fixed"
    seeds: tuple[int, ...] = ()
    probe_ids: tuple[int, ...] = ()
    squared_norms: np.ndarray = field(default_factory=lambda: np.empty(0))
    is_complex: bool = False
    eps: float = float(np.finfo(np.float64).eps)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    singular: bool = False
    start: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0)))
    deflated: bool = False

    def __post_init__(self) -> None:
        self._require_numbers()
        for name in ("alpha", "beta", "start"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))
        self._require_runs()
        k = self.num_probes
        settled = {
            "seeds": tuple(self.seeds) or (0,) * k,
            "probe_ids": tuple(self.probe_ids) or tuple(range(k)),
            "squared_norms": _frozen(self.squared_norms if len(self.squared_norms) else np.full(k, float(self.n))),
            "provenance": MappingProxyType(dict(self.provenance)),
        }
        for name, value in settled.items():
            object.__setattr__(self, name, value)
        if not {len(self.seeds), len(self.probe_ids)} == {k} or self.squared_norms.shape != (k,):
            raise RequestError(f"seeds, probe_ids and squared_norms expect one entry for each of the {k} probes")
        if not (np.isfinite(self.squared_norms).all() and (self.squared_norms > 0).all()):
            raise RequestError("squared_norms must be finite and positive")
        if self.sampler != "fixed" and len(set(zip(self.seeds, self.probe_ids, strict=True))) < k:
            raise RequestError(f"a probe occurs twice among seeds {self.seeds} and probe_ids {self.probe_ids}")

    def _require_runs(self) -> None:
        shape = self.alpha.shape
        if self.alpha.ndim not in (2, 4) or self.alpha.size == 0 or shape != self.beta.shape:
            raise RequestError(
                "alpha and beta expect one shape (k, m), or (g, m, b, b) for block runs, none of them zero, got "
                f"{shape} and {self.beta.shape}"
            )
        if not (np.isfinite(self.alpha).all() and np.isfinite(self.beta).all()):
            raise RequestError("alpha and beta must be finite, and beta not negative")
        if self.is_block:
            self._require_blocks()
        elif self.start.size or not (self.beta >= 0).all():
            raise RequestError("alpha and beta must be finite, and beta not negative; start= belongs to block runs")
        if self.singular and (self.alpha < 0).any():
            raise RequestError(
                "alpha of Golub-Kahan runs (singular=True) must not be negative: take its absolute value"
            )

    def _require_blocks(self) -> None:
        g, _, b, width = self.alpha.shape
        if self.singular or width != b or self.start.shape != (g, b, b):
            raise RequestError(
                f"block runs expect alpha of shape (g, m, b, b), start of shape (g, b, b), and no singular=True, got "
                f"{self.alpha.shape} and {self.start.shape}"
            )
        sizes = block_sizes(self.start, self.beta)
        lengths = (np.abs(self.start) ** 2).sum(axis=1)
        if not (np.isfinite(lengths).all() and np.allclose(lengths, 1.0, rtol=0, atol=1e-3) and sizes[:, 0].all()):
            raise RequestError("start must hold coordinates of vectors of length one in its columns")
        if (np.diff(sizes, axis=1) > 0).any() or not np.allclose(self.alpha, self.alpha.conj().swapaxes(2, 3)):
            raise RequestError("block runs expect Hermitian alpha, and blocks that never grow")

    def _require_numbers(self) -> None:
        for name in ("alpha", "beta", "start", "squared_norms"):
            array = np.asarray(getattr(self, name))
            if array.dtype.kind not in ("fiuc" if np.ndim(self.alpha) == 4 and name != "squared_norms" else "fiu"):
                raise RequestError(f"{name} expects real numbers, got {array.dtype}")
        if not _is_count(self.n) or self.n < 1:
            raise RequestError(f"n expects an integer >= 1, got {self.n!r}")
        if not isinstance(self.eps, float) or not 0 < self.eps < 1:
            raise RequestError(f"eps expects a number between 0 and 1, got {self.eps!r}")
        for name in ("singular", "deflated"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name} expects True or False, got {getattr(self, name)!r}")
        if not isinstance(self.sampler, str):
            raise RequestError(f"sampler expects a name, got {self.sampler!r}")
        if not all(_is_count(i) for i in (*self.seeds, *self.probe_ids)):
            raise RequestError("seeds and probe_ids expect integers >= 0")

    def __reduce__(self) -> tuple:  # a mapping proxy cannot be pickled
        return functools.partial(type(self), **self.state() | {"provenance": dict(self.provenance)}), ()

    # What the coefficients say directly

    @cached_property
    def _rules(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self.is_block:
            rules = block_rules(self.start, self.alpha, self.beta)
        else:
            rules = (singular_rules if self.singular else gauss_rules)(self.alpha, self.beta)
        nodes, weights, residuals = rules
        return _frozen(nodes), _frozen(weights), _frozen(residuals)

    @property
    def nodes(self) -> np.ndarray:
        """(k, M) Ritz values (or singular values), increasing; a run that ended early repeats its last one.

        M is the number of steps, or up to b times that for the probes of a block run, which share their nodes.
        """
        return self._rules[0]

    @cached_property
    def weights(self) -> np.ndarray:
        """(k, M) quadrature weights: not negative, each row sums to one."""
        if not self.deflated:
            return self._rules[1]
        return _frozen(deflated_weights(self._rules[1], self.exact_nodes, self.n))

    @cached_property
    def exact_nodes(self) -> np.ndarray:
        """(k, M) array of bool: nodes whose mass is exact, all False unless `deflated`."""
        if not self.deflated:
            return np.zeros(self.nodes.shape, bool)
        nodes, weights, residuals = self._rules
        return exact_nodes(
            nodes,
            weights,
            residuals,
            shared=self.shared_by,
            n=self.n,
            rounding=self.rounding,
            is_complex=self.is_complex,
        )

    @property
    def random_weights(self) -> np.ndarray:
        """(k, M) array: the weights that carry a sampling error, all of them unless `deflated`."""
        return np.where(self.exact_nodes, 0.0, self.weights)

    @property
    def undeflated(self) -> Self:
        """The measure with the masses that the probes show."""
        return self.changed(deflated=False) if self.deflated else self

    @property
    def residuals(self) -> np.ndarray:
        """(k, M) distances: within each of its node lies an eigenvalue (up to rounding)."""
        return self._rules[2]

    @property
    def num_probes(self) -> int:
        """The number of probes, k."""
        return self.alpha.shape[0] * self.shared_by

    @property
    def is_block(self) -> bool:
        """Whether probes share Krylov spaces."""
        return np.ndim(self.alpha) == 4

    @property
    def shared_by(self) -> int:
        """The number of probes that share a Krylov space, b; 1 for independent runs."""
        return self.alpha.shape[2] if self.is_block else 1

    @property
    def num_steps(self) -> int:
        """The number of Lanczos steps, m: the largest over the probes."""
        return self.alpha.shape[1]

    @property
    def products(self) -> int:
        """Operator-vector products that the coefficients rest on: one per step, two (A and Aᴴ) of Golub-Kahan runs."""
        if self.is_block:
            return int(block_sizes(self.start, self.beta).sum())
        return int((1 + self.singular) * self.lengths.sum())

    @property
    def support(self) -> tuple[float, float]:
        """Smallest and largest Ritz value: inside the spectrum, and close to its ends."""
        return float(self.nodes.min()), float(self.nodes.max())

    @property
    def scale(self) -> float:
        """The largest Ritz value in size: close to the norm of the operator."""
        return float(np.abs(self.nodes).max())

    @property
    def rounding(self) -> float:
        """How far rounding may move a node: what is nearer than this to another number may be equal to it.

        Measured: Ritz values leave the interval of the eigenvalues by at most 13 machine epsilons of the norm (n = 300
        and 1500, up to 150 steps, float32 and float64, with and without reorthogonalisation).
        """
        return 16 * self.eps * self.scale

    @property
    def exact(self) -> np.ndarray:
        """(k,) array of bool: runs that met an invariant subspace, so that their quadrature has no error."""
        if self.is_block:
            return np.repeat(~self.beta[:, -1].any(axis=(1, 2)), self.shared_by)
        return ((self.beta == 0) | (self.singular & (self.alpha == 0))).any(axis=1)

    @property
    def lengths(self) -> np.ndarray:
        """(k,) array of int: the number of steps of each run."""
        if self.is_block:
            return np.repeat(block_lengths(self.start, self.beta), self.shared_by)
        return singular_run_lengths(self.alpha, self.beta) if self.singular else run_lengths(self.beta)

    @property
    def sampling(self) -> Sampling:
        """How the probes were drawn, as far as errors depend on it."""
        return Sampling(self.n, self.sampler, self.is_complex)

    @cached_property
    def shorter(self) -> Self | None:
        """The measure of four fifths of the steps, against which quadrature errors are judged; None for one step."""
        steps = self.num_steps - max(1, self.num_steps // 5)
        return self.truncate(steps) if steps >= 1 else None

    def truncate(self, num_steps: int) -> Self:
        """The measure after the first `num_steps` steps: what a shorter run would have given.

        Raises
        ------
        RequestError
            If `num_steps` is not between 1 and the steps there are.
        """
        if not isinstance(num_steps, int | np.integer) or not 1 <= num_steps <= self.num_steps:
            raise RequestError(f"truncate expects 1 to {self.num_steps} steps, got {num_steps!r}")
        return self.changed(alpha=self.alpha[:, :num_steps], beta=self.beta[:, :num_steps])

    def state(self) -> dict[str, Any]:
        """The fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def changed(self, **changes: Any) -> Self:
        """A copy with other values in some fields."""
        return type(self)(**self.state() | changes)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 0)


def _frozen(values: Any) -> np.ndarray:
    array = np.array(values, dtype=np.complex128 if np.iscomplexobj(values) else np.float64)
    array.setflags(write=False)
    return array
