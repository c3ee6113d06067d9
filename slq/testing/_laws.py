"""What `check_backend` runs. A law takes a library and the name of a dtype and returns deviations, ideally zero.

All use one block shape, (3, 24), and most nine steps: JAX compiles each operation once for each shape.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from slq._arrays import from_host, to_host
from slq._lanczos import lanczos
from slq._measure import SpectralMeasure
from slq._probes import gaussian, rademacher, sphere, steinhaus
from slq._quadrature import golub_welsch, run_lengths
from slq._slq import spectral_measure
from slq.testing.mixed import mixed
from slq.testing.physics import flux_ring
from slq.testing.spectra import indefinite, strakos, uniform

__all__ = ["LAWS", "Law", "Library"]

_N, _K, _M = 24, 3, 9


@dataclass(frozen=True)
class Library:
    """An array library and one of its devices."""

    xp: Any
    device: Any = None

    def asarray(self, values: np.ndarray, dtype: str) -> Any:
        """`values` as an array of the library."""
        place = {} if self.device is None else {"device": self.device}
        return self.xp.asarray(values, dtype=getattr(self.xp, dtype), **place)

    def measure(self, matrix: np.ndarray, dtype: str, **options: Any) -> SpectralMeasure:
        """The measure of a matrix."""
        return spectral_measure(self.asarray(matrix, dtype), num_probes=_K, num_steps=_M, **options)


Law: TypeAlias = Callable[[Library, str], Any]

_NUMPY = Library(np)


def _matrix(eigenvalues: np.ndarray, dtype: str) -> np.ndarray:
    return _problem(eigenvalues, dtype).matrix()


def _problem(eigenvalues: np.ndarray, dtype: str) -> Any:
    return mixed(eigenvalues, "a law", formula="", hard_for="", is_complex=dtype.startswith("complex"))


def _forms_of_probes(eigenvalues: np.ndarray, dtype: str, f: Callable[[np.ndarray], Any]) -> np.ndarray:
    """The exact quadratic forms of the probes that `Library.measure` draws."""
    x = sphere(0, range(_K), None, _N, np.empty(0, dtype))
    return _problem(eigenvalues, dtype).forms(x.astype(np.promote_types(dtype, np.float64)), f)


# Arrays and probes


def _arrays_keep_dtype_and_values(library: Library, dtype: str) -> Any:
    """An array asked for in a dtype has it, and comes back to the host bit for bit."""
    values = (np.arange(1.0, _N) / 3).astype(dtype)
    placed = library.asarray(values, dtype)
    again = to_host(placed)
    return [float(again.dtype != values.dtype), np.abs(again - values).max()]


def _signs_and_phases_are_those_of_numpy(library: Library, dtype: str) -> Any:
    """Rademacher and Steinhaus probes, bit for bit."""
    sampler = steinhaus if dtype.startswith("complex") else rademacher
    return _probe_difference(library, dtype, sampler)


def _gaussian_probes_are_those_of_numpy(library: Library, dtype: str) -> Any:
    """To rounding."""
    return _probe_difference(library, dtype, gaussian)


def _sphere_probes_are_those_of_numpy(library: Library, dtype: str) -> Any:
    """To rounding."""
    return _probe_difference(library, dtype, sphere)


def _probe_difference(library: Library, dtype: str, sampler: Any) -> Any:
    like = library.asarray(np.empty(0), dtype)
    drawn = to_host(sampler(5, range(2, 2 + _K), None, 20_000, like))
    return np.abs(drawn - sampler(5, range(2, 2 + _K), None, 20_000, np.empty(0, dtype)))


# Agreement with NumPy, with full orthogonalisation


def _coefficients_are_those_of_numpy(library: Library, dtype: str) -> Any:
    """Recurrence coefficients, relative to the norm."""
    return [
        np.abs(found - expected)
        for eigenvalues in (uniform(_N) / 3, indefinite(_N) / 2)
        for found, expected in zip(*(_run(place, eigenvalues, dtype) for place in (library, _NUMPY)), strict=True)
    ]


def _run(library: Library, eigenvalues: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    V = sphere(0, range(_K), None, _N, np.empty(0, dtype))
    run = lanczos(library.asarray(_matrix(eigenvalues, dtype), dtype), library.asarray(V, dtype), _M)
    return run.alpha, run.beta


def _moments_are_those_of_numpy(library: Library, dtype: str) -> Any:
    """The first 2m − 1 moments of a matrix of norm one."""
    found, expected = (place.measure(_matrix(indefinite(_N) / 2, dtype), dtype) for place in (library, _NUMPY))
    return [abs(found.moment(p).value - expected.moment(p).value) for p in range(2 * _M)]


def _densities_are_those_of_numpy(library: Library, dtype: str) -> Any:
    """The smoothed density, relative to its largest value."""
    x = np.linspace(-3.0, 3.5, 80)
    found, expected = (
        place.measure(_matrix(indefinite(_N) / 2, dtype), dtype).density(x, width=0.3).value
        for place in (library, _NUMPY)
    )
    return np.abs(found - expected) / expected.max()


def _log_determinants_are_those_of_numpy(library: Library, dtype: str) -> Any:
    """Relative to the value."""
    found, expected = (place.measure(_matrix(uniform(_N), dtype), dtype).logdet().value for place in (library, _NUMPY))
    return abs(found - expected) / abs(expected)


# Closed forms


def _quadrature_is_exact_to_degree_2m_minus_1(library: Library, dtype: str) -> Any:
    """Against the exact quadratic forms of the same probes, relative to ‖x‖² ‖A‖^p."""
    eigenvalues = np.linspace(-1.0, 1.0, _N)
    measure = library.measure(_matrix(eigenvalues, dtype), dtype)
    return [
        np.abs(measure.quadratic_forms(f) - _forms_of_probes(eigenvalues, dtype, f)) / _N
        for f in (lambda t, p=p: t**p for p in range(2 * _M))
    ]


def _weights_are_a_probability(library: Library, dtype: str) -> Any:
    """Not negative, and the weights of a run sum to one."""
    measure = library.measure(_matrix(indefinite(_N), dtype), dtype)
    return [*np.abs(measure.weights.sum(axis=1) - 1), np.inf if (measure.weights < 0).any() else 0.0]


def _powers_of_two_scale_to_the_bit(library: Library, dtype: str) -> Any:
    """The weights stay, the nodes scale, and no rounding changes."""
    matrix = _matrix(indefinite(_N), dtype).astype(dtype)
    plain = library.measure(matrix, dtype)
    deviations = [0.0]
    for exponent in (-60, 60) if dtype in ("float32", "complex64") else (-400, 400):
        scaled = library.measure(matrix * matrix.real.dtype.type(2.0**exponent), dtype)
        deviations.append(np.abs(scaled.weights - plain.weights).max())
        deviations.append(np.abs(np.ldexp(scaled.nodes, -exponent) - plain.nodes).max())
    return deviations


def _runs_end_in_invariant_subspaces(library: Library, dtype: str) -> Any:
    """Identity, zero and three points: few steps, exact forms."""
    cases = {
        "identity": (np.eye(_N), np.ones(_N), 1),
        "zero": (np.zeros((_N, _N)), np.zeros(_N), 1),
        # three, and one for a residual just above rounding
        "three points": (None, np.repeat([0.5, 2.0, 3.0], _N // 3), 4),
    }
    deviations = []
    for matrix, eigenvalues, most in cases.values():
        measure = library.measure(_matrix(eigenvalues, dtype) if matrix is None else matrix, dtype)
        ended = measure.exact.all() and run_lengths(measure.beta).max() <= most
        deviations.append(0.0 if ended else np.inf)
        deviations.extend(np.abs(measure.quadratic_forms(np.cos) - _forms_of_probes(eigenvalues, dtype, np.cos)) / _N)
    return deviations


def _full_runs_find_every_eigenvalue(library: Library, dtype: str) -> Any:
    """On a spectrum that loses orthogonality unless the orthogonalisation works; relative to the norm."""
    eigenvalues = strakos(_N, rho=0.7)
    V = library.asarray(sphere(0, range(_K), None, _N, np.empty(0, dtype)), dtype)
    run = lanczos(library.asarray(_matrix(eigenvalues, dtype), dtype), V, _N)
    return np.abs(golub_welsch(run.alpha, run.beta)[0] - eigenvalues)


def _a_flux_ring_keeps_the_sign_of_its_phase(library: Library, dtype: str) -> Any:
    """Plane waves see 2cos((2πk + φ)/n); a product with the transpose would see −φ."""
    ring = flux_ring(_N)
    k = np.array([3, 5, 7])
    waves = np.exp(2j * np.pi * np.outer(k, np.arange(_N)) / _N)
    measure = library.measure(ring.matrix(), dtype, probes=library.asarray(waves, dtype))
    return np.abs(measure.quadratic_forms(lambda t: t) / _N - ring.levels()[0][k])


def _host_arrays_arrive_whole(library: Library, dtype: str) -> Any:
    """What slq sends to the device arrives with the dtype and the values it should have."""
    like = library.asarray(np.empty(0), dtype)
    values = np.linspace(-1.0, 1.0, _N).astype(dtype)
    return np.abs(to_host(from_host(values, like)) - values)


# Thresholds: bits where slq promises bits, else what it promises across libraries, 1e-11 in double precision (measured
# on five: at most 3e-15) and 1e-4 in single (at most 6e-7). Sums of weights are made on the host: 8 m roundings.
_BITS = {"float64": 0.0, "float32": 0.0, "complex128": 0.0, "complex64": 0.0}
_CLOSE = {"float64": 1e-11, "float32": 1e-4, "complex128": 1e-11, "complex64": 1e-4}
_ROUNDING = {"float64": 1e-14, "float32": 1e-5, "complex128": 1e-14, "complex64": 1e-5}
_HOST = dict.fromkeys(_BITS, 8 * _M * 2.0**-52)

LAWS: dict[Law, dict[str, float]] = {
    _arrays_keep_dtype_and_values: _BITS,
    _host_arrays_arrive_whole: _BITS,
    _signs_and_phases_are_those_of_numpy: _BITS,
    _gaussian_probes_are_those_of_numpy: _ROUNDING,
    _sphere_probes_are_those_of_numpy: _ROUNDING,
    _coefficients_are_those_of_numpy: _CLOSE,
    _moments_are_those_of_numpy: _CLOSE,
    _densities_are_those_of_numpy: _CLOSE,
    _log_determinants_are_those_of_numpy: _CLOSE,
    _quadrature_is_exact_to_degree_2m_minus_1: _CLOSE,
    _weights_are_a_probability: _HOST,
    _powers_of_two_scale_to_the_bit: _BITS,
    _runs_end_in_invariant_subspaces: _CLOSE,
    _full_runs_find_every_eigenvalue: _CLOSE,
    _a_flux_ring_keeps_the_sign_of_its_phase: {"complex128": 1e-11, "complex64": 1e-4},
}
