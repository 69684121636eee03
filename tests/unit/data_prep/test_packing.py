"""Packing is deterministic, copies images as they are, and says what it leaves out."""

import errno
import json
import os
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import webdataset
from PIL import Image

from data_prep.__main__ import main
from data_prep.images import find_image, load_image
from data_prep.job import Job
from data_prep.packing import pack
from data_prep.sources.conversations import Options
from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.index import build_index


def photo(seed: int, width: int = 20, height: int = 10, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


@pytest.fixture
def captions(tmp_path):
    """25 images and their captions; numbers 3 and 20 are exact copies."""
    folder = tmp_path / "images"
    folder.mkdir()
    lines = []
    for number in range(25):
        same = 3 if number == 20 else number
        (folder / f"{number}.png").write_bytes(photo(same))
        lines.append(json.dumps({"image": f"{number}.png", "caption": f"Noise {same}."}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    return tmp_path


def job(home, out="out", **changes):
    given = {
        "form": "captions",
        "path": home / "captions.jsonl",
        "images": home / "images",
        "out": home / out,
        "source": "noise",
        "licence": "CC0",
        "shard_size": 7,
    }
    return Job(**(given | changes))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_is_packed_is_the_same_for_any_number_of_workers(captions):
    pack(job(captions, "one"), workers=1)
    pack(job(captions, "two"), workers=2)
    assert contents(captions / "one") == contents(captions / "two")
    assert len(open_dataset(captions / "one")) == 25


def test_webdataset_reads_the_same_samples(captions):
    pack(job(captions), workers=1)
    shards = open_dataset(captions / "out")
    urls = [str(captions / "out" / entry.name) for entry in shards.entries]
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in theirs] == [shards[i].key for i in range(25)]
    assert [sample["png"] for sample in theirs] == [shards[i].images[0] for i in range(25)]


def test_images_are_copied_as_they_are(captions):
    pack(job(captions), workers=1)
    assert open_dataset(captions / "out")[4].images == ((captions / "images" / "4.png").read_bytes(),)


def test_max_side_shrinks_only_what_is_larger():
    jpeg = photo(0, 400, 200, "JPEG")
    small = Image.open(BytesIO(load_image(jpeg, max_side=100)))
    assert (small.size, small.format) == ((100, 50), "JPEG")
    assert load_image(jpeg, max_side=400) is jpeg


def deep(values: np.ndarray) -> bytes:
    """An image of 16 bits."""
    out = BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(out, "PNG")
    return out.getvalue()


def test_a_window_makes_8_bits_of_16_and_leaves_8():
    values = np.array([[0, 1000, 1500, 2000, 4000]])
    kept = load_image(deep(values), max_side=None)
    assert kept == deep(values)
    made = Image.open(BytesIO(load_image(kept, max_side=None, window=(1000, 2000))))
    assert (made.mode, np.asarray(made)[0, :, 0].tolist()) == ("RGB", [0, 0, 128, 255, 255])
    assert load_image(photo(0), max_side=None, window=(1000, 2000)) == photo(0)


def test_a_turned_image_is_scaled_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    out = BytesIO()
    Image.open(BytesIO(photo(0, 400, 200))).save(out, "JPEG", exif=exif)
    assert Image.open(BytesIO(load_image(out.getvalue(), max_side=100))).size == (50, 100)


@pytest.mark.parametrize("max_side", [None, 50])
def test_more_pixels_than_allowed_are_refused_with_the_way_out(max_side):
    with pytest.raises(ValueError, match=r"400x200 pixels, more than .*79999.*--max-pixels"):
        load_image(photo(0, 400, 200), max_side=max_side, max_pixels=79_999)
    assert load_image(photo(0, 400, 200), max_side=max_side, max_pixels=80_000)


PEAK = """
import resource, sys
from data_prep.images import load_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = load_image(open(sys.argv[1], "rb").read(), max_side=1344)
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
open(sys.argv[1] + ".small", "wb").write(small)
"""


def test_a_jpeg_of_12000_x_9000_is_scaled_down_in_little_memory(tmp_path):
    gradient = Image.linear_gradient("L").resize((12_000, 9_000))
    gradient.save(tmp_path / "large.jpg")
    command = [sys.executable, "-c", PEAK, str(tmp_path / "large.jpg")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"MALLOC_ARENA_MAX": "1"}
    )
    before, peak = map(int, done.stdout.split())
    assert Image.open(tmp_path / "large.jpg.small").size == (1344, 1008)
    assert peak - before < 60_000, "kB; its pixels in full are 108,000 kB in grey and 432,000 kB in RGB"


def test_an_image_of_another_format_becomes_png_without_loss():
    made = Image.open(BytesIO(load_image(photo(0, kind="BMP"), max_side=None)))
    assert made.format == "PNG"
    assert made.tobytes() == Image.open(BytesIO(photo(0))).tobytes()


def test_exact_copies_are_reported_and_kept(captions):
    report = pack(job(captions), workers=1)
    lines = (captions / "out" / "duplicates.jsonl").read_text().splitlines()
    assert (report["samples"], report["duplicates"]) == (25, 1)
    assert json.loads(lines[0]) == {"key": "noise-00000020", "same_as": "noise-00000003"}


def test_bad_rows_are_left_out_and_listed(captions):
    (captions / "images" / "5.png").unlink()
    (captions / "images" / "6.png").write_bytes(b"no image")
    report = pack(job(captions, on_error="skip"), workers=1)
    skipped = [json.loads(line) for line in (captions / "out" / "skipped.jsonl").read_text().splitlines()]
    assert report["samples"] == len(open_dataset(captions / "out")) == 23
    assert [line["row"] for line in skipped] == [6, 7]
    assert "missing" in skipped[0]["reason"]


def test_a_bad_row_stops_the_run_which_goes_on_once_it_is_mended(captions):
    broken = captions / "images" / "12.png"
    good = broken.read_bytes()
    broken.unlink()
    with pytest.raises(ValueError, match=r"row 13: image 12\.png is missing"):
        pack(job(captions), workers=1)
    broken.write_bytes(good)
    pack(job(captions), workers=1)
    pack(job(captions, "fresh"), workers=1)
    assert contents(captions / "out") == contents(captions / "fresh")


def test_another_run_cannot_go_on_in_its_place(captions):
    (captions / "images" / "12.png").rename(captions / "images" / "away.png")
    with pytest.raises(ValueError, match="missing"):
        pack(job(captions), workers=1)
    with pytest.raises(ValueError, match="shard_size was 7, is 5"):
        pack(job(captions, shard_size=5), workers=1)


@pytest.mark.parametrize("dropped", [True, False])
@pytest.mark.parametrize(
    ("option", "value", "key", "shown"),
    [
        ("strip_metadata", True, "strip_metadata", "True"),
        ("salt", b"a salt of sixteen", "names_hashed_with", "[0-9a-f]{16}"),
        ("window", (0, 255), "window", r"\[0, 255\]"),
        ("frames", 0, "frames", "0"),
        ("burned_in", True, "burned_in", "True"),
        ("max_pixels", 10**6, "max_pixels", "1000000"),
        ("options", Options(images_first=True), "images_first", "True"),
        ("options", Options(image_columns=("image",)), "image_columns", r"\['image'\]"),
    ],
)
def test_what_only_one_of_two_runs_asks_for_makes_them_two(captions, option, value, key, shown, dropped):
    (captions / "images" / "12.png").rename(captions / "images" / "away.png")
    runs = [job(captions, **{option: value}), job(captions)]
    first, second = runs if dropped else reversed(runs)
    with pytest.raises(ValueError, match="missing"):
        pack(first, workers=1)
    was, is_now = (shown, "not given") if dropped else ("not given", shown)
    with pytest.raises(ValueError, match=rf"not this one: {key} was {was}, is {is_now}\. Go on"):
        pack(second, workers=1)


def test_a_run_that_did_nothing_yet_may_be_mended_and_started_again(captions):
    table = captions / "captions.jsonl"
    good = table.read_text()
    table.write_text('{"image": "gone.png", "caption": "Nothing."}\n' + good)
    with pytest.raises(ValueError, match=r"row 1: image gone\.png is missing"):
        pack(job(captions), workers=1)
    table.write_text(good)
    assert pack(job(captions, shard_size=5), workers=1)["samples"] == 25


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(captions, monkeypatch):
    def full(path, records):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("data_prep.packing.write_indexed_shard", full)
        with pytest.raises(ValueError, match=r"out cannot be written: its disk is full .* goes on where it was"):
            pack(job(captions), workers=1)
    pack(job(captions), workers=1)
    pack(job(captions, "fresh"), workers=1)
    assert contents(captions / "out") == contents(captions / "fresh")


def test_packing_again_changes_nothing_and_packing_otherwise_is_refused(captions):
    first = pack(job(captions), workers=1)
    before = contents(captions / "out")
    assert pack(job(captions), workers=1) == first
    with pytest.raises(ValueError, match="packed otherwise"):
        pack(job(captions, licence="MIT"), workers=1)
    assert contents(captions / "out") == before


def test_a_chunk_without_a_good_row_leaves_no_shard(captions):
    for number in range(7, 14):
        (captions / "images" / f"{number}.png").unlink()
    pack(job(captions, on_error="skip"), workers=1)
    names = [entry.name for entry in open_dataset(captions / "out").entries]
    assert names == ["noise-00000.tar", "noise-00002.tar", "noise-00003.tar"]


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "{home}/secret.png", "."])
def test_a_name_that_leaves_the_image_folder_is_refused(tmp_path, name):
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.png").write_bytes(photo(0))
    with pytest.raises(ValueError, match=r"outside of .*\. Nothing outside of the folder of --images is read\.$"):
        find_image(name.format(home=tmp_path), tmp_path / "images")


@pytest.mark.parametrize("name", ["", " ", "a\0b"])
def test_what_cannot_be_a_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"^image .* cannot be the name of a file\.$"):
        find_image(name, tmp_path)


def test_an_address_is_not_fetched(tmp_path):
    with pytest.raises(ValueError, match="nothing is downloaded"):
        find_image("https://example.org/a.png", tmp_path)


def test_an_image_that_claims_too_many_pixels_is_refused():
    bomb = bytearray(photo(0))
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(ValueError, match=r"60000x60000|cannot be opened"):
        load_image(bytes(bomb), max_side=None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", "{"),
        ("rows.json", "{}"),
        ("rows.jsonl", '{"a": 1}\n['),
        ("rows.jsonl", "[1]\n"),
        ("rows.parquet", "PAR1"),
        ("rows.arrow", "ARROW"),
        ("rows.json", b"\xff\xfe".decode("latin-1")),
        ("rows.json", "[]"),
        ("rows.doc", ""),
        ("rows.csv", ""),
    ],
)
def test_a_broken_input_is_one_line_with_its_name(tmp_path, capsys, name, content):
    (tmp_path / name).write_text(content, encoding="latin-1")
    argv = ["pack", "--from", "parquet", str(tmp_path / name), "--out", str(tmp_path / "out"), "--source", "a"]
    assert main([*argv, "--licence", "CC0", "--workers", "1"]) == 1
    told = capsys.readouterr().err.strip()
    assert name in told
    assert "\n" not in told


def test_pack_from_the_command_line(captions, capsys):
    argv = ["pack", "--from", "captions", str(captions / "captions.jsonl"), "--images", str(captions / "images")]
    argv += ["--out", str(captions / "out"), "--source", "noise", "--licence", "CC0", "--workers", "1"]
    assert main(argv) == 0
    assert "25 samples" in capsys.readouterr().out
    assert not os.path.exists(captions / "out" / ".pack")


def test_a_source_name_that_cannot_be_a_key_is_refused(captions):
    with pytest.raises(ValueError, match="key"):
        pack(job(captions, source="a.b"), workers=1)


def test_a_disk_that_changes_what_it_stores_is_noticed(captions, monkeypatch):
    import data_prep.shards as shards

    write = shards.write_index

    def corrupt(path, scan):
        data = bytearray(path.read_bytes())
        data[600] ^= 1
        path.write_bytes(data)
        return write(path, scan)

    monkeypatch.setattr(shards, "write_index", corrupt)
    with pytest.raises(ValueError, match=r"is not what was written to it"):
        pack(job(captions), workers=1)


def test_the_index_that_packing_writes_is_the_one_that_reading_the_shard_gives(captions):
    pack(job(captions), workers=1)
    for shard in sorted((captions / "out").glob("*.tar")):
        written = [shard.with_name(f"{shard.name}{suffix}").read_bytes() for suffix in (".idx", ".meta.jsonl")]
        build_index(shard)
        assert written == [shard.with_name(f"{shard.name}{suffix}").read_bytes() for suffix in (".idx", ".meta.jsonl")]
