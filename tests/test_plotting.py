"""Pictures: what is drawn, where, and that nothing global is touched."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

import slq
from slq._estimate import Spikes
from slq.errors import MissingPackageError, WidthError
from slq.plotting import plot_density, plot_difference, save_figure


@pytest.fixture(scope="module")
def spiked():
    eigenvalues = np.concatenate([np.linspace(0, 1, 197), [3.0, 5.0, 8.0]])
    return eigenvalues, slq.spectral_measure(np.diag(eigenvalues), num_probes=6, num_steps=60)


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_plot_shows_estimate_band_exact_and_outliers(spiked):
    eigenvalues, measure = spiked
    ax = measure.plot(width=0.05, exact=eigenvalues)
    assert labels(ax) == ["95% interval", "estimate, 6 probes × 60 steps", "exact, n = 200", "3 outliers"]
    assert ax.get_yscale() == "log"
    assert "0.05" in ax.get_ylabel()
    marks = next(line for line in ax.lines if line.get_marker() == "v")
    np.testing.assert_allclose(marks.get_xdata(), [8, 5, 3], rtol=1e-10)


def test_no_line_is_drawn_across_a_gap(spiked):
    ax = spiked[1].plot(width=0.02)
    x = ax.lines[0].get_xdata()
    assert np.isnan(x).any()
    assert np.nanmax(np.diff(x)) < 0.02


def test_plot_draws_into_given_axes_with_given_label(spiked):
    ax = Figure().add_subplot()
    assert spiked[1].plot(ax, label="ours", confidence=0.5) is ax
    assert labels(ax)[:2] == ["50% interval", "ours, 6 probes × 60 steps"]


def test_unknown_error_draws_no_band():
    measure = slq.spectral_measure(np.diag(np.arange(1.0, 41.0)), num_probes=1, num_steps=20, probes=slq.rademacher)
    assert labels(measure.plot(width=2.0))[0] == "estimate, 1 probe × 20 steps"


def test_figure_is_written_as_png(spiked, tmp_path):
    save_figure(spiked[1].plot(), tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_pyplot_stays_unloaded():
    code = (
        "import sys, numpy as np, slq\n"
        "slq.spectral_measure(np.diag(np.arange(1.0, 21.0)), num_probes=1, num_steps=5).plot(width=4.0)\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_matplotlib_names_the_extra(spiked, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"slq\[plot\]"):
        spiked[1].plot()


def test_eigenvalues_may_be_drawn_on_a_logarithmic_scale(spiked):
    ax = spiked[1].plot(width=0.05, xscale="symlog")
    assert ax.get_xscale() == "symlog"
    assert ax.get_xlim()[0] < 0
    x = np.linspace(1.0, 2.0, 100)
    positive = slq.spectral_measure(np.diag(x), num_probes=6, num_steps=60).plot(width=0.05, xscale="log")
    assert positive.get_xscale() == "log"
    assert 0 < positive.get_xlim()[0] < 1
    with pytest.raises(WidthError, match="a log grid cannot hold"):
        slq.spectral_measure(np.diag(x - 1.5), num_probes=2, num_steps=60).plot(width=0.05, xscale="log")
    with pytest.raises(WidthError, match="one of the names"):
        spiked[1].plot(xscale="cubic")


def test_a_picture_does_not_warn(spiked):
    spiked[1].plot(width=1e-4)
    spiked[1].plot(width=100.0)


@pytest.mark.parametrize("kernel", ["gaussian", "lorentzian", "jackson"])
def test_every_kernel_can_be_drawn(spiked, kernel):
    eigenvalues, measure = spiked
    ax = measure.plot(width=0.1, kernel=kernel, exact=eigenvalues)
    assert ax.get_ylabel().startswith(f"density ({kernel.capitalize()} of width 0.")
    estimate, exact = (line for line in ax.lines if len(line.get_xdata()) > 100)
    # One kernel and one width for both: of the largest value, six probes are off by less than a half here.
    assert np.nanmax(exact.get_ydata()) == pytest.approx(np.nanmax(estimate.get_ydata()), rel=0.5)
    assert np.isnan(estimate.get_xdata()).any() == (kernel == "gaussian")  # the others fill gaps with their tails


def test_a_function_is_drawn_as_a_kernel(spiked):
    ax = spiked[1].plot(width=0.2, kernel=lambda z: np.maximum(1 - np.abs(z), 0.0))
    assert ax.get_ylabel() == "density (kernel of width 0.2)"


@pytest.mark.parametrize("kernel", ["gaussian", "lorentzian", "jackson"])
def test_spikes_are_stems_as_high_as_the_peak_of_their_mass(spiked, kernel, monkeypatch):
    measure = spiked[1]
    density = measure.density(width=0.2, kernel=kernel)
    for values in ([3.0, 8.0], [8.0], []):
        made = dataclasses.replace(density, spikes=Spikes(np.array(values), np.full(len(values), 1 / 200)))
        monkeypatch.setattr("slq.plotting.smoothed_density", lambda *_, made=made, **__: (made, []))
        ax = plot_density(measure, width=0.2, kernel=kernel)
        assert not [line for line in ax.lines if line.get_marker() == "v"]  # each eigenvalue is marked once
        stems = [line for line in ax.lines if line.get_marker() == "o"]
        assert len(stems) == bool(values)
        if values:
            assert labels(ax)[-1] == f"{len(values)} outlier{'s' * (len(values) > 1)}, exact mass"
            assert stems[0].get_xdata().tolist() == values
            peak = {"gaussian": 1 / np.sqrt(2 * np.pi), "lorentzian": 1 / np.pi, "jackson": 0.4}[kernel]
            # Of a Jackson kernel of N moments, 0.4 up to 1/N.
            exactly = 1e-12 if kernel != "jackson" else 0.05
            np.testing.assert_allclose(stems[0].get_ydata(), peak / density.width / 200, rtol=exactly)


def test_a_difference_is_drawn_with_its_band(spiked):
    eigenvalues, measure = spiked
    after = slq.spectral_measure(np.diag(1.1 * eigenvalues), num_probes=6, num_steps=60)
    for kernel in ("gaussian", "lorentzian", "jackson"):
        ax = plot_difference(after, measure, width=0.2, kernel=kernel)
        assert labels(ax) == ["95% interval", "difference, 6 common probes"]
        assert ax.get_ylabel().startswith(f"difference of densities ({kernel.capitalize()} of width 0.")
        y = ax.lines[0].get_ydata()
        assert y.min() < 0 < y.max()
    other = slq.spectral_measure(np.diag(eigenvalues), num_probes=1, num_steps=60, rng=1, probes=slq.rademacher)
    ax = plot_difference(other, measure, Figure().add_subplot(), width=0.2, label="ours", xscale="symlog")
    assert labels(ax) == ["ours, independent probes"]  # of unknown error
    assert ax.get_xscale() == "symlog"
