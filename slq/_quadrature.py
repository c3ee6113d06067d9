"""Floor 1: from recurrence coefficients to Gauss quadrature, on the host."""

import numpy as np
from scipy.linalg import eigh_tridiagonal, svd

from slq.errors import RequestError

__all__ = [
    "gauss_rules",
    "golub_welsch",
    "run_lengths",
    "singular_rules",
    "singular_run_lengths",
    "tridiagonal_eigenpairs",
]


def run_lengths(beta: np.ndarray) -> np.ndarray:
    """The number of steps of each run: all m, or up to the first zero in `beta`, which marks an invariant subspace."""
    ended = beta == 0
    return np.where(ended.any(axis=-1), ended.argmax(axis=-1) + 1, beta.shape[-1])


def singular_run_lengths(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """The number of steps of each Golub-Kahan run: a zero in `alpha`, a null vector, ends one too."""
    return run_lengths(np.where(alpha == 0, 0.0, beta))


def golub_welsch(alpha: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the Gauss quadrature that Lanczos coefficients define.

    Parameters
    ----------
    alpha, beta : (k, m) or (m,) array
        Diagonal and off-diagonal of the tridiagonal matrices T, as `lanczos` returns them: the last column of `beta` is
        the norm of the residual and not part of T; a zero in `beta` ends a run.

    Returns
    -------
    nodes, weights : (k, m) or (m,) array of float64
        The eigenvalues of T in increasing order and the squared first components of its eigenvectors. The weights of a
        run sum to 1. A run that ended early repeats its last node with weight 0.

    Raises
    ------
    RequestError
        If the shapes differ, there are no steps, or a value is not finite.

    References
    ----------
    Golub and Welsch, Calculation of Gauss quadrature rules, Math. Comp. 23 (1969).
    """
    alpha, beta = np.asarray(alpha, dtype=np.float64), np.asarray(beta, dtype=np.float64)
    if alpha.shape != beta.shape or alpha.ndim not in (1, 2) or alpha.size == 0:
        raise RequestError(
            f"alpha and beta must have one shape (k, m) with k, m >= 1, got {alpha.shape} and {beta.shape}; "
            "the last column of beta is the residual norm (any value, if unknown)"
        )
    nodes, weights, _ = gauss_rules(np.atleast_2d(alpha), np.atleast_2d(beta))
    return nodes.reshape(alpha.shape), weights.reshape(alpha.shape)


def gauss_rules(alpha: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, weights and residuals, each (k, m): each node is within its residual of an eigenvalue.

    The residual of a node is beta[m-1] times the last component of its eigenvector (Paige 1980).
    """
    nodes, weights, residuals = np.empty_like(alpha), np.zeros_like(alpha), np.zeros_like(alpha)
    for i, length in enumerate(run_lengths(beta)):
        nodes[i, :length], vectors = tridiagonal_eigenpairs(alpha[i, :length], beta[i, : length - 1])
        nodes[i, length:] = nodes[i, length - 1]
        weights[i, :length] = vectors[0] ** 2
        residuals[i, :length] = beta[i, length - 1] * np.abs(vectors[-1])
    return nodes, weights, residuals


def singular_rules(alpha: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, weights and residuals, each (k, m), of Golub-Kahan runs: A V = U B, Aᴴ U = V Bᴴ + β v eᵀ.

    `alpha` and `beta` hold the diagonals and superdiagonals of the bidiagonal matrices B, the last column of `beta` the
    norms of the residuals. The nodes are the singular values of B, the weights the squared first components of its
    right singular vectors, the residuals beta[m-1] times the last components of the left ones: each node is within its
    residual of a singular value. A zero in `beta` or `alpha` ends a run.

    The QR iteration without shifts keeps small singular values to full relative precision (Demmel and Kahan, Accurate
    singular values of bidiagonal matrices, SISSC 11, 1990); it is in LAPACK's ``gesvd``, not in ``gesdd``.
    """
    nodes, weights, residuals = np.empty_like(alpha), np.zeros_like(alpha), np.zeros_like(alpha)
    for i, length in enumerate(singular_run_lengths(alpha, beta)):
        diagonal, above, exponent = _of_order_one(alpha[i, :length], beta[i, : length - 1])
        left, values, right = svd(np.diag(diagonal) + np.diag(above, 1), lapack_driver="gesvd")
        nodes[i, :length] = np.ldexp(values[::-1], exponent)
        nodes[i, length:] = nodes[i, length - 1]
        weights[i, :length] = right[::-1, 0] ** 2
        if alpha[i, length - 1] != 0:  # else the last left vector is none of the run's
            residuals[i, :length] = beta[i, length - 1] * np.abs(left[-1, ::-1])
    return nodes, weights, residuals


def tridiagonal_eigenpairs(diagonal: np.ndarray, off_diagonal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled, beside, exponent = _of_order_one(diagonal, off_diagonal)
    nodes, vectors = eigh_tridiagonal(scaled, beside)
    return np.ldexp(nodes, exponent), vectors


def _of_order_one(diagonal: np.ndarray, beside: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Both times 2⁻ᵉ, and e: an exact power of two, so that LAPACK never meets a number near overflow or underflow."""
    if not (np.isfinite(diagonal).all() and np.isfinite(beside).all()):
        raise RequestError("the recurrence coefficients contain NaN or infinity; the operator's product is not finite")
    exponent = int(np.frexp(max(np.abs(diagonal).max(), np.abs(beside).max(initial=0.0)))[1])
    return np.ldexp(diagonal, -exponent), np.ldexp(beside, -exponent), exponent
