"""slq/_files.py: files are written whole or not at all."""

import os
import stat

import pytest

from slq._files import write_atomically


def test_a_file_appears_with_its_content(tmp_path):
    path = tmp_path / "result"
    with write_atomically(path) as file:
        file.write(b"all of it")
        assert not path.exists()
    assert path.read_bytes() == b"all of it"
    assert os.listdir(tmp_path) == ["result"]


def test_an_old_file_is_replaced_at_the_end_only(tmp_path):
    path = tmp_path / "result"
    path.write_bytes(b"old")
    with write_atomically(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "Ctrl-C"])
def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "result"
    path.write_bytes(b"old")

    def fail():
        with write_atomically(path) as file:
            file.write(b"half of")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["result"]


def test_a_failing_flush_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), write_atomically(tmp_path / "result") as file:
        file.write(b"all of it")
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_or_a_folder_as_target_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "absent" / "result"):
        pass
    with pytest.raises(IsADirectoryError), write_atomically(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_the_mode_is_that_of_an_ordinary_file(tmp_path):
    before = os.umask(0o027)
    try:
        with write_atomically(tmp_path / "result") as file:
            file.write(b"")
        assert stat.S_IMODE((tmp_path / "result").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027  # put back after it was read
    finally:
        os.umask(before)
