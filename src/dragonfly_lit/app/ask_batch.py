"""`ask --batch FOLDER`: one question about every image of a folder, answers into JSONL, on from where it stopped."""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console

from dragonfly_lit.evaluation.answering import answers_bar
from dragonfly_lit.evaluation.generate import BatchGenerator
from dragonfly_lit.evaluation.images import RenderedImage, rendered, renderings
from dragonfly_lit.evaluation.requests import GenerationRequest
from dragonfly_lit.evaluation.runner import weights_fingerprint
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.processing.dicom import Frames
from dragonfly_lit.processing.images import Window
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.spec.shard import READ_IMAGE_EXTENSIONS

ASKED_EXTENSIONS = (*READ_IMAGE_EXTENSIONS, "dcm", "dicom")
"""Of files that are asked about."""
CHUNK = 64
"""Images whose answers are written together; a kill loses at most so many."""


def images_of(folder: Path) -> list[str]:
    """The image files below a folder by their paths inside it, sorted.

    Raises:
        ValueError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise ValueError(f"--batch={folder} is not a folder. Give one with images.")
    kinds = {f".{extension}" for extension in ASKED_EXTENSIONS}
    found = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.suffix.lower() in kinds and file.is_file()
    )
    if not found:
        raise ValueError(f"--batch={folder} has no image file ({', '.join(ASKED_EXTENSIONS)}). Give another.")
    return found


def ask_batch(
    model: DragonflyForConditionalGeneration,
    processor: DragonflyProcessor,
    *,
    folder: Path,
    out: Path,
    question: str,
    max_new_tokens: int,
    frames: Frames | None = None,
    window: Window | None = None,
) -> int:
    """Exit status: 1 where an image could not be read, which has a row with `error` and is tried again next time.

    Args:
        model: in evaluation mode.
        processor: its processor.
        folder: of the images.
        out: rows are added to it; what it has of this question and these weights is not asked again.
        question: about each image.
        max_new_tokens: an answer stops there.
        frames: of a DICOM file with several frames, those that are asked about together; None refuses such a file.
        window: black and white of images of more than 8 bits.

    Raises:
        ValueError: no image, a damaged line in `out`, or another process writes into it.
    """
    names = images_of(folder)
    asked = {
        "question": question,
        "model": weights_fingerprint(model)["weights"],
        "max_new_tokens": max_new_tokens,
    }
    looked = {"frames": frames, "window": None if window is None else list(window)}
    asked |= {name: value for name, value in looked.items() if value is not None}
    generator = BatchGenerator(model, processor)
    request = partial(_request, folder, question=question, max_new_tokens=max_new_tokens, frames=frames, window=window)
    with _held(out) as file, answers_bar(sys.stderr.isatty(), Console(stderr=True)) as progress:
        done = _answered(file, out, dict.fromkeys(looked) | asked)
        left = [name for name in names if name not in done]
        task = progress.add_task("images", total=len(names), completed=len(names) - len(left))
        failed = 0
        for start in range(0, len(left), CHUNK):
            rows = _rows(left[start : start + CHUNK], request, generator)
            file.write(b"".join(_line({"image": name, **asked, **row}) for name, row in rows))
            file.flush()
            failed += sum("error" in row for _, row in rows)
            progress.advance(task, len(rows))
    before = f", {len(names) - len(left)} of them before" if len(left) < len(names) else ""
    print(f"{len(names) - failed} of {len(names)} images are answered in {out}{before}.")
    if failed:
        print(
            f"{failed} could not be read: their rows in {out} have an error. Mend them and ask again.", file=sys.stderr
        )
    return 1 if failed else 0


def _rows(
    names: Sequence[str], request: Callable[[str], GenerationRequest], generator: BatchGenerator
) -> list[tuple[str, dict[str, Any]]]:
    """An answer or an error for each image."""
    requests: list[GenerationRequest] = []
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            made = request(name)
            if len(made.image_keys) > 1:
                generator.plan([made])  # so many frames may not fit into the model's context
            requests.append(made)
        except (ValueError, OSError) as error:
            found[name] = _error(error)
    found |= _answers(generator, requests) if requests else []
    return [(name, found[name]) for name in names]


def _request(
    folder: Path, name: str, *, question: str, max_new_tokens: int, frames: Frames | None, window: Window | None
) -> GenerationRequest:
    file = folder / name
    found = rendered(file, renderings(file, frames, window))
    return GenerationRequest(
        id=name,
        prompt=question,
        image_keys=tuple(map(str, found)),
        read_images=partial(_read, found),
        max_new_tokens=max_new_tokens,
    )


def _answers(generator: BatchGenerator, requests: Sequence[GenerationRequest]) -> list[tuple[str, dict[str, Any]]]:
    """An answer or an error for each image; together, or where one is damaged one by one."""
    batches = generator.plan(requests)  # outside of what is caught: a question that cannot be asked is no image's fault
    try:
        found = {output.id: output.text for outputs in generator.answer(batches) for output in outputs}
        return [(each.id, {"answer": found[each.id]}) for each in requests]
    except (ValueError, OSError) as error:
        if len(requests) == 1:
            return [(requests[0].id, _error(error))]
    return [row for each in requests for row in _answers(generator, [each])]


def _error(error: Exception) -> dict[str, str]:
    return {"error": " ".join(str(error).split())}


def _read(images: Sequence[Path | RenderedImage]) -> list[bytes]:
    return [image.read_bytes() for image in images]


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"


@contextmanager
def _held(out: Path) -> Iterator[BinaryIO]:
    """The file, open for adding; no other process adds meanwhile, where the file system has locks."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"--out={out} is written by another process. Wait for it, or name another file."
            ) from error
        except OSError:
            pass  # a file system without locks
        yield file


def _answered(file: BinaryIO, out: Path, asked: dict[str, Any]) -> set[str]:
    """The images that have an answer to this question already; a last line that a kill cut off is taken away.

    Raises:
        ValueError: another line is not a row.
    """
    file.seek(0)
    data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        file.truncate(len(whole))
    done: set[str] = set()
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"--out={out}: line {number} is not a row of JSON ({error}). Name another file, or mend it."
            ) from error
        if "answer" in row and all(row.get(key) == value for key, value in asked.items()):
            done.add(str(row.get("image")))
    return done
