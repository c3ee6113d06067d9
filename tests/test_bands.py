"""slq/_bands.py: bands that hold the whole distribution function at once."""

import numpy as np
import pytest

import slq
from slq import SpectralMeasure
from slq.errors import RequestError
from tests.problems import hessian_like, indefinite, measure_of, strakos, uniform

N = 120
SPECTRA = {
    "hessian": hessian_like(N),
    "indefinite": indefinite(N),
    "strakos": strakos(N),
    "two atoms": np.repeat([1.0, 2.0], N // 2),
    "ties": np.repeat(np.linspace(-1, 1, 12), N // 12),
    "atom and bulk": np.append(np.zeros(N // 2), uniform(N // 2)),
}
SEEDS, K = 300, 3


def runs(eigenvalues, k, num_steps, seeds, dtype=float):
    """One measure of k probes for each seed. Sphere probes are rotation invariant: a diagonal operator is any."""
    n = len(eigenvalues)
    A = slq.aslinearoperator(lambda x: x * eigenvalues, like=eigenvalues.astype(dtype), batched=True)
    x = np.concatenate([slq.sphere(seed, range(k), None, n, np.empty(0, dtype)) for seed in range(seeds)])
    run = slq.lanczos(A, x, num_steps)
    for seed in range(seeds):
        rows = slice(k * seed, k * (seed + 1))
        is_complex = dtype is complex
        yield SpectralMeasure(run.alpha[rows], run.beta[rows], n, sampler="sphere", is_complex=is_complex)


def missed(eigenvalues, num_steps, confidence, dtype=float):
    """The share of the bands that miss Φ somewhere: at an eigenvalue, or just below one."""
    jumps = np.unique(eigenvalues)
    x = np.concatenate([jumps, np.nextafter(jumps, -np.inf), (jumps[1:] + jumps[:-1]) / 2])
    exact = (eigenvalues <= x[:, None]).mean(axis=1)
    misses = []
    for measure in runs(eigenvalues, K, num_steps, SEEDS, dtype):
        low, high = measure.cdf_band(x, confidence)
        misses.append(bool(((exact < low) | (exact > high)).any()))
    return np.mean(misses)


@pytest.mark.parametrize("num_steps", [2, 12, 60])
@pytest.mark.parametrize("name", SPECTRA)
def test_bands_hold_the_whole_function(name, num_steps):
    # A theorem: at most 5 % miss. The union bound is loose: measured 0 of 300 in each cell.
    assert missed(SPECTRA[name], num_steps, 0.95) <= 0.05


def test_bands_of_complex_probes_hold_it_too():
    assert missed(SPECTRA["ties"].astype(float), 14, 0.95, complex) <= 0.05


def test_low_levels_are_kept_as_well():
    # A theorem again; measured with three probes 0.003.
    assert missed(SPECTRA["two atoms"], 3, 0.5) <= 0.5


def test_the_width_is_that_of_the_formula():
    exact = measure_of(uniform(400)[:16], num_probes=5)  # of full order: interlacing leaves nothing open
    wide = exact.changed(n=400)
    low, high = wide.cdf_band(0.5), wide.cdf_band(2.0)
    # numerics: n = 400, 5 probes: 0.069.
    assert low == (0.0, pytest.approx(np.sqrt(np.log(800 / 0.05) / (5 * 402))))
    assert low[1] == pytest.approx(0.0694, abs=1e-4)
    assert high == (pytest.approx(1 - low[1]), 1.0)
    halved = wide.changed(is_complex=True).cdf_band(0.5)[1]
    assert halved == pytest.approx(np.sqrt(np.log(800 / 0.05) / (2 * 5 * 401)))
    assert wide.cdf_band(0.5, confidence=0.5)[1] < low[1] < wide.cdf_band(0.5, confidence=0.999)[1]


def test_more_steps_and_probes_narrow_them():
    x = np.linspace(0, 2, 50)
    width = [
        np.mean(np.subtract(*measure_of(indefinite(300), num_probes=k, num_steps=m).cdf_band(x)[::-1]))
        for k, m in ((2, 5), (2, 40), (8, 40))
    ]
    assert width[0] > 1.5 * width[1] > 2 * width[2]


def test_bands_have_the_shape_of_x_and_stay_between_zero_and_one():
    measure = measure_of(indefinite(24))
    low, high = measure.cdf_band(np.zeros((2, 3)))
    assert low.shape == high.shape == (2, 3)
    assert all(np.ndim(end) == 0 for end in measure.cdf_band(0.3))
    assert measure.cdf_band(-5.0)[0] == 0.0
    assert measure.cdf_band(5.0)[1] == 1.0


@pytest.mark.parametrize("name", SPECTRA)
def test_counts_are_held_for_all_intervals(name):
    eigenvalues = SPECTRA[name]
    ends = np.quantile(eigenvalues, [0.0, 0.3, 0.5, 0.8, 1.0])
    misses = []
    for measure in runs(eigenvalues, K, 25, 60):
        inside = []
        for i, low in enumerate(ends):
            for high in ends[i:]:
                least, most = measure.count_band(low, high)
                inside.append(least <= ((eigenvalues >= low) & (eigenvalues <= high)).sum() <= most)
        misses.append(not all(inside))
    assert np.mean(misses) <= 0.05


def test_counts_of_everything_and_nothing_are_sharp():
    measure = measure_of(indefinite(24), num_steps=9)
    assert measure.count_band() == (24.0, 24.0)
    assert measure.count_band(low=10.0)[0] == 0.0
    (one,) = runs(indefinite(1200), 8, 60, seeds=1)
    least, most = one.count_band(low=0.0)
    assert 600 < least < 800 < most < 1000  # a third is negative
    assert least == int(least)
    assert most == int(most)


@pytest.mark.parametrize("ask", [lambda m: m.cdf_band(0.0), lambda m: m.count_band(0.0, 1.0)])
def test_other_probes_have_no_bands(ask):
    A = np.diag(indefinite(24))
    for probes in (slq.rademacher, slq.gaussian, np.ones((1, 24))):
        with pytest.raises(RequestError, match=r"certified for sphere probes, but these are .*probes=slq\.sphere"):
            ask(slq.spectral_measure(A, probes=probes, num_probes=2, num_steps=5))
    singular = slq.singular_measure(np.eye(6) + np.ones((6, 6)), num_probes=2, num_steps=3)
    with pytest.raises(RequestError, match="is for eigenvalues, but this is a measure of singular values"):
        ask(singular)


def test_requests_are_checked():
    measure = measure_of(indefinite(24))
    for confidence in (0, 1, -0.5, 95):
        with pytest.raises(RequestError, match=r"confidence= expects a number between 0 and 1, got"):
            measure.cdf_band(0.0, confidence)
        with pytest.raises(RequestError, match=r"confidence= expects"):
            measure.count_band(0.0, 1.0, confidence)
    with pytest.raises(RequestError, match=r"cdf_band\(x\) met NaN"):
        measure.cdf_band([0.0, np.nan])
    for low, high in ((1.0, 0.0), (np.nan, 1.0)):
        with pytest.raises(RequestError, match=r"count_band\(low, high\) expects low <= high"):
            measure.count_band(low, high)
