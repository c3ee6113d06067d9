"""Hessians of models, at parameters where they are known. `data` holds what another library needs to build the same.

The functions return a `Problem`, which has the formula and its source.
Sizes and parameters for which the formula does not hold raise RequestError.
"""

import math

import numpy as np
import scipy.fft

from slq.testing._problem import Problem, Product, require
from slq.testing.structured import fwht

__all__ = [
    "deep_linear",
    "deep_linear_scaled",
    "design",
    "linear_regression",
    "logistic_regression",
    "softmax_regression",
]


def design(samples: int, features: int) -> np.ndarray:
    """Inputs X with singular values √samples·(1, 2, …, features).

    Columns of a Hadamard matrix, scaled by 1, 2, … and rotated by a cosine transform.

    Parameters
    ----------
    samples : int
        A power of two, at least `features`.
    features : int

    Returns
    -------
    (samples, features) array
    """
    require(1 <= features <= samples, "1 <= features <= samples", samples=samples, features=features)
    columns = fwht(np.eye(samples))[:, :features]
    return scipy.fft.dct(columns * np.arange(1.0, features + 1), axis=1, norm="ortho")


def linear_regression(samples: int, features: int, outputs: int) -> Problem:
    """Make the Hessian of the mean squared error, over samples and outputs, of y = W x with W (outputs, features)."""
    X = design(samples, features)
    factor = 2 / (samples * outputs)
    return Problem(
        name=f"linear regression, {features} features, {outputs} outputs",
        n=features * outputs,
        product=lambda x: _blocks(x, outputs, lambda W: factor * (W @ X.T) @ X),
        levels=lambda: (2 / outputs * np.arange(1.0, features + 1) ** 2, np.full(features, outputs)),
        formula="2s²/(N·outputs), each `outputs` times; s = √N·(1…features) the singular values of the inputs",
        source="derived: the loss is quadratic, with Hessian I ⊗ 2XᵀX/(N·outputs)",
        hard_for="losses: a mean over samples only is `outputs` times too large",
        family="model",
        data={"X": X},
    )


def logistic_regression(samples: int, features: int) -> Problem:
    """Make the Hessian of the mean logistic loss of one linear output, at w = 0."""
    X = design(samples, features)
    return Problem(
        name=f"logistic regression, {features} features",
        n=features,
        product=lambda x: (x @ X.T) @ X / (4 * samples),
        levels=lambda: (np.arange(1.0, features + 1) ** 2 / 4, np.ones(features, dtype=int)),
        formula="s²/(4N); s = √N·(1…features) the singular values of the inputs",
        source="derived: the logistic function has slope 1/4 at zero",
        hard_for="outliers: the upper edge is far apart, the lower one crowded",
        family="model",
        data={"X": X, "y": (np.arange(samples) % 2).astype(float)},
    )


def softmax_regression(samples: int, features: int, classes: int) -> Problem:
    """Make the Hessian, in W (classes, features), of the mean cross-entropy at W = 0 with the bias (log 2, 0, …, 0)."""
    require(classes >= 2, "classes >= 2", classes=classes)
    X = design(samples, features)
    a = 1 / (classes + 1)
    p = np.append(2 * a, np.full(classes - 1, a))
    # Differences within the classes of weight a; the constant; and what is left of the trace of diag p − ppᵀ.
    inner = np.append(np.full(classes - 2, a), [0.0, 1 - (p**2).sum() - (classes - 2) * a])

    def product(x: np.ndarray) -> np.ndarray:
        def act(W: np.ndarray) -> np.ndarray:
            G = (W @ X.T) @ X / samples
            return p[:, None] * G - p[:, None] * (p @ G)[..., None, :]

        return _blocks(x, classes, act)

    return Problem(
        name=f"softmax regression, {features} features, {classes} classes",
        n=features * classes,
        product=product,
        levels=lambda: (
            np.multiply.outer(inner, np.arange(1.0, features + 1) ** 2).ravel(),
            np.ones(classes * features, dtype=int),
        ),
        formula="products of the eigenvalues of XᵀX/N, (1…features)², and of diag p − ppᵀ, p = softmax(bias)",
        source="Böhning, Multinomial logistic regression algorithm, Ann. Inst. Statist. Math. 44 (1992)",
        hard_for="logarithms: adding a constant to all classes changes nothing, so one value in `classes` is zero",
        family="model",
        data={"X": X, "bias": np.append(math.log(2), np.zeros(classes - 1)), "y": np.arange(samples) % classes},
    )


def deep_linear(inputs: int, hidden: int, outputs: int, samples: int = 8) -> Problem:
    """Make the Hessian of half the squared error (mean over samples) of y = W₂W₁x, at zero residual, white inputs."""
    require(inputs <= samples, "inputs <= samples, or they are not white", inputs=inputs, samples=samples)
    s1, s2 = np.arange(1.0, min(hidden, inputs) + 1), 0.5 + np.arange(min(outputs, hidden))
    W1, W2 = _with_singular_values(hidden, inputs, s1), _with_singular_values(outputs, hidden, s2)
    n = hidden * inputs + outputs * hidden

    def product(x: np.ndarray) -> np.ndarray:
        first = x[..., : hidden * inputs].reshape(*x.shape[:-1], hidden, inputs)
        second = x[..., hidden * inputs :].reshape(*x.shape[:-1], outputs, hidden)
        change = W2 @ first + second @ W1
        parts = (W2.T @ change, change @ W1.T)
        return np.concatenate([part.reshape(*x.shape[:-1], -1) for part in parts], axis=-1)

    def levels() -> tuple[np.ndarray, np.ndarray]:
        square2, square1 = np.zeros(outputs), np.zeros(inputs)
        square2[: s2.size], square1[: s1.size] = s2**2, s1**2
        sums = np.add.outer(square2, square1)
        values = np.append(sums[sums > 0], 0.0)
        return values, np.append(np.ones(values.size - 1, dtype=int), n + 1 - values.size)

    return Problem(
        name=f"deep linear network, {inputs}-{hidden}-{outputs}",
        n=n,
        product=product,
        levels=levels,
        formula="sᵢ(W₂)² + sⱼ(W₁)², all i ≤ outputs, j ≤ inputs; else 0",
        source="derived: the Hessian is JᵀJ, and J Jᵀ acts on E as W₂W₂ᵀE + E W₁ᵀW₁",
        hard_for="counting: most directions are flat (gauge zeros)",
        family="model",
        data={"W1": W1, "W2": W2, "X": fwht(np.eye(samples))[:, :inputs]},
    )


def deep_linear_scaled(depth: int, width: int, c: float = 1.5, samples: int = 8) -> Problem:
    """Make the Hessian of the loss of `deep_linear` for `depth` square layers, each W = cI."""
    require(width <= samples, "width <= samples, or inputs are not white", width=width, samples=samples)
    n = depth * width**2

    def product(x: np.ndarray) -> np.ndarray:
        change = c ** (2 * depth - 2) * x.reshape(*x.shape[:-1], depth, -1).sum(axis=-2)
        return np.tile(change, (1,) * (x.ndim - 1) + (depth,))

    return Problem(
        name=f"deep linear network, {depth} layers of {width}",
        n=n,
        product=product,
        levels=lambda: (np.array([0.0, depth * c ** (2 * depth - 2)]), np.array([n - width**2, width**2])),
        formula="depth·c^(2(depth−1)) with multiplicity width², else 0",
        source="derived: the network's first variation is c^(depth−1) Σ δWₗ",
        hard_for="breakdown at the second step of a model",
        family="model",
        data={"c": np.array(c), "X": fwht(np.eye(samples))[:, :width]},
    )


def _blocks(x: np.ndarray, rows: int, act: Product) -> np.ndarray:
    """`act` on each row of x, seen as a matrix with `rows` rows."""
    return act(x.reshape(*x.shape[:-1], rows, -1)).reshape(x.shape)


def _with_singular_values(rows: int, columns: int, s: np.ndarray) -> np.ndarray:
    left, right = (scipy.fft.dct(np.eye(m), norm="ortho")[: s.size] for m in (rows, columns))
    return (left.T * s) @ right
