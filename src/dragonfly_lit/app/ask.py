"""`python -m dragonfly_lit ask`: a question about an image, answered as it is written; and where the model looked."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, TextStreamer

from dragonfly_lit.app.ask_batch import ask_batch
from dragonfly_lit.app.ask_chat import chat
from dragonfly_lit.app.known_warnings import hide_bars
from dragonfly_lit.app.load import load_named
from dragonfly_lit.evaluation.images import image_at, renderings
from dragonfly_lit.evaluation.zoom_picture import draw_zoom
from dragonfly_lit.io.parsers import ask_parser, window_of
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.processing.dicom import Frames
from dragonfly_lit.processing.formats import IN_PLACE
from dragonfly_lit.processing.images import Window, decode
from dragonfly_lit.spec.layout import Grid, Grids
from dragonfly_lit.spec.samples import Turn, turn_of_parts
from dragonfly_lit.spec.shard import PLACEHOLDER


def main(argv: list[str]) -> int:
    """Exit status of `python -m dragonfly_lit ask`."""
    args = ask_parser().parse_args(argv)
    hide_bars()
    _check(args)
    opened = partial(opened_at, frames=args.frames, window=window_of(args.window))
    images = [image for path in args.image for image in opened(path)]
    model, processor = load_named(args)
    if args.batch:
        options = {"folder": args.batch, "out": args.out, "question": args.question, **opened.keywords}
        return ask_batch(model, processor, max_new_tokens=args.max_new_tokens, **options)
    turn_of = partial(question_of, in_place=processor.images == IN_PLACE)

    def answer(turns: Sequence[Turn], seen: Sequence[Image.Image]) -> str:
        text = [processor.format.text(turns)]
        inputs = processor(text=text, images=[list(seen) or None], return_tensors="pt").to(model.device)
        streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        with torch.inference_mode():
            talker: Any = model  # transformers types its generate for its own classes
            ids = talker.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False, streamer=streamer)
            if args.show_zoom and len(turns) == 1:
                picture_of(model, inputs, seen[0]).save(args.show_zoom)
                print(f"{args.show_zoom}: where the model looked")
        said = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return str(said).strip()

    if args.chat:
        return chat(answer, turn_of, opened, images, args.question)
    answer([turn_of(args.question, len(images))], images)
    return 0


def _check(args: Namespace) -> None:
    """ValueError where the options do not belong together."""
    if not (args.question or "").strip() and not args.chat:
        raise ValueError("there is no question. Give one behind the options, or --chat to ask line by line.")
    if bool(args.batch) != bool(args.out):
        raise ValueError("--batch FOLDER and --out FILE.jsonl go together: images from one, answers into the other.")
    for name, given in (("--chat", args.chat), ("--image", args.image), ("--show-zoom", args.show_zoom)):
        if args.batch and given:
            raise ValueError(f"--batch asks about each image of a folder by itself. Leave {name} out.")
    if args.show_zoom and not args.image:
        raise ValueError("--show-zoom draws on the image, but there is none. Give --image FILE.")
    if args.show_zoom and args.show_zoom.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"--show-zoom {args.show_zoom} does not name a picture. Give a name that ends in .png.")
    if args.show_zoom and not args.show_zoom.parent.is_dir():
        raise ValueError(f"--show-zoom {args.show_zoom}: there is no folder {args.show_zoom.parent}. Make it first.")


def opened_at(place: Path, *, frames: Frames | None, window: Window | None) -> list[Image.Image]:
    """The pictures of `--image`, in RGB: of a DICOM file its chosen frames, of anything else one.

    Args:
        place: a file, or an image inside of a table, as `image_at` takes it.
        frames: of several in a DICOM file; None refuses such a file.
        window: black and white of an image of more than 8 bits.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no such image, it is damaged, or has several frames and none is chosen; it is named.
    """
    data = image_at(place)
    try:
        return [decode(data, frame=frame, window=window) for frame, window in renderings(data, frames, window)]
    except ValueError as error:
        said = str(error)
        raise ValueError(said if str(place) in said else f"image {place} {said.removeprefix('image ')}") from error


def question_of(text: str, num_images: int, *, in_place: bool) -> Turn:
    """The user's turn; where images stand in their turns, each `<image>` of the text is the place of one.

    Args:
        text: what is asked.
        num_images: that come with it.
        in_place: whether the model has images where they stand; otherwise `<image>` is text like any other.

    Raises:
        ValueError: there are some `<image>`, and another number of images.
    """
    pieces = text.split(PLACEHOLDER) if in_place else [text]
    if len(pieces) == 1:
        return Turn(role="user", text=text, num_images=num_images)
    if len(pieces) - 1 != num_images:
        raise ValueError(
            f"the question has {len(pieces) - 1} {PLACEHOLDER}, the place of an image, and there are {num_images} "
            "images. Give --image as often, or leave the tags out: then the images stand before the question."
        )
    parts = [part for piece in pieces for part in (None, piece)]
    return turn_of_parts("user", parts[1:])


def picture_of(model: DragonflyForConditionalGeneration, inputs: BatchFeature, image: Image.Image) -> Image.Image:
    """The first image of `inputs` with its crops, their scores and the kept ones marked."""
    output = model(**inputs, logits_to_keep=1)
    medium, high = inputs["image_grids"][0].tolist()
    chosen = output.selected_crops is not None
    return draw_zoom(
        image,
        Grids(Grid(*medium), Grid(*high)),
        output.crop_scores[0].tolist() if chosen else None,
        output.selected_crops[0].tolist() if chosen else None,
        high=model.layout.zoom.high,
    )
