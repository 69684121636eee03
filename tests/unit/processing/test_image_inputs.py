"""Every form in which programs hold an image gives the pixels of the image; what has no right reading is refused."""

import base64
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dragonfly_lit.processing import image_inputs
from dragonfly_lit.processing.image_inputs import flat, open_image


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def forms(image, png, folder):
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy())
    file = folder / "a picture.png"
    file.write_bytes(png)
    text = base64.b64encode(png).decode()
    return {
        "PIL": image,
        "bytes": png,
        "path": file,
        "path as text": str(file),
        "base64": text,
        "base64 in lines": "\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
        "data URL": f"data:image/png;base64,{text}",
        "data URL in percents": "data:image/png," + "".join(f"%{byte:02x}" for byte in png),
        "mapping of bytes": {"bytes": png, "path": None},
        "mapping of a path": {"bytes": None, "path": str(file)},
        "array": array,
        "array, channels first": array.transpose(2, 0, 1),
        "array of int64": array.astype(np.int64),
        "array of fractions": array.astype(np.float32) / 255,
        "array of whole floats": array.astype(np.float64),
        "tensor": tensor.permute(2, 0, 1),
        "tensor, channels last": tensor,
        "tensor of fractions": tensor.permute(2, 0, 1).float() / 255,
    }


def test_every_form_gives_the_same_pixels(image, png, tmp_path):
    for name, form in forms(image, png, tmp_path).items():
        assert np.array_equal(np.asarray(open_image(form)), np.asarray(image)), name


def test_grey_and_transparent_arrays(image):
    grey = np.asarray(image.convert("L"))
    for form in (grey, grey[..., None], torch.from_numpy(grey.copy())[None]):
        assert np.array_equal(np.asarray(open_image(form)), np.asarray(image.convert("L").convert("RGB")))
    clear = np.zeros((4, 5, 4), dtype=np.uint8)
    assert np.asarray(open_image(clear)).min() == 255
    assert np.asarray(open_image(np.array([[True, False]]))).tolist() == [[[255] * 3, [0] * 3]]


def test_half_precision_fractions_are_those_of_an_image():
    tensor = torch.tensor([[[0.0, 0.5, 1.0]]], dtype=torch.bfloat16).expand(3, 1, 3)
    assert np.asarray(open_image(tensor))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (np.zeros((5, 5, 2), dtype=np.uint8), r"shape \(5, 5, 2\) is not an image"),
        (np.zeros((0, 5, 3), dtype=np.uint8), "is not an image"),
        (np.zeros(5), r"shape \(5,\) is not an image"),
        (np.full((2, 2), -1.0), r"values from -1\.0 .*Undo its normalisation"),
        (np.array([[0.5, 2.5]]), r"values from 0\.5 to 2\.5"),
        (np.array([[np.nan, 0.5]]), "values from nan"),
        (np.array([[300, 0]]), "values from 0 to 300"),
        (np.array([["a"]]), "an array of <U1 is not an image"),
        ("data:image/png;base64,@@@@", "data: URL whose base64 is damaged"),
        ("data:image/png;base64", "data: URL without data"),
        ("data:image/png;base64,aGVsbG8=", "cannot be opened as JPEG"),
        ("file:///etc/passwd", "is a URL, and nothing is fetched unasked"),
        ("https://example.org/a.png", r"is a URL, and nothing is fetched unasked: give fetch=True"),
        ({"bytes": None}, "neither bytes nor a path"),
    ],
)
def test_what_has_no_right_reading_is_refused_in_one_line(form, said):
    with pytest.raises(ValueError, match=said) as error:
        open_image(form)
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_is_named():
    for name in ("nowhere.png", "n" * 100 + ".png", "folder/" * 20 + "a.png"):
        with pytest.raises(FileNotFoundError, match=name[:20]):
            open_image(name)


def test_a_url_is_fetched_where_it_is_asked_for(monkeypatch, png):
    asked = []

    def answer(url, timeout):
        asked.append(url)
        return io.BytesIO(png)

    monkeypatch.setattr(image_inputs, "urlopen", answer)
    assert open_image("https://example.org/a.png", fetch=True).size == (9, 7)
    assert asked == ["https://example.org/a.png"]
    monkeypatch.setattr(image_inputs, "LARGEST_DOWNLOAD", 10)
    with pytest.raises(ValueError, match="larger than"):
        open_image("https://example.org/a.png", fetch=True)
    with pytest.raises(ValueError, match="nothing is fetched unasked"):
        open_image("ftp://example.org/a.png", fetch=True)


def test_nested_lists_and_stacks_are_flat_in_their_order(image):
    array = np.asarray(image)
    assert flat([[image], [], [[array, None]]])[0] is image
    assert len(flat([[image], None, [[array, b"x"]]])) == 3
    assert len(flat(np.stack([array, array]))) == 2
    assert len(flat(torch.zeros(4, 3, 5, 5))) == 4
    with pytest.raises(ValueError, match="an image is a int"):
        flat([image, 7])


@given(st.text() | st.text(alphabet="ABab01+/=", min_size=64))
def test_any_text_is_an_image_or_one_line(text):
    try:
        open_image(text)
    except (ValueError, OSError) as error:
        said = str(error)
    else:
        said = ""
    assert said
