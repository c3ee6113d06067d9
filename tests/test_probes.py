"""slq/_probes.py: probes that depend on (seed, number, coordinate) alone."""

import numpy as np
import pytest
from scipy import stats

import slq
from slq._arrays import to_host
from slq._probes import seed_of
from slq.errors import DtypeError, RequestError
from tests.problems import K, N

REAL, COMPLEX = np.empty(0), np.empty(0, dtype=complex)
LIKES = {"real": REAL, "complex": COMPLEX, "float32": REAL.astype("f4"), "complex64": COMPLEX.astype("c8")}
SAMPLERS = [slq.sphere, slq.gaussian, slq.rademacher]
CASES = [(s, like) for s in SAMPLERS for like in LIKES] + [(slq.steinhaus, "complex"), (slq.steinhaus, "complex64")]
every_sampler = pytest.mark.parametrize(("sampler", "kind"), CASES, ids=[f"{s.__name__}-{k}" for s, k in CASES])


def draw(sampler, seed=0, ids=(0,), index=None, n=50, like=REAL):
    """Probes on the host."""
    return to_host(sampler(seed, ids, index, n, like))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("sampler", [slq.sphere, slq.gaussian, slq.rademacher, slq.steinhaus])
def test_every_library_gets_the_same_probes(xp, sampler, dtype):
    if sampler is slq.steinhaus and "complex" not in dtype:
        pytest.skip("steinhaus probes are complex")
    probes = sampler(3, range(K), None, N, xp.asarray(np.empty(0), dtype))
    assert str(probes.dtype).endswith(dtype)
    # Drawn on the host and copied: bit for bit, for the libraries' own arithmetic has no part in them.
    np.testing.assert_array_equal(to_host(probes), draw(sampler, 3, range(K), n=N, like=np.empty(0, dtype)))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_precision_changes_the_rounding_only(sampler):
    wide, narrow = draw(sampler, like=REAL), draw(sampler, like=LIKES["float32"])
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, wide, rtol=2.0**-23)


@every_sampler
def test_parts_of_a_probe_are_parts_of_the_whole(sampler, kind):
    n, like = 40_000, LIKES[kind]  # beyond the pieces of 2¹⁴ coordinates in which probes are drawn
    whole = draw(sampler, 5, [2, 9], n=n, like=like)
    unordered = np.random.default_rng(0).permutation(n)[:500]
    # A part is scaled by the same norm summed in other pieces: equal to a few roundings for sphere, else equal.
    rtol = 4 * np.finfo(whole.dtype).eps if sampler is slq.sphere else 0
    for index in (slice(0, n), slice(16_380, 16_390), slice(7, None, 997), slice(39_999, None), unordered, [5, 3, 3]):
        index = index if isinstance(index, slice) else np.asarray(index)
        part = draw(sampler, 5, [2, 9], index, n, like)
        np.testing.assert_allclose(part, whole[:, index], rtol=rtol)
    assert draw(sampler, 5, [2, 9], slice(10, 10), n, like).shape == (2, 0)


@every_sampler
def test_a_batch_is_its_rows(sampler, kind):
    like = LIKES[kind]
    batch = draw(sampler, 1, [4, 0, 7], like=like)
    for row, probe in zip(batch, [4, 0, 7], strict=True):
        np.testing.assert_array_equal(row, draw(sampler, 1, [probe], like=like)[0])


@pytest.mark.parametrize("sampler", [slq.gaussian, slq.rademacher])
def test_entries_do_not_depend_on_the_dimension(sampler):
    np.testing.assert_array_equal(draw(sampler, n=50), draw(sampler, n=1000)[:, :50])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_coordinates_of_huge_operators_are_reached_directly(sampler):
    n, high = 10**13, 10**13 - 5
    if sampler is slq.sphere:
        pytest.skip("needs the norm of the whole")
    far = draw(sampler, 0, [0], slice(high, n), n)
    assert far.shape == (1, 5)
    np.testing.assert_array_equal(far[:, 2:], draw(sampler, 0, [0], np.array([high + 2, high + 3, high + 4]), n))


def test_neighbouring_seeds_and_numbers_share_no_probe():
    probes = np.concatenate([draw(slq.rademacher, seed, range(20), n=256) for seed in (*range(10), 2**64, 2**64 + 1)])
    overlaps = probes @ probes.T
    np.fill_diagonal(overlaps, 0)
    # 28 680 pairs, standard deviation √256: six of them are exceeded once in 2·10⁴ such tests.
    assert np.abs(overlaps).max() < 6 * 16


def test_seeds_of_any_size_are_different_seeds():
    assert not np.array_equal(draw(slq.rademacher, 2**64 + 5), draw(slq.rademacher, 5))
    assert not np.array_equal(draw(slq.rademacher, 2**200), draw(slq.rademacher, 2**201))


def test_the_streams_stay_what_they_are():
    # Published results name their seed: these values must never change.
    signs = draw(slq.rademacher, 0, [0], n=16)[0]
    assert "".join("+" if s > 0 else "-" for s in signs) == "+--+++--++-+-+++"
    np.testing.assert_allclose(
        draw(slq.gaussian, 1, [2], n=3)[0], [-0.1859662183949899, 2.0444095470720294, -0.553568424179538], rtol=1e-14
    )
    np.testing.assert_allclose(
        draw(slq.gaussian, 1, [2], n=1, like=COMPLEX)[0], [(-0.13149797409871583 + 1.4456158542571502j)], rtol=1e-14
    )
    np.testing.assert_allclose(
        draw(slq.steinhaus, 1, [2], n=1, like=COMPLEX)[0], [(0.7220916364039692 + 0.6917974187834456j)], rtol=1e-14
    )


@every_sampler
def test_probes_are_standardised_and_uncorrelated(sampler, kind):
    n, k = 2**13, 8
    x = draw(sampler, 11, range(k), n=n, like=LIKES[kind]).astype(complex)
    if LIKES[kind].dtype.kind != "c":
        assert not x.imag.any()
    # Each line is a sum of independent terms of mean 0 and the stated variance, over its standard deviation.
    z = [x.mean() * np.sqrt(x.size)]
    z += [np.vdot(x[i], x[j]) / np.sqrt(n) for i in range(k) for j in range(i)]  # probes
    z += [np.vdot(x[:, lag:], x[:, :-lag]) / np.sqrt(x.size) for lag in (1, 2, 3, 4, 7, 8, 63, 64, 65, 128)]
    z += [np.vdot(x, draw(sampler, 12, range(k), n=n, like=LIKES[kind])) / np.sqrt(x.size)]  # neighbouring seeds
    parts = np.concatenate([np.real(z), np.imag(z)])
    # 80 normal deviates at most: beyond 5 once in 2·10⁴ such tests (and always or never for these seeds).
    assert np.abs(parts).max() < 5
    assert np.abs(parts).max() > 1.5  # neither are they more regular than chance
    power = np.abs(x) ** 2
    if sampler is slq.gaussian:
        deviation = np.sqrt((1 if LIKES[kind].dtype.kind == "c" else 2) / x.size)
        assert abs(power.mean() - 1) < 5 * deviation
    elif sampler is slq.sphere:
        np.testing.assert_allclose(power.sum(axis=1), n, rtol=np.sqrt(n) * np.finfo(LIKES[kind].dtype).eps)
    else:
        np.testing.assert_allclose(power, 1, rtol=4 * np.finfo(LIKES[kind].dtype).eps)


def test_gaussian_probes_are_normal_in_the_tails_too():
    x = draw(slq.gaussian, 2, range(4), n=2**15).ravel()
    assert stats.kstest(x, "norm").pvalue > 1e-4
    z = draw(slq.gaussian, 2, range(4), n=2**15, like=COMPLEX).ravel()
    assert stats.kstest(z.real * np.sqrt(2), "norm").pvalue > 1e-4
    assert stats.kstest(z.imag * np.sqrt(2), "norm").pvalue > 1e-4
    for level in (2.0, 3.0, 4.0):
        p = 2 * stats.norm.sf(level)
        assert stats.binomtest(int((np.abs(x) > level).sum()), x.size, p).pvalue > 1e-4


def test_pseudo_covariance_of_complex_probes_vanishes():
    # E x xᵀ = 0 halves the variance of complex probes; without it the error bars would be wrong.
    for sampler in (slq.sphere, slq.gaussian, slq.steinhaus):
        x = draw(sampler, 4, range(8), n=2**13, like=COMPLEX)
        z = (x**2).mean() * np.sqrt(x.size / 2)  # E|x²|² ≤ 2
        assert max(abs(z.real), abs(z.imag)) < 5


def test_steinhaus_phases_are_uniform():
    phases = np.angle(draw(slq.steinhaus, 3, range(4), n=2**14, like=COMPLEX)).ravel()
    assert stats.kstest(phases, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-4


def test_steinhaus_probes_need_a_complex_operator():
    with pytest.raises(DtypeError, match="steinhaus probes are complex, but the operator has dtype float64"):
        slq.steinhaus(0, [0], None, 5, REAL)


@pytest.mark.parametrize("sampler", [slq.sphere, slq.gaussian, slq.rademacher], ids=lambda s: s.__name__)
def test_a_process_may_hold_no_coordinate(sampler):
    for index in (np.empty(0, dtype=int), slice(3, 3)):
        assert sampler(0, [0, 1], index, 5, REAL).shape == (2, 0)


def test_what_rng_may_be():
    assert seed_of(7) == 7
    assert seed_of(np.uint64(2**63)) == 2**63
    assert seed_of(2**100) == 2**100
    assert seed_of(None) != seed_of(None)
    assert seed_of(None) >= 0
    generator = np.random.default_rng(3)
    first, second = seed_of(generator), seed_of(generator)
    assert first != second
    assert first == seed_of(np.random.default_rng(3))
    assert type(seed_of(np.int64(3))) is int


@pytest.mark.parametrize(
    ("rng", "message"),
    [
        (-1, "rng= expects an integer >= 0, got -1"),
        ("7", "rng= expects None, an integer >= 0 or a numpy Generator, got str"),
        (True, "got bool"),
        (1.0, "got float"),
        (np.random.RandomState(0), "got RandomState"),
    ],
)
def test_what_rng_may_not_be(rng, message):
    with pytest.raises(RequestError, match=message):
        seed_of(rng)
