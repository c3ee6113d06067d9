"""Floor 0: a small network on real data, in NumPy, with its exact Hessian in closed form.

The network is 64-H-10 with tanh and cross-entropy on scikit-learn's handwritten digits, which ship inside the package:
no download, the same weights for every framework, and an exact answer that owes nothing to automatic differentiation.
"""

from dataclasses import dataclass

import numpy as np

from slq.errors import MissingPackageError

__all__ = ["DigitsNetwork", "load_digits", "train"]


@dataclass(frozen=True)
class DigitsNetwork:
    """Weights of z = W₂ tanh(W₁ x + b₁) + b₂; flat vectors order them W₁, b₁, W₂, b₂, each by rows."""

    W1: np.ndarray
    b1: np.ndarray
    W2: np.ndarray
    b2: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The weights in the order of flat vectors."""
        return self.W1, self.b1, self.W2, self.b2

    @property
    def n(self) -> int:
        """The number of weights."""
        return sum(a.size for a in self.arrays)

    def forward(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hidden values and class probabilities of the samples X: (N, H) and (N, 10)."""
        hidden = np.tanh(X @ self.W1.T + self.b1)
        z = hidden @ self.W2.T + self.b2
        z = np.exp(z - z.max(axis=1, keepdims=True))
        return hidden, z / z.sum(axis=1, keepdims=True)

    def accuracy(self, X: np.ndarray, y: np.ndarray) -> float:
        """The share of samples that are classified as y."""
        return float((self.forward(X)[1].argmax(axis=1) == y).mean())

    def loss(self, X: np.ndarray, y: np.ndarray) -> float:
        """The mean cross-entropy."""
        return float(-np.log(self.forward(X)[1][np.arange(len(y)), y]).mean())

    def gradients(self, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
        """Gradients of the mean cross-entropy, in the shapes of the weights."""
        hidden, r = self.forward(X)
        r[np.arange(len(y)), y] -= 1
        r /= len(y)
        d = (r @ self.W2) * (1 - hidden**2)
        return d.T @ X, d.sum(axis=0), r.T @ hidden, r.sum(axis=0)

    def hessian(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The (n, n) Hessian of the mean cross-entropy: Gauss-Newton part plus curvature of the network."""
        hidden, p = self.forward(X)
        H = np.zeros((self.n, self.n))
        for low in range(0, len(y), 128):  # 128 samples: (1280, n) factors
            part = slice(low, low + 128)
            factor = self._gauss_newton_factor(X[part], hidden[part], p[part])
            H += factor.T @ factor
        self._add_network_curvature(H, X, y, hidden, p)
        return H / len(y)

    def _gauss_newton_factor(self, X: np.ndarray, hidden: np.ndarray, p: np.ndarray) -> np.ndarray:
        """(N·10, n): LᵀJ per sample, where L Lᵀ = diag p − p pᵀ is the loss's Hessian and J the logits' Jacobian."""
        root = np.sqrt(p)
        L = root[:, :, None] * np.eye(10) - p[:, :, None] * root[:, None, :]
        to_hidden = np.einsum("icl,cj,ij->ilj", L, self.W2, 1 - hidden**2)  # Lᵀ ∂z/∂(W₁x + b₁)
        rows = (len(p) * 10, -1)
        blocks = (
            np.einsum("ilj,id->iljd", to_hidden, X),
            to_hidden,
            np.einsum("icl,ij->ilcj", L, hidden),
            L.transpose(0, 2, 1),
        )
        return np.concatenate([block.reshape(rows) for block in blocks], axis=1)

    def _add_network_curvature(
        self, H: np.ndarray, X: np.ndarray, y: np.ndarray, hidden: np.ndarray, p: np.ndarray
    ) -> None:
        """Add Σᵢ Σ_c rᵢ_c ∇²zᵢ_c, r = p − one-hot: only weights that meet in one hidden unit have mixed derivatives."""
        r = p.copy()
        r[np.arange(len(y)), y] -= 1
        inputs = np.concatenate([X, np.ones((len(X), 1))], axis=1)
        slope = 1 - hidden**2
        curvature = (r @ self.W2) * (-2 * hidden * slope)
        size, width = self.W1.shape
        for j in range(size):
            first = np.append(np.arange(j * width, (j + 1) * width), size * width + j)
            second = size * (width + 1) + np.arange(10) * size + j
            H[np.ix_(first, first)] += (inputs * curvature[:, j, None]).T @ inputs
            mixed = (inputs * slope[:, j, None]).T @ r
            H[np.ix_(first, second)] += mixed
            H[np.ix_(second, first)] += mixed.T


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 digits: pixels in [0, 1] as (1797, 64), classes as (1797,).

    Raises
    ------
    MissingPackageError
        If scikit-learn, which brings them, is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise MissingPackageError("the digits come with scikit-learn: pip install 'slq[demo]'") from error
    X, y = load(return_X_y=True)
    return X / 16, y


def train(X: np.ndarray, y: np.ndarray, hidden: int = 40, epochs: int = 30) -> DigitsNetwork:
    """Train by gradient descent with momentum 0.9, rate 0.1 and batches of 128, from fixed seeds."""
    draw = np.random.default_rng(0)
    weights = [
        draw.normal(size=(hidden, X.shape[1])) / np.sqrt(X.shape[1]),
        np.zeros(hidden),
        draw.normal(size=(10, hidden)) / np.sqrt(hidden),
        np.zeros(10),
    ]
    velocity = [np.zeros_like(w) for w in weights]
    shuffle = np.random.default_rng(1)
    for _ in range(epochs):
        for batch in np.array_split(shuffle.permutation(len(y)), range(128, len(y), 128)):
            gradients = DigitsNetwork(*weights).gradients(X[batch], y[batch])
            for w, v, g in zip(weights, velocity, gradients, strict=True):
                v *= 0.9
                v += g
                w -= 0.1 * v
    return DigitsNetwork(*weights)
