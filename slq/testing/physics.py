"""Lattices, rings and chains of spins.

The functions return a `Problem`, which has the formula and its source.
"""

import functools

import numpy as np
import scipy.fft

from slq.testing._problem import Problem, ones

__all__ = ["flux_ring", "hofstadter", "honeycomb", "ising", "ssh_ring", "xy_chain"]


def flux_ring(n: int, phi: float = 1.0) -> Problem:
    """Make a ring of n sites threaded by a flux: hops exp(±iφ/n)."""
    hop = np.exp(1j * phi / n)
    return Problem(
        name=f"flux ring, n={n}, phi={phi:g}",
        n=n,
        product=lambda x: hop * np.roll(x, -1, axis=-1) + np.conj(hop) * np.roll(x, 1, axis=-1),
        levels=lambda: (2 * np.cos((2 * np.pi * np.arange(n) + phi) / n), ones(n)),
        formula="2cos((2πk + φ)/n), k = 0…n−1",
        source="derived: plane waves exp(2πijk/n) are eigenvectors",
        hard_for="inner products that do not conjugate: an eigenvector then sees the value of −φ",
        is_complex=True,
        family="physics",
        modes=lambda x: scipy.fft.fft(x, norm="ortho"),
    )


def ssh_ring(cells: int, t1: float = 1.0, t2: float = 0.6) -> Problem:
    """Make a ring with hops t1 within each cell of two sites and t2 between cells (Su, Schrieffer, Heeger)."""

    def product(x: np.ndarray) -> np.ndarray:
        a, b = x[..., :cells], x[..., cells:]
        return np.concatenate([t1 * b + t2 * np.roll(b, 1, axis=-1), t1 * a + t2 * np.roll(a, -1, axis=-1)], axis=-1)

    k = 2 * np.pi * np.arange(cells) / cells
    energy = np.sqrt(t1**2 + t2**2 + 2 * t1 * t2 * np.cos(k))
    return Problem(
        name=f"Su-Schrieffer-Heeger ring, n={2 * cells}",
        n=2 * cells,
        product=product,
        levels=lambda: (np.concatenate([energy, -energy]), ones(2 * cells)),
        formula="±√(t₁² + t₂² + 2 t₁t₂ cos k), k = 2πj/cells",
        source="Su, Schrieffer and Heeger, Solitons in polyacetylene, Phys. Rev. Lett. 42 (1979)",
        hard_for="densities: a gap around zero, and poles at all four band edges",
        family="physics",
    )


def honeycomb(rows: int, columns: int) -> Problem:
    """Make the hops on a honeycomb lattice, periodic in both directions."""

    def product(x: np.ndarray) -> np.ndarray:
        a, b = np.moveaxis(x.reshape(*x.shape[:-1], 2, rows, columns), -3, 0)
        to_a = b + np.roll(b, 1, axis=-2) + np.roll(b, 1, axis=-1)
        to_b = a + np.roll(a, -1, axis=-2) + np.roll(a, -1, axis=-1)
        return np.stack([to_a, to_b], axis=-3).reshape(x.shape)

    waves = [np.exp(2j * np.pi * np.arange(m) / m) for m in (rows, columns)]
    energy = np.abs(1 + np.add.outer(*waves)).ravel()
    n = 2 * rows * columns
    return Problem(
        name=f"honeycomb torus, {rows} x {columns}",
        n=n,
        product=product,
        levels=lambda: (np.concatenate([energy, -energy]), ones(n)),
        formula="±|1 + exp(ik₁) + exp(ik₂)|, k = 2πj/side",
        source="Wallace, The band theory of graphite, Phys. Rev. 71 (1947)",
        hard_for="densities: van Hove peaks at ±1, a linear cusp at 0",
        family="physics",
    )


def hofstadter(p: int, q: int, cells: int, columns: int) -> Problem:
    """Make hops on a square lattice of q·cells by `columns` sites, periodic, with flux p/q through each square."""
    length = q * cells
    phase = np.exp(2j * np.pi * p * np.arange(length) / q)[:, None]

    def product(x: np.ndarray) -> np.ndarray:
        u = x.reshape(*x.shape[:-1], length, columns)
        across = np.roll(u, 1, axis=-2) + np.roll(u, -1, axis=-2)
        return (across + phase * np.roll(u, -1, axis=-1) + np.conj(phase) * np.roll(u, 1, axis=-1)).reshape(x.shape)

    def levels() -> tuple[np.ndarray, np.ndarray]:
        blocks = np.zeros((cells, columns, q, q), dtype=complex)
        blocks[..., np.arange(q - 1), np.arange(1, q)] += 1
        blocks[..., q - 1, 0] += np.exp(2j * np.pi * np.arange(cells) / cells)[:, None]
        blocks += np.swapaxes(blocks, -1, -2).conj()
        ky = 2 * np.pi * np.arange(columns) / columns
        blocks[..., np.arange(q), np.arange(q)] += 2 * np.cos(np.add.outer(ky, 2 * np.pi * p * np.arange(q) / q))
        return np.linalg.eigvalsh(blocks).ravel(), ones(length * columns)

    return Problem(
        name=f"Hofstadter torus, flux {p}/{q}, {length} x {columns}",
        n=length * columns,
        product=product,
        levels=levels,
        formula="eigenvalues of the q × q Bloch matrices with diagonal 2cos(k₂ + 2πpj/q), hops 1, corners exp(±ik₁)",
        source=(
            "Hofstadter, Energy levels and wave functions of Bloch electrons in rational and irrational magnetic "
            "fields, Phys. Rev. B 14 (1976)"
        ),
        hard_for="densities: q narrow bands; products with the transpose see the opposite flux",
        is_complex=True,
        family="physics",
    )


def ising(spins: int, J: float = 1.0, h: float = 0.7) -> Problem:
    """Make −J Σ ZⱼZⱼ₊₁ − h Σ Xⱼ on an open chain."""
    n = 2**spins

    @functools.cache
    def diagonal() -> np.ndarray:
        i = np.arange(n)
        walls = np.bitwise_count((i ^ (i >> 1)) & (n // 2 - 1))
        return -J * (spins - 1 - 2.0 * walls)

    def product(x: np.ndarray) -> np.ndarray:
        y = diagonal() * x
        for j in range(spins):
            shape = (*x.shape[:-1], 2**j, 2, n >> (j + 1))
            u, v = x.reshape(shape), y.reshape(shape)
            v[..., 0, :] -= h * u[..., 1, :]
            v[..., 1, :] -= h * u[..., 0, :]
        return y

    bidiagonal = np.diag(np.full(spins, h)) + np.diag(np.full(spins - 1, J), 1)
    return Problem(
        name=f"transverse Ising chain, {spins} spins",
        n=n,
        product=product,
        levels=lambda: (_signed_sums(np.linalg.svd(bidiagonal, compute_uv=False)), ones(n)),
        formula="Σₖ ±εₖ, all signs; εₖ the singular values of the bidiagonal matrix (h; J)",
        source="Pfeuty, The one-dimensional Ising model with a transverse field, Ann. Phys. 57 (1970)",
        hard_for="memory at large n: 2ᴺ values from N numbers; Gaussian bulk, edges of mass 2⁻ᴺ",
        family="physics",
    )


def xy_chain(spins: int, g: float = 0.4, h: float = 0.3) -> Problem:
    """Make Σ ((1+g)/2 XⱼXⱼ₊₁ + (1−g)/2 YⱼYⱼ₊₁) + h Σ Zⱼ on an open chain."""
    n = 2**spins

    def product(x: np.ndarray) -> np.ndarray:
        y = h * (spins - 2.0 * np.bitwise_count(np.arange(n))) * x
        for j in range(spins - 1):
            shape = (*x.shape[:-1], 2**j, 2, 2, n >> (j + 2))
            u, v = x.reshape(shape), y.reshape(shape)
            v[..., 0, 1, :] += u[..., 1, 0, :]
            v[..., 1, 0, :] += u[..., 0, 1, :]
            v[..., 0, 0, :] += g * u[..., 1, 1, :]
            v[..., 1, 1, :] += g * u[..., 0, 0, :]
        return y

    bands = 2 * h * np.eye(spins) + (1 + g) * np.eye(spins, k=1) + (1 - g) * np.eye(spins, k=-1)
    return Problem(
        name=f"XY chain, {spins} spins",
        n=n,
        product=product,
        levels=lambda: (_signed_sums(np.linalg.svd(bands, compute_uv=False) / 2), ones(n)),
        formula="Σₖ ±εₖ, all signs; 2εₖ the singular values of the tridiagonal matrix (1−g; 2h; 1+g)",
        source="Lieb, Schultz and Mattis, Two soluble models of an antiferromagnetic chain, Ann. Phys. 16 (1961)",
        hard_for="symmetry: parity splits the space into two that never mix",
        family="physics",
    )


def _signed_sums(parts: np.ndarray) -> np.ndarray:
    """±p₁ ± p₂ ± …, all 2^len of them; the small parts first, so that few roundings are large."""
    sums = np.zeros(1)
    for part in np.sort(parts):
        sums = np.concatenate([sums - part, sums + part])
    return sums
