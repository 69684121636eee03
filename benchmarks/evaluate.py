"""Answers a second of `evaluate.py` against generating one after the other, same model, same questions, one run.

The questions are mixed: several about one image, one about an image, and text alone, of many lengths, in file order.
The straightforward way gives each to the processor and to `model.generate`. Both must give the same answers.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from dragonfly_lit.evaluation.generate import BatchGenerator
from dragonfly_lit.evaluation.requests import GenerationRequest
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.images import decode
from dragonfly_lit.processing.processor import DragonflyImageProcessor, DragonflyProcessor
from dragonfly_lit.processing.prompts import question_text


def questions(num: int, per_image: int, max_new_tokens: int) -> list[GenerationRequest]:
    """`num` questions: a tenth without an image, half of the rest in groups of `per_image` about one image."""
    draw, made = random.Random(0), []
    while len(made) < num:
        kind = draw.random()
        image = None if kind < 0.1 else picture(len(made))
        for _ in range(per_image if kind > 0.9 else 1):
            words = " ".join(
                draw.choices(["what", "is", "the", "colour", "shape", "of", "this"], k=draw.randint(3, 12))
            )
            made.append(
                GenerationRequest(
                    id=str(len(made)),
                    prompt=f"{words}?",
                    max_new_tokens=max_new_tokens,
                    image_keys=() if image is None else (str(hash(image)),),
                    read_images=lambda image=image: () if image is None else (image,),
                )
            )
    return made[:num]


def picture(seed: int) -> bytes:
    """A JPEG of 320 x 240 random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(blocks).resize((320, 240), Image.Resampling.NEAREST).save(file, "JPEG")
    return file.getvalue()


def one_by_one(model, processor, requests: list[GenerationRequest]) -> list[str]:
    """The straightforward way."""
    outputs = []
    for request in requests:
        images = [decode(data) for data in request.read_images()]
        inputs = processor(text=[question_text(request.prompt)], images=[images] if images else None).to(model.device)
        ids = model.generate(
            **inputs, do_sample=False, max_new_tokens=request.max_new_tokens, suppress_tokens=[processor.ids.image]
        )
        words = ids[0, inputs["input_ids"].shape[1] :]
        outputs.append(processor.tokenizer.decode(words, skip_special_tokens=True).strip())
    return outputs


def together(model, processor, requests: list[GenerationRequest], batch_tokens: int) -> list[str]:
    """The way of `evaluate.py`."""
    generator = BatchGenerator(model, processor, batch_tokens=batch_tokens)
    outputs = {output.id: output.text for batch in generator.answer(generator.plan(requests)) for output in batch}
    return [outputs[request.id] for request in requests]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--per-image", type=int, default=10, help="questions about a shared image (default 10)")
    parser.add_argument("--max-new-tokens", type=int, default=4, help="length of every answer at most (default 4)")
    parser.add_argument("--batch-tokens", type=int, default=32768, help="tokens of a batch at most (default 32768)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = tiny_model(seed=3)
    processor = DragonflyProcessor(DragonflyImageProcessor.of(model.config.layout), tiny_tokenizer())
    requests = questions(args.questions, args.per_image, args.max_new_tokens)
    together(model, processor, requests[:8], args.batch_tokens)  # warm
    one_by_one(model, processor, requests[:2])
    start = time.perf_counter()
    fast = together(model, processor, requests, args.batch_tokens)
    middle = time.perf_counter()
    plain = one_by_one(model, processor, requests)
    end = time.perf_counter()
    numbers = {
        "questions": len(requests),
        "threads": args.threads,
        "images": len({request.image_keys for request in requests if request.image_keys}),
        "one_by_one_per_s": len(requests) / (end - middle),
        "together_per_s": len(requests) / (middle - start),
        "ratio": (end - middle) / (middle - start),
        "same_answers": sum(a == b for a, b in zip(fast, plain, strict=True)),
    }
    table = Table("way", "answers/s")
    table.add_row("one by one", f"{numbers['one_by_one_per_s']:.1f}")
    table.add_row("together", f"{numbers['together_per_s']:.1f}")
    console = Console()
    console.print(table)
    console.print(
        f"{numbers['ratio']:.1f} times as fast; {numbers['same_answers']} of {len(requests)} answers the same "
        f"({numbers['images']} images, {args.threads} threads)"
    )
    if args.json is not None:
        args.json.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
