"""A name that finds no file is answered by the file that it may mean, and by none that it does not."""

import unicodedata

import pytest

from dragonfly_lit.io.likely import _listed, likely


@pytest.fixture
def images(tmp_path):
    """A folder as it comes from a Mac or a zip."""
    for name in ("Scan_1.JPG", "deep/b.png", "notes.txt", unicodedata.normalize("NFD", "Lösung.jpg")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("scan_1.jpg", "Scan_1.JPG"),
        ("Scan_1.png", "Scan_1.JPG"),
        ("Scan_1", "Scan_1.JPG"),
        ("deep\\b.png", "deep/b.png"),
        ("Deep/B.jpeg", "deep/b.png"),
        ("images/deep/b.png", "deep/b.png"),
        ("/mnt/data/images/Scan_1.JPG", "Scan_1.JPG"),
        ("./scan_1.JPG", "Scan_1.JPG"),
        ("lösung.jpg", unicodedata.normalize("NFD", "Lösung.jpg")),
    ],
)
def test_the_file_that_a_name_may_mean_is_named(images, name, meant):
    assert likely(images, name) == f" {meant} is there: write the name as the file has it."


@pytest.mark.parametrize("name", ["scan_2.jpg", "notes.jpg", "deep", "deep/c.png", "../deep/b.png", ".", "", "\\"])
def test_no_other_file_is(images, name):
    assert likely(images, name) == ""


def test_a_file_that_has_gone_since_is_not_named(images):
    assert likely(images, "SCAN_1.jpg")
    (images / "Scan_1.JPG").unlink()
    assert likely(images, "SCAN_1.jpg") == ""


def test_a_folder_that_cannot_be_listed_and_a_name_that_cannot_be_shown_give_none(images):
    assert likely(images / "nowhere", "a.jpg") == ""
    (images / "two\nlines.jpg").write_bytes(b"")
    _listed.cache_clear()
    assert likely(images, "TWO\nlines.jpg") == ""
