"""The demo: its network, its closed-form Hessian, its files, and the accuracy it promises."""

import numpy as np
import pytest

import slq
from slq import demo
from slq.demo.digits import DigitsNetwork, load_digits, train
from slq.demo.page import summary
from slq.demo.result import WIDTH
from slq.errors import RequestError


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def network(digits):
    return train(*digits)


@pytest.fixture(scope="module")
def exact(network, digits):
    H = network.hessian(*digits)
    return H, np.linalg.eigvalsh(H)


def flat(arrays):
    return np.concatenate([a.ravel() for a in arrays])


def moved(network, v, step):
    """The network with its weights moved by step·v."""
    ends = np.cumsum([a.size for a in network.arrays])[:-1]
    parts = zip(network.arrays, np.split(v, ends), strict=True)
    return DigitsNetwork(*(a + step * part.reshape(a.shape) for a, part in parts))


def test_training_reaches_the_promised_accuracy(network, digits):
    assert network.n == 3010
    assert network.accuracy(*digits) > 0.99


def test_gradients_are_derivatives_of_the_loss(network, digits):
    rng = np.random.default_rng(3)
    g = flat(network.gradients(*digits))
    for _ in range(3):
        v = rng.normal(size=network.n)
        slope = (moved(network, v, 1e-5).loss(*digits) - moved(network, v, -1e-5).loss(*digits)) / 2e-5
        # central differences: error of order step² · third derivative, and rounding 1e-16/1e-5
        assert slope == pytest.approx(g @ v, abs=1e-7)


def test_hessian_is_the_derivative_of_the_gradients(network, digits, exact):
    v = np.random.default_rng(4).normal(size=network.n)
    step = 1e-5
    difference = flat(moved(network, v, step).gradients(*digits)) - flat(moved(network, v, -step).gradients(*digits))
    # measured 2e-9 of the norm
    np.testing.assert_allclose(difference / (2 * step), exact[0] @ v, atol=1e-7 * np.linalg.norm(exact[0] @ v))


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_both_frameworks_multiply_by_the_closed_form(backend, network, digits, exact):
    operator, synchronize = demo._operator(backend, network, *digits, "float64", "cpu")
    from slq._arrays import from_host, to_host

    v = np.random.default_rng(5).normal(size=(2, network.n))
    product = operator.matvec(from_host(v, operator.like))
    synchronize(product)
    assert np.abs(to_host(product) - v @ exact[0]).max() < 1e-12 * np.abs(v @ exact[0]).max()
    assert operator.loss() == pytest.approx(network.loss(*digits), rel=1e-12)


def test_median_error_over_seeds_is_as_promised(exact):
    H, eigenvalues = exact
    runs = [slq.spectral_measure(H, rng=seed) for seed in range(10)]
    errors = [slq.metrics.density_l1(m, eigenvalues, width=WIDTH) for m in runs]
    assert np.median(errors) <= 0.006  # measured 0.0051
    for m in runs:
        assert m.support[1] == pytest.approx(eigenvalues[-1], rel=1e-12)


@pytest.mark.filterwarnings("ignore::slq.errors.QuadratureWarning")  # few steps
@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")  # two probes
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_run_writes_measure_figure_and_page(tmp_path, backend):
    said, seen = [], []
    folder = tmp_path / "out"
    result = demo.run(
        folder, backend=backend, device="cpu", num_probes=2, num_steps=30, seed=7, say=said.append,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert len(said) == 3
    assert seen[-1] == (60, 60)
    assert sorted(p.name for p in folder.iterdir()) == ["density.png", "measure.npz", "report.html"]
    assert (folder / "density.png").read_bytes().startswith(b"\x89PNG")
    saved = slq.SpectralMeasure.load(folder / "measure.npz")
    np.testing.assert_array_equal(saved.alpha, result.measure.alpha)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert "http" not in page  # nothing is fetched
    assert f"{result.l1:.5f}" in page
    assert f"{result.l1:.5f}" in summary(result)
    assert result.concentration_estimate == pytest.approx(result.concentration, abs=1e-8)
    assert result.seconds > 0
    assert result.seconds_of_products > 0


@pytest.mark.filterwarnings("ignore::slq.errors.QuadratureWarning")  # few steps
@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")  # one probe
def test_few_steps_find_no_ten_outliers_and_say_so(tmp_path):
    result = demo.run(tmp_path, num_probes=1, num_steps=4)
    assert np.isnan(result.concentration_estimate)
    assert "nan" in summary(result)


def test_unknown_backend_is_refused(tmp_path):
    with pytest.raises(RequestError, match="'torch' or 'jax', got 'tensorflow'"):
        demo.run(tmp_path, backend="tensorflow")
