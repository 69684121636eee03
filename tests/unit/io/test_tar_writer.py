"""What is written is what webdataset writes, byte for byte, and what the reader finds is what was written."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.writer import TarWriter

from dragonfly_lit.data.members import raw_sample
from dragonfly_lit.io.tar import read_from, walk
from dragonfly_lit.io.tar_writer import SampleWriter, header

KEYS = st.from_regex(r"[A-Za-z0-9_-]{1,12}(/[A-Za-z0-9_-]{1,60}){0,4}", fullmatch=True)
MEMBERS = st.dictionaries(
    st.sampled_from(["json", "jpg", "png", "0.jpg", "1.png", "webp"]), st.binary(max_size=1500), min_size=1, max_size=4
)


class Kept(BytesIO):
    def close(self) -> None:
        """Stay readable when a writer is done."""


def theirs(samples) -> bytes:
    out = Kept()
    with TarWriter(out, encoder=False, mtime=0, user="", group="", mode=0o644) as writer:
        for key, members in samples:
            writer.write({"__key__": key, **members})
    return out.getvalue()


def ours(samples) -> bytes:
    out = BytesIO()
    writer = SampleWriter(out)
    written = [writer.write(key, members) for key, members in samples]
    written.append(writer.close())
    assert b"".join(written) == out.getvalue()
    assert writer.offset == len(out.getvalue())
    return out.getvalue()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KEYS, MEMBERS), max_size=5))
def test_samples_are_written_as_webdataset_writes_them(samples):
    assert ours(samples) == theirs(samples)


@pytest.mark.parametrize("key", ["n" * 96, "n" * 97, "n" * 250, "folder/" * 20 + "x", "schön/ü"])
def test_long_and_foreign_names_too(key):
    samples = [(key, {"jpg": b"x" * 513})]
    assert ours(samples) == theirs(samples)


def test_a_file_too_large_for_eight_digits_has_the_header_of_the_standard(tmp_path):
    assert b"size=8589934592" in header("a.jpg", 8**11)
    assert len(header("a.jpg", 8**11 - 1)) == 512


def test_what_is_written_is_read_back(tmp_path):
    (tmp_path / "a.tar").write_bytes(ours([("a/b", {"json": b"{}", "jpg": b"123"}), ("c", {"txt": b"hello"})]))
    with (tmp_path / "a.tar").open("rb") as file:
        found = list(walk(read_from(file.fileno()), (tmp_path / "a.tar").stat().st_size))
    assert [member.name for member in found if hasattr(member, "name")] == ["a/b.jpg", "a/b.json", "c.txt"]
    written = SampleWriter(BytesIO()).write("a/b", {"json": b"{}", "jpg": b"123"})
    assert raw_sample("a.tar", written).members == {"json": b"{}", "jpg": b"123"}
