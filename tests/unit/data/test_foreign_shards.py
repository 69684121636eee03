"""Shards that other tools wrote, or that were damaged: exactly what they hold, or a loss with a name and a number."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import fsspec
import pytest
import webdataset.tariterators
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_shards import LAYOUT, PAD, make_record, members, picture, tar_of

from data_prep.lint import lint_folder
from dragonfly_lit.data.datamodule import DragonflyDataModule
from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.index import index_folder, index_path, read_rows, sidecar_path
from dragonfly_lit.data.members import BadSampleError, split_name
from dragonfly_lit.data.remote import Cache, read_bytes
from dragonfly_lit.data.shards import Shards
from dragonfly_lit.data.source import Source
from dragonfly_lit.data.source_spec import SourceSpec
from dragonfly_lit.models.tiny import tiny_tokenizer
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Record, Turn

CASES = Path(__file__).parent / "cases"
TEN = [make_record(n, "ten") for n in range(10)]
KEYS = [record.key for record in TEN]


def files_of(record: Record) -> list[tuple[str, bytes]]:
    found = {name: value for name, value in members(record).items() if name != "__key__"}
    texts = {name: json.dumps(value).encode() for name, value in found.items() if not isinstance(value, bytes)}
    return [(f"{record.key}.{extension}", data) for extension, data in {**found, **texts}.items()]


def folder_of(path: Path, content: bytes) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for old in path.iterdir():
        old.unlink()
    (path / "0000.tar").write_bytes(content)
    return path


def read_all(shards: Shards) -> tuple[list[Record], list[BadSampleError]]:
    good, bad = [], []
    for index in range(len(shards)):
        try:
            good.append(shards[index])
        except BadSampleError as error:
            bad.append(error)
    return good, bad


def header_at(content: bytes | bytearray, name: str) -> int:
    return content.index(name.encode() + b"\0")


TEXTS = {
    "11_tar_cat": ["Red.", "Blue.", "Red."],
    "11_tar_dirdots": ["Red.", "Blue."],
    "11_tar_dotslash": ["Red.", "Blue."],
    "11_tar_energon": ["Red."],
    "11_tar_extra": ["Red.", "Red."],
    "11_tar_hard": ["Red.", None, "Red."],
    "11_tar_i2d": ["a red box"],
    "11_tar_uni": ["Red."],
}


@pytest.mark.parametrize("case", TEXTS)
def test_layouts_of_other_tools_are_read_exactly(case, tmp_path):
    shards = open_dataset(folder_of(tmp_path, (CASES / f"{case}.tar").read_bytes()))
    good, bad = read_all(shards)
    assert [record.turns[-1].text for record in good] == [text for text in TEXTS[case] if text]
    assert len(good) + len(bad) == len(TEXTS[case])
    assert all(len(record.images) == 1 and record.images[0][:2] == b"\xff\xd8" for record in good)
    assert [record.turns[0].text for record in good] == ["" if record.is_caption else "Colour?" for record in good]
    found = lint_folder(tmp_path)
    assert (found[0], sum(finding.wrong for finding in found[1])) == (len(TEXTS[case]), len(bad))


def test_a_caption_is_asked_for_with_the_documented_prompt(tmp_path):
    shards = open_dataset(folder_of(tmp_path, (CASES / "11_tar_i2d.tar").read_bytes()))
    for prompts, asked in (((), "Describe the image."), (("What is it?",), "What is it?")):
        source = Source(spec=SourceSpec(name="s", path=str(tmp_path), prompts=prompts), reader=shards, seed=0)
        assert [turn.text for turn in source.record(0, 0).turns] == [asked, "a red box"]


@pytest.mark.parametrize(
    ("fields", "turns", "images"),
    [
        ([{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "A."}], [("What?", 1), ("A.", 0)], 1),
        (
            {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A."}]},
            [("What?", 0), ("A.", 0)],
            0,
        ),
        (
            {"image": "x.jpg", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A."}]},
            [("What?", 1), ("A.", 0)],
            1,
        ),
        (
            [{"from": "human", "value": "<image>\n<image>\nWhat?"}, {"from": "gpt", "value": "A."}],
            [("What?", 2), ("A.", 0)],
            2,
        ),
        ({"caption": "A.", "url": "http://x"}, [("", 1), ("A.", 0)], 1),
        ([{"from": "human", "value": "Is <image> it?"}, {"from": "gpt", "value": "A."}], "between two texts", 1),
        ([{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A <image>."}], "in an answer", 1),
        ([{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": 3}], "list of parts, not 3", 1),
        ([{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A."}], "1 image placeholders but 0", 0),
        (
            {"image": "x.jpg", "conversations": [{"from": "human", "value": "W"}, {"from": "gpt", "value": "A."}]},
            "no image",
            0,
        ),
        ({"caption": None}, "caption is empty", 1),
        ({"caption": "A."}, "no image beside", 0),
        ({"conversations": [{"role": "user", "content": "W"}], "share_image": "false"}, "true or false", 0),
        ("A.", "must be an object", 1),
    ],
)
def test_what_a_json_may_look_like(fields, turns, images, tmp_path):
    pictures = [(f"k.{n}.jpg", picture(n)) for n in range(images)]
    shards = open_dataset(folder_of(tmp_path, tar_of([("k.json", json.dumps(fields).encode()), *pictures])))
    if isinstance(turns, str):
        with pytest.raises(BadSampleError, match=turns):
            shards[0]
    else:
        assert [(turn.text, turn.num_images) for turn in shards[0].turns] == turns


names = st.text(st.sampled_from("ab.1/_- [()]图é"), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(name=names)
def test_keys_are_webdatasets(name):
    key, extension = webdataset.tariterators.base_plus_ext(name)
    if name.rpartition("/")[2].startswith("."):
        assert split_name(name) is None  # webdataset reads `a/.jpg` as the extension of `a/`; such files are hidden
    else:
        assert split_name(name) == (None if key is None else (key, extension.lower()))


def test_hidden_files_and_folders_of_a_mac_cost_nothing(tmp_path):
    files = [("./._.", b"x"), ("__MACOSX/._k.jpg", b"x"), ("LICENCE", b"free")]
    for record in TEN:
        for name, data in files_of(record):
            files += [(f"./._{name}", b"\0\5\x16\7"), (f"./{name}", data)]
    shards = open_dataset(folder_of(tmp_path, tar_of([*files, ("./.DS_Store", b"x")])))
    good, bad = read_all(shards)
    assert ([record.key for record in good], bad) == ([f"./{key}" for key in KEYS], [])
    notes = [finding.what for finding in lint_folder(tmp_path)[1] if not finding.wrong]
    assert any("24 files without a sample's name members are not read" in note for note in notes)


WHOLE = tar_of([file for record in TEN for file in files_of(record)])


def hole(content: bytes, first: str, last: str) -> bytes:
    start, end = header_at(content, first), header_at(content, last)
    return content[:start] + bytes(end - start) + content[end:]


def flipped(content: bytes, name: str) -> bytes:
    place = header_at(content, name) + 150
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def resized(content: bytes, name: str) -> bytes:
    place = header_at(content, name)
    header = tarfile.TarInfo.frombuf(content[place : place + 512], "utf-8", "strict")
    header.size = 10**7
    return content[:place] + header.tobuf() + content[place + 512 :]


DAMAGE = {
    "zeroed header": (hole(WHOLE, f"{KEYS[4]}.json", f"{KEYS[4]}.jpg"), {KEYS[4]}),
    "zeroed samples": (hole(WHOLE, f"{KEYS[3]}.json", f"{KEYS[6]}.json"), {*KEYS[3:6]}),
    "flipped checksum": (flipped(WHOLE, f"{KEYS[5]}.json"), {KEYS[5]}),
    "size beyond the file": (resized(WHOLE, f"{KEYS[5]}.jpg"), {KEYS[5]}),
    "garbage behind the end": (WHOLE + b"<html>not found</html>" * 40, set()),
    "garbage behind one mark": (WHOLE.rstrip(b"\0") + bytes(1536) + b"x" * 512, set()),
    "preallocated": (hole(WHOLE + bytes(10240), f"{KEYS[2]}.json", f"{KEYS[9]}.jpg")[: len(WHOLE)], {*KEYS[2:]}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_refused_with_numbers_or_lost_by_name_and_nothing_else(damage, tmp_path):
    content, lost = DAMAGE[damage]
    folder_of(tmp_path, content)
    with pytest.raises(ValueError, match=r"0000\.tar: .*\d+ samples lie before.*Fetch or write it again"):
        open_dataset(tmp_path)
    assert not index_path(tmp_path / "0000.tar").exists()
    told: list[BadSampleError] = []
    good, bad = read_all(open_dataset(tmp_path, report=told.append))
    assert {record.key: record for record in good} == {r.key: r for r in TEN if r.key not in lost}
    assert {error.key for error in bad} <= lost
    assert [error.key for error in told] == ["*"]
    assert any(finding.wrong for finding in lint_folder(tmp_path)[1])


def test_lint_says_how_many_samples_a_hole_has_cost(tmp_path):
    folder_of(tmp_path, DAMAGE["zeroed samples"][0])
    num_read, findings = lint_folder(tmp_path)
    assert num_read == 7
    assert any("lost: 3 samples" in finding.what for finding in findings)


def test_joined_tars_are_read_to_their_end_and_an_index_of_before_is_made_anew(tmp_path):
    first, second = (tar_of([f for r in TEN[a:b] for f in files_of(r)]) for a, b in ((0, 6), (6, 10)))
    folder_of(tmp_path, first + second)
    assert [r.key for r in read_all(open_dataset(tmp_path))[0]] == KEYS
    listing = tmp_path / "dataset.json"
    fields = json.loads(listing.read_text())
    del fields["reader_version"]
    fields["shards"][0]["num_samples"] = 6
    listing.write_text(json.dumps(fields))
    index = index_path(tmp_path / "0000.tar")
    index.write_bytes(index.read_bytes()[: 8 * 7])
    assert [r.key for r in read_all(open_dataset(tmp_path))[0]] == KEYS
    assert json.loads(listing.read_text())["reader_version"] == 2


def test_an_index_of_before_that_misses_nothing_is_kept_as_it_is(tmp_path):
    shards = open_dataset(folder_of(tmp_path, WHOLE))
    listing, index = tmp_path / "dataset.json", index_path(tmp_path / "0000.tar")
    fields = json.loads(listing.read_text())
    del fields["reader_version"]
    listing.write_text(json.dumps(fields))
    before = index.read_bytes(), index.stat().st_mtime_ns
    again = open_dataset(tmp_path)
    assert (index.read_bytes(), index.stat().st_mtime_ns) == before
    assert again.digest == shards.digest


plain = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda text: text.strip() and "<image>" not in text
)
sample_names = st.lists(
    st.text(
        st.characters(exclude_categories=["C", "Zl", "Zp"], exclude_characters="./"), min_size=1, max_size=20
    ).filter(lambda name: name != "guard" and not name.startswith("__")),
    min_size=1,
    max_size=6,
    unique=True,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=sample_names, texts=st.lists(plain, min_size=6, max_size=6), data=st.data())
def test_random_names_and_texts_come_back_exactly_or_lost_by_name(tmp_path, keys, texts, data):
    expected, files = {}, []
    for number, (key, text) in enumerate(zip(keys, texts, strict=False)):
        kind = data.draw(st.sampled_from(["ours", "llava", "energon", "caption"]))
        image = picture(number)
        said = [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": text}]
        if kind == "caption":
            made, asked = [("txt", text.encode())], ""
        else:
            ours = [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]},
                {"role": "assistant", "content": text},
            ]
            fields = {"ours": {"conversations": ours}, "llava": {"conversations": said}, "energon": said}[kind]
            made, asked = [("json", json.dumps(fields).encode())], text
        files += [(f"{key}.jpg", image), *((f"{key}.{kind}", content) for kind, content in made)]
        expected[key] = (asked.strip(), text.strip(), image)
    expected["guard"] = "", "behind", picture(9)
    content = bytearray(tar_of([*files, ("guard.jpg", picture(9)), ("guard.txt", b"behind")]))
    damaged, hole_end = data.draw(st.booleans()), 0
    if damaged:
        last = header_at(content, "guard.jpg") // 512
        start = data.draw(st.integers(0, last - 1))
        hole_end = data.draw(st.integers(start + 1, min(start + 6, last))) * 512
        content[start * 512 : hole_end] = bytes(hole_end - start * 512)
    folder_of(tmp_path, bytes(content))
    told: list[BadSampleError] = []
    good, bad = read_all(open_dataset(tmp_path, report=told.append))
    found = {r.key: (r.turns[0].text.strip(), r.turns[1].text.strip(), r.images[0]) for r in good}
    if not damaged:
        assert found == expected
        assert not bad
        return
    for key, (asked, answer, image) in found.items():
        # A zeroed stretch inside of a picture is the decoder's to find, one inside of a text leaves zeros there.
        assert (asked, answer) == expected[key][:2] or "\0" in asked + answer
        assert len(image) == len(expected[key][2])
    if len(good) + len(bad) < len(expected):
        # Zeros up to the end of a record, no byte less, are what lies between two joined archives.
        assert hole_end % 10240 == 0 or "cannot be read" in told[0].reason


def test_an_index_lies_in_the_cache_where_the_folder_cannot_be_written_to(tmp_path):
    folder, cache = folder_of(tmp_path / "data", WHOLE), tmp_path / "cache"
    index_path(folder / "0000.tar").mkdir()  # whoever writes there fails, root too
    for _ in range(2):
        shards = open_dataset(folder, cache_dir=cache)
        assert [record.key for record in read_all(shards)[0]] == KEYS
        assert [row.key for row in shards.rows(0)] == KEYS
    assert not (folder / "dataset.json").exists()
    more = [*TEN, make_record(10, "ten")]
    (folder / "0000.tar").write_bytes(tar_of([file for record in more for file in files_of(record)]))
    assert len(open_dataset(folder, cache_dir=cache)) == 11


def test_a_key_with_a_line_separator_breaks_no_other_sample(tmp_path):
    folder_of(tmp_path, (CASES / "u2028.tar").read_bytes())
    shards = open_dataset(tmp_path)
    good, bad = read_all(shards)
    assert [record.key for record in good] == [f"train-000{n}" for n in range(4)]
    assert [error.key for error in bad] == ["a\\u2028b"]
    assert len(str(bad[0]).splitlines()) == 1
    assert [row.key for row in read_rows(tmp_path / "0000.tar")] == [row.key for row in shards.rows(0)]


def make_data(path: Path, builder, **fields) -> DragonflyDataModule:
    return DragonflyDataModule(
        train={"sources": {"bad": {"path": str(path), "on_error": fields.pop("on_error", "skip")}}},
        builder=builder,
        pad_id=PAD,
        num_workers=0,
        num_streams=1,
        block=2,
        batch={"size": 2},
        epoch={"steps": 6},
        quarantine=path / "quarantine.jsonl",
        max_skip_rate=0.9,
        **fields,
    )


def test_each_bad_sample_has_a_line_of_its_own(tmp_path, builder):
    bad = [(f"../a{n}.json", b"{}") for n in range(2)] + [("x.json", b"{"), ("y.json", b"{}"), ("x.json", b"{")]
    folder_of(tmp_path, tar_of([*[f for r in TEN for f in files_of(r)], *bad]))
    list(make_data(tmp_path, builder).train_dataloader())
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().split("\n")[:-1]]
    assert sorted(line["key"] for line in lines) == ["../a0", "../a1", "x", "x", "y"]
    assert len({line["place"] for line in lines}) == 5


def test_half_a_character_is_a_bad_sample_for_lint_and_training_alike(tmp_path, builder):
    folder_of(tmp_path, (CASES / "10_lone_surrogate_shard.tar").read_bytes())
    [wrong] = [finding for finding in lint_folder(tmp_path)[1] if finding.wrong]
    assert (wrong.key, "half a character" in wrong.what) == ("k0", True)
    with pytest.raises(BadSampleError, match=r"sample k0: .*half a character"):
        list(make_data(tmp_path, builder, on_error="raise").train_dataloader())


class Broken:
    """A reader whose third record makes an error that nobody foresaw."""

    digest = "broken"

    def __len__(self) -> int:
        return len(TEN)

    def record(self, index: int, epoch: int) -> Record:
        if index == 3:
            return TEN[index].turns[7]  # type: ignore[return-value]
        return TEN[index]

    def describe(self, index: int) -> tuple[str, str]:
        return "Broken", f"#{index}"


def test_an_error_nobody_foresaw_is_skipped_named_and_counted(tmp_path, builder, caplog):
    data = make_data(tmp_path, builder)
    data._train = {"sources": {"bad": {"reader": Broken(), "on_error": "skip"}}}
    seen = {key for batch in data.train_dataloader() for row in batch.keys for key in row}
    assert seen <= {*KEYS} - {KEYS[3]}
    [line] = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().split("\n")[:-1]]
    assert (line["shard"], line["key"], line["type"]) == ("Broken", "#3", "IndexError")
    assert "IndexError was not foreseen" in caplog.text
    data = make_data(tmp_path, builder)
    data._train = {"sources": {"bad": {"reader": Broken(), "on_error": "raise"}}}
    with pytest.raises(BadSampleError, match=r"source bad \(Broken\), sample #3: IndexError"):
        list(data.train_dataloader())


def test_a_sample_that_is_too_long_is_refused_before_an_image_is_decoded(builder):
    many = Record(
        key="many",
        source="s",
        turns=(Turn(role="user", text="?", num_images=300), Turn(role="assistant", text="!")),
        images=(b"no image at all",) * 300,
    )

    class One(Broken):
        def record(self, index: int, epoch: int) -> Record:
            return many

    source = Source(spec=SourceSpec(name="s", path=None), reader=One(), seed=0)
    with pytest.raises(BadSampleError, match="300 images") as caught:
        source.sequence(0, 0, builder)
    assert caught.value.too_long


def test_a_conversation_of_4000_turns_is_tokenised_once(monkeypatch):
    tokenizer = tiny_tokenizer()
    builder = SequenceBuilder(tokenizer=tokenizer, layout=LAYOUT, max_tokens=160)
    turns = tuple(Turn(role=("user", "assistant")[n % 2], text="yes no") for n in range(4000))
    calls = []
    whole = type(tokenizer).__call__
    monkeypatch.setattr(type(tokenizer), "__call__", lambda *a, **k: calls.append(1) or whole(*a, **k))
    kept = builder.tokenize(turns, 0)
    assert len(calls) == 1
    assert len(kept) <= 160 < builder.num_tokens(turns[: 4000 - kept.num_turns_cut], 0) + len(kept)
    assert kept.trunk.ids == builder.tokenize(turns[: 4000 - kept.num_turns_cut], 0).trunk.ids


def peak_mib(code: str) -> float:
    """Peak of a process that runs `code` after all imports, above what the imports take."""
    script = (
        "import resource\nfrom pathlib import Path\nfrom dragonfly_lit.data.dataset import open_dataset\n"
        "from data_prep.lint import lint_folder\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"{code}\nprint((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def test_a_member_of_gigabytes_takes_no_memory_and_costs_its_sample_alone(tmp_path):
    huge = 3 * 2**30
    header = tarfile.TarInfo("huge.jpg")
    header.size = huge
    shard = folder_of(tmp_path, header.tobuf()) / "0000.tar"
    os.truncate(shard, 512 + huge)  # sparse: no byte of it lies on the disk
    with shard.open("ab") as file:
        file.write(WHOLE)
    opened = f"s = open_dataset({str(tmp_path)!r}, report=print, max_member_bytes=2**20)"
    assert peak_mib(f"{opened}\nassert len(s) == 11\n[s[n] for n in range(1, 11)]") < 200
    shards = open_dataset(tmp_path, report=lambda bad: None, max_member_bytes=2**20)
    with pytest.raises(BadSampleError, match="at most 2097152 a sample"):
        shards[0]


def test_the_largest_image_takes_what_its_pixels_take_and_no_multiple_of_it(tmp_path):
    Image.new("RGBA", (9400, 9400), (10, 20, 30, 40)).save(tmp_path / "k.png")
    code = (
        "from dragonfly_lit.processing.images import decode; from dragonfly_lit.processing.crops import cut\n"
        "from dragonfly_lit.spec.released import LAYOUTS\n"
        f"cut(decode(Path({str(tmp_path / 'k.png')!r})), LAYOUTS['v1'])"
    )
    assert peak_mib(code) < 900  # 337 MiB are its pixels in RGB; it was 1,700


def test_a_remote_file_is_never_read_beyond_what_it_may_have(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe("/long/a", b"x" * 1000)
    with pytest.raises(ValueError, match="memory://long/a has more than the 999 bytes"):
        read_bytes("memory://long/a", 999)
    with pytest.raises(ValueError, match="more than the 400 bytes"):
        Cache(tmp_path, 10**6).fetch("memory://long/a", "0" * 64, 400)
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".lock")} == set()
    folder = folder_of(tmp_path / "local", WHOLE)
    index_folder(folder)
    for path in (*folder.iterdir(), sidecar_path(folder / "0000.tar")):
        memory.pipe(f"/longer/{path.name}", path.read_bytes())
    memory.pipe("/longer/0000.tar", WHOLE + bytes(10**6))
    with pytest.raises(ValueError, match=r"memory://longer/0000\.tar has more than"):
        open_dataset("memory://longer", cache_dir=tmp_path / "cache")[0]


def test_downloads_that_go_on_count_in_the_cache_and_are_never_taken_away(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe("/cache/a", b"x" * 600)
    sha256 = hashlib.sha256(b"x" * 600).hexdigest()
    cache = Cache(tmp_path, 1000, patience=0.3)
    going_on = tmp_path / f".part-{os.getpid()}-other"
    going_on.write_bytes(bytes(500))
    with pytest.raises(ValueError, match=r"finds no place .* Raise data\.cache_gb"):
        cache.fetch("memory://cache/a", sha256, 600)
    assert going_on.exists()
    going_on.unlink()
    assert cache.fetch("memory://cache/a", sha256, 600).read_bytes() == b"x" * 600


def test_a_hole_is_named_with_what_it_costs_and_joined_archives_are_read_whole(tmp_path):
    """Zeros over the header of one of 40 samples; two archives of 20 samples joined by `cat`."""
    told: list[BadSampleError] = []
    good, bad = read_all(open_dataset(folder_of(tmp_path / "hole", unpacked("hole")), report=told.append))
    assert (len(good), len(bad), len(told)) == (39, 0, 1)
    assert "zeros where members should be" in told[0].reason
    assert told[0].reason.endswith("10 samples lie before, 29 behind.")
    with pytest.raises(ValueError, match=r"shard .*zeros where members should be"):
        open_dataset(folder_of(tmp_path / "refused", unpacked("hole")))
    good, bad = read_all(open_dataset(folder_of(tmp_path / "concat", unpacked("concat"))))
    assert (len(good), len(bad)) == (40, 0)


def unpacked(case: str) -> bytes:
    return lzma.decompress((CASES / f"{case}.tar.xz").read_bytes())
