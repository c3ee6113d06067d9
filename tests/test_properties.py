"""Laws of measures that hold for every random small problem; see tests/laws.py for how many are tried.

Quantities are compared in units of the matrix of order one. Distances between measures, ∫|F − G|, are well conditioned
where single nodes and weights are not: they move by no more than the matrix does.
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

import slq
from slq.errors import ClippedStepsWarning, GhostWarning
from tests.laws import law
from tests.random_problems import SAMPLERS, any_kind, cases, distance, seeds

EPS = 2.0**-52

# A run ends where a residual is below 1000 roundings: what is cut off there moves the measure by no more than that.
SAME = 2000 * EPS

# Shorter runs are less well conditioned: a β of size t rounds its vector by ε/t, hence α by its square, and moves
# masses by as much where t is no smaller than that. The worst t is ε^(2/3).
NEAR = 4 * EPS ** (2 / 3)

steps = st.integers(1, 10)
orders_of_one = st.just(0)


def measured(matrix, x=None, *, num_steps, **options):
    """The measure of given vectors (or of a sampler in `options`), without the warnings that every small one gives."""
    if x is not None:
        options["probes"] = x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClippedStepsWarning)
        warnings.simplefilter("ignore", GhostWarning)
        return slq.spectral_measure(matrix, num_steps=num_steps, **options)


def distances(measure, case, unit=None):
    """Of the measure of each probe to the exact one, in units of the matrix of order one."""
    unit = case.unit if unit is None else unit
    return [
        distance(nodes / unit, weights, case.eigenvalues, masses)
        for nodes, weights, masses in zip(measure.nodes, measure.weights, case.masses, strict=True)
    ]


def apart(one, other, unit=1.0):
    """The largest distance between the measures of the same probes."""
    return max(
        distance(a / unit, u, b / unit, v)
        for a, u, b, v in zip(one.nodes, one.weights, other.nodes, other.weights, strict=True)
    )


# Quadrature


@law(case=cases(), more=st.integers(0, 2))
def test_runs_of_full_length_find_the_measure_of_their_vectors(case, more):
    measure = measured(case.matrix, case.x, num_steps=case.n + more)
    assert max(distances(measure, case)) <= SAME
    found = measure.quadratic_forms(lambda t: np.cos(t / case.unit)) / measure.squared_norms
    np.testing.assert_allclose(found, case.means(np.cos), atol=SAME)
    np.testing.assert_allclose(measure.squared_norms, np.linalg.norm(case.x, axis=1) ** 2, rtol=1e-14)


@law(case=cases(), num_steps=steps, kind=any_kind)
def test_quadrature_is_exact_up_to_degree_2m_minus_1(case, num_steps, kind):
    # Chebyshev moments keep their accuracy without orthogonality too (Knizhnerman, Comput. Math. Math. Phys. 36, 1996).
    measure = measured(case.matrix, case.x, num_steps=num_steps, reorthogonalize=kind)
    for degree in range(2 * measure.num_steps):
        polynomial = np.polynomial.Chebyshev.basis(degree)
        found = measure.quadratic_forms(lambda t, f=polynomial: f(t / case.unit)) / measure.squared_norms
        # T_d has slope d² at the ends of [−1, 1], which rounding of the nodes meets.
        np.testing.assert_allclose(found, case.means(polynomial), atol=SAME * (1 + degree**2))


@law(case=cases(), num_steps=steps, kind=any_kind)
def test_weights_are_a_probability_on_the_range_of_the_spectrum(case, num_steps, kind):
    measure = measured(case.matrix, case.x, num_steps=num_steps, reorthogonalize=kind)
    assert (measure.weights >= 0).all()  # false for NaN
    np.testing.assert_allclose(measure.weights.sum(axis=1), 1, atol=8 * num_steps * EPS)
    assert (np.diff(measure.nodes) >= 0).all()
    low, high = case.eigenvalues[[0, -1]]
    assert measure.support[0] >= low * case.unit - measure.rounding - 16 * EPS * case.unit
    assert measure.support[1] <= high * case.unit + measure.rounding + 16 * EPS * case.unit
    assert np.isfinite(measure.residuals).all()


@law(case=cases(), num_steps=steps)
def test_each_node_is_within_its_residual_of_an_eigenvalue(case, num_steps):
    measure = measured(case.matrix, case.x, num_steps=num_steps)
    off = np.abs(measure.nodes[..., None] / case.unit - case.eigenvalues).min(axis=-1)
    assert (off <= measure.residuals / case.unit + SAME).all()


@law(alpha=st.lists(st.floats(-1, 1), min_size=1, max_size=8), data=st.data())
def test_golub_welsch_is_the_spectral_theorem(alpha, data):
    m, unit = len(alpha), 2.0 ** data.draw(st.integers(-900, 900))
    beta = data.draw(st.lists(st.floats(0, 1), min_size=m, max_size=m))
    nodes, weights = slq.golub_welsch(np.asarray(alpha) * unit, np.asarray(beta) * unit)
    T = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    values, vectors = np.linalg.eigh(T)
    assert distance(nodes / unit, weights, values, vectors[0] ** 2) <= 20 * m * EPS
    assert abs(weights.sum() - 1) <= 8 * m * EPS


# Equivalent problems


@law(case=cases(scales=orders_of_one), num_steps=steps, exponent=st.integers(-900, 900), kind=any_kind)
def test_powers_of_two_scale_to_the_bit(case, num_steps, exponent, kind):
    plain = measured(case.matrix, case.x, num_steps=num_steps, reorthogonalize=kind)
    scaled = measured(case.matrix * 2.0**exponent, case.x, num_steps=num_steps, reorthogonalize=kind)
    np.testing.assert_array_equal(scaled.weights, plain.weights)
    np.testing.assert_array_equal(scaled.nodes, np.ldexp(plain.nodes, exponent))
    np.testing.assert_array_equal(scaled.residuals, np.ldexp(plain.residuals, exponent))


@law(case=cases(), num_steps=steps, sigma=st.floats(-4, 4))
def test_a_shift_moves_the_nodes(case, num_steps, sigma):
    plain = measured(case.matrix, case.x, num_steps=num_steps)
    # Where next to nothing is left, the products are rounding of those of A, which no check takes for an operator's.
    check = bool(np.abs(case.eigenvalues + sigma).max() > 1e-6)
    moved = measured(slq.shift(case.matrix, sigma * case.unit), case.x, num_steps=num_steps, check=check)
    back = moved.changed(alpha=moved.alpha - sigma * case.unit * (np.arange(moved.num_steps) < moved.lengths[:, None]))
    assert apart(plain, back, case.unit) <= NEAR * (1 + abs(sigma))


@law(case=cases(), num_steps=steps, kind=any_kind, data=st.data())
def test_fewer_steps_are_the_first_of_more(case, num_steps, kind, data):
    long = measured(case.matrix, case.x, num_steps=num_steps, reorthogonalize=kind)
    fewer = data.draw(st.integers(1, long.num_steps))
    kept = int(kind) if not isinstance(kind, bool) else kind
    short = measured(case.matrix, case.x, num_steps=fewer, reorthogonalize=kept)
    np.testing.assert_array_equal(long.truncate(fewer).alpha, short.alpha)
    np.testing.assert_array_equal(long.truncate(fewer).beta, short.beta)


@law(case=cases(), num_steps=steps, order=st.permutations(range(4)))
def test_permuted_vectors_give_permuted_measures(case, num_steps, order):
    order = [i for i in order if i < len(case.x)]
    plain = measured(case.matrix, case.x, num_steps=num_steps)
    other = measured(case.matrix, case.x[order], num_steps=num_steps)
    assert apart(plain.changed(alpha=plain.alpha[order], beta=plain.beta[order]), other, case.unit) <= NEAR


@law(
    case=cases(),
    num_steps=steps,
    seed=seeds,
    sampler=st.sampled_from(SAMPLERS),
    rows=st.integers(1, 5),
    cut=st.integers(1, 4),
)
def test_batches_parts_and_extensions_are_one_run(case, num_steps, seed, sampler, rows, cut):
    options = {"num_steps": num_steps, "rng": seed, "probes": sampler}
    whole = measured(case.matrix, num_probes=5, **options)
    first = measured(case.matrix, num_probes=cut, **options)
    rest = measured(case.matrix, num_probes=5 - cut, first_probe=cut, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClippedStepsWarning)
        extended = first.extend(case.matrix, num_probes=5 - cut)
    for other in (measured(case.matrix, num_probes=5, batch_size=rows, **options), first | rest, extended):
        assert apart(whole, other, case.unit) <= NEAR
        assert (other.seeds, other.probe_ids) == (whole.seeds, whole.probe_ids)
        np.testing.assert_allclose(other.squared_norms, whole.squared_norms, rtol=1e-15)


@law(case=cases(), num_steps=steps, seed=seeds, sampler=st.sampled_from(SAMPLERS))
def test_measures_come_back_from_a_file_as_they_were(case, num_steps, seed, sampler):
    measure = measured(case.matrix, num_steps=num_steps, rng=seed, probes=sampler, num_probes=3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measure.npz"
        measure.save(path)
        again = slq.SpectralMeasure.load(path)
    for name, value in measure.state().items():
        np.testing.assert_equal(getattr(again, name), value)
    np.testing.assert_array_equal(again.nodes, measure.nodes)


# Answers


@law(case=cases(), num_steps=steps)
def test_the_distribution_function_is_one_and_its_bounds_hold(case, num_steps):
    measure = measured(case.matrix, case.x, num_steps=num_steps)
    ends = np.concatenate([[-2.0], case.eigenvalues, [2.0]])
    # Between eigenvalues that are apart: rounding decides nothing there.
    x = (ends[1:] + ends[:-1])[np.diff(ends) > 2.0**-10] / 2
    estimate = measure.cdf(x * case.unit)
    assert (np.diff(estimate.value) >= 0).all()
    assert (estimate.value >= 0).all()
    assert (estimate.value <= 1).all()
    truth = (case.masses @ (case.eigenvalues[:, None] <= x)).mean(axis=0)
    # Masses carry rounding over the gap (Davis and Kahan 1970).
    assert (np.abs(estimate.value - truth) <= estimate.truncation + 2.0**10 * SAME).all()
    assert measure.cdf(np.inf).value == 1
    assert measure.cdf(-np.inf).value == 0


@law(
    case=cases(),
    num_steps=steps,
    seed=seeds,
    sampler=st.sampled_from(SAMPLERS),
    kind=any_kind,
    edges=st.sets(st.floats(-2, 2), max_size=4),
)
def test_counts_and_histograms_hold_all_there_is(case, num_steps, seed, sampler, kind, edges):
    measure = measured(case.matrix, num_steps=num_steps, rng=seed, probes=sampler, num_probes=3, reorthogonalize=kind)
    assert float(measure.count()) == case.n
    assert measure.count().stderr <= 16 * EPS * case.n
    edges = np.array([-np.inf, *sorted(edges), np.inf]) * case.unit
    assume((np.diff(edges) > 0).all())
    masses = measure.histogram(edges).value
    assert (masses >= 0).all()
    np.testing.assert_allclose(masses.sum(), 1, atol=16 * EPS)


@law(case=cases(), num_steps=steps, q=st.floats(0, 1))
def test_quantiles_invert_the_distribution_function(case, num_steps, q):
    measure = measured(case.matrix, case.x, num_steps=num_steps)
    value = measure.quantile(q).value
    below, above = (np.nextafter(value + sign * 4 * measure.rounding, sign * np.inf) for sign in (-1, 1))
    assert measure.support[0] <= value <= measure.support[1]
    # It lies between the middles of the leaps: up to half of those of the nodes beside it is on its other side. The
    # slack of its own comparison is 1e-14.
    slack = measure.weights.max(axis=1).mean() / 2 + 2e-14
    assert measure.cdf(above).value >= q - slack
    assert measure.cdf(below).value <= q + slack or below < measure.support[0]


QUESTIONS = {  # of a measure, with the unit of its eigenvalues
    "trace": lambda m, _: m.trace(),
    "exp": lambda m, t: m.trace(lambda x: np.exp(x / t)),
    "square": lambda m, t: m.trace(lambda x: (x / t) ** 2),
    "abs": lambda m, t: m.trace(lambda x: np.abs(x / t)),
    "moment": lambda m, t: m.changed(alpha=m.alpha / t, beta=m.beta / t).moment(3),
    "count": lambda m, t: m.count(0, t),
    "cdf": lambda m, t: m.cdf(np.linspace(-1, 1, 7) * t),
    "quantile": lambda m, _: m.quantile(np.linspace(0, 1, 7)),
    "histogram": lambda m, t: m.histogram(np.linspace(-1, 1, 7) * t),
    "density": lambda m, _: m.density(),
}


@law(
    case=cases(),
    num_steps=steps,
    seed=seeds,
    sampler=st.sampled_from(SAMPLERS),
    k=st.integers(1, 4),
    kind=any_kind,
    question=st.sampled_from(sorted(QUESTIONS)),
)
def test_intervals_are_ordered_and_nested(case, num_steps, seed, sampler, k, kind, question):
    measure = measured(case.matrix, num_steps=num_steps, rng=seed, probes=sampler, num_probes=k, reorthogonalize=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", slq.SlqWarning)
        estimate = QUESTIONS[question](measure, case.unit)
    value = np.asarray(estimate.value)
    assert np.isfinite(value).all()
    for error in (estimate.stderr, estimate.truncation, estimate.rounding):
        assert error is None or (np.asarray(error) >= 0).all()
    (wide_low, wide_high), (low, high) = estimate.interval(0.99), estimate.interval(0.5)
    for one, other in ((wide_low, low), (low, value), (value, high), (high, wide_high)):
        assert (np.asarray(one) <= np.asarray(other)).all()
    assert str(estimate)


@law(case=cases(), num_steps=steps, width=st.sampled_from([0.01, 0.1, 1.0]))
def test_densities_have_mass_one_and_are_not_negative(case, num_steps, width):
    measure = measured(case.matrix, case.x, num_steps=num_steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", slq.SlqWarning)
        density = measure.density(width=width * case.unit)
    assert (density.value >= 0).all()
    # The trapezoidal rule at five points a width is exact to 1e-10; the kernel ends at 8 widths.
    np.testing.assert_allclose(np.trapezoid(density.value * case.unit, density.x / case.unit), 1, atol=1e-9)


@law(case=cases(), seed=seeds, sampler=st.sampled_from(SAMPLERS))
def test_log_determinants_are_those_of_the_probes(case, seed, sampler):
    matrix = slq.shift(case.matrix, 1.5 * case.unit)
    measure = measured(matrix, num_steps=case.n, rng=seed, probes=sampler, num_probes=2)
    x = sampler(seed, range(2), None, case.n, np.empty(0, complex if measure.is_complex else float))
    forms = np.abs(x @ case.vectors.conj().T) ** 2 @ (np.log(case.eigenvalues + 1.5) + np.log(2.0) * case.exponent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", slq.SlqWarning)
        found = measure.logdet().value
    # Relative to the sum of the absolute values: logarithms of either sign cancel. |log| <= 624 + 1.
    np.testing.assert_allclose(found, forms.mean(), atol=625 * case.n * 8 * SAME)
