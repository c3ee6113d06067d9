"""The page docs/methods.md, which `python -m benchmarks.methods` writes: the error of each method at equal products."""

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import slq
from slq._krylov_aware import krylov_aware

__all__ = ["METHODS", "QUESTIONS", "errors", "page", "spectra"]

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
TEXT = Path(__file__).with_name("methods.md")
N = 1000
BUDGETS = ((5, 20), (8, 40), (16, 50))  # probes, steps
SEEDS = range(20)


def _kernel(power: float) -> np.ndarray:
    points = np.sort(np.random.default_rng(3).uniform(size=N))
    distances = np.abs(points[:, None] - points) / 0.1
    return np.maximum(np.linalg.eigvalsh(np.exp(-(distances**power) / power)), 0) + 1e-2


@functools.cache
def spectra() -> dict[str, np.ndarray]:
    """The eigenvalues by the name of the spectrum; to sphere probes the diagonal is any matrix that has them."""
    draw, j = np.random.default_rng(0), np.arange(1.0, N + 1)
    factor = draw.normal(size=(N, 2 * N))
    return {
        "flat": np.linspace(1, 2, N),
        "Marchenko–Pastur": np.linalg.eigvalsh(factor @ factor.T / (2 * N)),
        "spiked": np.concatenate([draw.uniform(1, 2, N - 8), 10 * np.arange(1.0, 9.0)]),
        "1/j": 1 / j,
        "1/j² + 1e-4": 1 / j**2 + 1e-4,
        "0.95ʲ + 1e-4": 0.95**j + 1e-4,
        "geometric, 1e-4 to 1": np.geomspace(1e-4, 1, N),
        "Hessian-like": np.concatenate([1e-2 * draw.chisquare(1, N - 20) + 1e-3, np.geomspace(1, 100, 20)]),
        "Gaussian kernel + 0.01": _kernel(2.0),
        "exponential kernel + 0.01": _kernel(1.0),
    }


# Functions of t and of the whole spectrum, which scales them.
QUESTIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "tr A": lambda t, _: t,
    "log det A": lambda t, spectrum: np.log(np.maximum(t, spectrum.min())),
    "tr exp(3A/‖A‖)": lambda t, spectrum: np.exp(3 * t / spectrum.max()),
    "Schatten: tr A³": lambda t, _: t**3,
    "count of λ ≥ the mean": lambda t, spectrum: (t >= spectrum.mean()).astype(float),
}
DENSITY = "density, L1"
SHORT = "krylov, 4 steps"  # of tr A alone, for which a few steps are exact
METHODS = ("plain", "deflated", "block", "block, deflated", "krylov", SHORT, "xtrace", "hutch++")

Rule = tuple[np.ndarray, np.ndarray]


def _operator(spectrum: np.ndarray) -> slq.LinearOperator:
    return slq.aslinearoperator(lambda x: x * spectrum, like=spectrum, batched=True)


def rules(spectrum: np.ndarray, k: int, m: int, seed: int) -> Iterator[tuple[str, Rule]]:
    """Positions and masses (n in all) that each method gives for k·m products."""
    operator = _operator(spectrum)
    for name, block in (("plain", False), ("block", True)):
        measure = slq.spectral_measure(operator, num_probes=k, num_steps=m, rng=seed, block=block, check=False)
        yield name, _atoms(measure, N)
        yield "block, deflated" if block else "deflated", _atoms(measure.deflate(), N)
    split = krylov_aware(operator, num_probes=k, num_steps=m, rng=seed, check=False)
    known, rest = _atoms(split.leading, split.leading.n), (np.empty(0), np.empty(0))
    if split.rest is not None:
        rest = _atoms(split.rest, split.rest.n)
    yield "krylov", (np.concatenate([known[0], rest[0]]), np.concatenate([known[1], rest[1]]))


def _atoms(measure: Any, mass: float) -> Rule:
    return measure.nodes.ravel(), mass * measure.weights.ravel() / measure.num_probes


def errors(spectrum: np.ndarray, k: int, m: int, seed: int) -> dict[tuple[str, str], float]:
    """The error of each question and method, relative to the sum of abs(f); of a density, its L1 distance."""
    found = {}
    exact = {name: f(spectrum, spectrum) for name, f in QUESTIONS.items()}
    for method, (nodes, masses) in rules(spectrum, k, m, seed):
        for question, f in QUESTIONS.items():
            value = masses @ f(nodes, spectrum)
            found[question, method] = abs(value - exact[question].sum()) / np.abs(exact[question]).sum()
        found[DENSITY, method] = _density_l1((nodes, masses), spectrum)
    short = krylov_aware(_operator(spectrum), num_probes=k * m // 4, num_steps=4, rng=seed, check=False)
    found["tr A", SHORT] = abs(short.trace(lambda t: t).value - spectrum.sum()) / np.abs(spectrum).sum()
    draw = np.random.default_rng(seed)
    for question, values in exact.items():
        # A product with f(A) takes m steps, which are taken to be exact: a bound for what these two can do.
        products = k * m if question == "tr A" else k
        estimates = {
            "xtrace": slq.xtrace(_operator(values), products, rng=seed, check=False).value,
            "hutch++": hutch(values, products, draw),
        }
        for method, estimate in estimates.items():
            found[question, method] = abs(estimate - values.sum()) / np.abs(values).sum()
    return found


def _density_l1(rule: Rule, spectrum: np.ndarray) -> float:
    width = max(0.05 * float(np.subtract(*np.quantile(spectrum, [0.95, 0.05]))), 1e-4 * spectrum.max())
    low, high = spectrum.min() - 5 * width, np.quantile(spectrum, 0.95) + 5 * width
    outside = spectrum[spectrum > high]
    atoms = 5 * width * np.linspace(-1, 1, 51)
    x = np.unique(np.concatenate([np.linspace(low, high, 501), (outside[:, None] + atoms).ravel()]))
    exact, found = (_smooth(x, *r, width) for r in ((spectrum, np.full(N, 1.0)), rule))
    return float(np.trapezoid(np.abs(exact - found), x)) / N


def _smooth(x: np.ndarray, nodes: np.ndarray, masses: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((x[:, None] - nodes) / width) ** 2) @ masses / (width * np.sqrt(2 * np.pi))


def _sphere(draw: np.random.Generator, n: int, count: int) -> np.ndarray:
    X = draw.normal(size=(n, count))
    return X * (np.sqrt(n) / np.linalg.norm(X, axis=0))


def hutch(spectrum: np.ndarray, products: int, draw: np.random.Generator) -> float:
    """Hutch++ (Meyer, Musco, Musco and Woodruff, SOSA 2021) of a diagonal matrix."""
    third = max(products // 3, 1)
    Q = np.linalg.qr(spectrum[:, None] * draw.normal(size=(spectrum.size, third)))[0]
    G = _sphere(draw, spectrum.size, max(products - 2 * third, 1))  # signs would be exact, the matrix being diagonal
    G = G - Q @ (Q.T @ G)
    return float((spectrum @ Q**2).sum() + (spectrum @ G**2).mean())


def _measured() -> dict[tuple[str, str, str, int], float]:
    """The median over the seeds, by spectrum, question, method and number of the budget."""
    found = {}
    for name, spectrum in spectra().items():
        for budget, (k, m) in enumerate(BUDGETS):
            runs = [errors(spectrum, k, m, seed) for seed in SEEDS]
            for question, method in runs[0]:
                found[name, question, method, budget] = float(np.median([run[question, method] for run in runs]))
        print(name, file=sys.stderr, flush=True)
    return found


def page(found: dict[tuple[str, str, str, int], float]) -> str:
    """The text of the page."""
    return TEXT.read_text("utf-8").replace("{tables}", "\n\n".join(_tables(found)))


def _tables(found: dict[tuple[str, str, str, int], float]) -> Iterator[str]:
    for question in (*QUESTIONS, DENSITY):
        methods = [method for method in METHODS if (next(iter(spectra())), question, method, 0) in found]
        rows = [["spectrum", *methods], ["---"] * (len(methods) + 1)]
        for name in spectra():
            plain = [found[name, question, "plain", b] for b in range(len(BUDGETS))]
            cells = [" / ".join(f"{x:.1g}" for x in plain)]
            for method in methods[1:]:
                ratios = [found[name, question, method, b] / plain[b] for b in range(len(BUDGETS))]
                cells.append(" / ".join(_ratio(x) for x in ratios))
            rows.append([name, *cells])
        yield f"### {question}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _ratio(x: float) -> str:
    return "<0.001" if x < 1e-3 else ">100" if x > 100 else f"{x:.2g}"


if __name__ == "__main__":
    with warnings.catch_warnings(action="ignore"):
        text = page(_measured())
    PAGE.write_text(text, "utf-8")
