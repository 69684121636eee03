"""DICOM becomes what a viewer first shows, or one line that says why not."""

import random
import sys

import numpy as np
import pytest

pytest.importorskip("pydicom")
from dicom_files import PATIENT, dataset, file_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import pixels, uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dragonfly_lit.processing.images import decode, read_header

CT = (np.arange(12 * 16).reshape(12, 16) * 13 - 1000).astype(np.int16)


def grey(data: bytes, **more) -> np.ndarray:
    image = np.asarray(decode(data, **more))
    assert (image[..., 0] == image[..., 1]).all()
    assert (image[..., 0] == image[..., 2]).all()
    return image[..., 0].astype(int)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 9),
    st.floats(0.5, 4),
    st.integers(-1024, 100),
    st.integers(-300, 600),
    st.integers(2, 2000),
    st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_a_window_is_that_of_the_standard(seed, slope, intercept, center, width, function):
    values = np.random.default_rng(seed).integers(-500, 1500, (9, 11)).astype(np.int16)
    made = dataset(
        values,
        RescaleSlope=round(slope, 3),
        RescaleIntercept=intercept,
        WindowCenter=center,
        WindowWidth=width,
        VOILUTFunction=function,
    )
    shown = grey(file_of(made))
    theirs = pixels.apply_voi_lut(pixels.apply_modality_lut(values, made), made)
    low, high = (edge * made.RescaleSlope + intercept for edge in (-(2**15), 2**15 - 1))
    assert np.abs(shown - (theirs - low) / (high - low) * 255).max() <= 0.51


def test_of_monochrome1_the_smallest_is_white():
    made = dataset(CT, WindowCenter=0, WindowWidth=1000)
    straight = grey(file_of(made))
    made.PhotometricInterpretation = "MONOCHROME1"
    assert (grey(file_of(made)) == 255 - straight).all()


def test_12_bits_in_16_without_a_window_go_from_black_to_white():
    values = np.arange(96, dtype=np.uint16).reshape(8, 12) * 40
    shown = grey(file_of(dataset(values, BitsStored=12)))
    assert (shown.min(), shown.max()) == (0, 255)
    assert (shown == np.floor(values * 255.0 / values.max() + 0.5)).all()


def test_8_bits_without_a_window_stay_as_they_are():
    values = np.arange(96, dtype=np.uint8).reshape(8, 12)
    assert (grey(file_of(dataset(values))) == values).all()


def test_a_given_window_is_in_rescaled_values_and_comes_first():
    made = dataset(CT, RescaleSlope=1, RescaleIntercept=-24, WindowCenter=5, WindowWidth=7)
    shown = grey(file_of(made), window=(-160, 240))
    wanted = np.floor(np.clip((CT.astype(float) - 24 + 160) * 255 / 400, 0, 255) + 0.5)
    assert (shown == wanted).all()


def test_padding_is_black_and_does_not_count():
    values = CT.copy()
    values[:3] = -2000
    shown = grey(file_of(dataset(values, PixelPaddingValue=-2000)))
    assert (shown[:3] == 0).all()
    assert shown[3:].max() == 255
    without = grey(file_of(dataset(values[3:])))
    assert (shown[3:] == without).all()


def test_a_table_of_the_header_is_followed():
    values = np.arange(64, dtype=np.uint16).reshape(8, 8)
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [64, 0, 16], [65535 - 900 * n for n in range(64)]
    made = dataset(values, BitsStored=12, VOILUTSequence=Sequence([table]))
    made.VOILUTSequence[0]["LUTDescriptor"].VR = "US"
    made.VOILUTSequence[0]["LUTData"].VR = "US"
    wanted = np.floor((65535 - 900.0 * values) * 255 / 65535 + 0.5)
    assert np.abs(grey(file_of(made)) - wanted).max() <= 1


def test_frames_are_chosen_and_have_words_of_their_own():
    values = np.stack([CT, CT + 100, CT + 200])
    groups = []
    for center in (0, 100, 200):
        frame, voi, shift = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 400
        shift.RescaleSlope, shift.RescaleIntercept = 1, 0
        frame.FrameVOILUTSequence = Sequence([voi])
        frame.PixelValueTransformationSequence = Sequence([shift])
        groups.append(frame)
    data = file_of(dataset(values, PerFrameFunctionalGroupsSequence=Sequence(groups)))
    with pytest.raises(ValueError, match=r"has 3 frames, and one image is wanted"):
        decode(data)
    with pytest.raises(ValueError, match=r"has no frame 3: it has 3"):
        decode(data, frame=3)
    one = grey(file_of(dataset(CT, WindowCenter=0, WindowWidth=400)))
    for frame in range(3):
        assert (grey(data, frame=frame) == one).all()


def test_colours_stay_and_a_palette_is_followed():
    colours = np.random.default_rng(0).integers(0, 256, (6, 7, 3)).astype(np.uint8)
    assert (np.asarray(decode(file_of(dataset(colours)))) == colours).all()
    made = dataset(np.arange(4, dtype=np.uint8).reshape(2, 2), PhotometricInterpretation="PALETTE COLOR")
    for name, entries in zip(("Red", "Green", "Blue"), ((0, 255, 9, 8), (1, 2, 3, 4), (50, 60, 70, 80)), strict=True):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [4, 0, 16])
        made[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        words = np.array([entry << 8 for entry in entries], "<u2").tobytes()
        setattr(made, f"{name}PaletteColorLookupTableData", words)
    shown = np.asarray(decode(file_of(made))).reshape(4, 3)
    assert shown.tolist() == [[0, 1, 50], [255, 2, 60], [9, 3, 70], [8, 4, 80]]


def test_run_length_and_lossless_jpeg_give_the_same_picture(tmp_path):
    plain = file_of(dataset(CT, WindowCenter=0, WindowWidth=1000))
    made = dataset(CT, WindowCenter=0, WindowWidth=1000)
    made.compress(uid.RLELossless)
    assert (grey(file_of(made)) == grey(plain)).all()
    gdcm = pytest.importorskip("gdcm")
    for name, syntax in (
        ("jpeg", gdcm.TransferSyntax.JPEGLosslessProcess14_1),
        ("j2k", gdcm.TransferSyntax.JPEG2000Lossless),
    ):
        (tmp_path / "plain.dcm").write_bytes(plain)
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(tmp_path / "plain.dcm"))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(tmp_path / f"{name}.dcm"))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        assert (grey((tmp_path / f"{name}.dcm").read_bytes()) == grey(plain)).all()


def test_nothing_of_the_header_is_in_the_picture():
    image = decode(file_of(dataset(CT)))
    assert not image.info
    assert PATIENT.encode() not in image.tobytes()


def test_the_header_says_size_and_depth():
    assert read_header(file_of(dataset(CT))) == (16, 12, True)
    with pytest.raises(ValueError, match=r"16x12 pixels, more than max_pixels=100"):
        decode(file_of(dataset(CT)), max_pixels=100)


# What cannot be read


def test_a_missing_decoder_is_one_line_with_the_way_out(monkeypatch):
    made = dataset(CT)
    made.compress(uid.RLELossless)
    monkeypatch.setattr(type(pixels.get_decoder(uid.RLELossless)), "is_available", property(lambda self: False))
    with pytest.raises(ValueError, match=r"is RLE Lossless, and no decoder of it is installed: pip install 'drag") as e:
        decode(file_of(made))
    assert "\n" not in str(e.value)


def test_a_missing_pydicom_is_one_line_with_the_way_out(monkeypatch):
    data = file_of(dataset(CT))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ValueError, match=r"is DICOM, and pydicom is not installed: pip install 'dragonfly_lit"):
        decode(data)


def test_a_video_and_a_report_are_named():
    made = dataset(CT)
    report = Dataset()
    report.file_meta, report.SOPClassUID = made.file_meta, uid.BasicTextSRStorage
    report.file_meta.MediaStorageSOPClassUID = uid.BasicTextSRStorage
    report.SOPInstanceUID = made.SOPInstanceUID
    with pytest.raises(ValueError, match=r"holds no pixels; it is Basic Text SR Storage"):
        decode(file_of(report))
    made.file_meta.TransferSyntaxUID = uid.MPEG4HP41
    made.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\4\0\0\0abcd\xfe\xff\xdd\xe0\0\0\0\0"
    made["PixelData"].is_undefined_length = True
    with pytest.raises(ValueError, match=r"MPEG-4.*which is not decoded here. Write its frames as PNG"):
        decode(file_of(made))


def test_a_file_without_its_pixels_is_said_to_have_none():
    made = dataset(CT)
    del made.PixelData
    with pytest.raises(ValueError, match=r"is DICOM and cannot be read: it holds no pixels, or ends before them\.$"):
        decode(file_of(made))


def test_damage_is_always_one_line(caplog):
    whole, random_of = file_of(dataset(CT, WindowCenter=0, WindowWidth=1000)), random.Random(0)
    seen = 0
    for _ in range(200):
        data = bytearray(whole[: random_of.randrange(140, len(whole) + 1)])
        for _ in range(random_of.randrange(1, 4)):
            data[random_of.randrange(132, len(data))] = random_of.randrange(256)
        try:
            decode(bytes(data))
        except ValueError as error:
            seen += 1
            if "\n" in str(error) or not str(error).startswith("image ") or "ValueError" in str(error):
                pytest.fail(str(error))
    assert seen > 20
    assert not caplog.records  # which would quote what the file says


@pytest.mark.parametrize("packed", [False, True])
def test_nifti_is_refused_with_the_way_out(tmp_path, packed):
    import gzip

    volume = bytes(344) + b"n+1\0" + bytes(100)
    path = tmp_path / "brain.nii"
    path.write_bytes(gzip.compress(volume) if packed else volume)
    for data in (path, path.read_bytes()):
        with pytest.raises(ValueError, match=r"is NIfTI, .* Write the slices that are asked about as PNG"):
            decode(data)
