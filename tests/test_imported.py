"""slq/_imported.py and slq/_foreign_runs.py: what other tools have computed, as measures."""

import re

import numpy as np
import pytest

import slq
from slq import SpectralMeasure, from_quadrature, from_tridiagonals
from slq.errors import FileFormatError, RequestError, ShapeError
from tests.problems import indefinite, measure_of, uniform

N, K, M = 40, 3, 9
MEASURE = measure_of(indefinite(N), num_probes=K, num_steps=M, probes=slq.rademacher)
EXACT = {"sampler": "rademacher", "dtype": "float64", "residual_norms": MEASURE.beta[:, -1]}

# A hundred steps on a spectrum of outliers and a bulk, as networks have it.
outlying = np.concatenate([np.geomspace(1, 100, 20), np.random.default_rng(0).chisquare(1, 480) * 1e-2])
LONG = slq.spectral_measure(
    slq.aslinearoperator(lambda x: x * outlying, like=outlying, batched=True), num_probes=4, num_steps=100
)


def matrices(measure):
    """(k, m, m)."""
    off = [np.diag(b, 1) + np.diag(b, -1) for b in measure.beta[:, :-1]]
    return np.stack([np.diag(a) for a in measure.alpha]) + off


T = matrices(MEASURE)


@pytest.mark.parametrize("measure", [MEASURE, LONG], ids=["indefinite", "hundred steps"])
@pytest.mark.parametrize("scale", [1.0, 2.0**600, 2.0**-600])
def test_quadratures_come_back(measure, scale):
    """In any order; nodes and weights to rounding, and with them every answer."""
    order = np.random.default_rng(1).permutation(measure.num_steps)
    again = from_quadrature(
        scale * measure.nodes[:, order],
        measure.weights[:, order],
        measure.n,
        sampler=measure.sampler,
        dtype="float64",
        residual_norms=scale * measure.beta[:, -1],
    )
    # Measured: 7e-16 of the largest node. A weight changes by rounding over the gap to the next node, and does so
    # whenever it is computed from the tridiagonal matrix; measured: 6e-16, and 6e-12 for a gap of 2e-7.
    np.testing.assert_allclose(again.nodes, scale * measure.nodes, rtol=0, atol=1e-13 * scale * measure.scale)
    gap = np.diff(measure.nodes).min() / measure.scale
    np.testing.assert_allclose(again.weights, measure.weights, rtol=0, atol=64 * np.finfo(float).eps / gap)
    np.testing.assert_allclose(again.residuals, scale * measure.residuals, rtol=0, atol=1e-13 * scale * measure.scale)
    for f in (np.sign, np.square, lambda t: np.exp(-np.abs(t))):
        found, expected = again.quadratic_forms(lambda t, f=f: f(t / scale)), measure.quadratic_forms(f)
        np.testing.assert_allclose(found, expected, rtol=1e-12)  # measured: 2e-14
    assert again.products == measure.products


def test_tridiagonals_come_back_to_the_bit():
    again = from_tridiagonals(T, N, **EXACT)
    for name in ("alpha", "beta", "nodes", "weights", "residuals"):
        np.testing.assert_array_equal(getattr(again, name), getattr(MEASURE, name), err_msg=name)
    assert (again.n, again.sampler, again.num_probes, again.eps) == (N, "rademacher", K, np.finfo(float).eps)
    np.testing.assert_array_equal(again.squared_norms, MEASURE.squared_norms)


def same(measure, expected=None):
    expected = from_tridiagonals(T, N, **EXACT) if expected is None else expected
    for name in ("alpha", "beta", "seeds"):
        np.testing.assert_array_equal(getattr(measure, name), getattr(expected, name), err_msg=name)


def test_forms_of_tridiagonals(tmp_path):
    """Those of google/spectral-density: (m, m, k) files of all draws so far; and lists, paths, signs."""
    np.save(tmp_path / "tridiag_3.npy", np.moveaxis(T, 0, -1))
    np.save(tmp_path / "first.npy", T[0])
    np.save(tmp_path / "rest.npy", T[1:])
    signed = T * np.where(np.eye(M, k=1) + np.eye(M, k=-1) > 0, -1, 1)
    forms = [
        np.moveaxis(T, 0, -1),
        list(T),
        tuple(T.tolist()),
        tmp_path / "tridiag_3.npy",
        str(tmp_path / "tridiag_3.npy"),
        [tmp_path / "first.npy", tmp_path / "rest.npy"],
        signed,
    ]
    for form in forms:
        same(from_tridiagonals(form, N, **EXACT))
    one = from_tridiagonals(T[0], N, **EXACT | {"residual_norms": MEASURE.beta[0, -1]})
    same(one, from_tridiagonals(T, N, **EXACT).changed(**{name: getattr(one, name)[:1] for name in ("alpha", "beta")},
         seeds=one.seeds, probe_ids=one.probe_ids, squared_norms=one.squared_norms))  # fmt: skip


def test_as_many_draws_as_steps():
    """(m, m, m) is read along the axis that gives tridiagonal matrices."""
    measure = measure_of(indefinite(N), num_probes=4, num_steps=4)
    for stack in (matrices(measure), np.moveaxis(matrices(measure), 0, -1)):
        np.testing.assert_array_equal(from_tridiagonals(stack, N, sampler="sphere").alpha, measure.alpha)


def test_forms_of_quadratures():
    """Those of PyHessian: lists of lists, complex without imaginary parts; one draw; other libraries' arrays."""
    expected = from_quadrature(MEASURE.nodes, MEASURE.weights, N, **EXACT)
    wide = MEASURE.nodes + 1e-17j, MEASURE.weights + 0j
    forms = [
        (MEASURE.nodes.tolist(), MEASURE.weights.tolist()),
        (list(MEASURE.nodes), tuple(MEASURE.weights)),
        ([list(row) for row in wide[0]], [list(row) for row in wide[1]]),
    ]
    torch = pytest.importorskip("torch")
    forms.append(tuple(torch.tensor(x) for x in wide))
    forms.append(tuple([[torch.tensor(entry) for entry in row] for row in x] for x in wide))
    for form in forms:
        same(from_quadrature(*form, N, **EXACT), expected)
    one = from_quadrature(MEASURE.nodes[0], MEASURE.weights[0], N, **EXACT | {"residual_norms": 0.5})
    np.testing.assert_array_equal(one.alpha[0], expected.alpha[0])
    assert one.beta[0, -1] == 0.5


def test_single_precision_of_a_solver_for_any_matrix():
    """As PyHessian takes it: sums of weights are off by more than rounding, and made one."""
    torch = pytest.importorskip("torch")
    values, vectors = zip(
        *(torch.linalg.eig(torch.tensor(t, dtype=torch.float32)) for t in matrices(LONG)), strict=True
    )
    weights = [v[0] ** 2 for v in vectors]
    again = from_quadrature(values, weights, LONG.n, sampler="rademacher")
    assert again.eps == np.finfo(np.float32).eps
    # Measured: 5e-5.
    np.testing.assert_allclose(again.quadratic_forms(np.abs), LONG.quadratic_forms(np.abs), rtol=1e-3)
    np.testing.assert_allclose(again.weights.sum(axis=1), 1, rtol=0, atol=1e-14)


def test_provenance_says_what_is_assumed(tmp_path):
    measure = from_quadrature(MEASURE.nodes, MEASURE.weights, N, sampler="gaussian")
    assert dict(measure.provenance) == {
        "slq": slq.__version__,
        "imported": "quadrature",
        "probes": "said to be gaussian",
        "dtype": "float32",
        "residual norms": "at most the range of the nodes",
    }
    assert from_tridiagonals(T, N, **EXACT).provenance["residual norms"] == "given"
    measure.save(tmp_path / "measure.npz")
    again = SpectralMeasure.load(tmp_path / "measure.npz")
    same(again, measure)
    assert again.provenance == measure.provenance


def test_samplers_decide_on_error_bars():
    by_sampler = {
        sampler: from_tridiagonals(T, N, sampler=sampler) for sampler in ("sphere", "gaussian", "rademacher", "fixed")
    }
    assert {name: m.sampler for name, m in by_sampler.items()} == {
        "sphere": "sphere", "gaussian": "sphere", "rademacher": "rademacher", "fixed": "fixed"
    }  # fmt: skip
    forms = MEASURE.quadratic_forms(lambda t: t)
    assert by_sampler["rademacher"].trace().stderr == pytest.approx(forms.std(ddof=1) / np.sqrt(K))
    assert by_sampler["gaussian"].trace().dof == np.inf
    np.testing.assert_allclose(by_sampler["fixed"].quadratic_forms(np.square), MEASURE.quadratic_forms(np.square) / N)
    with pytest.raises(RequestError, match="measure of given vectors"):
        by_sampler["fixed"].trace()


@pytest.mark.parametrize("measure", [MEASURE, LONG, measure_of(uniform(N), num_steps=5)])
def test_unknown_residual_norms_are_bounded(measure):
    """No run is called exact, and no residual comes out smaller than it is."""
    imported = from_tridiagonals(matrices(measure), measure.n, sampler="sphere")
    assert not imported.exact.any()
    assert (imported.residuals >= measure.residuals).all()
    np.testing.assert_array_equal(imported.nodes, measure.nodes)
    np.testing.assert_allclose(imported.beta[:, -1], np.ptp(measure.nodes, axis=1), rtol=1e-14)


def test_outliers_are_still_found():
    imported = from_quadrature(LONG.nodes, LONG.weights, LONG.n, sampler="sphere", dtype="float64")
    np.testing.assert_allclose(imported.outliers().values[:20], outlying[19::-1], rtol=1e-9)


def test_steps_beyond_the_dimension():
    """What a tool makes of them has no weight, and goes; what remains is exact."""
    complete = measure_of(indefinite(6), num_probes=K, num_steps=6)
    spurious = np.pad(complete.nodes, ((0, 0), (0, 2)), constant_values=17.0)
    measure = from_quadrature(spurious, np.pad(complete.weights, ((0, 0), (0, 2))), 6, sampler="sphere")
    np.testing.assert_allclose(measure.nodes, complete.nodes, rtol=0, atol=1e-13 * complete.scale)
    assert measure.exact.all()
    padded = np.pad(matrices(complete), ((0, 0), (0, 2), (0, 2)), constant_values=0.0)
    padded[:, 6:, 6:] = [[1, 2], [2, 1]]
    padded[:, 5, 6] = padded[:, 6, 5] = 1e-9
    measure = from_tridiagonals(padded, 6, sampler="sphere")
    np.testing.assert_array_equal(measure.alpha, complete.alpha)
    assert measure.exact.all()


def test_runs_that_ended():
    """A residual of zero ends a run, though its tool went on; the others keep their steps."""
    ended = T.copy()
    ended[1, 4, 3] = ended[1, 3, 4] = 1e-17 * np.abs(T).max()
    measure = from_tridiagonals(ended, N, **EXACT)
    assert measure.lengths.tolist() == [M, 4, M]
    assert measure.exact.tolist() == [False, True, False]
    np.testing.assert_array_equal(measure.alpha[::2], MEASURE.alpha[::2])
    told = from_quadrature([[1.0, 2.0], [1.0, 2.0, 3.0]], [[0.5, 0.5], [0.2, 0.3, 0.5]], N,
                           sampler="sphere", residual_norms=[0.0, 0.1])  # fmt: skip
    assert told.lengths.tolist() == [2, 3]
    assert told.exact.tolist() == [True, False]


def test_draws_of_unequal_lengths_are_cut_to_the_shortest():
    rules = [MEASURE.truncate(length) for length in (9, 7, 8)]
    nodes, weights = ([getattr(rule, x)[i] for i, rule in enumerate(rules)] for x in ("nodes", "weights"))
    measure = from_quadrature(
        nodes, weights, N, **EXACT | {"residual_norms": [r.beta[i, -1] for i, r in enumerate(rules)]}
    )
    expected = MEASURE.truncate(7)
    # Measured: 2e-15.
    np.testing.assert_allclose(measure.alpha, expected.alpha, rtol=0, atol=1e-12)
    np.testing.assert_allclose(measure.beta, expected.beta, rtol=0, atol=1e-12)


def test_equal_nodes_are_one():
    measure = from_quadrature([1.0, 3.0, 3.0, 3.0 + 4e-16], [0.5, 0.2, 0.2, 0.1], N, sampler="sphere")
    np.testing.assert_allclose(measure.nodes, [[1.0, 3.0]], rtol=1e-15)
    np.testing.assert_allclose(measure.weights, [[0.5, 0.5]], rtol=1e-14)


def test_identity():
    """Draws of one node may be alike, and are different probes."""
    measure = from_quadrature(np.ones((K, 1)), np.ones((K, 1)), N, sampler="rademacher", residual_norms=0.0)
    assert float(measure.trace()) == N
    assert measure.exact.all()
    assert not from_quadrature([2.0], [1.0], N, sampler="rademacher").exact.any()
    with pytest.raises(RequestError, match="draw 0 has the one node 0, which bounds no residual norm"):
        from_quadrature([0.0], [1.0], N, sampler="rademacher")


def test_a_draw_counts_once():
    message = "draws 0 and 2 are the same run.*hold all draws so far: give the last one only"
    with pytest.raises(RequestError, match=message):
        from_tridiagonals([T[:2], T], N, sampler="sphere")
    same(from_tridiagonals([T[0], T[0]], N, sampler="fixed").changed(seeds=(1, 1)),
         from_tridiagonals(T[[0, 0]], N, sampler="fixed").changed(seeds=(1, 1)))  # fmt: skip
    parts = [from_tridiagonals(T[:2], N, sampler="sphere"), from_tridiagonals(T, N, sampler="sphere")]
    with pytest.raises(RequestError, match="occurs twice"):
        slq.concatenate(parts)
    joined = from_tridiagonals(T[:1], N, sampler="sphere") | from_tridiagonals(T[1:], N, sampler="sphere")
    np.testing.assert_array_equal(joined.alpha, MEASURE.alpha)
    own = measure_of(indefinite(N), num_probes=2, num_steps=M)
    assert (parts[1] | own).num_probes == K + 2


THREE, HALVES = [1.0, 2.0, 3.0], [0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("nodes", "weights", "match"),
    [
        (THREE, HALVES[:2], "draw 0 has 3 nodes and 2 weights"),
        ([THREE, THREE], [HALVES], "got 2 draws of nodes and 1 of weights"),
        ([], [], r"nodes expects a \(k, m\) array or a sequence of sequences, got list"),
        (7.0, HALVES, "nodes expects.*got float"),
        ([[]], [[]], r"nodes of draw 0 expect a sequence of numbers, got shape \(0,\)"),
        (np.ones((2, 2, 2)), np.ones((2, 2, 2)), r"nodes of draw 0 expect a sequence of numbers, got shape \(2, 2\)"),
        (["a", "b", "c"], HALVES, "nodes of draw 0 expect a sequence of numbers"),
        ([1.0, np.nan, 3.0], HALVES, "nodes of draw 0 contain NaN or infinity"),
        (THREE, [0.5, 0.25 + 0.1j, 0.25], "weights of draw 0 have imaginary parts of up to 0.1, more than rounding"),
        (THREE, [0.8, 0.3, -0.1], "draw 0 has a weight of -0.1; weights are not negative"),
        (THREE, [0.5, 0.5, 0.5], "the weights of draw 0 sum to 1.5, not to 1"),
        ([THREE, THREE], [HALVES, [1.0, 0.0, 0.1]], "the weights of draw 1 sum to 1.1, not to 1"),
        (np.arange(5.0), np.full(5, 0.2), "draw 0 has 5 nodes with a weight, more than the dimension n=4"),
    ],
)
def test_quadratures_that_are_none(nodes, weights, match):
    with pytest.raises(RequestError, match=match):
        from_quadrature(nodes, weights, 4, sampler="sphere")


def test_matrices_that_are_none(tmp_path):
    def refused(error, match, T, n=N, **options):
        with pytest.raises(error, match=match):
            from_tridiagonals(T, n, **{"sampler": "sphere"} | options)

    skew, full = T.copy(), T.copy()
    skew[1, 2, 3] += 0.5
    full[2, 0, 5] = full[2, 5, 0] = 0.25
    for stack in (skew, np.moveaxis(skew, 0, -1), list(skew)):
        refused(
            RequestError, r"T expects symmetric tridiagonal matrices, but one differs from its transpose by 0\.5", stack
        )
    refused(RequestError, r"one has an entry of size 0\.25 outside the three diagonals", full)
    refused(RequestError, "one contains NaN or infinity, as after a division by a residual", T * np.nan)
    refused(ShapeError, r"T expects matrices \(m, m\), \(k, m, m\) or \(m, m, k\).*got shape \(9,\)", T[0, 0])
    refused(ShapeError, r"T expects matrices.*got shape \(3, 2, 9\)", T[:, :2])
    refused(ShapeError, r"T expects matrices.*got shape \(2, 9\)", T[0, :2])
    refused(ShapeError, "T expects matrices.*of complex128", T + 0j)
    refused(RequestError, "T holds no matrix; give an array, a path, or a list of them", [])
    refused(RequestError, r"sampler= expects one of 'sphere', 'gaussian', .*, got 'uniform'", T, sampler="uniform")
    refused(RequestError, "n expects an integer >= 1, got 0", T, 0)
    refused(RequestError, "dtype= expects one of 'float32', .*got 'int8'", T, dtype="int8")
    for norms in (-1.0, np.inf, [1.0, 2.0], "large"):
        refused(RequestError, "residual_norms= expects a number >= 0 for each of the 3 draws", T, residual_norms=norms)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "archive.npz", T)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npy").write_text("")
    np.save(tmp_path / "vector.npy", T[0, 0])
    for name in ("objects.npy", "text.npy", "empty.npy"):
        refused(FileFormatError, rf"{re.escape(name)} is no .npy file of numbers, or is damaged", tmp_path / name)
    refused(
        FileFormatError, r"archive.npz is an archive; expected an .npy file with one array", tmp_path / "archive.npz"
    )
    refused(ShapeError, r"vector.npy expects matrices", str(tmp_path / "vector.npy"))
    with pytest.raises(FileNotFoundError):
        from_tridiagonals(tmp_path / "missing.npy", N, sampler="sphere")
