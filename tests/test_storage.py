"""slq/_storage.py: files come back to the bit, or not at all."""

import io
import json
import os
import pickle
import warnings

import numpy as np
import pytest

import slq
from slq import SpectralMeasure
from slq.errors import FileFormatError
from tests.problems import measure_of, problem, uniform

MEASURE = measure_of(uniform(8), num_probes=3, num_steps=4, rng=2**70)


@pytest.fixture
def saved(tmp_path):
    """A file with MEASURE."""
    path = tmp_path / "measure.npz"
    MEASURE.save(path)
    return path


def assert_same(one, other):
    """Equal in every field, to the bit."""
    assert type(one) is type(other)
    for name, value in one.state().items():
        np.testing.assert_array_equal(other.state()[name], value, err_msg=name)


@pytest.mark.parametrize(
    "measure",
    [
        MEASURE,
        measure_of(uniform(8), num_steps=4, probes=slq.gaussian),
        slq.spectral_measure(np.eye(6), num_probes=2, num_steps=3),
        slq.spectral_measure(problem(uniform(8)).matrix + 0j, num_steps=4, probes=slq.steinhaus),
        slq.spectral_measure(problem(uniform(8)).matrix, probes=np.eye(8)[:2], num_steps=4),
        slq.spectral_measure(np.eye(6, dtype=np.float32), num_probes=2, num_steps=3, reorthogonalize=2),
        SpectralMeasure(np.array([[5e-324, 1e308]]), np.array([[1e-308, 0.0]]), 7, provenance={"Größe": "5 µm"}),
    ],
    ids=["sphere", "gaussian", "exact", "complex", "fixed", "float32", "extremes"],
)
def test_files_come_back_to_the_bit(tmp_path, measure):
    measure.save(tmp_path / "measure")  # no suffix is added
    again = SpectralMeasure.load(str(tmp_path / "measure"))
    assert_same(measure, again)
    np.testing.assert_array_equal(again.nodes, measure.nodes)
    assert os.listdir(tmp_path) == ["measure"]


# NumPy's integers and booleans are no JSON.
@pytest.mark.parametrize("value", [np.int64(2), np.True_], ids=["integer", "boolean"])
def test_options_may_be_numpy_scalars(tmp_path, value):
    measure = slq.spectral_measure(problem(uniform(8)).matrix, num_probes=2, num_steps=4, reorthogonalize=value)
    measure.save(tmp_path / "measure.npz")
    assert_same(measure, SpectralMeasure.load(tmp_path / "measure.npz"))


def test_dimensions_may_be_numpy_scalars(tmp_path):
    class Operator:
        shape = (np.int64(8), np.int64(8))
        like = np.empty(0)

        def matvec(self, x, /):
            return 2.0 * x

    measure = slq.spectral_measure(Operator(), num_probes=2, num_steps=4)
    measure.save(tmp_path / "measure.npz")
    assert_same(measure, SpectralMeasure.load(tmp_path / "measure.npz"))


def test_a_truncated_file_is_refused(saved):
    content = saved.read_bytes()
    for size in range(0, len(content), 11):
        saved.write_bytes(content[:size])
        with pytest.raises(FileFormatError, match="is not a measure written by slq, or is damaged"):
            SpectralMeasure.load(saved)


# A damaged offset of the archive's directory comes out as an OSError (negative seek).
def test_a_flipped_bit_is_noticed_or_harmless(saved):
    content = saved.read_bytes()
    refused = 0
    # One bit of every third byte, and all bits of the 22 at the end, which hold the offsets.
    flips = [(i, i % 8) for i in range(0, len(content), 3)] + [(i, b) for i in range(-22, 0) for b in range(8)]
    for position, bit in flips:
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        saved.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                again = SpectralMeasure.load(saved)
            except FileFormatError:
                refused += 1
                continue
        assert_same(MEASURE, again)  # the flip fell into a date or another number that nobody reads
    assert refused > 0.8 * len(flips)  # measured: 0.88


def forge(path, *, header=(), drop=(), compress=False, **arrays):
    """A file like that of MEASURE, with other header entries or arrays."""
    state = MEASURE.state()
    names = ("alpha", "beta", "squared_norms", "start")
    entries = {name: value for name, value in state.items() if name not in names}
    entries |= {"provenance": dict(entries["provenance"]), "format": "slq.SpectralMeasure", "version": 2} | dict(header)
    arrays = {name: state[name] for name in names} | arrays
    save = np.savez_compressed if compress else np.savez
    kept = {name: value for name, value in arrays.items() if name not in drop}
    with open(path, "wb") as file:
        save(file, header=np.array(json.dumps(entries)), **kept)


def test_a_forged_file_is_read_where_nothing_is_wrong(tmp_path):
    forge(tmp_path / "measure.npz")
    assert_same(MEASURE, SpectralMeasure.load(tmp_path / "measure.npz"))


def test_what_is_no_measure_is_refused(tmp_path):
    path = tmp_path / "file"
    plain = io.BytesIO()
    np.save(plain, np.ones(3))
    archive = io.BytesIO()
    np.savez(archive, a=np.ones(3))
    for content in (b"", b"text", b"PK\x03\x04", pickle.dumps({"a": 1}), plain.getvalue(), archive.getvalue()):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match="is not a measure written by slq, or is damaged"):
            SpectralMeasure.load(path)


def test_pickles_are_never_run(tmp_path):
    class Boom:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for where in ({"alpha": np.array([[Boom()]])}, {"squared_norms": np.array([Boom()])}):
        forge(tmp_path / "measure.npz", **where)
        with pytest.raises(FileFormatError, match="Object arrays cannot be loaded"):
            SpectralMeasure.load(tmp_path / "measure.npz")
    assert not (tmp_path / "ran").exists()


def test_compressed_bombs_are_refused_before_they_are_unpacked(tmp_path):
    path = tmp_path / "measure.npz"
    forge(path, compress=True, alpha=np.zeros((3, 10**6)), beta=np.zeros((3, 10**6)))
    assert path.stat().st_size < 100_000
    with pytest.raises(FileFormatError, match=r"it claims 48\d{6} bytes of data"):
        SpectralMeasure.load(path)


@pytest.mark.parametrize("version", [0, 3, 999, "1", None])
def test_other_versions_are_refused(tmp_path, version):
    forge(tmp_path / "measure.npz", header={"version": version})
    with pytest.raises(FileFormatError, match="was written by a newer version of slq; update slq to read it"):
        SpectralMeasure.load(tmp_path / "measure.npz")


@pytest.mark.parametrize("header", [{"format": "other"}, {"format": None}])
def test_other_formats_are_refused(tmp_path, header):
    forge(tmp_path / "measure.npz", header=header)
    with pytest.raises(FileFormatError, match=r"something else than a measure; expected format 'slq\.SpectralM"):
        SpectralMeasure.load(tmp_path / "measure.npz")


def test_a_header_that_is_no_mapping_is_refused(tmp_path):
    with open(tmp_path / "measure.npz", "wb") as file:
        np.savez(
            file, header=np.array("[1, 2]"), **{name: np.ones((1, 1)) for name in ("alpha", "beta", "squared_norms")}
        )
    with pytest.raises(FileFormatError, match="holds something else than a measure"):
        SpectralMeasure.load(tmp_path / "measure.npz")


@pytest.mark.parametrize("name", ["alpha", "beta", "squared_norms"])
def test_missing_arrays_are_missed(tmp_path, name):
    forge(tmp_path / "measure.npz", drop=[name])
    with pytest.raises(FileFormatError, match=f"KeyError.*{name}"):
        SpectralMeasure.load(tmp_path / "measure.npz")


BAD_ARRAYS = {
    "NaN": {"alpha": MEASURE.alpha * np.nan},
    "infinity": {"beta": MEASURE.beta + np.inf},
    "negative": {"beta": -MEASURE.beta},
    "shapes differ": {"alpha": MEASURE.alpha[:, :-1]},
    "one dimension": {"alpha": MEASURE.alpha[0], "beta": MEASURE.beta[0]},
    "scalars": {"alpha": np.array(1.0), "beta": np.array(1.0)},
    "empty": {"alpha": MEASURE.alpha[:0], "beta": MEASURE.beta[:0]},
    "norms missing": {"squared_norms": MEASURE.squared_norms[:-1]},
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_values_that_cannot_be_a_measure_are_refused(tmp_path, kind):
    forge(tmp_path / "measure.npz", **BAD_ARRAYS[kind])
    with pytest.raises(FileFormatError, match="holds values that cannot be a measure"):
        SpectralMeasure.load(tmp_path / "measure.npz")


# Believed: wrong answers or late errors follow.
@pytest.mark.parametrize(
    ("header", "arrays"),
    [
        ({"n": 0}, {}),
        ({"n": -3}, {}),
        ({"n": 2.5}, {}),
        ({"n": "8"}, {}),
        ({"eps": float("nan")}, {}),
        ({"eps": -1.0}, {}),
        ({"eps": "small"}, {}),
        ({"sampler": 3}, {}),
        ({"seeds": ["a", "b", "c"]}, {}),
        ({"probe_ids": [0, 0, 0]}, {}),
        ({}, {"squared_norms": np.full(3, np.nan)}),
        ({}, {"squared_norms": -np.ones(3)}),
        ({}, {"squared_norms": np.ones((3, 2))}),
        ({}, {"alpha": MEASURE.alpha.astype(str)}),
        ({}, {"alpha": MEASURE.alpha + 1j}),
    ],
    ids=lambda x: str({k: np.asarray(v).dtype.kind + str(np.ravel(v)[0]) for k, v in x.items()}),
)
def test_forged_values_are_refused(tmp_path, header, arrays):
    forge(tmp_path / "measure.npz", header=header, **arrays)
    with pytest.raises(FileFormatError, match="cannot be a measure"):
        SpectralMeasure.load(tmp_path / "measure.npz")


@pytest.mark.parametrize("header", [{"unknown": 1}, {"alpha": 1}, {"seeds": 5}, {"seeds": [1]}, {"provenance": None}])
def test_other_fields_are_refused(tmp_path, header):
    forge(tmp_path / "measure.npz", header=header)
    with pytest.raises(FileFormatError, match="holds values that cannot be a measure"):
        SpectralMeasure.load(tmp_path / "measure.npz")


def test_a_missing_file_and_a_folder_are_os_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        SpectralMeasure.load(tmp_path / "absent.npz")
    with pytest.raises(IsADirectoryError):
        SpectralMeasure.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        MEASURE.save(tmp_path / "absent" / "measure.npz")
    with pytest.raises(IsADirectoryError):
        MEASURE.save(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_failing_write_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left on device"):
        MEASURE.truncate(2).save(saved)
    monkeypatch.undo()
    assert_same(MEASURE, SpectralMeasure.load(saved))
    assert os.listdir(saved.parent) == ["measure.npz"]


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    measure = MEASURE.changed(provenance={"object": object()})
    with pytest.raises(TypeError):
        measure.save(tmp_path / "measure.npz")
    assert os.listdir(tmp_path) == []


def test_version_one_files_stay_readable(tmp_path):
    # The format, spelled out: a change that breaks it must raise the version.
    file = io.BytesIO()
    header = {
        "format": "slq.SpectralMeasure",
        "version": 1,
        "n": 5,
        "sampler": "sphere",
        "seeds": [3],
        "probe_ids": [0],
        "is_complex": False,
        "eps": 2.0**-52,
        "provenance": {"slq": "0.1.0", "library": "numpy", "dtype": "float64", "reorthogonalize": True},
    }
    np.savez(
        file,
        header=np.array(json.dumps(header)),
        alpha=np.ones((1, 2)),
        beta=np.ones((1, 2)),
        squared_norms=np.full(1, 5.0),
    )
    path = tmp_path / "old.npz"
    path.write_bytes(file.getvalue())
    measure = SpectralMeasure.load(path)
    assert (measure.n, measure.seeds, measure.num_steps) == (5, (3,), 2)
    assert measure.trace().value == pytest.approx(5.0)
