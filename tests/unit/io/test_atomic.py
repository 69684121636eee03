"""A file or a folder has its name when it is whole, never before."""

import pytest

from dragonfly_lit.io.atomic import publish, replacing, write


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.json"
    write(path, "old")
    with replacing(path) as partial:
        partial.write_text("ne")
        assert path.read_text() == "old"
        partial.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    write(path, b"old")

    def fail():
        with replacing(path) as partial:
            partial.write_text("half")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="full"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_published_under_its_name(tmp_path):
    (tmp_path / ".f.partial").mkdir()
    (tmp_path / ".f.partial" / "x").write_text("1")
    publish(tmp_path / ".f.partial", tmp_path / "f")
    assert (tmp_path / "f/x").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
