"""Floor 2: orthonormal rows on the device from their Gram matrix, which the host reads."""

from collections.abc import Callable
from typing import Any

import numpy as np

from slq._arrays import Array, from_host, is_complex, matmul, namespace, sum_wide

__all__ = ["gram", "orthonormal", "without"]

_TINY = float(np.finfo(np.float64).tiny)
_SLICE = 1 << 16  # coordinates whose products are summed in the precision of the vectors; those sums add up in float64
_ROUNDS = 4  # of orthonormalisation, at most: each divides the condition by 1/√eps, so that three are enough


def gram(x: Array, y: Array, vecdot: Any = None) -> Array:
    """All ⟨xᵢ, yⱼ⟩, in the inner product `vecdot` if one is given."""
    xp = namespace(x)
    if vecdot is not None:
        return xp.stack([vecdot(x, y[j, ...][None, :]) for j in range(y.shape[0])], axis=-1)
    conj = xp.conj(x) if is_complex(x) else x
    n = x.shape[1]
    slices = [slice(low, min(low + _SLICE, n)) for low in range(0, n, _SLICE)]
    parts = [matmul(conj[:, s], xp.matrix_transpose(y[:, s])) for s in slices]
    return parts[0] if len(parts) == 1 else sum_wide(xp.stack(parts))


def orthonormal(
    w: Array, floor: float, own_gram: Callable[[Array], np.ndarray], project: Callable[[Array], Array] | None = None
) -> tuple[Array, np.ndarray]:
    """Orthonormal rows (r, n), and the coordinates in them of what `project` left of the rows of `w`: (r, b).

    Parameters
    ----------
    w : (b, n) array
    floor : float
        Directions with coordinates of no more than this norm are not among the rows.
    own_gram : callable
        The Gram matrix of its argument, on the host.
    project : callable, optional
        Takes out of its argument what the rows shall be orthogonal to.
    """
    coordinates = np.eye(w.shape[0])
    least = 8 * w.shape[0] * float(namespace(w).finfo(w.dtype).eps)
    for done in range(_ROUNDS):
        w = w if project is None else project(w)
        squares, vectors, unit = _eigh(own_gram(w))
        raised = unit * np.sqrt(np.maximum(squares, least * max(squares[-1], _TINY)))
        coordinates = raised[:, None] * (vectors.conj().T @ coordinates)
        kept = np.linalg.norm(coordinates, axis=1) > floor
        coordinates = coordinates[kept]
        w = matmul(from_host(np.ascontiguousarray((vectors / raised).T[kept]), w), w)
        if not kept.any() or (done and unit**2 * squares.min(where=kept, initial=1.0) > 0.5):
            break
    return w, coordinates


def without(w: Array, components: Array, rows: Array) -> Array:
    """Row i of `w` minus Σᵣ components[r, i] rows[r]."""
    xp = namespace(w)
    return w - matmul(xp.astype(xp.matrix_transpose(components), w.dtype), rows)


def _eigh(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Eigenvalues and vectors of a Gram matrix over 4ᵉ, and 2ᵉ: of order one, so that scales change no bit of them."""
    unit = 2.0 ** (int(np.frexp(np.abs(gram).max())[1]) // 2)
    gram = gram / unit**2
    squares, vectors = np.linalg.eigh((gram + gram.conj().T) / 2)
    return squares, vectors, unit
