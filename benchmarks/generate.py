"""Milliseconds a token of every way to decode, and answers a second of `evaluate.py`, in one run; random weights.

`dynamic` is transformers' growing cache, a launch for every kernel. `static` decodes in place, on a GPU as one CUDA
graph a token. `compiled` fuses the graph's small kernels with torch.compile first. A token's time is that of a long
answer less that of a short one; the prompt is in neither. `same` counts the words that `dynamic` says too (bfloat16
may round a tie otherwise).

    python benchmarks/generate.py                                  # the tiny model on the CPU
    python benchmarks/generate.py --size v1 --device cuda          # 8B in bfloat16 on a GPU
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):  # --help loads none of it
    import torch
    from PIL import Image
    from rich.console import Console
    from rich.table import Table
    from train_step import SIZES
    from transformers import CompileConfig

    from dragonfly_lit.evaluation.generate import BatchGenerator
    from dragonfly_lit.evaluation.requests import GenerationRequest
    from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
    from dragonfly_lit.models.tiny import tiny_config, tiny_tokenizer
    from dragonfly_lit.processing.processor import DragonflyImageProcessor, DragonflyProcessor
    from dragonfly_lit.processing.prompts import question_text
    from dragonfly_lit.training.survival import device_memory

SHORT = 4
"""Tokens of the short answer; the first steps capture and compile."""
WAYS = ("dynamic", "static", "compiled")


class Bench:
    """A random model, its processor and one image."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, torch.device(args.device)
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        fields = {} if args.size == "tiny" else SIZES[args.size]
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        with self.device:
            model = DragonflyForConditionalGeneration(tiny_config(**fields))
        torch.set_default_dtype(torch.float32)
        model.language.set_attn_implementation("sdpa")
        self.model: Any = model.eval()
        self.tokenizer = tiny_tokenizer()
        self.processor = DragonflyProcessor(DragonflyImageProcessor.of(model.layout), self.tokenizer)
        self.image = Image.effect_noise((300, 200), 50).convert("RGB")
        file = BytesIO()
        self.image.save(file, "JPEG")
        self.data = file.getvalue()

    def seconds(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Of the second call; the first one captures, compiles and allocates."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        start = self._now()
        work()
        first, start = self._now() - start, self._now()
        result = work()
        self.first = first
        return self._now() - start, result

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def generate(self, rows: int, way: str) -> dict[str, Any]:
        """`model.generate` on `rows` prompts with one image each."""
        texts, images = [question_text("what is it?")] * rows, [[self.image]] * rows
        inputs = self.processor(text=texts, images=images, return_tensors="pt").to(self.device)
        cache: dict[str, Any] = {"cache_implementation": "dynamic" if way == "dynamic" else "static"}
        if way == "compiled":
            cache["compile_config"] = CompileConfig()

        def answer(new: int) -> torch.Tensor:
            length = {"max_new_tokens": new, "min_new_tokens": new, "pad_token_id": self.tokenizer.pad_token_id}
            return self.model.generate(**inputs, do_sample=False, **length, **cache)

        new = self.args.new_tokens
        long, ids = self.seconds(lambda: answer(new))
        first = self.first
        short, _ = self.seconds(lambda: answer(SHORT))
        return {
            "what": f"generate, rows {rows}",
            "way": way,
            "ms a token": 1e3 * (long - short) / (new - SHORT),
            "ms a token, prompt too": 1e3 * long / new,
            "tokens/s": rows * new / long,
            "first s": first,
            "GB": device_memory(self.device),
            "answers": ids[:, inputs["input_ids"].shape[1] :].tolist(),
        }

    def evaluate(self, questions: int, way: str, *, one_image: bool) -> dict[str, Any]:
        """The generator of `evaluate.py` on questions about one image each, or all about one."""
        new = self.args.new_tokens
        generator = BatchGenerator(self.model, self.processor, decoding=way)
        generator.stops = set()  # random weights may say anything; every answer has its full length
        asked = [
            GenerationRequest(
                id=str(i),
                prompt=f"what is it? {i}",
                image_keys=("same" if one_image else str(i),),
                max_new_tokens=new,
                read_images=lambda: (self.data,),
            )
            for i in range(questions)
        ]
        seconds, outputs = self.seconds(
            lambda: [output for batch in generator.answer(generator.plan(asked)) for output in batch]
        )
        words = {output.id: output.text for output in outputs}
        return {
            "what": f"evaluate, {questions} {'questions of one image' if one_image else 'images'}",
            "way": way,
            "answers/s": questions / seconds,
            "tokens/s": questions * new / seconds,
            "first s": self.first,
            "GB": device_memory(self.device),
            "answers": [[words[request.id]] for request in asked],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", *SIZES), default="tiny", help="of the model (default tiny)")
    parser.add_argument("--device", default="cpu", help="(default cpu)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16], help="of model.generate (default 1 16)")
    parser.add_argument("--questions", type=int, default=32, help="of the evaluation (default 32)")
    parser.add_argument("--new-tokens", type=int, default=48, help="of every answer (default 48)")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=["dynamic", "static"], help="(default all but compiled)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file, row by row as they come")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch finds no CUDA device here. Use --device cpu.")
    if args.new_tokens <= SHORT:
        parser.error(f"--new-tokens {args.new_tokens}: give more than {SHORT}.")
    bench, rows = Bench(args), []
    steps = [(lambda way, n=n: bench.generate(n, way)) for n in args.rows]
    steps += [(lambda way, one=one: bench.evaluate(args.questions, way, one_image=one)) for one in (False, True)]
    table = Table("what", "way", "ms a token", "prompt too", "tokens/s", "answers/s", "first s", "GB", "same")
    for step in steps:
        expected: list[list[Any]] | None = None
        for way in args.ways:
            try:
                row = step(way)
            except Exception as error:
                row = {"what": "failed", "way": way, "error": " ".join(str(error).split())[:300]}
            answers = row.pop("answers", None)
            expected = expected or answers
            if answers and expected:
                pairs = [
                    (a, b)
                    for one, other in zip(answers, expected, strict=True)
                    for a, b in zip(one, other, strict=True)
                ]
                row["same"] = sum(a == b for a, b in pairs) / len(pairs)
            rows.append(row)
            table.add_row(row["what"], way, *(_shown(row.get(name)) for name in COLUMNS))
            if args.json is not None:
                args.json.write_text(json.dumps({"device": _name(args.device), "rows": rows}, indent=2) + "\n")
    Console(width=140).print(table)
    print(f"{_name(args.device)}, torch {torch.__version__}, size {args.size}, {args.new_tokens} tokens an answer")


COLUMNS = ("ms a token", "ms a token, prompt too", "tokens/s", "answers/s", "first s", "GB", "same")


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _name(device: str) -> str:
    return (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
