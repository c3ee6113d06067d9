"""Floor 1: from the coefficients of block Lanczos runs to quadrature, on the host."""

import numpy as np
import scipy.linalg

__all__ = ["block_lengths", "block_rules", "block_sizes", "leading_rule"]


def block_sizes(start: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """The number of vectors in each block of each run: (g, m). Rows of zeros in `start` and `beta` belong to none."""
    leading = np.concatenate([start[:, None], beta[:, :-1]], axis=1)
    return np.abs(leading).any(axis=3).sum(axis=2)


def block_lengths(start: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """The number of steps of each run: (g,)."""
    return (block_sizes(start, beta) > 0).sum(axis=1)


def block_rules(start: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, weights and residuals, each (g·b, M), of g runs of block Lanczos with b start vectors each.

    The b rows of a run share their nodes and residuals: within each of its node lies an eigenvalue. Their weights are
    the squared coordinates of their start vector along the Ritz vectors. A run that ended early repeats its last node
    with weight 0.
    """
    rules = [_rule(*run) for run in zip(start, alpha, beta, block_sizes(start, beta), strict=True)]
    width = max(len(nodes) for nodes, _, _ in rules)
    nodes, weights, residuals = (np.zeros((len(rules), start.shape[2], width)) for _ in range(3))
    for g, (theta, weight, residual) in enumerate(rules):
        nodes[g], nodes[g, :, : len(theta)] = theta[-1], theta
        weights[g, :, : len(theta)], residuals[g, :, : len(theta)] = weight, residual
    return nodes.reshape(-1, width), weights.reshape(-1, width), residuals.reshape(-1, width)


def leading_rule(
    start: np.ndarray, alpha: np.ndarray, beta: np.ndarray, num_blocks: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, weights and residuals, each (M,), of the mean measure of the first blocks of one run.

    The weights are the squared coordinates of the Ritz vectors along the d vectors of those blocks, divided by d.
    """
    sizes = block_sizes(start[None], beta[None])[0]
    nodes, vectors, residuals = _ritz(alpha, beta, sizes)
    d = sizes[:num_blocks].sum()
    return nodes, (np.abs(vectors[:d]) ** 2).sum(axis=0) / d, residuals


def _rule(
    start: np.ndarray, alpha: np.ndarray, beta: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    nodes, vectors, residuals = _ritz(alpha, beta, sizes)
    weights = np.abs(start[: sizes[0]].conj().T @ vectors[: sizes[0]]) ** 2
    return nodes, weights, residuals


def _ritz(alpha: np.ndarray, beta: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ritz values, coordinates of the Ritz vectors (one per column), and residuals of one run."""
    exponent = int(np.frexp(max(np.abs(alpha).max(), np.abs(beta).max()))[1])
    T = _assembled(_times_power(alpha, -exponent), _times_power(beta, -exponent), sizes)
    nodes, vectors = scipy.linalg.eigh(T)
    last = sizes[sizes > 0][-1]
    step = int((sizes > 0).sum()) - 1
    residuals = np.linalg.norm(_times_power(beta[step, :, :last], -exponent) @ vectors[-last:], axis=0)
    return np.ldexp(nodes, exponent), vectors, np.ldexp(residuals, exponent)


def _assembled(alpha: np.ndarray, beta: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The block tridiagonal matrix T; only its lower half is set."""
    ends = np.cumsum(sizes)
    T = np.zeros((ends[-1], ends[-1]), alpha.dtype)
    for j, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        block = slice(end - size, end)
        T[block, block] = alpha[j, :size, :size]
        if j + 1 < len(sizes):
            T[end : ends[j + 1], block] = beta[j, : sizes[j + 1], :size]
    return T


def _times_power(blocks: np.ndarray, exponent: int) -> np.ndarray:
    """Blocks times 2ᵉ, in two steps: no power of two overflows where the result does not."""
    half = exponent // 2
    return blocks * 2.0**half * 2.0 ** (exponent - half)
