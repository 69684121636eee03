"""The model for users of lmms-eval: `python -m lmms_eval --model dragonfly_lit --model_args pretrained=FOLDER ...`.

lmms-eval 0.7 finds the model through the entry point group `lmms_eval.models`. The package is imported at that
moment, never before: it is not a dependency of ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dragonfly_lit.evaluation.generate import BatchGenerator
from dragonfly_lit.evaluation.prompts import NUMBERED, placed
from dragonfly_lit.evaluation.requests import GenerationRequest
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.processing.processor import DragonflyProcessor

MODEL_ID = "dragonfly_lit"
DEFAULT_MAX_NEW_TOKENS = 1024
"""What lmms-eval's own models take when a task does not say."""
_PLACEHOLDER = re.compile(r"<image(?: \d+)?>\s*")
"""Where other models put their images. Here they come first, unless the model has images in place."""
_TAG = "<image>"


def manifest() -> Any:
    """What lmms-eval registers: its name, and where the class is."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest(model_id=MODEL_ID, simple_class_path=f"{__name__}.DragonflyLit")


def __getattr__(name: str) -> Any:
    if name == "DragonflyLit":
        return _model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def answer(
    generator: BatchGenerator, prompts: Sequence[str], images: Sequence[Sequence[Image.Image]], options: Mapping
) -> list[str]:
    """Answers to prompts about PIL images, in their order.

    Args:
        generator: of the model.
        prompts: one a question; image placeholders of other models are taken out, and are the places of the images
            where the model has images in place and each has one.
        images: the images of each question.
        options: lmms-eval's `generation_kwargs`: `max_new_tokens` and `until` count.
    """
    encoded = {id(image): _png(image) for group in images for image in group}
    requests = []
    for number, (prompt, group) in enumerate(zip(prompts, images, strict=True)):
        words, places, order = (
            _in_place(prompt, len(group)) if generator.chat.in_place else _in_front(prompt, len(group))
        )
        ordered = [group[place] for place in order]
        requests.append(
            GenerationRequest(
                id=str(number),
                prompt=words,
                places=places,
                image_keys=tuple(str(id(image)) for image in ordered),
                read_images=partial(_read, [encoded[id(image)] for image in ordered]),
                max_new_tokens=int(options.get("max_new_tokens") or DEFAULT_MAX_NEW_TOKENS),
            )
        )
    outputs = {output.id: output.text for outputs in generator.answer(generator.plan(requests)) for output in outputs}
    until = options.get("until") or []
    return [_cut(outputs[request.id], [until] if isinstance(until, str) else until) for request in requests]


def load(
    pretrained: str, *, device: str, dtype: str, version: str | None, vision: str | None
) -> tuple[DragonflyForConditionalGeneration, DragonflyProcessor]:
    """Model and processor of a folder in transformers' layout, or with `version` and `vision` in the released one.

    Raises:
        ValueError: there is no such folder, or `dtype` is unknown.
    """
    if not Path(pretrained).is_dir():
        raise ValueError(
            f"pretrained={pretrained} is not a folder. Export a run with `python -m dragonfly_lit export`, or download "
            "a released model first."
        )
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"dtype={dtype} is unknown. Use float32 or bfloat16.")
    if version is not None:
        given = {"version": version, "vision": vision}
        model = DragonflyForConditionalGeneration.from_released(pretrained, dtype=kind, **given)
        processor = DragonflyProcessor.from_released(pretrained, **given)
    else:
        model = DragonflyForConditionalGeneration.from_exported(pretrained, kind)
        processor = DragonflyProcessor.from_pretrained(pretrained, trust_remote_code=False)
    model.to(device)  # pyright: ignore[reportArgumentType] - transformers wraps it
    return model.eval(), processor


@lru_cache(maxsize=1)
def _model_class() -> type:
    """A subclass of lmms-eval's own base, which is only there when lmms-eval is."""
    from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]

    class DragonflyLit(lmms):
        """A Dragonfly in lmms-eval's simple interface.

        Args:
            pretrained: a folder in transformers' layout, or in the released one together with `version` and `vision`.
            device: where it runs; each process its own GPU under accelerate or torchrun.
            dtype: of the weights.
            version: v1 or v2, of a released folder.
            vision: where the config of a released folder's tower lies.
            batch_tokens: tokens of a batch at most; takes the place of `batch_size`, which lmms-eval always gives.
        """

        is_simple = True

        def __init__(
            self,
            pretrained: str,
            device: str = "cuda",
            dtype: str = "bfloat16",
            version: str | None = None,
            vision: str | None = None,
            batch_tokens: int = 32768,
            batch_size: int | str = 1,
            max_batch_size: Any = None,
        ) -> None:
            super().__init__()
            from accelerate import Accelerator  # pyright: ignore[reportMissingImports]

            self.accelerator = Accelerator()
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
            if self._world_size > 1:
                device = str(self.accelerator.device)
            self.model, processor = load(pretrained, device=device, dtype=dtype, version=version, vision=vision)
            self.generator = BatchGenerator(self.model, processor, batch_tokens=int(batch_tokens))

        def generate_until(self, requests: list) -> list[str]:
            """Greedy answers; every request has the options of its task."""
            answers: dict[int, str] = {}
            groups: dict[str, list[int]] = {}
            for number, request in enumerate(requests):
                groups.setdefault(repr(sorted(request.args[1].items(), key=str)), []).append(number)
            for numbers in groups.values():
                arguments = [requests[number].args for number in numbers]
                prompts, options = [each[0] for each in arguments], arguments[0][1]
                images = [
                    [image for image in to_visual(self.task_dict[task][split][row]) or [] if image is not None]
                    for _, _, to_visual, row, task, split in arguments
                ]
                answers |= zip(numbers, answer(self.generator, prompts, images, options), strict=True)
            for number, request in enumerate(requests):
                self.cache_hook.add_partial("generate_until", request.args[:2], answers[number])
            return [answers[number] for number in range(len(requests))]

        def loglikelihood(self, requests: list) -> list:
            """Not offered: the benchmarks of Dragonfly are generative."""
            # What lmms-eval expects of a model that has no likelihoods to give.
            raise NotImplementedError("dragonfly_lit answers generate_until tasks only.")

        def generate_until_multi_round(self, requests: list) -> list:
            """Not offered: the benchmarks of Dragonfly have one round."""
            # Likewise of one without dialogues.
            raise NotImplementedError("dragonfly_lit answers tasks of one round only.")

    DragonflyLit.__module__ = __name__
    DragonflyLit.__qualname__ = "DragonflyLit"
    return DragonflyLit


def _in_front(prompt: str, num_images: int) -> tuple[str, tuple[int, ...], list[int]]:
    return _PLACEHOLDER.sub("", prompt), (), [*range(num_images)]


def _in_place(prompt: str, num_images: int) -> tuple[str, tuple[int, ...], list[int]]:
    """The prompt without placeholders, where they were, and which image stands at each, as `placed` gives them."""
    if prompt.count(_TAG) == num_images and not NUMBERED.search(prompt):
        pieces = prompt.split(_TAG)
        prompt = "".join(f"{piece}<image {n}>" for n, piece in enumerate(pieces[:-1], 1)) + pieces[-1]
    words, places, order = placed(prompt, num_images)
    if not places:
        return _in_front(prompt, num_images)
    if not words[: places[-1]].strip():  # all before the words: as `pack --images-in-place` leaves it
        return words.strip(), (0,) * num_images, order
    return words, places, order


def _png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _read(images: list[bytes]) -> list[bytes]:
    return images


def _cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of the strings that end an answer."""
    for stop in filter(None, until):
        text = text.split(stop)[0]
    return text.strip()
