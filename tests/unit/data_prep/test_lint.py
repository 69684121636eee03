"""Lint finds what would stop or mislead training, and nothing in good shards; stats counts what is there."""

import json
import re
import tarfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from data_prep.__main__ import main
from data_prep.lint import lint_folder
from data_prep.shards import sample_members, write_shard
from data_prep.stats import histogram, measures
from dragonfly_lit.data.index import index_folder, read_rows
from dragonfly_lit.spec.records import Record, Turn


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def record(number: int, **changes) -> Record:
    turns = (Turn(role="user", text="What?", num_images=1), Turn(role="assistant", text=f"Noise {number}."))
    return Record(**({"key": f"n-{number}", "source": "noise", "turns": turns, "images": (png(number),)} | changes))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(2):
        write_shard(folder / f"noise-{shard}.tar", (record(shard * 4 + n) for n in range(4)))
    index_folder(folder)
    return folder


def write_by_hand(path, members):
    """A tar as another tool might write it."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))


def members_of(made: Record, **changes):
    fields = {**sample_members(made), **changes}
    return [(f"{made.key}.{name}", data) for name, data in fields.items()]


def wrong(folder):
    return [finding.what for finding in lint_folder(folder)[1] if finding.wrong]


def test_good_shards_have_no_finding(folder, capsys):
    assert lint_folder(folder) == (8, [])
    assert main(["lint", str(folder), "--workers", "1"]) == 0
    assert "8 samples read, 0 wrong" in capsys.readouterr().out


JPEG = BytesIO()
Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(JPEG, "JPEG")
JSON = sample_members(record(9))["json"]
BAD_SAMPLES = {
    "no JSON": (members_of(record(9), json=b"{"), "json"),
    "truncated image": (members_of(record(9), png=JPEG.getvalue()[:900]), "image 0"),
    "no image": (members_of(record(9))[:1], "1 image placeholders but 0 images"),
    "two images": ([("n-9.json", JSON), ("n-9.0.png", png(9)), ("n-9.1.png", png(8))], "1 image placeholders but 2"),
    "pickle": ([("n-9.json", JSON), ("n-9.png", png(9)), ("n-9.pkl", b"cos\nsystem\n")], "not allowed"),
    "key outside": ([("../n-9.json", JSON), ("../n-9.png", png(9))], "key"),
    "special token": (
        members_of(
            record(9, turns=(Turn(role="user", text="<|eot_id|>", num_images=1), Turn(role="assistant", text="a")))
        ),
        "structural token",
    ),
    "no answer": (members_of(record(9, turns=(Turn(role="user", text="?", num_images=1),))), "nothing to learn"),
    "lonely question": (
        members_of(
            record(
                9,
                share_image=True,
                turns=(
                    Turn(role="user", text="?", num_images=1),
                    Turn(role="assistant", text="!"),
                    Turn(role="user", text="?"),
                ),
            )
        ),
        "share_image",
    ),
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_a_bad_sample_is_found(folder, name, capsys):
    members, expected = BAD_SAMPLES[name]
    write_by_hand(folder / "noise-2.tar", members)
    index_folder(folder)
    assert any(expected in what for what in wrong(folder))
    assert main(["lint", str(folder), "--workers", "1"]) == 1


@pytest.mark.parametrize("cut", [300, 4096, 5000])
def test_a_cut_shard_is_found(folder, cut):
    shard = folder / "noise-0.tar"
    shard.write_bytes(shard.read_bytes()[:cut])
    assert any("dataset.json says" in what for what in wrong(folder))


def test_a_changed_byte_is_found(folder):
    shard = folder / "noise-0.tar"
    data = bytearray(shard.read_bytes())
    place = data.index(b"Noise 0")
    data[place] ^= 1
    shard.write_bytes(data)
    assert any("bytes changed" in what for what in wrong(folder))


def test_shards_that_differ_from_the_listing_are_found(folder):
    (folder / "noise-0.tar").rename(folder / "noise-7.tar")
    assert {"listed in dataset.json, but missing", "not listed in dataset.json"} <= set(wrong(folder))


@pytest.mark.parametrize("name", ["noise-0.tar.idx", "noise-0.tar.meta.jsonl"])
def test_an_index_of_another_shard_is_found(folder, name):
    (folder / name).write_bytes((folder / name.replace("0", "1")).read_bytes())
    if name.endswith("idx"):
        data = np.frombuffer((folder / name).read_bytes(), "<u8") + 512
        (folder / name).write_bytes(data.tobytes())
    assert any("writes it anew" in what for what in wrong(folder))


def test_copies_are_notes_and_a_key_that_is_there_twice_is_wrong(folder):
    write_shard(folder / "noise-2.tar", [record(0, key="copy"), record(11, key="n-1")])
    index_folder(folder)
    _, findings = lint_folder(folder)
    assert [(f.key, f.what, f.wrong) for f in findings] == [
        ("copy", "exact copy of n-0", False),
        ("n-1", "key is also in noise-0.tar", True),
    ]


def test_two_workers_find_what_one_finds(folder):
    write_by_hand(folder / "noise-2.tar", BAD_SAMPLES["pickle"][0])
    index_folder(folder)
    assert lint_folder(folder, workers=2) == lint_folder(folder, workers=1)


@pytest.mark.parametrize("command", ["lint", "index", "stats", "inspect"])
def test_a_folder_without_shards_is_refused_in_one_line(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    for folder, why in ((".", "has no shard"), ("mine", "does not exist"), ("file", "is not a folder")):
        assert main([command, str(tmp_path / folder)]) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("python -m data_prep")]
        assert why in line
        assert re.search(rf"python -m data_prep pack --from .* --out {re.escape(str(tmp_path / folder))} ", line)


def test_index_keeps_the_licence_and_mends_what_lint_found(folder):
    (folder / "noise-0.tar").rename(folder / "noise-7.tar")
    index_folder(folder, licence="CC0")
    (folder / "noise-7.tar.idx").write_bytes(b"")
    assert main(["index", str(folder)]) == 0
    assert wrong(folder) == []
    assert json.loads((folder / "dataset.json").read_text())["licence"] == "CC0"


def test_stats_counts_turns_images_and_sides(folder, capsys):
    found = measures([row for n in range(2) for row in read_rows(folder / f"noise-{n}.tar")])
    assert found["turns"].sum() == 16
    assert set(found["longest side, px"]) == {12}
    assert set(found["shortest side, px"]) == {9}
    assert histogram("turns", found["turns"]).row_count == 1
    assert main(["stats", str(folder), "--histogram"]) == 0
    assert "8 samples in 2 shards" in capsys.readouterr().out


def test_an_image_that_hardly_shows_anything_is_a_note(folder):
    out = BytesIO()
    Image.fromarray(np.resize(np.arange(16, dtype=np.uint8), (12, 9))).save(out, "PNG")
    write_shard(
        folder / "noise-0.tar",
        [
            record(
                0,
                images=(png(0), out.getvalue()),
                turns=(Turn(role="user", text="What?", num_images=2), Turn(role="assistant", text="Noise.")),
            )
        ],
    )
    index_folder(folder)
    notes = [finding for finding in lint_folder(folder)[1] if finding.key == "n-0"]
    assert [(note.wrong, note.what[:41]) for note in notes] == [(False, "image 1: its pixels use less than a tenth")]
