"""Copies of a benchmark's images in a mix are found, re-encoded, scaled and cropped ones too; others are not."""

import csv
import json
from io import BytesIO
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from data_prep import probe_images
from data_prep.__main__ import main
from data_prep.likeness import ALIKE, MAX_BITS, PARTS, alike, bits_apart, hashes_of, look_at
from data_prep.overlap import Album, Asked, list_names
from data_prep.probe_images import PHOTOGRAPHS
from data_prep.shards import write_shard
from dragonfly_lit.data.index import index_folder
from dragonfly_lit.data.source import open_source
from dragonfly_lit.data.source_spec import spec_of
from dragonfly_lit.spec.samples import Record, Turn


def scene(seed: int, size=(320, 240)) -> Image.Image:
    """A picture like no other: a landscape of soft colours with shapes in front."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    made = Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)
    draw, random_of = ImageDraw.Draw(made), Random(seed)
    for _ in range(25):
        x, y, side = random_of.randrange(size[0]), random_of.randrange(size[1]), random_of.randrange(8, 70)
        colour = tuple(random_of.randrange(256) for _ in range(3))
        getattr(draw, random_of.choice(("rectangle", "ellipse")))((x, y, x + side, y + side // 2 + 4), fill=colour)
    return made.filter(ImageFilter.GaussianBlur(0.7))


def encoded(picture: Image.Image, kind: str = "PNG", **more) -> bytes:
    out = BytesIO()
    picture.save(out, kind, **more)
    return out.getvalue()


def cropped(picture: Image.Image, seed: int) -> Image.Image:
    random_of, (width, height) = Random(seed), picture.size
    left, top = (random_of.uniform(0, 0.15) for _ in range(2))
    right, bottom = (1 - random_of.uniform(0, 0.15) for _ in range(2))
    return picture.crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))


COPIES = {
    "same pixels": (lambda p, seed: encoded(p, "WEBP", lossless=True), "same pixels"),
    "re-encoded": (lambda p, seed: encoded(p, "JPEG", quality=40), "same picture"),
    "half as large": (lambda p, seed: encoded(p.resize((160, 120)), "JPEG", quality=80), "same picture"),
    "stretched": (lambda p, seed: encoded(p.resize((224, 224)), "PNG"), "same picture"),
    "grey": (lambda p, seed: encoded(p.convert("L"), "PNG"), "same picture"),
    "cropped": (lambda p, seed: encoded(cropped(p, seed), "JPEG", quality=80), None),
}
NUM = 12


@pytest.fixture(scope="module")
def mix(tmp_path_factory):
    """A benchmark of `NUM` pictures; shards with every copy of them, and as many pictures that are no copies."""
    root = tmp_path_factory.mktemp("overlap")
    (root / "benchmark").mkdir()
    (root / "shards").mkdir()
    records = []
    for seed in range(NUM):
        (root / "benchmark" / f"{seed}.png").write_bytes(encoded(scene(seed)))
        images = {f"{name.replace(' ', '-')}-{seed}": copy(scene(seed), seed) for name, (copy, _) in COPIES.items()}
        images |= {f"other-{seed}": encoded(scene(1000 + seed)), f"flat-{seed}": encoded(Image.new("RGB", (90, 90)))}
        turns = (Turn(role="user", text="?", num_images=1), Turn(role="assistant", text="a"))
        records += [
            Record(key=key, source="s", licence="l", turns=turns, images=(image,)) for key, image in images.items()
        ]
    write_shard(root / "shards" / "s-0.tar", records)
    index_folder(root / "shards")
    return root


@pytest.fixture(scope="module")
def found(mix):
    out = mix / "out"
    given = [str(mix / "shards"), "--against", str(mix / "benchmark"), "--out", str(out), "--workers", "1"]
    assert main(["overlap", *given]) == 0
    with (out / "overlap.csv").open() as file:
        return {row["key"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found_and_the_image_is_named(found, name):
    kind = COPIES[name][1]
    for seed in range(NUM):
        row = found[f"{name.replace(' ', '-')}-{seed}"]
        assert row["question"] == f"{seed}.png"
        assert kind is None or row["kind"] == kind
        assert float(row["likeness"]) >= ALIKE


def test_other_pictures_and_those_that_show_nothing_are_not(found):
    assert not [key for key in found if key.startswith(("other", "flat"))]


def test_the_list_is_what_a_source_takes(mix, found):
    (file,) = (mix / "out" / "exclude").iterdir()
    spec = spec_of({"path": str(mix / "shards"), "exclude": str(file)}, "data.train.sources.s", "s")
    reader = open_source(spec, "data.train.sources.s")
    kept = [reader.record(place, 0).key for place in range(len(reader))]
    assert sorted(kept) == sorted([f"other-{n}" for n in range(NUM)] + [f"flat-{n}" for n in range(NUM)])


def test_two_workers_find_the_same(mix, found):
    given = [str(mix / "shards"), "--against", str(mix / "benchmark"), "--out", str(mix / "again"), "--workers", "2"]
    assert main(["overlap", *given]) == 0
    for name in ("overlap.csv", "exclude"):
        first, second = mix / "out" / name, mix / "again" / name
        pairs = [(first, second)] if first.is_file() else zip(first.iterdir(), second.iterdir(), strict=True)
        assert all(one.read_bytes() == other.read_bytes() for one, other in pairs)


def test_a_picture_that_a_benchmark_crops_is_found_too():
    for seed in range(NUM):
        whole, part = look_at(scene(seed)), look_at(cropped(scene(seed), seed + 50))
        apart = bits_apart(whole.hashes, part.hashes[0])
        assert apart.min() <= MAX_BITS
        assert alike(part.small, whole.small, PARTS[int(apart.argmin())]) >= ALIKE


def album_of(folder, pictures):
    named = [Asked(benchmark="b", question=str(number), image=b"") for number in range(len(pictures))]
    Album.write(folder, named, [look_at(picture) for picture in pictures])
    return Album(folder)


def test_squares_of_different_photographs_are_hardly_ever_taken_for_one_another(tmp_path, monkeypatch):
    """The probes' own clutter: squares of five photographs against those of the four others."""
    pytest.importorskip("skimage")
    rng, squares = np.random.default_rng(0), []
    for names in (PHOTOGRAPHS[::2], PHOTOGRAPHS[1::2]):
        monkeypatch.setattr(probe_images, "PHOTOGRAPHS", names)
        squares.append([probe_images.background(rng, 192) for _ in range(100)])
    album = album_of(tmp_path, squares[1])
    assert sum(any(True for _ in album.like(look_at(square))) for square in squares[0]) <= 1


def test_crops_of_photographs_are_found(tmp_path):
    """Of the probes' photographs that are no texture, with up to 15% cut off at each edge."""
    pytest.importorskip("skimage")
    names = [name for name in PHOTOGRAPHS if name not in ("grass", "gravel", "hubble_deep_field")]
    pictures = [probe_images._photograph(name) for name in names]
    album = album_of(tmp_path, pictures)
    found = [
        (number, [other for other, _, _ in album.like(look_at(cropped(picture, seed)))])
        for number, picture in enumerate(pictures)
        for seed in range(5)
    ]
    assert all(others in ([], [number]) for number, others in found)
    assert sum(others == [number] for number, others in found) >= 0.9 * len(found)


def test_the_hash_is_that_of_imagehash():
    """Of `imagehash.phash`, version 4.3.2, on greys of 32 x 32, which it does not scale."""
    known = {0: "905df6a4c35db14a", 1: "b7382d32c2aa94f9"}
    for seed, text in known.items():
        grey = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32), np.uint8))
        (found,), _ = hashes_of(grey.convert("RGB"), PARTS[:1])
        assert f"{int(found):016x}" == text


def test_what_cannot_be_read_is_counted_and_named(mix, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "good.png").write_bytes(encoded(scene(3)))
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    given = [str(mix / "shards"), "--against", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    assert main(["overlap", *given, "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert "1 could not be read and were not compared" in told
    assert "broken.png" in told


def test_a_table_of_questions_and_a_training_configuration_are_compared(mix, tmp_path, capsys):
    rows = [{"image": f"{n}.png", "question": "?", "answer": "a", "split": "test"} for n in range(2)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    against = f"my_set benchmark.manifest={tmp_path / 't.jsonl'} benchmark.images={mix / 'benchmark'} "
    against += "benchmark.metric=exact_match"
    given = ["data=mine", f"data.path={mix / 'shards'}", "--against", against, "--out", str(tmp_path / "out")]
    assert main(["overlap", *given, "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert f"give mine exclude: {tmp_path / 'out/exclude/mine.txt'}" in told
    keys = (tmp_path / "out/exclude/mine.txt").read_text().split("\n")[1:-1]
    assert sorted(keys) == sorted(f"{name.replace(' ', '-')}-{n}" for name in COPIES for n in range(2))


@pytest.mark.parametrize(
    ("against", "told"),
    [
        ("nothing_like_it", "--against nothing_like_it: "),
        ("gqa", "gqa: there is no folder"),
        ("", "--against '': names nothing that can be compared"),
        ('my_set "unclosed', "names nothing that can be compared"),
        ("EMPTY", "neither shards (*.tar) nor images are in this folder"),
    ],
)
def test_what_cannot_be_compared_is_one_line(mix, tmp_path, against, told, capsys):
    (tmp_path / "empty").mkdir()
    against = str(tmp_path / "empty") if against == "EMPTY" else against
    assert main(["overlap", str(mix / "shards"), "--against", against, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there_is_one_line(mix, tmp_path, capsys):
    given = ["--against", str(mix / "benchmark"), "--out", str(tmp_path / "out")]
    assert main(["overlap", str(tmp_path / "gone"), *given]) == 1
    assert f"overlap: {tmp_path / 'gone'}: no such folder of shards. " in capsys.readouterr().err


def test_what_lies_in_out_is_not_written_over(mix, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    given = [str(mix / "shards"), "--against", str(mix / "benchmark"), "--out", str(tmp_path)]
    assert main(["overlap", *given]) == 1
    assert "is there already and holds something" in capsys.readouterr().err


def test_every_source_has_a_list_of_its_own():
    assert list(list_names(["a/b", "a-b", "A-B", "..", "web"]).values()) == [
        "a-b.txt", "a-b-2.txt", "A-B-3.txt", "source.txt", "web.txt",
    ]  # fmt: skip
