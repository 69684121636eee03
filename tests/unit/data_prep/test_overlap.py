"""Copies of a benchmark's images in a mix are found, re-encoded, scaled and cropped ones too; others are not."""

import csv
import json
from io import BytesIO
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFilter

from data_prep import probe_images
from data_prep.__main__ import main
from data_prep.album import Album
from data_prep.likeness import ALIKE, MAX_BITS, PARTS, TURNS, alike, bits_apart, hashes_of, look_at
from data_prep.overlap import list_names
from data_prep.probe_images import PHOTOGRAPHS
from data_prep.shards import write_shard
from dragonfly_lit.data.exclusion import read_keys, write_keys
from dragonfly_lit.data.index import index_folder
from dragonfly_lit.data.opening import open_source
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
    "mirrored": (lambda p, seed: encoded(p.transpose(TURNS[0]), "JPEG", quality=60), "turned or mirrored"),
    "turned": (lambda p, seed: encoded(p.transpose(TURNS[seed % 7]), "PNG"), "turned or mirrored"),
    "cropped": (lambda p, seed: encoded(cropped(p, seed), "JPEG", quality=80), None),
}
NUM = 12
CORNERS = ((0, 0), (160, 0), (0, 80), (160, 80))


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


@pytest.mark.slow
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
    named = [("b", str(number)) for number in range(len(pictures))]
    Album.write(folder, named, [look_at(picture) for picture in pictures])
    return Album(folder)


def test_each_way_to_turn_is_found_and_is_as_alike_as_the_picture_itself(tmp_path):
    pictures = [scene(seed, size) for seed, size in enumerate([(320, 240), (240, 320), (256, 256), (301, 77)])]
    album = album_of(tmp_path, pictures)
    for number, picture in enumerate(pictures):
        for turn in TURNS:
            ((other, kind, likeness),) = album.like(look_at(picture.transpose(turn)))
            assert (other, kind) == (number, "turned or mirrored")
            assert likeness > 0.99


def test_parts_of_different_scenes_are_hardly_ever_taken_for_one_another(tmp_path):
    """Drawn ones; below are photographs, where the package that has them is installed."""
    squares = [
        [scene(seed).crop((x, y, x + 160, y + 160)) for seed in range(start, start + 25) for x, y in CORNERS]
        for start in (2000, 3000)
    ]
    album = album_of(tmp_path, squares[1])
    assert not [number for number, square in enumerate(squares[0]) if any(True for _ in album.like(look_at(square)))]


def check_that_crops_are_found(album, pictures) -> None:
    """Nine in ten at least, and never another picture."""
    found = [
        (number, [other for other, _, _ in album.like(look_at(cropped(picture, seed)))])
        for number, picture in enumerate(pictures)
        for seed in range(5)
    ]
    assert all(others in ([], [number]) for number, others in found)
    assert sum(others == [number] for number, others in found) >= 0.9 * len(found)


def test_crops_of_scenes_are_found(tmp_path):
    pictures = [scene(seed) for seed in range(4000, 4006)]
    check_that_crops_are_found(album_of(tmp_path, pictures), pictures)


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
    check_that_crops_are_found(album_of(tmp_path, pictures), pictures)


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


def overlap(*given):
    return main(["overlap", *map(str, given), "--workers", "1"])


def rows_of(out):
    with (out / "overlap.csv").open() as file:
        return list(csv.DictReader(file))


def table_of(path, pictures):
    rows = [{"image": encoded(scene(seed)), "caption": "A scene."} for seed in pictures]
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_tables_are_compared_and_the_list_is_what_they_take(mix, tmp_path, capsys):
    table_of(tmp_path / "train-0.parquet", [2, 500, 5])
    assert overlap(tmp_path / "train-*.parquet", "--against", mix / "benchmark", "--out", tmp_path / "out") == 0
    assert [(row["key"], row["question"]) for row in rows_of(tmp_path / "out")] == [
        ("train-0.parquet/0", "2.png"),
        ("train-0.parquet/2", "5.png"),
    ]
    (listed,) = (tmp_path / "out" / "exclude").iterdir()
    spec = spec_of({"path": str(tmp_path / "train-0.parquet"), "exclude": str(listed)}, "data.train.sources.s", "s")
    assert len(open_source(spec, "data.train.sources.s")) == 1
    assert f"exclude: {listed}" in capsys.readouterr().out


def test_a_folder_is_compared_once_however_often_it_is_named(mix, tmp_path, capsys):
    table_of(tmp_path / "t.parquet", [2])
    given = [tmp_path, f"{tmp_path}/", tmp_path, "--against", mix / "benchmark", mix / "benchmark"]
    assert overlap(*given, "--out", tmp_path / "out") == 0
    assert len(rows_of(tmp_path / "out")) == 1
    assert "1 image compared" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["shards", "tables"])
def test_one_bad_sample_of_what_is_compared_with_is_counted(mix, tmp_path, kind, capsys):
    (tmp_path / "b").mkdir()
    pictures = [encoded(scene(0)), b"\x89PNG\r\n\x1a\n", encoded(scene(1))]
    if kind == "shards":
        turns = (Turn(role="user", text="?", num_images=1), Turn(role="assistant", text="a"))
        records = [
            Record(key=f"k-{n}", source="s", licence="l", turns=turns, images=(image,))
            for n, image in enumerate(pictures)
        ]
        write_shard(tmp_path / "b" / "s-0.tar", records)
    else:
        rows = [{"image": image, "caption": "A scene."} for image in pictures]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b" / "k.parquet")
    assert overlap(mix / "shards", "--against", tmp_path / "b", "--out", tmp_path / "out") == 0
    names = ("k-0", "k-2") if kind == "shards" else ("k.parquet/0", "k.parquet/2")
    assert {row["question"] for row in rows_of(tmp_path / "out")} == set(names)
    assert "1 could not be read and were not compared" in capsys.readouterr().out


def test_a_reader_of_ones_own_is_compared_and_told_what_it_must_leave_out(mix, tmp_path, capsys):
    (tmp_path / "groups" / "data").mkdir(parents=True)
    (tmp_path / "groups" / "data" / "own.yaml").write_text(
        "defaults: [_base, _self_]\n"
        "train: {sources: {own: {reader: {_target_: overlap_reader.Scenes, seeds: [3, 700]}}}}\n"
    )
    given = ["data=own", f"--config-dir={tmp_path / 'groups'}", "--against", mix / "benchmark"]
    assert overlap(*given, "--out", tmp_path / "out") == 0
    assert [(row["key"], row["question"]) for row in rows_of(tmp_path / "out")] == [("scene-3", "3.png")]
    listed = tmp_path / "out" / "exclude" / "own.txt"
    assert f"own has a reader, which itself must leave out {listed}" in capsys.readouterr().out


def test_the_configuration_says_how_data_are_read(mix, tmp_path, capsys):
    given = [mix / "shards", "--against", mix / "benchmark", "--out", tmp_path / "out", "data.max_pixels=30000"]
    assert overlap(*given) == 1, "every image of the benchmark has more pixels"
    assert "none of 12 images can be read" in capsys.readouterr().err
    table_of(tmp_path / "t.parquet", [2])
    given = [tmp_path / "t.parquet", f"data.cache_dir={tmp_path / 'cache'}", "--against", mix / "benchmark"]
    assert overlap(*given, "--out", tmp_path / "out") == 0
    assert any((tmp_path / "cache").iterdir())


def test_what_a_source_leaves_out_already_stays_in_its_list(mix, tmp_path):
    write_keys(tmp_path / "before.txt", ["other-3"], "of a test")
    given = ["data=mine", f"data.path={mix / 'shards'}", f"+data.train.sources.mine.exclude={tmp_path / 'before.txt'}"]
    assert overlap(*given, "--against", mix / "benchmark", "--out", tmp_path / "out") == 0
    keys = read_keys(tmp_path / "out" / "exclude" / "mine.txt")
    assert keys[0] == "other-3"
    assert len(keys) == 1 + NUM * len(COPIES)


@pytest.mark.parametrize(
    ("against", "told"),
    [
        ("nothing_like_it", "--against nothing_like_it: "),
        ("gqa", "gqa: there is no folder"),
        ("", "--against '': names nothing that can be compared"),
        ('my_set "unclosed', "names nothing that can be compared"),
        ("EMPTY", "neither shards (*.tar), tables nor images are in this folder"),
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
    assert f"overlap: {tmp_path / 'gone'}: no such folder of shards, and no tables. " in capsys.readouterr().err


def test_what_lies_in_out_is_not_written_over(mix, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    given = [str(mix / "shards"), "--against", str(mix / "benchmark"), "--out", str(tmp_path)]
    assert main(["overlap", *given]) == 1
    assert "is there already and holds something" in capsys.readouterr().err


def test_every_source_has_a_list_of_its_own():
    assert list(list_names(["a/b", "a-b", "A-B", "..", "web"]).values()) == [
        "a-b.txt",
        "a-b-2.txt",
        "A-B-3.txt",
        "source.txt",
        "web.txt",
    ]
