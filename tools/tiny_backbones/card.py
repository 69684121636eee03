"""The card that lies beside the pretrained weights: what they are, how they were made, how well they do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tools.tiny_backbones.language import QUESTIONS_A_ROW, ROWS
from tools.tiny_backbones.prefixes import MOST_CROPS
from tools.tiny_backbones.texts import COLOURS, SHAPES
from tools.tiny_backbones.tower import SCENES_A_STEP, VIEWS_A_SCENE

CARD = """\
# Tiny backbones

What `model=tiny` starts from, in the plain layout of transformers, bfloat16:

| folder | what | weights |
|---|---|---|
| `vision/` | `CLIPVisionModel`, 96 wide, 4 layers, 32 px crops of 8 px patches | {vision_weights:,} |
| `language/` | `LlamaForCausalLM`, 128 wide, 4 layers, {num_words} words | {language_weights:,} |
| `tokenizer/` | byte-level BPE with the special tokens of Llama-3 that Dragonfly uses | |

Made by `{command}` in {seconds:.0f} s on {threads} CPU threads.
A rerun on the same number of threads of the same machine gives the same weights.

## Data

Nothing but a drawn world: one shape ({shapes}) in one colour
({colours}), on a light ground or on a piece of light paper
amid clutter, drawn anew for every step by `tools/tiny_backbones/world.py` and `clutter.py` beside it, and the captions,
questions and answers of `tools/tiny_backbones/texts.py`. The phrasing and eight of the colours are those of easy-VQA;
none of its images or question files is read, and no photograph.

- Tower: {tower_steps} steps of {views} crops, each scene whole and at random zooms. Linear heads on the features
  before the last layer (those that Dragonfly takes, class token included) learn colour, shape and cover of every patch,
  ground is pulled to zero, and after the last layer crops are matched with captions as in CLIP. The heads are thrown
  away.
- Language model: {language_steps} steps of {rows} scenes with {questions} questions each, in the Llama-3 format.
  What is asked about stands before `<|begin_of_text|>`: one to {crops} crops of noisy vectors, some of which hold the
  words of the caption, weak, mixed and now and then wrong. Linear readers of the middle blocks (the scene's colour and
  shape; whether what is asked about is there; whether the question is negated) help it to learn to compare, and are
  thrown away. It has never seen a feature of the tower: aligning the two is what stage 1 trains.

## Probes

On newly drawn scenes and newly drawn texts:

| probe | right |
|---|---|
{probes}

Licence: Apache-2.0, as the rest of this repository.
"""


def write_card(
    folder: Path,
    *,
    command: str,
    seconds: float,
    threads: int,
    num_words: int,
    tower_steps: int,
    language_steps: int,
    vision_weights: int,
    language_weights: int,
    probes: Mapping[str, float],
) -> None:
    """Write `folder/README.md`."""
    rows = "\n".join(f"| {name} | {value:.1%} |" for name, value in probes.items())
    text = CARD.format(
        command=command,
        seconds=seconds,
        threads=threads,
        num_words=num_words,
        tower_steps=tower_steps,
        language_steps=language_steps,
        vision_weights=vision_weights,
        language_weights=language_weights,
        probes=rows,
        shapes=", ".join(SHAPES),
        colours=", ".join(COLOURS),
        views=SCENES_A_STEP * VIEWS_A_SCENE,
        rows=ROWS,
        questions=QUESTIONS_A_ROW,
        crops=MOST_CROPS,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
