"""slq/testing: the exact spectra are those of their matrices, and slq finds them."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid

import slq.testing
from slq._quadrature import run_lengths
from slq.errors import NotPositiveDefiniteError, RequestError, SingularError
from slq.testing import TAGS, graphs, mixed, models, problems, structured

SMALL = problems()
EVERY = pytest.mark.parametrize("problem", SMALL, ids=lambda p: p.name)
K = 3


def vectors(problem, seed=0):
    """The probes that `slq.spectral_measure` draws for it."""
    like = np.empty(0, complex if problem.is_complex else float)
    return slq.sphere(seed, range(K), None, problem.n, like)


def measure(problem, num_steps):
    return slq.spectral_measure(problem.operator(), num_probes=K, num_steps=min(num_steps, problem.n))


# The catalogue


def test_it_is_loaded_only_when_asked_for():
    code = (
        "import sys, slq; print('slq.testing' in sys.modules); import slq.testing; print(len(slq.testing.problems()))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", str(len(SMALL))]


def test_every_problem_says_what_it_is():
    everything = [*SMALL, *problems(size="large")]
    assert len({p.name for p in everything}) == len(everything)
    for p in everything:
        assert p.formula
        assert p.hard_for
        assert p.source.startswith("derived: ") or any(year in p.source for year in map(str, range(1900, 2020)))
        assert repr(p) == f"Problem({p.name!r}, n={p.n})"
    makers = {
        f"{module.__name__}.{name}"
        for module in (graphs, models, structured, slq.testing.physics, mixed)
        for name in module.__all__
    }
    assert len(makers - {"slq.testing.models.design", "slq.testing.structured.fwht"}) >= 34


def test_no_tag_is_dead_and_tags_select():
    assert set().union(*(p.tags for p in SMALL)) == set(TAGS)
    for tag in TAGS:
        assert {p.name for p in problems(tags=tag)} == {p.name for p in SMALL if tag in p.tags}
    both = problems(tags=["complex", "indefinite"])
    assert both
    assert all(p.is_complex and p.levels()[0].min() < 0 for p in both)


def test_wrong_choices_are_refused():
    with pytest.raises(RequestError, match=r'size= expects "small" or "large", got .huge.'):
        problems(size="huge")
    with pytest.raises(RequestError, match=r"tags= expects some of .*'graph'.*, got \['graphs'\]"):
        problems(tags="graphs")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: graphs.paley(21), "expected a prime q = 4m [+] 1, got q=21"),
        (lambda: graphs.paley(7), "expected a prime q = 4m [+] 1, got q=7"),
        (lambda: graphs.johnson(5, 3), "expected 1 <= k <= n/2, got n=5, k=3"),
        (lambda: graphs.kneser(5, 0), "expected 1 <= k <= n/2, got n=5, k=0"),
        (lambda: graphs.hamming(0, 3), "expected d >= 1, got d=0"),
        (lambda: graphs.complete_laplacian(1), "expected n >= 2, got n=1"),
        (lambda: graphs.star_laplacian(2), "expected n >= 3, got n=2"),
        (lambda: models.softmax_regression(8, 3, 1), "expected classes >= 2, got classes=1"),
        (lambda: models.deep_linear(9, 2, 2), "expected inputs <= samples, .*, got inputs=9, samples=8"),
        (lambda: models.deep_linear_scaled(2, 9), "expected width <= samples, .*, got width=9, samples=8"),
        (lambda: structured.kms(5, 1.0), "expected 0 < r < 1, got r=1.0"),
        (lambda: structured.hadamard(0), "expected k >= 1, got k=0"),
        (lambda: structured.fwht(np.ones((1, 6))), "expected rows whose length is a power of two, got n=6"),
        (lambda: models.design(4, 5), "expected 1 <= features <= samples, got samples=4, features=5"),
    ],
)
def test_parameters_outside_the_formula_are_refused(make, message):
    with pytest.raises(RequestError, match=message):
        make()


# The spectra. Measured: eigenvalues within 4e-15 of the norm, products Hermitian to 3e-16, modes to 3e-15.


@EVERY
def test_eigenvalues_are_those_of_the_matrix(problem):
    A = problem.matrix()
    assert A.shape == (problem.n, problem.n)
    assert np.iscomplexobj(A) == problem.is_complex
    np.testing.assert_allclose(A, A.conj().T, atol=1e-15 * problem.norm)
    found = np.linalg.eigvalsh((A + A.conj().T) / 2)
    np.testing.assert_allclose(problem.eigenvalues(), found, atol=1e-14 * problem.norm)
    assert problem.norm == pytest.approx(np.abs(found).max(), rel=1e-14)
    rounding = 1e-13 * problem.norm
    assert ("positive definite" in problem.tags) == (found[0] > rounding)
    assert ("singular" in problem.tags) == (np.abs(found).min() < rounding)
    assert ("indefinite" in problem.tags) == (found[0] < -rounding and found[-1] > rounding)
    jumps = np.count_nonzero(np.diff(found) > rounding)
    assert ("few levels" in problem.tags) == (jumps < 12)


@EVERY
def test_distinct_eigenvalues_are_apart_and_counted(problem):
    values, counts = problem.distinct()
    assert counts.sum() == problem.n
    np.testing.assert_allclose(np.repeat(values, counts), problem.eigenvalues(), atol=2e-15 * problem.norm)
    assert (np.diff(values) > 1e-13 * problem.norm).all()


@EVERY
def test_products_act_on_each_row_and_on_complex_rows(problem):
    x, y = vectors(problem)[:2], vectors(problem, seed=1)[:2]
    A = problem.matrix()
    product = problem.product(x)
    np.testing.assert_allclose(product, x @ A.T, atol=1e-13 * problem.norm)
    assert product.dtype == x.dtype
    z = x + 1j * y
    np.testing.assert_allclose(problem.product(z), z @ A.T, atol=1e-13 * problem.norm)


@EVERY
def test_modes_are_an_orthonormal_eigenbasis(problem):
    if problem.modes is None:
        assert "mixed" not in problem.tags
        return
    x = vectors(problem) + 1j * vectors(problem, seed=1)
    np.testing.assert_allclose(np.linalg.norm(problem.modes(x), axis=1), np.linalg.norm(x, axis=1), rtol=1e-13)
    values, counts = problem.levels()
    assert (counts == 1).all()
    found = problem.modes(problem.product(x))
    np.testing.assert_allclose(found, values * problem.modes(x), atol=1e-13 * problem.norm)


@EVERY
def test_sums_over_the_spectrum(problem):
    A = problem.matrix()
    scale = problem.norm
    assert problem.trace() == pytest.approx(np.trace(A).real, abs=1e-14 * problem.n * scale)
    squares = problem.trace(lambda t: (t / scale) ** 2)
    assert squares == pytest.approx((np.abs(A / scale) ** 2).sum(), rel=1e-13)
    if "positive definite" in problem.tags:
        # A dense factorisation moves each eigenvalue by roundings of the norm.
        error = 2.0**-52 * np.sum(scale / problem.eigenvalues())
        assert problem.logdet() == pytest.approx(np.linalg.slogdet(A)[1], abs=4 * error + 1e-13 * problem.n)
    else:
        kind = NotPositiveDefiniteError if "indefinite" in problem.tags else SingularError
        with pytest.raises(kind, match=r"has the eigenvalue .*, so its log-determinant does not exist"):
            problem.logdet()


@EVERY
def test_forms_are_those_of_the_dense_function(problem):
    x, scale = vectors(problem), problem.norm
    A = problem.matrix() / scale
    found = problem.forms(x, lambda t: (t / scale) ** 3 + 1)
    expected = ((x @ (A @ A @ A + np.eye(problem.n)).T) * x.conj()).sum(axis=1).real
    np.testing.assert_allclose(found, expected, atol=1e-13 * problem.n)


@pytest.mark.parametrize(
    ("problem", "logdet"),
    [
        (structured.kms(30, 0.8), 29 * math.log(1 - 0.8**2)),
        (structured.min_matrix(30), 0.0),
        (structured.toeplitz(30, 2.0, -1.0), math.log(31)),  # U₃₀(1) = 31
    ],
    ids=lambda p: getattr(p, "name", ""),
)
def test_closed_determinants_of_closed_spectra(problem, logdet):
    assert problem.logdet() == pytest.approx(logdet, abs=1e-12)


@pytest.mark.parametrize("combine", [slq.testing.kronecker_sum, slq.testing.kronecker_product])
def test_kronecker_factors_may_have_multiplicities_and_be_complex(combine):
    about = {"name": "k", "formula": "f", "source": "s", "hard_for": "h", "family": "structured"}
    factors = [graphs.hamming(2, 3), structured.kms(4), structured.circulant(7)]
    problem = combine(factors, **about)
    found = np.linalg.eigvalsh(problem.matrix())
    assert problem.is_complex
    assert problem.modes is None
    np.testing.assert_allclose(problem.eigenvalues(), found, atol=1e-14 * problem.norm)
    A, B, C = (factor.matrix() for factor in factors)
    if combine is slq.testing.kronecker_product:
        np.testing.assert_allclose(problem.matrix(), np.kron(np.kron(A, B), C), atol=1e-14 * problem.norm)


def test_multiplicities_have_their_binomials():
    values, counts = graphs.hypercube(9).distinct()
    assert list(values) == list(range(-9, 10, 2))
    assert list(counts) == [math.comb(9, j) for j in range(10)]


def distance_to_law(eigenvalues, density, low, high):
    """The Wasserstein distance to a limit law."""
    x = np.linspace(low - 0.1, high + 0.1, 200_001)
    law = cumulative_trapezoid(density(np.clip(x, low, high)), x, initial=0.0)
    found = np.searchsorted(eigenvalues, x, side="right") / eigenvalues.size
    return np.trapezoid(np.abs(found - law / law[-1]), x)


def semicircle(x):
    return np.sqrt(1 - x**2)


def marchenko_pastur(x):
    return np.sqrt((x - EDGES[0]) * (EDGES[1] - x)) / x


EDGES = (1 - 0.5**0.5) ** 2, (1 + 0.5**0.5) ** 2


@pytest.mark.parametrize(
    ("make", "law", "edges"),
    [(mixed.goe, semicircle, (-1.0, 1.0)), (mixed.wishart, marchenko_pastur, EDGES)],
    ids=["GOE", "Wishart"],
)
def test_random_matrices_are_near_their_limit_law(make, law, edges):
    # Eigenvalues are rigid: the distance is O(1/n) up to logarithms. Measured over 20 seeds: n·W1 from 0.8 to 2.7.
    for n in (60, 240):
        assert n * distance_to_law(make(n).eigenvalues(), law, *edges) < 4


# What slq makes of them. Measured, relative to ‖x‖² = n: at most 2e-15 for the functions, 7e-15 for the moments.


@EVERY
def test_slq_is_exact_once_it_has_seen_every_level(problem):
    levels = problem.distinct()[0].size
    result = measure(problem, levels + 1)
    x, scale = vectors(problem), problem.norm
    for f in (lambda t: np.cos(3 * t / scale), lambda t: np.abs(t) / scale):
        np.testing.assert_allclose(result.quadratic_forms(f), problem.forms(x, f), atol=1e-13 * problem.n)
    if "few levels" in problem.tags:
        assert result.exact.all()
        assert run_lengths(result.beta).max() <= levels + 1


@EVERY
def test_slq_is_exact_to_degree_2m_minus_1(problem):
    result = measure(problem, 6)
    x, scale = vectors(problem), problem.norm
    for p in range(12):
        found = result.quadratic_forms(lambda t, p=p: (t / scale) ** p)
        np.testing.assert_allclose(found, problem.forms(x, lambda t, p=p: (t / scale) ** p), atol=1e-13 * problem.n)
