"""What the processor and the sequence builder make of the released cases, against what the released code made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dragonfly_lit.processing.crops import cut
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Sample, Turn
from dragonfly_lit.spec.tokens import IGNORE

HERE = Path(__file__).parent
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


@pytest.fixture(scope="module", params=["v1", "v2"])
def released(request):
    root = HERE / request.param
    cases = json.loads((root / "cases.json").read_text())["cases"]
    processor = DragonflyProcessor.from_released(
        root / "checkpoint", vision=root / "image_encoder", version=request.param, resize="pillow"
    )
    return SimpleNamespace(
        cases=[{**case, "picture": Image.open(root / case["image"]).convert("RGB")} for case in cases],
        expected=load_file(root / "expected.safetensors"),
        processor=processor,
        builder=SequenceBuilder(
            tokenizer=processor.tokenizer,
            layout=processor.layout,
            max_tokens=4096,
            resize="pillow",
            supervise="all",
        ),
    )


def turns_of(text: str) -> tuple[Turn, ...]:
    question, answer = re.findall(r"\n\n(.*?)<\|eot_id\|>", text)
    return Turn(role="user", text=question, num_images=1), Turn(role="assistant", text=answer)


def test_prompt_ids_are_the_released_ones(released):
    for i, case in enumerate(released.cases):
        inputs = released.processor(text=[case["prompt"]], images=[case["picture"]], return_tensors="pt")
        assert torch.equal(inputs["input_ids"][0], released.expected[f"gen_input_ids_{i}"])


def test_training_ids_and_labels_of_the_processor_are_the_released_ones(released):
    for i, case in enumerate(released.cases):
        inputs = released.processor(text=[case["train_text"]], images=[case["picture"]], supervise="all")
        assert torch.equal(inputs["input_ids"][0], released.expected[f"train_input_ids_{i}"])
        assert torch.equal(inputs["labels"][0], released.expected[f"train_labels_{i}"])


def test_training_ids_labels_and_positions_of_the_stream_are_the_released_ones(released):
    for i, case in enumerate(released.cases):
        sample = Sample(key=str(i), source="", turns=turns_of(case["train_text"]), images=(case["picture"],))
        sequence = released.builder.build(sample)
        assert torch.equal(sequence.input_ids, released.expected[f"train_input_ids_{i}"])
        assert torch.equal(sequence.labels, released.expected[f"train_labels_{i}"])
        assert torch.equal(sequence.position_ids, torch.arange(len(sequence)))


def test_image_slots_are_where_the_released_image_tokens_go(released):
    for i in range(len(released.cases)):
        ids = released.expected[f"train_input_ids_{i}"]
        indices = released.expected[f"train_indices_{i}"][: len(ids)]
        ours = torch.full_like(indices, -1)
        slots = ids == released.processor.ids.image
        ours[slots] = torch.arange(released.processor.layout.num_slots, dtype=indices.dtype)
        assert torch.equal(ours, indices)


def test_pillow_pixels_are_the_released_ones(released):
    for i, case in enumerate(released.cases):
        pixels = released.processor(text="", images=case["picture"])["pixel_values"][0]
        normalised = (pixels / 255 - MEAN) / STD
        near = {"rtol": 0, "atol": 1e-6}
        torch.testing.assert_close(normalised[:, :, ::37, ::41], released.expected[f"pixels_sample_{i}"], **near)
        torch.testing.assert_close(normalised.mean((1, 2, 3)), released.expected[f"pixels_mean_{i}"], **near)
        torch.testing.assert_close(normalised.std((1, 2, 3)), released.expected[f"pixels_std_{i}"], **near)


def test_fast_pixels_are_within_two_grey_levels(released):
    for case in released.cases:
        fast = cut(case["picture"], released.processor.layout, "fast")
        pillow = cut(case["picture"], released.processor.layout, "pillow")
        assert (fast.pixels.int() - pillow.pixels.int()).abs().max() <= 2
        assert fast.grids == pillow.grids


def test_default_labels_are_the_answer_and_its_end(released):
    tokenizer = released.processor.tokenizer
    for case in released.cases:
        inputs = released.processor(text=[case["train_text"]], images=[case["picture"]], supervise="assistant")
        labels = inputs["labels"][0]
        answer = case["train_text"].rsplit("\n\n", 1)[1]
        assert tokenizer.decode(labels[labels != IGNORE]) == answer
