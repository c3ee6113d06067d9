"""The digits network of exactly 15,910 parameters, the size of the paper's: its Hessian, product by product and whole.

`python -m benchmarks.digits_hessian` computes the exact spectrum (20 minutes on one core, 4 GB) and stores it in
benchmarks/data, where `eigenvalues` reads it.
"""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
from scipy.linalg import eigvalsh

from slq.demo.digits import DigitsNetwork, load_digits, train

STORED = Path(__file__).parent / "data" / "digits15910.npy"
HIDDEN = 212


class DigitsHessian:
    """The Hessian of the mean cross-entropy of a `DigitsNetwork`, as an operator: products cost two passes.

    Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6 (1994), written out for two layers.
    """

    def __init__(self, network: DigitsNetwork, X: np.ndarray, y: np.ndarray) -> None:
        self.network, self.X = network, X
        self.hidden, self.p = network.forward(X)
        self.slope = 1 - self.hidden**2
        self.r = self.p.copy()
        self.r[np.arange(len(y)), y] -= 1
        self.curvature = (self.r @ network.W2) * (-2 * self.hidden * self.slope)
        self.shape = (network.n, network.n)
        self.like = np.empty(0)
        self.products = 0

    def matvec(self, V: np.ndarray) -> np.ndarray:
        """H v of each row v of a block (k, n); a vector (n,) is a block of one."""
        block = np.atleast_2d(V)
        self.products += len(block)
        return np.stack([self._product(v) for v in block]).reshape(V.shape)

    def _product(self, v: np.ndarray) -> np.ndarray:
        X, h, W2 = self.X, self.hidden, self.network.W2
        V1, c1, V2, c2 = self._split(v)
        moved = X @ V1.T  # derivative of the first layer's values; everything of size (N, H) is made in place
        moved += c1
        back = moved * self.curvature
        moved *= self.slope
        z = h @ V2.T + moved @ W2.T + c2
        p = self.p * (z - (self.p * z).sum(axis=1, keepdims=True))
        back += (p @ W2 + self.r @ V2) * self.slope
        parts = (back.T @ X, back.sum(axis=0), p.T @ h + self.r.T @ moved, p.sum(axis=0))
        return np.concatenate([part.ravel() for part in parts]) / len(X)

    def _split(self, v: np.ndarray) -> list[np.ndarray]:
        arrays = self.network.arrays
        ends = np.cumsum([a.size for a in arrays])[:-1]
        return [part.reshape(a.shape) for part, a in zip(np.split(v, ends), arrays, strict=True)]

    def diagonal(self) -> np.ndarray:
        """The diagonal of H in closed form: (n,)."""
        W2, p, h = self.network.W2, self.p, self.hidden
        to_hidden = p @ W2**2 - (p @ W2) ** 2  # w_jᵀ (diag p − p pᵀ) w_j of each hidden unit j
        first = to_hidden * self.slope**2 + self.curvature
        second = p * (1 - p)
        parts = (first.T @ self.X**2, first.sum(axis=0), second.T @ h**2, second.sum(axis=0))
        return np.concatenate([part.ravel() for part in parts]) / len(h)


@cache
def digits_hessian() -> DigitsHessian:
    """That of the trained network: loss 0.02499, accuracy 0.9978."""
    X, y = load_digits()
    return DigitsHessian(train(X, y, hidden=HIDDEN), X, y)


@cache
def eigenvalues() -> np.ndarray:
    """The exact spectrum, increasing: (15910,)."""
    return np.load(STORED)


def compute() -> np.ndarray:
    """The exact spectrum of the dense Hessian; the rows of pixels that are never set are zero and left out."""
    X, y = load_digits()
    H = digits_hessian().network.hessian(X, y)
    live = np.flatnonzero(np.abs(H).max(axis=1))
    zeros = np.zeros(len(H) - live.size)
    H = np.asfortranarray(H[np.ix_(live, live)])
    return np.sort(np.concatenate([eigvalsh(H, overwrite_a=True, check_finite=False, driver="evd"), zeros]))


def fingerprint() -> str:
    """SHA-256 of the trained weights in float64; another BLAS may round them otherwise."""
    return hashlib.sha256(b"".join(a.tobytes() for a in digits_hessian().network.arrays)).hexdigest()


def main() -> None:
    values = compute()
    STORED.parent.mkdir(exist_ok=True)
    np.save(STORED, values)
    print(f"trace {values.sum():.6f}, squared Frobenius norm {(values**2).sum():.6f}, weights {fingerprint()}")


if __name__ == "__main__":
    main()
