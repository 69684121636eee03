"""A DICOM file to an RGB image: its pixels as a viewer first shows them, and nothing of what its headers say.

pydicom and the decoders of compressed pixels come with the extra `medical`; they are imported when a file asks for
them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pydicom import Dataset

EXTRA = "pip install 'dragonfly_lit[medical]'"
CHOICE = "--frames of pack and ask, benchmark.frames"
Frames = Literal["all", "middle"] | int
"""Of a file with several frames, those that become images."""
MARK, MARK_AT = b"DICM", 128
GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
"""Where an enhanced file keeps what an older one says of all frames at once."""
SHOWN_BY = (
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "VOILUTSequence", "PixelRepresentation", "BitsStored", "PhotometricInterpretation",
)  # fmt: skip


class DicomHeader(NamedTuple):
    """What is needed before a pixel is decoded."""

    width: int
    height: int
    deep: bool
    """Whether it has more than 8 bits a value."""
    frames: int
    burned_in: bool
    """Whether the file says that its pixels hold words which may name a person."""


def is_dicom(data: bytes | Path) -> bool:
    """Whether a file, or its bytes, are DICOM, by the mark behind its first 128 bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read; it is named.
    """
    if isinstance(data, bytes):
        return data[MARK_AT : MARK_AT + 4] == MARK
    try:
        with data.open("rb") as file:
            return file.read(MARK_AT + 4)[MARK_AT:] == MARK
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"image {data} cannot be read: {error.strerror or error}.") from error


def dicom_header(data: bytes | Path) -> DicomHeader:
    """Size, depth and frames of a DICOM file; no pixel is decoded.

    Raises:
        ValueError: the file is damaged, holds no pixels, or pydicom is not installed.
    """
    with _reading(data):
        return _header(_read(data))


def chosen_frames(data: bytes | Path, wanted: Frames | None) -> list[int | None]:
    """The frames of a DICOM file that become images of their own; None stands for the only one of a file.

    Args:
        data: the file, or its bytes.
        wanted: which of several: `all`, `middle` or a number from 0; None refuses such a file.

    Raises:
        ValueError: the file cannot be read, or has several frames and none is chosen.
    """
    frames = dicom_header(data).frames
    if frames == 1:
        return [None]
    if wanted is None:
        raise ValueError(f"has {frames} frames. Choose: all, middle or a number from 0 ({CHOICE}).")
    return list(range(frames)) if wanted == "all" else [frames // 2 if wanted == "middle" else wanted]


def decode_dicom(
    data: bytes | Path, *, frame: int | None = None, window: tuple[float, float] | None = None
) -> Image.Image:
    """A frame of a DICOM file in RGB.

    Values are rescaled as the header says (slope and intercept, or its table). Then the first of these that is there
    says what is black and what is white: `window`, the header's table, the first window of the header, the range of 8
    bits or fewer, the smallest and the largest value of the frame. Of MONOCHROME1 the smallest is white. Padding is
    black. Overlays are not drawn.

    Args:
        data: the file, or its bytes.
        frame: which, from 0; None is the only one of the file.
        window: black and white, in rescaled values (of a CT in Hounsfield units).

    Raises:
        ValueError: the file is damaged, has several frames and none is chosen, or is compressed in a way that nothing
            here decodes.
    """
    with _reading(data):
        said = _read(data)
        header = _header(said)
        if frame is None and header.frames > 1:
            raise ValueError(
                f"image {_name(data)} has {header.frames} frames, and one image is wanted. Choose one with {CHOICE}; "
                "elsewhere give that frame as a PNG."
            )
        number = frame or 0
        if not 0 <= number < header.frames:
            raise ValueError(f"image {_name(data)} has no frame {number}: it has {header.frames}, counted from 0.")
        _check_decoder(said, data)
        pixels = import_module("pydicom.pixels")
        source = BytesIO(data) if isinstance(data, bytes) else data
        try:
            values = pixels.pixel_array(source, index=number if header.frames > 1 else None)
        except AttributeError as error:  # so pydicom says that an element is not there
            raise ValueError("it holds no pixels, or ends before them.") from error
        return Image.fromarray(_shown(values, said, number, window)).convert("RGB")


@contextmanager
def _reading(data: bytes | Path) -> Iterator[None]:
    """Whatever pydicom and its decoders raise becomes one error, which names the file.

    They warn of odd values by quoting them, which may be names: nothing of that reaches a log.
    """
    log = logging.getLogger("pydicom")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # a damaged header raises anything from KeyError to struct.error
        if isinstance(error, ValueError) and str(error).startswith("image "):
            raise
        raise ValueError(f"image {_name(data)} is DICOM and cannot be read: {_short(error)}") from error
    finally:
        log.setLevel(level)


def _short(error: BaseException) -> str:
    """What an error says; the name of its type too where the message alone, as a KeyError's, would say nothing."""
    said = " ".join(str(error).split())
    return (said if isinstance(error, ValueError) and said else f"{type(error).__name__}: {said}")[:300]


def _name(data: bytes | Path) -> str:
    return f"of {len(data)} bytes" if isinstance(data, bytes) else str(data)


def _read(data: bytes | Path) -> Dataset:
    """All of a file but its pixels."""
    try:
        import pydicom
    except ImportError as error:
        raise ValueError(f"image {_name(data)} is DICOM, and pydicom is not installed: {EXTRA}.") from error
    return pydicom.dcmread(BytesIO(data) if isinstance(data, bytes) else data, stop_before_pixels=True)


def _header(said: Dataset) -> DicomHeader:
    if "Rows" not in said or "Columns" not in said:
        kind = said.get("SOPClassUID")
        raise ValueError(f"it holds no pixels; it is {getattr(kind, 'name', kind) or 'of an unknown kind'}.")
    return DicomHeader(
        width=int(said.Columns),
        height=int(said.Rows),
        deep=int(said.get("BitsStored", 16)) > 8 and int(said.get("SamplesPerPixel", 1)) == 1,
        frames=max(1, int(said.get("NumberOfFrames", 1) or 1)),
        burned_in=str(said.get("BurnedInAnnotation", "")).strip().upper() == "YES",
    )


def _check_decoder(said: Dataset, data: bytes | Path) -> None:
    """One line for pixels that are compressed in a way for which no decoder is installed, or none exists."""
    syntax = said.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise ValueError("it does not say how its pixels lie (TransferSyntaxUID).")
    if not syntax.is_encapsulated:
        return
    try:
        decoder = import_module("pydicom.pixels").get_decoder(syntax)
    except NotImplementedError as error:  # pydicom's word for a syntax that it knows no decoder of
        raise ValueError(
            f"image {_name(data)} is {syntax.name}, which is not decoded here. Write its frames as PNG."
        ) from error
    if not decoder.is_available:
        raise ValueError(f"image {_name(data)} is {syntax.name}, and no decoder of it is installed: {EXTRA}.")


def _shown(values: np.ndarray, said: Dataset, frame: int, window: tuple[float, float] | None) -> np.ndarray:
    """The values of a frame as 8 bits, grey or RGB."""
    kind = str(said.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        palette = import_module("pydicom.pixels").apply_color_lut(values, said)[..., :3]
        return (palette >> 8 if palette.dtype.itemsize > 1 else palette).astype(np.uint8)
    if values.ndim == 3:
        bits = int(said.BitsStored)
        return values.astype(np.uint8) if bits == 8 else scaled(values, 0, 2**bits - 1)
    grey = _grey(values, _view(said, frame), window, _padding(values, said))
    return np.ascontiguousarray(grey)


def _view(said: Dataset, frame: int) -> Dataset:
    """What the header says of how a frame is shown: the frame's own word before that of all frames."""
    found = import_module("pydicom").Dataset()
    places = [said]
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        groups: Any = said.get(name) or []
        place = 0 if name.startswith("Shared") else frame
        if place < len(groups):
            places += [groups[place][group][0] for group in GROUPS if groups[place].get(group)]
    for place in places:
        for name in SHOWN_BY:
            if place.get(name) not in (None, ""):
                found[name] = place[name]
    return found


def _padding(values: np.ndarray, said: Dataset) -> np.ndarray | None:
    """Which values stand for no picture at all."""
    one = said.get("PixelPaddingValue")
    if one is None:
        return None
    other = said.get("PixelPaddingRangeLimit", one)
    low, high = sorted((int(one), int(other)))
    found = (values >= low) & (values <= high)
    return found if found.any() and not found.all() else None


def _grey(
    values: np.ndarray, view: Dataset, window: tuple[float, float] | None, padding: np.ndarray | None
) -> np.ndarray:
    pixels = import_module("pydicom.pixels")
    has_table = bool(view.get("ModalityLUTSequence"))
    rescaled = np.asarray(pixels.apply_modality_lut(values, view), np.float64)
    bits = int(view.get("BitsStored", 16))
    if window is not None:
        grey = scaled(rescaled, *window)
    elif view.get("VOILUTSequence"):
        table: Any = view.VOILUTSequence[0]
        grey = scaled(np.asarray(pixels.apply_voi(rescaled.astype(np.int64), view), np.float64), 0, _top(table))
    elif "WindowWidth" in view and "WindowCenter" in view:
        grey = _windowed(rescaled, view)
    elif values.dtype == np.uint8 and bits <= 8 and not has_table and (rescaled == values).all():
        grey = scaled(rescaled, 0, 2**bits - 1)
    else:
        shown = rescaled if padding is None else rescaled[~padding]
        low, high = float(shown.min()), float(shown.max())
        if low == high:  # one value has no range: it is a share of what the bits can hold
            low, high = min(0.0, low), max(float(2**bits - 1), high)
        grey = scaled(rescaled, low, high)
    if str(view.PhotometricInterpretation) == "MONOCHROME1":
        grey = 255 - grey
    if padding is not None:
        grey[padding] = 0
    return grey


def _top(table: Any) -> int:
    return 2 ** int(table.LUTDescriptor[2]) - 1


def _windowed(values: np.ndarray, view: Dataset) -> np.ndarray:
    """By the first window of the header, as the standard's three functions have it (PS3.3 C.11.2.1.2 and .3)."""
    center, width = (_first(view[name].value) for name in ("WindowCenter", "WindowWidth"))
    if not width > 0:
        raise ValueError(f"its WindowWidth is {width:g}. Give a window: --window of pack and ask, benchmark.window.")
    function = str(view.get("VOILUTFunction", "LINEAR")).strip().upper() or "LINEAR"
    if function == "SIGMOID":
        return scaled(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))), 0, 1)
    if function == "LINEAR":
        if width <= 1:  # the standard's step from black to white
            return np.where(values > center - 0.5, 255, 0).astype(np.uint8)
        center, width = center - 0.5, width - 1
    return scaled(values, center - width / 2, center + width / 2)


def _first(value: Any) -> float:
    return float(value if isinstance(value, int | float | str) else value[0])


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`low` to 0, `high` to 255, the nearest whole number between, and nothing beyond.

    Raises:
        ValueError: `low` is not below `high`.
    """
    if not low < high:
        raise ValueError(f"the window {low:g} to {high:g} is empty: black must be below white.")
    part = (values.astype(np.float64, copy=False) - low) * 255 / (high - low)
    return np.floor(np.clip(part, 0, 255) + 0.5).astype(np.uint8)
