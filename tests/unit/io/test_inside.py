"""A name out of data means a file inside of its folder, whatever dots, slashes and links it is made of."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dragonfly_lit.io.inside import OutsideError, inside


@pytest.fixture
def home(tmp_path):
    """A folder of images with links, and a secret beside it."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"a")
    (folder / "out.png").symlink_to("../secret.png")
    (folder / "up").symlink_to("..")
    (folder / "in.png").symlink_to("a.png")
    (folder / "loop").symlink_to("loop")
    (tmp_path / "images2").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "name", ["a.png", "./a.png", "deep/../a.png", "in.png", "deep/none.png", "loop", "..a", "a b:c"]
)
def test_a_name_inside_is_a_place_in_the_folder(home, name):
    assert inside(home / "images", name) == home / "images" / name


def test_an_absolute_name_inside_counts_as_inside(home):
    assert inside(home / "images", str(home / "images/a.png")) == home / "images/a.png"


@pytest.mark.parametrize(
    "name", ["../secret.png", "deep/../../secret.png", "out.png", "up/secret.png", "up", "..", ".", "../images2/a", "/"]
)
def test_a_name_that_leads_out_is_refused(home, name):
    with pytest.raises(OutsideError, match="outside of"):
        inside(home / "images", name)
    with pytest.raises(OutsideError, match="outside of"):
        inside(home / "images", str(home / "images" / name))


def test_a_second_folder_may_be_allowed(home):
    assert inside(home / "images", "../secret.png", allowed=home) == home / "images/../secret.png"
    assert inside(home / "images", "out.png", allowed=home).read_bytes() == b"secret"
    with pytest.raises(OutsideError):
        inside(home / "images", "../secret.png", allowed=home / "images2")


def test_the_folder_itself_may_be_a_link(home):
    (home / "linked").symlink_to("images")
    assert inside(home / "linked", "a.png").read_bytes() == b"a"
    with pytest.raises(OutsideError):
        inside(home / "linked", "../secret.png")


def test_a_snapshot_of_the_hugging_face_cache_reads_its_own_blobs_alone(tmp_path):
    cache = tmp_path / "datasets--who--what"
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs/0f").write_bytes(b"image")
    (cache / "secret").write_bytes(b"secret")
    (cache / "snapshots/abc").mkdir(parents=True)
    (cache / "snapshots/abc/a.png").symlink_to("../../blobs/0f")
    (cache / "snapshots/abc/b.png").symlink_to("../../secret")
    assert inside(cache / "snapshots/abc", "a.png").read_bytes() == b"image"
    with pytest.raises(OutsideError):
        inside(cache / "snapshots/abc", "b.png")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (5, "^5 cannot be the name of a file: it is not a text but int"),
        (None, "not a text but NoneType"),
        ("", "cannot be"),
        (" ", "cannot be"),
        ("a\0.png", "cannot be"),
        ("\ud83d.png", "cannot be"),
        ("http://x/a.png", "is an address"),
        ("data:image/png;base64,aaaa", "is an address"),
    ],
)
def test_what_cannot_be_a_name_is_refused(tmp_path, name, words):
    with pytest.raises(ValueError, match=words):
        inside(tmp_path, name)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["..", ".", "", "deep", "up", "out.png", "a.png", "in.png", "secret.png"]), max_size=6))
def test_whatever_is_accepted_lies_inside(home, parts):
    try:
        path = inside(home / "images", "/".join(parts))
    except ValueError:
        return
    assert os.path.realpath(path).startswith(str(home / "images") + os.sep)
