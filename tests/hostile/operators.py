"""H14-H40: what the operator is."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import slq
from slq._arrays import to_host
from slq._quadrature import gauss_rules
from slq.errors import (
    ClippedStepsWarning,
    GhostWarning,
    NoiseWarning,
    NotLinearError,
    NotPositiveDefiniteError,
    NotRepeatableError,
    NotSymmetricError,
    PrecisionWarning,
    RequestError,
    ShapeError,
    SingularError,
    SymmetryWarning,
)
from tests.conftest import Library
from tests.hostile.row import Outcome, function, refused, right, row, warned
from tests.problems import K, M, N, Problem, hessian_like, indefinite, mix, problem, strakos

A = problem(indefinite(N))
SKEW = np.random.default_rng(1).normal(size=(N, N))
SKEW = (SKEW - SKEW.T) / np.linalg.norm(SKEW - SKEW.T) * np.linalg.norm(A.matrix)  # ‖A + c SKEW − its adjoint‖ = 2c‖A‖
HERMITIAN = problem(indefinite(N), dtype=complex)
REAL, COMPLEX = np.empty(0), np.empty(0, dtype=complex)


def measured(xp: Library, matrix: Any, **options: Any) -> slq.SpectralMeasure:
    """A measure of a host matrix, or of an operator as it is."""
    A = xp.asarray(matrix) if isinstance(matrix, np.ndarray) else matrix
    return slq.spectral_measure(A, **{"num_probes": K, "num_steps": M} | options)


def x_of(n: int, like: np.ndarray = REAL, k: int = K) -> np.ndarray:
    """The probes that `measured` draws."""
    return slq.sphere(0, range(k), None, n, like)


def forms(exact: Problem, f: Callable[[np.ndarray], np.ndarray], like: np.ndarray = REAL) -> np.ndarray:
    return exact.forms(x_of(exact.eigenvalues.size, like), f)


def both(matrix: Any) -> Iterator[Callable[[Library], Any]]:
    """The two ways to ask about an operator."""
    yield lambda xp: slq.check_operator(xp.asarray(matrix) if isinstance(matrix, np.ndarray) else matrix)
    yield lambda xp: measured(xp, matrix)


@row("H14", "dense skew part", "`NotSymmetricError` with the estimated asymmetry; symmetrise, or `singular_measure`")
def h14(xp: Library) -> Iterator[Outcome]:
    for size in (0.1, 1.0):
        for ask in both(A.matrix + size * SKEW):
            yield refused(NotSymmetricError, r"‖A − Aᴴ‖/‖A‖ is about \d", "symmetrise", lambda ask=ask: ask(xp))


@row("H15", "slightly asymmetric, 10⁻² to 10⁻⁶", "`SymmetryWarning` with the asymmetry")
def h15(xp: Library) -> Iterator[Outcome]:
    for size in (1e-3, 1e-4, 1e-6):
        matrix = A.matrix + size * SKEW
        exact = x_of(N)
        truth = np.einsum("ij,jk,ik->i", exact, matrix, exact)  # a quadratic form does not see a skew part
        yield warned(
            SymmetryWarning,
            r"slightly asymmetric: ‖A − Aᴴ‖/‖A‖ is about",
            "symmetrise",
            lambda m=matrix: measured(xp, m).quadratic_forms(lambda t: t),
            truth,
            1e-3,
        )


@row("H16", "one wrong entry; a skew part of rank two", "`NotSymmetricError`, or a warning where it is small")
def h16(xp: Library) -> Iterator[Outcome]:
    wrong = A.matrix.copy()
    wrong[3, 7] += 2.0
    u, v = np.random.default_rng(2).normal(size=(2, N)) / N**0.5
    for matrix in (wrong, A.matrix + np.outer(u, v) - np.outer(v, u)):
        for ask in both(matrix):
            yield refused(NotSymmetricError, "not symmetric", "symmetrise", lambda ask=ask: ask(xp))


@row("H17", "symmetric at first, then drifting", "`SymmetryWarning` that names the step")
def h17(xp: Library) -> Iterator[Outcome]:
    matrix, skew, start = xp.asarray(A.matrix), xp.asarray(1e-3 * SKEW), x_of(N)

    def run() -> np.ndarray:
        calls = itertools.count()
        operator = function(xp, lambda x: x @ matrix + (x @ skew if next(calls) >= 4 else 0.0), N)
        return slq.lanczos(operator, xp.asarray(start), M).alpha[:, :4]

    exact = slq.lanczos(A.matrix, start, 4).alpha
    yield warned(SymmetryWarning, "seemed symmetric at first, but at step 4", "look for", run, exact, 1e-12)


@row("H18", "affine, cubic, absolute values, clipping", "`NotLinearError`")
def h18(xp: Library) -> Iterator[Outcome]:
    matrix, one = xp.asarray(A.matrix), xp.asarray(np.ones(N))
    xs = xp.namespace
    for product in (
        lambda x: x @ matrix + one,
        lambda x: (x @ matrix) ** 3,
        lambda x: xs.abs(x @ matrix),
        lambda x: xs.where(x @ matrix > 0.5, xs.ones_like(x), x @ matrix),
    ):
        for ask in both(function(xp, product, N)):
            yield refused(NotLinearError, "not linear", "look for|subtract", lambda ask=ask: ask(xp))


def noisy(xp: Library, size: float) -> Any:
    """A with noise of this size, relative to its norm, in each product."""
    rng, matrix = np.random.default_rng(0), xp.asarray(A.matrix)
    unit = size * np.linalg.norm(A.matrix) / N
    return function(xp, lambda x: x @ matrix + xp.asarray(unit * rng.normal(size=tuple(x.shape))), N)


@row(
    "H19", "not repeatable: dropout, sampling, atomics", "`NotRepeatableError` with the level; `NoiseWarning` if small"
)
def h19(xp: Library) -> Iterator[Outcome]:
    for size in (0.1, 1e-6):
        for ask in both(noisy(xp, size)):
            yield refused(
                NotRepeatableError, "not repeatable: two products .* differ by", "switch off", lambda a=ask: a(xp)
            )
    yield warned(
        NoiseWarning,
        "differ by",
        "",
        lambda: measured(xp, noisy(xp, 1e-14)).quadratic_forms(np.exp),
        forms(A, np.exp),
        1e-10,
    )


@row("H20", "drifts with the number of calls", "`NotRepeatableError`")
def h20(xp: Library) -> Iterator[Outcome]:
    matrix = xp.asarray(A.matrix)
    for ask in (lambda o: slq.check_operator(o), lambda o: measured(xp, o)):
        calls = itertools.count(1)
        operator = function(xp, lambda x, calls=calls: x @ matrix * (1 + 0.01 * next(calls)), N)
        yield refused(NotRepeatableError, "not repeatable", "switch off", lambda ask=ask, o=operator: ask(o))


@row("H21", "zero matrix", "one node at 0, exact; `logdet`: `SingularError`")
def h21(xp: Library) -> Iterator[Outcome]:
    zero = measured(xp, np.zeros((N, N)))
    yield right(
        lambda: np.stack([zero.nodes[:, 0], zero.weights[:, 0], zero.lengths]),
        np.array([[0.0], [1.0], [1.0]]) * np.ones(K),
    )
    yield right(lambda: zero.quadratic_forms(np.cos), np.full(K, N), 1e-15)
    yield refused(SingularError, "cannot tell from zero", "shift", zero.logdet)


@row("H22", "identity, c·I", "one node, breakdown at step 1")
def h22(xp: Library) -> Iterator[Outcome]:
    for c in (1.0, -3e-5, 7e200):
        found = measured(xp, c * np.eye(N))
        yield right(lambda m=found: m.lengths, np.ones(K))
        yield right(lambda m=found, c=c: m.nodes[:, 0] / c, np.ones(K), 1e-15)
        yield right(lambda m=found, c=c: m.quadratic_forms(lambda t: np.cos(t / c)), np.full(K, N * np.cos(1.0)), 1e-14)


@row("H23", "rank far below the number of steps", "breakdown after rank + 1 steps, exact")
def h23(xp: Library) -> Iterator[Outcome]:
    for values in ([4.0], [1.0, -2.0]):
        exact = problem(values + [0.0] * (N - len(values)))
        found = measured(xp, exact.matrix)
        assert found.lengths.max() <= len(values) + 2  # one more for a residual just above rounding
        yield right(lambda m=found: m.quadratic_forms(np.cos), forms(exact, np.cos), 1e-12)


@row("H24", "n = 1, n = 2; n = 0", "exact; `ShapeError`")
def h24(xp: Library) -> Iterator[Outcome]:
    for values in ([3.0], [3.0, -1.0]):
        exact = problem(values)
        yield right(
            lambda e=exact: measured(xp, e.matrix, num_steps=len(e.eigenvalues)).quadratic_forms(np.exp),
            forms(exact, np.exp),
            1e-13,
        )
    yield refused(ShapeError, "at least one dimension", "got", lambda: measured(xp, np.zeros((0, 0))))


@row("H25", "more steps than dimensions", "exact, with `ClippedStepsWarning`")
def h25(xp: Library) -> Iterator[Outcome]:
    yield warned(
        ClippedStepsWarning,
        "num_steps=60 exceeds the dimension",
        "24 steps are exact",
        lambda: measured(xp, A.matrix, num_steps=60).quadratic_forms(np.exp),
        forms(A, np.exp),
        1e-12,
    )


@row("H26", "start in an invariant subspace, of an operator of any size", "the run ends, relative to the norm")
def h26(xp: Library) -> Iterator[Outcome]:
    start = A.vectors[[2, 5, 9]].sum(axis=0)[None]
    for scale in (1.0, 1e-13, 1e13):
        run = slq.lanczos(xp.asarray(scale * A.matrix), xp.asarray(start), M)
        nodes, weights, _ = gauss_rules(run.alpha / scale, run.beta / scale)
        truth = np.cos(A.eigenvalues[[2, 5, 9]]).mean()
        yield right(lambda t=nodes, w=weights: (w * np.cos(t)).sum(), truth, 1e-12)
        assert (run.beta == 0).any()


@row("H27", "two eigenvalues, half of the dimensions each", "two nodes, exact")
def h27(xp: Library) -> Iterator[Outcome]:
    exact = problem([1.0, 5.0] * (N // 2))
    found = measured(xp, exact.matrix)
    yield right(lambda: found.quadratic_forms(np.cos), forms(exact, np.cos), 1e-12)
    yield right(lambda: found.nodes[:, :2], np.tile([1.0, 5.0], (K, 1)), 1e-13)


@row("H28", "cluster of width 10⁻¹⁴", "its mean to 10⁻¹², no NaN")
def h28(xp: Library) -> Iterator[Outcome]:
    exact = problem(1.0 + 1e-14 * np.linspace(-0.5, 0.5, N))
    yield right(lambda: measured(xp, exact.matrix).quadratic_forms(lambda t: t) / N, np.ones(K), 1e-12)


@row("H29", "norm 2⁻¹⁰⁰⁰ to 2¹⁰⁰⁰, 10^±300", "the same, to the bit for powers of two")
def h29(xp: Library) -> Iterator[Outcome]:
    plain = measured(xp, A.matrix)
    for exponent in (-1000, -500, -3, 500, 1000):
        scaled = measured(xp, np.ldexp(A.matrix, exponent))
        yield right(lambda m=scaled: m.weights, plain.weights)
        yield right(lambda m=scaled, e=exponent: np.ldexp(m.nodes, -e), plain.nodes)
    for scale in (1e-300, 1e300):
        yield right(lambda s=scale: measured(xp, s * A.matrix).nodes / s, plain.nodes, 1e-12)


@row("H30", "range beyond 1/ε", "right for the large part; `PrecisionWarning` where an answer rests on the rest")
def h30(xp: Library) -> Iterator[Outcome]:
    exact = problem(np.concatenate([np.zeros(N - 4), [0.5, 1.0, 2.0, 3.0]]))
    shifted = exact.matrix + 1e-17 * np.eye(N)
    found = measured(xp, shifted, num_steps=8)
    yield right(lambda: found.quadratic_forms(np.cos), forms(exact, np.cos), 1e-12)

    def log_of_noise(t: np.ndarray) -> np.ndarray:
        return np.log(np.abs(t) + 1e-30)

    nodes, weights = found.nodes, found.weights
    yield warned(
        PrecisionWarning,
        "cannot tell from zero",
        "shift",
        lambda: found.trace(log_of_noise).value,
        N * float((weights * log_of_noise(nodes)).sum(axis=1).mean()),
        1e-12,
    )


@row("H31", "subnormal numbers", "right, never NaN")
def h31(xp: Library) -> Iterator[Outcome]:
    if xp.name == "jax":  # flushes them to zero
        found = measured(xp, np.ldexp(A.matrix, -1060))
        yield right(lambda: found.nodes, np.zeros_like(found.nodes))
        return
    scaled = measured(xp, np.ldexp(A.matrix, -1030))  # entries have lost up to eight digits
    yield right(lambda: np.ldexp(scaled.nodes, 1030), measured(xp, A.matrix).nodes, 1e-11)


@row(
    "H32",
    "indefinite operator to logdet, sqrt",
    "`NotPositiveDefiniteError` with value, weight and bound; `RequestError`",
)
def h32(xp: Library) -> Iterator[Outcome]:
    found = measured(xp, A.matrix)

    def look(error: Any) -> None:
        assert error.value == found.nodes.min()
        assert 0 < error.weight < 1
        assert error.bound >= 0

    yield refused(NotPositiveDefiniteError, r"a Ritz value is -0\.\d+ \(weight", "add a shift", found.logdet, look)
    yield refused(RequestError, "f is nan at the Ritz value -", "shift|logdet", lambda: found.trace(np.sqrt))


@row("H33", "singular operator to logdet", "`SingularError`; −∞ if asked for; a shift makes it right")
def h33(xp: Library) -> Iterator[Outcome]:
    exact = problem([0.0] * 4 + list(np.linspace(1.0, 2.0, N - 4)))
    found = measured(xp, exact.matrix, num_steps=N)
    yield refused(SingularError, "cannot tell from zero", "shift", found.logdet)
    yield right(lambda: np.exp(found.logdet(allow_singular=True).value), 0.0)
    shifted = measured(xp, exact.matrix + np.eye(N), num_steps=N)
    yield right(lambda: shifted.logdet().value, float(forms(exact, np.log1p).mean()), 1e-11)


@row(
    "H34",
    "positive definite, negative Ritz values by rounding",
    "with a bound (`lower=`) `PrecisionWarning`; else an error",
)
def h34(xp: Library) -> Iterator[Outcome]:
    values = np.concatenate([np.full(4, 1e-9), np.linspace(0.5, 1.0, N - 4)])
    exact = problem(values)
    noise = -1e-7 * np.outer(exact.vectors[0], exact.vectors[0])  # single precision: rounding of the norm
    single = xp.asarray((exact.matrix + noise).astype(np.float32), "float32")
    found = slq.spectral_measure(single, num_probes=K, num_steps=N)
    if found.nodes.min() > 0:
        raise AssertionError("the problem is too easy")
    yield refused(type_of(found), "Ritz value", "shift", found.logdet)
    yield warned(
        PrecisionWarning,
        "moved|below",
        "",
        lambda: found.logdet(lower=1e-9).value,
        N * float((found.weights * np.log(np.maximum(found.nodes, 1e-9))).sum(axis=1).mean()),
        1e-12,
    )


def type_of(found: slq.SpectralMeasure) -> type:
    """Negative beyond rounding, or within."""
    return NotPositiveDefiniteError if found.nodes.min() < -16 * found.eps * found.scale else SingularError


@row("H35", "negative weights", "cannot occur: weights are squares and add up to one")
def h35(xp: Library) -> Iterator[Outcome]:
    for values in (strakos(60), hessian_like(60), np.repeat([0.5, 2.0, 3.0], 20)):
        found = measured(xp, problem(values).matrix, num_steps=40)
        assert (found.weights >= 0).all()
        yield right(lambda m=found: m.weights.sum(axis=1), np.ones(K), 8 * 40 * 2.0**-52)


@row("H36", "loss of orthogonality in low precision", "`GhostWarning` with the steps that it costs; `reorthogonalize=`")
def h36(xp: Library) -> Iterator[Outcome]:
    exact = problem(hessian_like(300))
    matrix = xp.asarray(exact.matrix, "float32")
    x = x_of(300, np.empty(0, np.float32)).astype(float)
    yield warned(
        GhostWarning,
        "converged values came back as copies",
        "reorthogonalize",
        lambda: slq.spectral_measure(matrix, num_probes=K, num_steps=60, reorthogonalize=False).quadratic_forms(
            np.sqrt
        ),
        exact.forms(x, np.sqrt),
        1e-3,
    )
    yield right(
        lambda: slq.spectral_measure(matrix, num_probes=K, num_steps=60).quadratic_forms(np.sqrt),
        exact.forms(x, np.sqrt),
        1e-4,
    )


@row("H37", "complex Hermitian", "right; an imaginary part of ⟨v, A v⟩ is `NotSymmetricError`")
def h37(xp: Library) -> Iterator[Outcome]:
    yield right(lambda: measured(xp, HERMITIAN.matrix).quadratic_forms(np.exp), forms(HERMITIAN, np.exp, COMPLEX), 1e-9)
    waves = np.exp(
        2j * np.pi * np.outer([3, 5, 7], np.arange(N)) / N
    )  # of a ring with flux: a wrong conjugate shifts it
    ring = np.roll(np.eye(N), 1, axis=1) * np.exp(1j / N)
    found = slq.spectral_measure(xp.asarray(ring + ring.conj().T), probes=xp.asarray(waves), num_steps=M)
    yield right(
        lambda: found.quadratic_forms(lambda t: t), 2 * N * np.cos((2 * np.pi * np.array([3, 5, 7]) + 1) / N), 1e-12
    )
    start = xp.asarray(x_of(N, COMPLEX))
    for tilted in (HERMITIAN.matrix + 0.1j * np.eye(N), 1j * HERMITIAN.matrix):
        yield refused(
            NotSymmetricError, "not symmetric", "symmetrise", lambda m=tilted: slq.lanczos(xp.asarray(m), start, M)
        )


@row("H38", "real operator and complex probes, and the converse", "right; two real products for a complex one")
def h38(xp: Library) -> Iterator[Outcome]:
    for sampler in (slq.steinhaus, slq.rademacher):
        x = sampler(0, range(K), None, N, COMPLEX)
        matrix = A.matrix if sampler is slq.steinhaus else A.matrix + 0j
        yield right(
            lambda s=sampler, m=matrix: measured(xp, m, probes=s, num_steps=N).quadratic_forms(np.exp),
            A.forms(x, np.exp),
            1e-11,
        )
    start = x_of(N, COMPLEX)
    run = slq.lanczos(xp.asarray(A.matrix), xp.asarray(start), M, return_basis=True)
    yield right(lambda: np.abs(to_host(run.basis)[:, 0]), np.abs(start) / N**0.5, 1e-13)


@row("H39", "complex symmetric, unitary", "`NotSymmetricError`: products are conjugated before they are compared")
def h39(xp: Library) -> Iterator[Outcome]:
    for matrix in (A.matrix + 1j * problem(indefinite(N), seed=5).matrix, mix(np.eye(N, dtype=complex))):
        for ask in both(matrix):
            yield refused(NotSymmetricError, "not symmetric", "symmetrise", lambda ask=ask: ask(xp))


@row(
    "H40",
    "f undefined at a node, of wrong shape, complex, for numbers only",
    "`RequestError` naming the Ritz value, chained",
)
def h40(xp: Library) -> Iterator[Outcome]:
    import math

    found = measured(xp, A.matrix)
    for f, cause in (
        (np.log, "f is nan at the Ritz value -"),
        (lambda t: t[:2], "shape"),
        (lambda t: t + 1j, "complex128"),
        (lambda _: "no", "shape|dtype"),
        (math.log, "f raised TypeError"),
    ):
        yield refused(RequestError, cause, "must|add a shift|element", lambda f=f: found.trace(f))

    def unused(_: Any) -> Any:
        raise AssertionError("a product was made before f was tried")

    operator = function(xp, unused, N)
    yield refused(
        RequestError, "f raised TypeError", "element by element", lambda: slq.spectral_sum(operator, math.log)
    )
    yield right(
        lambda: found.quadratic_forms(np.exp),
        slq.spectral_measure(A.matrix, num_probes=K, num_steps=M).quadratic_forms(np.exp),
        1e-12,
    )
