"""The data card says what is in a folder, in numbers that are those of its samples, and shows some of them."""

import json
import re
import tracemalloc
from collections import Counter
from io import BytesIO
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data_prep import duplicates
from data_prep.__main__ import main
from data_prep.card import COLUMNS, LINES, TILE, Tally, spread


def picture(number: int, size=(40, 30)) -> bytes:
    out = BytesIO()
    Image.new("RGB", size, (number * 7 % 256, 200, 255 - number * 5 % 256)).save(out, "PNG")
    return out.getvalue()


def packed(folder, rows, *more, licence="CC0"):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--images", str(folder), "--out", str(folder / "out"), "--source", "mine", "--licence", licence]
    assert main(["pack", "--from", "parquet", str(folder / "rows.jsonl"), *given, "--workers", "1", *more]) == 0
    return (folder / "out" / "data_card.md").read_text()


@pytest.fixture(autouse=True)
def images(tmp_path):
    for number in range(30):
        (tmp_path / f"{number}.png").write_bytes(picture(number, size=(40 + number, 30)))


def fact(card: str, name: str) -> str:
    (found,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", card, re.MULTILINE)
    return found


def asked(number: int, image: str | None = None) -> dict:
    return {"id": str(number), "image": image or f"{number}.png", "question": "What?", "answer": "This."}


def test_the_numbers_are_those_of_the_samples(tmp_path):
    rows = [asked(number) for number in range(30)]
    rows += [asked(0), {"id": "t", "caption": "words only", "question": "", "image": None}, asked(99)]
    rows[-2] = {"id": "t", "question": "Words only?", "answer": "Yes."}
    card = packed(tmp_path, rows, "--on-error", "skip", "--shard-size", "20", "--max-side", "500")
    assert card.startswith("# mine\n\n32 samples to train")
    assert fact(card, "images") == "31 in 31 samples, and 1 without an image"
    assert fact(card, "different images").startswith("30,")
    assert fact(card, "shards").startswith("2, ")
    assert fact(card, "width x height of the first image") == "least 40 x 30, median 54 x 30, most 69 x 30"
    assert fact(card, "turns of a sample") == "least 2, median 2, most 2; 64 in all"
    assert fact(card, "exact copies of other samples") == "1, listed in duplicates.jsonl"
    assert fact(card, "rows left out") == "1, listed in skipped.jsonl"
    assert fact(card, "packed with") == "--shard-size 20, --max-side 500"
    assert re.search(r"^\| question \| 32 \| 0 \| 0 \|$", card, re.MULTILINE)


def test_least_median_and_most_are_those_of_the_values_themselves():
    draws = Random(0)
    for _ in range(200):
        values = [draws.randrange(9) for _ in range(draws.randrange(1, 12))]
        assert spread(Counter(values)) == (min(values), int(np.median(values)), max(values))


def test_the_card_and_the_search_for_copies_hold_a_few_bytes_a_sample(monkeypatch):
    """There may be millions of samples: what is known of each is let go of with its shard."""

    def rows(shard: Path) -> list[SimpleNamespace]:
        numbers = range(1000 * int(shard.name), 1000 * int(shard.name) + 1000)
        facts = {"num_images": 1, "share_image": False, "turns": 2, "width": 640, "height": 480}
        return [
            SimpleNamespace(key=str(n), chars=n % 90, checksum=f"{n + 1:x}", image_checksum=f"{n // 2:x}", **facts)
            for n in numbers
        ]

    def peak(num_shards: int) -> int:
        shards = [Path(str(number)) for number in range(num_shards)]
        tracemalloc.start()
        try:
            assert Tally(map(rows, shards)).different == num_shards * 500
            assert duplicates.find_duplicates(shards) == []
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    monkeypatch.setattr(duplicates, "read_rows", rows)
    assert (peak(60) - peak(20)) / 40_000 < 32


def test_the_sheet_shows_samples_of_all_shards_in_their_order(tmp_path):
    packed(tmp_path, [asked(number) for number in range(30)], "--shard-size", "7")
    with Image.open(tmp_path / "out" / "contact_sheet.jpg") as sheet:
        assert sheet.size == (COLUMNS * TILE, LINES * TILE)
        pixels = np.asarray(sheet.convert("RGB"), int)
    middles = pixels[TILE // 2 :: TILE, TILE // 2 :: TILE].reshape(-1, 3)
    wanted = [(n * 7 % 256, 200, 255 - n * 5 % 256) for n in (place * 30 // 24 for place in range(24))]
    assert np.abs(middles - np.array(wanted)).max() < 12


def test_an_image_that_cannot_be_decoded_has_a_place_that_says_so(tmp_path):
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])  # its header is whole, which is all that pack reads
    card = packed(tmp_path, [asked(0), asked(1)])
    assert fact(card, "images").startswith("2 in 2")
    with Image.open(tmp_path / "out" / "contact_sheet.jpg") as sheet:
        assert sheet.size == (2 * TILE, TILE)


def test_texts_alone_have_no_sheet(tmp_path):
    card = packed(tmp_path, [{"question": "What?", "answer": "This."}])
    assert "contact_sheet" not in card
    assert not (tmp_path / "out" / "contact_sheet.jpg").exists()


def test_nothing_that_a_user_writes_is_markup(tmp_path):
    card = packed(tmp_path, [{**asked(0), "<b>|`x": 1}], licence="a | b\n# c <script>alert(1)</script> ![x](y)")
    assert "<" not in card
    assert not re.search(r"^# c", card, re.MULTILINE)
    assert all(line.count("|") in (0, 3, 5) for line in card.split("\n"))
    assert re.findall(r"\[[^\]]*\]\(\S+\)", card) == [
        "[Images of samples, spread evenly over the shards](contact_sheet.jpg)"
    ]


def test_with_hashed_names_the_card_has_neither_them_nor_the_code_of_the_salt(tmp_path):
    rows = [{**asked(0), "id": "Mustermann"}]
    card = packed(tmp_path, rows, "--hash-names", str(tmp_path / "salt"), "--strip-metadata")
    assert "Mustermann" not in card
    assert fact(card, "packed with") == "--shard-size 1000, --strip-metadata, --hash-names"
