"""`python -m dragonfly_lit ask`: a question about an image, answered as it is written; and where the model looked."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, TextStreamer

from dragonfly_lit.app.load import TRUST_HELP, load_for_inference
from dragonfly_lit.evaluation.zoom_picture import draw_zoom
from dragonfly_lit.io.commands import as_typed
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.processing.images import decode
from dragonfly_lit.processing.prompts import question_text
from dragonfly_lit.spec.layout import Grid, Grids


def main(argv: list[str]) -> int:
    """Exit status of `python -m dragonfly_lit ask`."""
    args = _parser().parse_args(argv)
    dtype = getattr(torch, args.dtype) if args.dtype else torch.float32 if args.device == "cpu" else torch.bfloat16
    images = [decode(path) for path in args.image]
    if args.show_zoom and not images:
        raise ValueError("--show-zoom draws on the image, but there is none. Give --image FILE.")
    model, processor = load_for_inference(
        args.model, device=args.device, dtype=dtype, version=args.version, vision=args.vision, trust=args.trust
    )
    inputs = processor(text=[question_text(args.question)], images=[images or None], return_tensors="pt").to(
        args.device
    )
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    with torch.inference_mode():
        talker: Any = model  # transformers types its generate for its own classes
        talker.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False, streamer=streamer)
        if args.show_zoom:
            picture_of(model, inputs, images[0]).save(args.show_zoom)
            print(f"{args.show_zoom}: where the model looked")
    return 0


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=as_typed("python -m dragonfly_lit ask"),
        description="Ask a model about an image; the answer is written as it comes.",
    )
    parser.add_argument("question", help="what to ask")
    parser.add_argument("--model", type=Path, required=True, help="a run, a checkpoint, or a model folder")
    parser.add_argument("--image", type=Path, action="append", default=[], help="an image file; again for more of them")
    parser.add_argument("--version", choices=("v1", "v2"), help="of a released folder, which does not say")
    parser.add_argument("--vision", help="folder or cached name of the tower's config, for a released folder")
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help=TRUST_HELP)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="(default: float32 on a CPU, else bfloat16)"
    )
    parser.add_argument("--max-new-tokens", type=int, default=128, help="(default: %(default)s)")
    parser.add_argument("--show-zoom", type=Path, metavar="FILE.png", help="draw the first image with the kept crops")
    return parser
