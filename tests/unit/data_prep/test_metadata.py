"""What images say besides their pixels never reaches a shard, and the pixels stay as they were."""

import contextlib
import csv
import json
import os
import random
import re
import stat
import zlib
from collections import Counter
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from data_prep.__main__ import main
from data_prep.images import load_image
from data_prep.metadata import JPEG_NEEDED, end_of_scan, exif, metadata_in, stripped
from data_prep.names import hashed, read_salt
from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.processing.images import decode, orientation

NAME = "Erika Mustermann"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a who="{NAME}"/></x:xmpmeta>'.encode()
SIDEWAYS = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'


def picture(mode: str = "RGB", size=(13, 7), seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), np.uint8)
    made = Image.fromarray(values, "RGBA")
    return made if mode == "RGBA" else made.convert(mode)


def said(turned: int) -> bytes:
    tags = Image.Exif()
    tags[ExifTags.Base.Artist] = NAME
    tags[ExifTags.Base.ImageDescription] = NAME
    tags[ExifTags.Base.Orientation] = turned
    return tags.tobytes()


def texts() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("PatientName", NAME)
    info.add_text("Zipped", NAME * 20, zip=True)
    info.add_itxt("Title", NAME, "de", "Titel")
    return info


def encoded(form: str, mode: str, turned: int, *, seed: int = 0, **more) -> bytes:
    out = BytesIO()
    common = {"exif": said(turned), "icc_profile": PROFILE, "xmp": XMP}
    own = {"JPEG": {"comment": NAME, "quality": 90}, "PNG": {"pnginfo": texts()}, "WEBP": {}}[form]
    if form == "PNG":
        del common["xmp"]
    picture(mode, seed=seed).save(out, form, **common | own | more)
    return out.getvalue()


def assert_clean(data: bytes, whole: bytes) -> None:
    assert metadata_in(data) == ()
    assert NAME.encode() not in data
    with Image.open(BytesIO(data)) as image:
        image.load()
        assert not set(image.info) - {
            "jfif",
            "jfif_version",
            "jfif_unit",
            "jfif_density",
            "dpi",
            "exif",
            "loop",
            "progressive",
            "progression",
            "adobe",
            "adobe_transform",
            "background",
            "timestamp",
            "duration",
            "transparency",
            "gamma",
        }
        assert set(image.getexif()) <= {ExifTags.Base.Orientation}
    assert decode(data).tobytes() == decode(whole).tobytes()
    assert decode(data).size == decode(whole).size
    assert stripped(data) is data


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        [
            ("JPEG", "RGB", {}),
            ("JPEG", "L", {}),
            ("JPEG", "CMYK", {}),
            ("JPEG", "RGB", {"progressive": 1}),
            ("JPEG", "RGB", {"restart_marker_blocks": 1}),
            ("JPEG", "RGB", {"keep_rgb": True}),
            ("PNG", "RGB", {}),
            ("PNG", "RGBA", {}),
            ("PNG", "L", {}),
            ("PNG", "P", {}),
            ("PNG", "1", {}),
            ("PNG", "P", {"transparency": 3}),
            ("PNG", "L", {"transparency": 9}),
            ("WEBP", "RGB", {}),
            ("WEBP", "RGBA", {}),
            ("WEBP", "RGB", {"lossless": True}),
        ]
    ),
    st.integers(1, 8),
    st.integers(0, 99),
)
def test_nothing_but_pixels_and_how_they_are_turned_is_left(form, turned, seed):
    kind, mode, more = form
    whole = encoded(kind, mode, turned, seed=seed, **more)
    found = metadata_in(whole)
    assert {"EXIF", "ICC profile"} <= set(found)
    clean = stripped(whole)
    assert_clean(clean, whole)
    assert orientation(clean) == turned
    assert stripped(whole + NAME.encode()) == clean


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "<u2"), ("I;16B", ">u2")])
def test_16_bits_stay_16_bits(mode, kind):
    values = (np.arange(91).reshape(7, 13) * 45).astype(kind)
    made, out = Image.fromarray(values), BytesIO()
    assert made.mode == mode
    made.save(out, "PNG", pnginfo=texts(), exif=said(1))
    clean = stripped(out.getvalue())
    assert_clean(clean, out.getvalue())
    assert (np.asarray(Image.open(BytesIO(clean))) == values).all()


def test_an_orientation_that_only_the_xmp_has_is_kept():
    for form in ("JPEG", "WEBP"):
        out = BytesIO()
        picture().save(out, form, xmp=SIDEWAYS)
        assert decode(out.getvalue()).size == (7, 13)
        assert_clean(stripped(out.getvalue()), out.getvalue())


def test_tags_behind_the_pixels_of_a_png_are_found():
    plain = BytesIO()
    picture().save(plain, "PNG")
    tag = b"eXIf" + said(6).removeprefix(b"Exif\0\0")
    late = plain.getvalue()[:-12] + (len(tag) - 4).to_bytes(4) + tag + zlib.crc32(tag).to_bytes(4)
    late += plain.getvalue()[-12:]
    assert metadata_in(late) == ("EXIF",)
    assert decode(late).size == (7, 13)
    assert_clean(stripped(late), late)


def test_what_is_kept_of_an_orientation_survives_a_second_time():
    once = stripped(encoded("JPEG", "RGB", 6))
    with_profile = once[:2] + b"\xff\xe2" + (16).to_bytes(2) + b"ICC_PROFILE\0" + b"\1\1" + once[2:]
    assert metadata_in(with_profile) == ("ICC profile",)
    assert orientation(stripped(with_profile)) == 6


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_an_animation_keeps_its_frames_or_its_first(form):
    out = BytesIO()
    frames = [picture(seed=seed) for seed in range(3)]
    frames[0].save(out, form, save_all=True, append_images=frames[1:], exif=said(1), lossless=True)
    assert_clean(stripped(out.getvalue()), out.getvalue())


def test_a_thumbnail_of_the_first_picture_goes():
    out = BytesIO()
    picture().save(out, "JPEG")
    data = out.getvalue()
    assert data[2:4] == b"\xff\xe0"
    thumbnail = b"\1\1" + NAME.encode()[:3]
    grown = data[:4] + (16 + 3).to_bytes(2) + data[6:18] + thumbnail + data[20:]
    assert metadata_in(grown) == ("thumbnail",)
    assert stripped(grown) == data


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_file_is_one_error_or_an_image_without_its_metadata(form):
    whole, random_of, ends = encoded(form, "RGB", 6), random.Random(0), Counter()
    for _ in range(600):
        length = random_of.choice((len(whole), random_of.randrange(12, len(whole) + 1)))
        data = bytearray(whole[:length])
        for _ in range(random_of.randrange(3)):
            data[random_of.randrange(len(data))] = random_of.randrange(256)
        found = None
        with contextlib.suppress(ValueError):  # any other error fails this test
            found = metadata_in(stripped(bytes(data)))
        ends[found] += 1
    assert set(ends) == {None, ()}
    assert min(ends.values()) > 60, ends


GARBAGE = b"no tags at all"


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    out = BytesIO()
    picture().save(out, "PNG")
    made = [len(said).to_bytes(4) + name + said + zlib.crc32(name + said).to_bytes(4) for name, said in chunks]
    return b"".join([out.getvalue()[:33], *made, out.getvalue()[33:]])


def webp_with(tags: bytes) -> bytes:
    out = BytesIO()
    picture().save(out, "WEBP", exif=tags)
    return out.getvalue()


@pytest.mark.parametrize("data", [png_with((b"eXIf", GARBAGE)), webp_with(GARBAGE)], ids=["png", "webp"])
def test_tags_that_are_none_are_one_line(data):
    with pytest.raises(ValueError, match=r"^image of \d+ bytes is damaged, so how it is turned is unknown: .+$"):
        load_image(data, None, strip=True)


def jpeg_with(segment: bytes, *, behind_the_pixels: bool = False) -> bytes:
    out = BytesIO()
    picture().save(out, "JPEG")
    place = len(out.getvalue()) - 2 if behind_the_pixels else 2
    return out.getvalue()[:place] + segment + out.getvalue()[place:]


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2) + content


def webp_with_long_animation() -> bytes:
    out = BytesIO()
    picture().save(out, "WEBP", save_all=True, append_images=[picture(seed=1)])
    whole = out.getvalue()
    place = whole.index(b"ANIM")
    said = whole[place + 8 : place + 14] + NAME.encode()
    inside = whole[8:place] + b"ANIM" + len(said).to_bytes(4, "little") + said + whole[place + 14 :]
    return b"RIFF" + len(inside).to_bytes(4, "little") + inside


def png_with_an_end_that_speaks() -> bytes:
    out, said = BytesIO(), NAME.encode()
    picture().save(out, "PNG")
    return out.getvalue()[:-12] + len(said).to_bytes(4) + b"IEND" + said + zlib.crc32(b"IEND" + said).to_bytes(4)


@given(
    st.lists(st.sampled_from([0xFF, 0xFF, 0x00, 0x01, 0xCF, 0xD0, 0xD7, 0xD8, 0xFE]), max_size=12), st.integers(0, 5)
)
def test_a_scan_ends_before_the_fill_bytes_of_the_marker_behind_it(values, place):
    found = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]").search(bytes(values), place)
    assert end_of_scan(bytes(values), place) == (found.start() if found else len(values))


UNSAID = {  # what decoders skip, or read the first bytes of
    "the lines of a JPEG": jpeg_with(segment(0xDC, NAME.encode()), behind_the_pixels=True),
    "a long JFIF": jpeg_with(segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0" + NAME.encode())),
    "pixels a metre": png_with((b"pHYs", bytes(9) + NAME.encode())),
    "a gamma": png_with((b"gAMA", bytes(4) + NAME.encode())),
    "the end of a PNG": png_with_an_end_that_speaks(),
    "the head of an animation": webp_with_long_animation(),
}


@pytest.mark.parametrize("whole", UNSAID.values(), ids=UNSAID)
def test_a_name_in_a_part_that_is_longer_than_it_needs_to_be_goes(whole):
    assert NAME.encode() in whole
    assert metadata_in(whole)
    assert_clean(stripped(whole), whole)


@pytest.mark.parametrize("progressive", [False, True])
def test_decoders_refuse_tables_of_a_jpeg_that_are_longer_than_they_say(progressive):
    out, place = BytesIO(), 2
    picture().save(out, "JPEG", progressive=progressive, restart_marker_blocks=1)
    data, tried = out.getvalue(), set()
    while 0xDA not in tried:
        marker, size = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if marker in JPEG_NEEDED:
            end = place + 2 + size
            longer = (size + len(NAME)).to_bytes(2) + data[place + 4 : end] + NAME.encode()
            with pytest.raises(ValueError, match=r"cannot be opened|damaged|broken"):
                decode(data[: place + 2] + longer + data[end:])
            tried.add(marker)
        place += 2 + size
    assert tried >= {0xC4, 0xDA, 0xDB, 0xDD}


def test_bytes_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="none of JPEG, PNG and WebP"):
        stripped(b"GIF89a....")


def test_the_exif_that_is_kept_says_nothing_else():
    for turned in range(1, 9):
        tags = Image.Exif()
        tags.load(b"Exif\0\0" + exif(turned))
        assert dict(tags) == {ExifTags.Base.Orientation: turned}


# pack and lint


def folder_of_images(folder):
    (folder / "images").mkdir()
    for number, form in enumerate(("JPEG", "PNG", "WEBP", "TIFF", "GIF")):
        more = {"exif": said(6), "icc_profile": PROFILE} if form in ("TIFF",) else {}
        name = folder / f"images/MUSTERMANN_{number}.{form.lower()}"
        if form in ("TIFF", "GIF"):
            picture(seed=number).save(name, form, **more, **({"comment": NAME} if form == "GIF" else {}))
        else:
            name.write_bytes(encoded(form, "RGB", 6, seed=number))
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("image", "caption"), *((path.name, "a picture") for path in sorted((folder / "images").iterdir()))]
        )


def packed(folder, *more):
    rows, images, out = (str(folder / name) for name in ("captions.csv", "images", "out"))
    given = ["--images", images, "--out", out, "--source", "mine", "--licence", "own", "--workers", "1", *more]
    return main(["pack", "--from", "captions", rows, *given])


def everything(folder) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_stripped_shards_hold_no_name_and_the_same_pixels(tmp_path, capsys):
    folder_of_images(tmp_path)
    salt = tmp_path / "salt"
    assert packed(tmp_path, "--strip-metadata", "--hash-names", str(salt)) == 0
    told = capsys.readouterr().out
    assert f"{salt} holds the salt" in told
    assert "besides their pixels" not in told
    whole = everything(tmp_path / "out")
    assert b"mustermann" not in whole.lower()
    assert salt.read_bytes().strip() not in whole
    records = list(open_dataset(tmp_path / "out"))
    files = sorted((tmp_path / "images").iterdir())
    for record, file in zip(records, files, strict=True):
        assert decode(record.images[0]).tobytes() == decode(file).tobytes()
        assert metadata_in(record.images[0]) == ()
    assert len({record.meta["id"] for record in records}) == 5
    assert main(["lint", str(tmp_path / "out")]) == 0
    assert "0 wrong, 0 notes" in capsys.readouterr().out


def test_names_are_hashed_alike_under_the_same_salt_and_otherwise_under_another(tmp_path):
    folder_of_images(tmp_path)
    found = []
    for run, salt in enumerate(("a" * 16, "a" * 16, "b" * 16)):
        (tmp_path / "salt").write_text(salt)
        (tmp_path / f"{run}").mkdir()
        assert packed(tmp_path, "--hash-names", str(tmp_path / "salt"), "--out", str(tmp_path / f"{run}/out")) == 0
        found.append([record.meta["id"] for record in open_dataset(tmp_path / f"{run}/out")])
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])


def test_what_is_kept_is_said_by_pack_and_by_lint(tmp_path, capsys):
    folder_of_images(tmp_path)
    assert packed(tmp_path) == 0
    told = capsys.readouterr().out
    assert "Images keep what they say besides their pixels (EXIF: 3, XMP: 2, ICC profile: 4, text: 2)" in told
    assert main(["lint", "--all", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "4 samples with an image with metadata, ICC profile: pack --strip-metadata leaves it out; the first" in told
    assert "5 samples with the name of a file as its id: pack --hash-names" in told


def test_a_row_that_is_left_out_leaves_no_name_behind_when_names_are_hashed(tmp_path):
    folder_of_images(tmp_path)
    (tmp_path / "images/MUSTERMANN_0.jpeg").unlink()
    assert packed(tmp_path, "--hash-names", str(tmp_path / "salt"), "--on-error", "skip", "--strip-metadata") == 0
    line = json.loads((tmp_path / "out/skipped.jsonl").read_text())
    assert line["row"] == 1
    assert b"mustermann" not in everything(tmp_path / "out").lower()


def test_a_row_that_is_left_out_has_the_code_that_its_name_has_in_a_shard(tmp_path):
    name = "the accession number " + "7" * 100
    (tmp_path / "salt").write_text("a" * 16)
    picture().save(tmp_path / "there.png")
    codes = []
    for image in ("there.png", "gone.png"):
        table, out = tmp_path / "table.jsonl", tmp_path / f"of {image}"
        rows = [{"id": name, "image": image}, {"id": "another", "image": "there.png"}]
        table.write_text("".join(json.dumps({**row, "caption": "x"}) + "\n" for row in rows))
        given = ["--images", str(tmp_path), "--out", str(out), "--source", "s", "--licence", "l", "--workers", "1"]
        given += ["--hash-names", str(tmp_path / "salt"), "--on-error", "skip"]
        assert main(["pack", "--from", "captions", str(table), *given]) == 0
        skipped = out / "skipped.jsonl"
        left_out = [json.loads(line)["id"] for line in skipped.read_text().splitlines()] if skipped.exists() else []
        codes.append([*left_out, *(record.meta["id"] for record in open_dataset(out))])
    assert codes[0] == codes[1]
    assert codes[0][0] == hashed(name, b"a" * 16)


@pytest.mark.parametrize("salt", ["out/salt", "short", "images", "nowhere/salt"])
def test_a_salt_that_is_no_secret_is_refused(tmp_path, salt, capsys):
    folder_of_images(tmp_path)
    (tmp_path / "short").write_text("abc")
    assert packed(tmp_path, "--hash-names", str(tmp_path / salt)) == 1
    told = capsys.readouterr().err
    assert f"--hash-names {tmp_path / salt}" in told
    assert told.count("\n") == 1


def test_nobody_else_can_ever_read_a_salt_that_is_made(tmp_path, monkeypatch):
    modes, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (modes.append(stat.S_IMODE(os.fstat(file).st_mode)), fsync(file)))
    before = os.umask(0)
    try:
        salt, made = read_salt(tmp_path / "salt", tmp_path / "out")
    finally:
        os.umask(before)
    assert made
    assert modes == [0o600]
    assert os.listdir(tmp_path) == ["salt"]  # nothing was written under another name
    assert stat.S_IMODE((tmp_path / "salt").stat().st_mode) == 0o600
    assert read_salt(tmp_path / "salt", tmp_path / "out") == (salt, False)


def test_medical_formats_are_stripped_unless_somebody_says_no(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(encoded("PNG", "L", 1))
    (tmp_path / "slake.json").write_text(
        json.dumps([{"img_name": "a.png", "question": "What?", "answer": "This.", "q_lang": "en"}])
    )
    for more, kinds in (((), 0), (("--no-strip-metadata",), 3)):
        out = tmp_path / f"out{kinds}"
        assert (
            main(
                [
                    "pack",
                    "--from",
                    "slake",
                    str(tmp_path / "slake.json"),
                    "--images",
                    str(tmp_path / "images"),
                    "--out",
                    str(out),
                    "--source",
                    "s",
                    "--licence",
                    "l",
                    "--workers",
                    "1",
                    *more,
                ]
            )
            == 0
        )
        assert len(metadata_in(open_dataset(out)[0].images[0])) == kinds
