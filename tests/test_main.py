"""The command line: exit statuses, streams, messages."""

import subprocess
import sys

import numpy as np
import pytest

import slq
from slq.__main__ import main


@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")  # one probe
def test_demo_prints_a_summary_and_keeps_quiet_without_a_terminal(tmp_path, capsys):
    assert main(["demo", "--probes", "1", "--steps", "12", "--seed", "3", "-o", str(tmp_path / "d")]) == 0
    captured = capsys.readouterr()
    assert "Wasserstein distance" in captured.out
    assert "products (" not in captured.err  # the bar is for terminals
    assert slq.SpectralMeasure.load(tmp_path / "d" / "measure.npz").seeds == (3,)


def test_demo_into_a_file_is_an_error(tmp_path, capsys):
    (tmp_path / "d").write_text("mine")
    assert main(["demo", "-o", str(tmp_path / "d")]) == 1
    assert capsys.readouterr().err.startswith("slq: ")
    assert (tmp_path / "d").read_text() == "mine"


@pytest.mark.parametrize("wrong", [["--probes", "0"], ["--steps", "x"], ["--seed", "-1"], ["--backend", "numpy"]])
def test_wrong_usage_exits_with_2(wrong, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["demo", *wrong])
    assert wrong[1] in capsys.readouterr().err


def test_interruption_exits_with_130(tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("slq.demo.run", interrupt)
    assert main(["demo", "-o", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_bar_ends_with_a_newline(capsys):
    from slq.__main__ import _bar

    _bar(5, 10)
    _bar(10, 10)
    assert capsys.readouterr().err == "\rslq: 5 of 10 products (50%)\rslq: 10 of 10 products (100%)\n"


def test_show_prints_the_summary_of_a_file(tmp_path, capsys):
    measure = slq.spectral_measure(np.diag(np.arange(1.0, 31.0)), num_probes=2, num_steps=5)
    measure.save(tmp_path / "m.npz")
    assert main(["show", str(tmp_path / "m.npz")]) == 0
    assert capsys.readouterr().out.strip() == measure.summary()


def test_show_of_a_foreign_file_names_it(tmp_path, capsys):
    (tmp_path / "m.npz").write_text("not ours")
    assert main(["show", str(tmp_path / "m.npz")]) == 1
    assert "m.npz is not a measure written by slq" in capsys.readouterr().err


def test_version_and_module_entry():
    done = subprocess.run([sys.executable, "-m", "slq", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"slq {slq.__version__}\n"
