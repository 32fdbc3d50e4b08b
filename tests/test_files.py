"""A file is replaced whole or not at all, and what was made for nothing is gone."""

import pytest

from residual_lens import files


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    target = tmp_path / "file"
    files.write_atomically(target, b"old")
    monkeypatch.setattr(files.os, "fsync", lambda number: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(target, b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"old")]


def test_an_interrupted_block_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "file"
    files.write_atomically(target, b"old")

    def interrupted():
        with files.replacing(target) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"old")]


def test_leftovers_are_what_a_process_was_writing_and_nothing_else(tmp_path):
    kept = {"a.h5.partial", "a.partial", "a.12", "deeper"}
    for name in {*kept, "a.json.12.partial", "model.9.partial"} - {"deeper"}:
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "a.12.partial").touch()
    files.remove_leftovers(tmp_path, tmp_path / "nowhere")
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert len(list((tmp_path / "deeper").iterdir())) == 1


def test_folders_that_were_made_for_nothing_are_gone(tmp_path):
    (tmp_path / "before").mkdir()
    with files.made_while_needed(tmp_path / "before" / "a" / "b"):
        assert (tmp_path / "before" / "a" / "b").is_dir()
    with files.made_while_needed(tmp_path / "before"):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "before"]
    with files.made_while_needed(tmp_path / "c" / "d"):
        (tmp_path / "c" / "file").touch()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["file"]
