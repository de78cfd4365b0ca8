"""Files that are written whole or not at all."""

import pytest

from ntm_rl.agents.storage.files import WriteError, check_writable, write_atomically


def test_an_older_file_is_mentioned_only_if_there_is_one(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    path = tmp_path / "file"
    with pytest.raises(WriteError, match=r"file: cannot be written: No space left on device$"):
        write_atomically(path, b"new")
    path.write_bytes(b"old")
    with pytest.raises(WriteError, match=r"No space left on device; an older file is untouched$"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [check_writable, lambda path: write_atomically(path, b"")])
def test_a_target_that_cannot_be_a_file_is_one_error(write, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match=r"folder: cannot be written: Is a directory$"):
        write(tmp_path / "folder")
    with pytest.raises(WriteError, match="cannot be written: File name too long"):
        write(tmp_path / ("x" * 300))
    with pytest.raises(WriteError, match="cannot be written: No such file or directory"):
        write(tmp_path / "no" / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_check_changes_no_file(tmp_path):
    path = tmp_path / "file"
    check_writable(path)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"old")
    check_writable(path)
    assert path.read_bytes() == b"old"
