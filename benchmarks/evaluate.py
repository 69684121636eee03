"""Answers a second of `evaluate.py` against generating one after the other, same model, same questions, one run.

The questions are mixed: several about one image, one about an image, and text alone, of many lengths, in file order.
The straightforward way gives each to the processor and to `model.generate`. The way of `evaluate.py` is measured on a
growing cache (`decoding=dynamic`) and in place (the default). All must give the same answers. Times are seconds of the
processor, so that other jobs of the machine do not count.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):  # --help loads none of it
    import numpy as np
    import torch
    from PIL import Image
    from rich.console import Console
    from rich.table import Table
    from transformers import AutoTokenizer

    from dragonfly_lit.evaluation.generate import BatchGenerator
    from dragonfly_lit.evaluation.requests import GenerationRequest
    from dragonfly_lit.models.backbones import BUILTIN, builtin_folder
    from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
    from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
    from dragonfly_lit.processing.images import decode
    from dragonfly_lit.processing.processor import DragonflyImageProcessor, DragonflyProcessor
    from dragonfly_lit.processing.prompts import question_text
    from dragonfly_lit.spec.layout import Zoom


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


def built(name: str) -> tuple[Any, Any]:
    """The tokenizer and the model: random, or the demo's pretrained backbones with a random projector."""
    if name == "random":
        return tiny_tokenizer(), tiny_model(seed=3)
    tokenizer = AutoTokenizer.from_pretrained(builtin_folder("tokenizer"), trust_remote_code=False)
    zoom = Zoom(high_crops=16, top_k=1)
    model = DragonflyForConditionalGeneration.from_backbones(
        vision=BUILTIN, language=BUILTIN, tokenizer=tokenizer, zoom=zoom
    )
    return tokenizer, model.eval()


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


def together(model, processor, requests: list[GenerationRequest], batch_tokens: int, decoding: str) -> list[str]:
    """The way of `evaluate.py`."""
    generator = BatchGenerator(model, processor, batch_tokens=batch_tokens, decoding=decoding)
    outputs = {output.id: output.text for batch in generator.answer(generator.plan(requests)) for output in batch}
    return [outputs[request.id] for request in requests]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("random", "demo"), default="random", help="100k or 1.3M weights")
    parser.add_argument("--questions", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--per-image", type=int, default=10, help="questions about a shared image (default 10)")
    parser.add_argument("--max-new-tokens", type=int, default=4, help="length of every answer at most (default 4)")
    parser.add_argument("--batch-tokens", type=int, default=32768, help="tokens of a batch at most (default 32768)")
    parser.add_argument("--rounds", type=int, default=1, help="of all ways in turns; the best counts (default 1)")
    parser.add_argument("--threads", type=int, help="of torch (its own number)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    tokenizer, model = built(args.model)
    processor = DragonflyProcessor(DragonflyImageProcessor.of(model.config.layout), tokenizer)
    requests = questions(args.questions, args.per_image, args.max_new_tokens)
    ways = {
        "one by one": lambda some: one_by_one(model, processor, some),
        "together, a growing cache": lambda some: together(model, processor, some, args.batch_tokens, "dynamic"),
        "together, in place": lambda some: together(model, processor, some, args.batch_tokens, "static"),
    }
    answers, seconds = {}, dict.fromkeys(ways, float("inf"))
    for answer in ways.values():
        answer(requests[:8])  # warm
    for _ in range(args.rounds):
        for way, answer in ways.items():
            start = time.process_time()
            answers[way] = answer(requests)
            seconds[way] = min(seconds[way], time.process_time() - start)
    plain = "one by one"
    numbers = {
        "questions": len(requests),
        "threads": torch.get_num_threads(),
        "images": len({request.image_keys for request in requests if request.image_keys}),
        "ways": {
            way: {
                "answers_per_cpu_s": len(requests) / seconds[way],
                "ratio": seconds[plain] / seconds[way],
                "same_answers": sum(a == b for a, b in zip(answers[way], answers[plain], strict=True)),
            }
            for way in ways
        },
    }
    table = Table("way", "answers a CPU second", "times as fast", "answers the same")
    for way, found in numbers["ways"].items():
        table.add_row(way, f"{found['answers_per_cpu_s']:.1f}", f"{found['ratio']:.2f}", str(found["same_answers"]))
    console = Console()
    console.print(table)
    console.print(f"{len(requests)} questions, {numbers['images']} images, {torch.get_num_threads()} threads")
    if args.json is not None:
        args.json.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
