"""`probes`: small details on large photographs, with questions that only a look close enough can answer.

Each image has one detail in each quarter, all of about the same size, from 2% to 25% of the side: real handwritten
digits (scikit-learn's) and coloured shapes on public-domain photographs (scikit-image's). Digits are split by writer
sample, so none is in both splits. Details are drawn first and uniformly, so chance is known; `probes.json` tells it.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np

from dragonfly_lit.spec.samples import Record, Turn

from .drawn import JITTER, SIZES, SPLITS, TRAIN_SIZES, chances_told, drawn_parser, make_drawn
from .probe_images import COLOURS, SHAPES, Detail, background, digits, draw

NAME = "probes"
LICENCE = "details: BSD-3-Clause (scikit-learn digits); backgrounds: public domain and CC0 (scikit-image)"
PLACES = {"upper left": (0, 0), "upper right": (1, 0), "lower left": (0, 1), "lower right": (1, 1)}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FIND = ("colour", "shape")
"""Kinds of question that name what to find; the other kinds name a place, count or compare."""
KINDS = (*FIND, "place", "digit", "count", "smallest")
NUM_TRAIN, NUM_TEST, SIDE = 2000, 700, 192
"""What the study of zoom variants is made with."""
TEST_EVERY = 5
"""Every fifth writer sample of each digit belongs to the test split."""


@cache
def writer_samples(split: str) -> dict[int, list[int]]:
    """Rows of scikit-learn's digits that a split may use, by digit; the two splits share none."""
    rows: dict[int, list[int]] = {}
    for digit in range(10):
        own = np.flatnonzero(digits()[1] == digit).tolist()
        rows[digit] = [row for i, row in enumerate(own) if (i % TEST_EVERY == 0) == (split == "test")]
    return rows


def place_details(rng: np.random.Generator, split: str, size: float, side: int, *, varied: bool) -> list[Detail]:
    """One detail in each quarter of a canvas of `side` pixels, each about `size` of it wide.

    Args:
        rng: of all that is random.
        split: whose writer samples are used.
        size: of a detail, as a share of the canvas's side.
        side: of the canvas, in pixels.
        varied: whether any kind may come in any quarter; otherwise one has a shape and the others have digits.
    """
    samples, half, details = writer_samples(split), side // 2, []
    alone = int(rng.integers(len(PLACES)))
    for number, (place, (column, row)) in enumerate(PLACES.items()):
        is_shape = rng.random() < 0.5 if varied else number == alone
        kind = str(rng.choice(SHAPES)) if is_shape else "digit"
        # Handwriting is black, so a colour other than that is a shape's.
        colour = str(rng.choice(list(COLOURS))) if is_shape else "black"
        width = max(2, round(side * size * rng.uniform(1 - JITTER, 1 + JITTER)))
        width = min(width, half - 2)
        left = column * half + int(rng.integers(1, half - width))
        top = row * half + int(rng.integers(1, half - width))
        digit = int(rng.integers(10)) if kind == "digit" else None
        details.append(
            Detail(
                place=place,
                kind=kind,
                colour=colour,
                digit=digit,
                writer_sample=None if digit is None else int(rng.choice(samples[digit])),
                box=(left, top, left + width, top + width),
            )
        )
    return details


def ask(rng: np.random.Generator, details: list[Detail], kinds: Collection[str]) -> list[dict]:
    """The questions of some kinds about an image: text, answer, kind, and the box of the asked detail (None: a count).

    What is named by its kind or colour is the only one of it, so every question has one answer.
    """
    asked = [*_ask_by_kind(details), *_ask_by_place(details)]
    present = [detail.digit for detail in details if detail.digit is not None]
    # Half the counts ask for a digit that is there: a digit drawn blindly is hardly ever.
    counted = int(rng.choice(present)) if present and rng.random() < 0.5 else int(rng.integers(10))
    count = sum(detail.digit == counted for detail in details)
    asked.append(_question("count", f"how many {NUMBERS[counted]}s are there?", str(count), None))
    for shape in SHAPES:
        same = sorted((d for d in details if d.kind == shape), key=lambda d: d.box[2] - d.box[0])
        if len(same) > 1 and same[0].box[2] - same[0].box[0] < same[1].box[2] - same[1].box[0]:
            text = f"what color is the smallest {shape}?"
            asked.append(_question("smallest", text, same[0].colour, same[0]))
    return [question for question in asked if question["kind"] in kinds]


def _ask_by_kind(details: list[Detail]) -> Iterator[dict]:
    """Questions that name what to find, in the words of easy-VQA."""
    shapes = [detail for detail in details if detail.digit is None]
    if len(shapes) == 1:
        yield _question("colour", "what color is the shape?", shapes[0].colour, shapes[0])
        yield _question("shape", "what shape is in the image?", shapes[0].kind, shapes[0])


def _ask_by_place(details: list[Detail]) -> Iterator[dict]:
    """Questions that name where to look."""
    for detail in details:
        if detail.digit is None:
            yield _question("place", f"what color is the shape in the {detail.place}?", detail.colour, detail)
            yield _question("place", f"what shape is in the {detail.place}?", detail.kind, detail)
        else:
            yield _question("digit", f"which digit is written in the {detail.place}?", str(detail.digit), detail)


def _question(kind: str, text: str, answer: str, detail: Detail | None) -> dict:
    return {"kind": kind, "text": text, "answer": answer, "box": None if detail is None else list(detail.box)}


def probe(split: str, number: int, *, seed: int, side: int, kinds: Collection[str] = FIND) -> Record:
    """Sample `number` of a split: a pure function of its arguments."""
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    sizes = TRAIN_SIZES if split == "train" else SIZES
    size = sizes[number % len(sizes)]
    # Half the scenes repeat kinds where counting and comparing are asked for.
    varied = not set(kinds) <= set(FIND) and number // len(sizes) % 2 == 1
    details = place_details(rng, split, size, side, varied=varied)
    canvas = background(rng, side)
    for detail in details:
        draw(canvas, detail)
    encoded = io.BytesIO()
    canvas.save(encoded, "JPEG", quality=92, subsampling=0)
    questions = ask(rng, details, kinds)
    turns = [
        turn
        for i, q in enumerate(questions)
        for turn in (
            Turn(role="user", text=q["text"], num_images=int(i == 0)),
            Turn(role="assistant", text=q["answer"]),
        )
    ]
    key = f"{split}-{number:06d}"
    return Record(
        key=key,
        source=NAME,
        licence=LICENCE,
        share_image=True,
        images=(encoded.getvalue(),),
        turns=tuple(turns),
        meta={
            "question_ids": [f"{key}-{i}" for i in range(len(questions))],
            "kinds": [q["kind"] for q in questions],
            "boxes": [q["box"] for q in questions],
            "size": size,
            "side": side,
            "writer_samples": [d.writer_sample for d in details if d.writer_sample is not None],
        },
    )


def prepare(root: str | Path) -> None:
    """Draw both splits as the study has them, unless some lie there: a training's first use of them."""
    if not (Path(root) / NAME / "probes.json").is_file():
        make_probes(Path(root))


def make_probes(
    root: Path,
    *,
    num_train: int = NUM_TRAIN,
    num_test: int = NUM_TEST,
    seed: int = 0,
    side: int = SIDE,
    kinds: Collection[str] = FIND,
) -> Path:
    """Draw both splits under `root/probes` unless they lie there already with the same settings.

    Raises:
        ValueError: other settings made what lies there.
    """
    settings = {
        "num_train": num_train,
        "num_test": num_test,
        "seed": seed,
        "side": side,
        "kinds": [kind for kind in KINDS if kind in kinds],
    }
    drawn = partial(probe, seed=seed, side=side, kinds=settings["kinds"])
    return make_drawn(root / NAME, drawn, settings=settings, licence=LICENCE)


def main(argv: list[str]) -> int:
    """Draw the probes and say where they are and what chance gives."""
    parser = drawn_parser(NAME, __doc__, num_train=NUM_TRAIN, num_test=NUM_TEST, side=SIDE)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=FIND, help="of questions (default: %(default)s)")
    args = parser.parse_args(argv)
    home = make_probes(
        args.root, num_train=args.num_train, num_test=args.num_test, seed=args.seed, side=args.side, kinds=args.kinds
    )
    print(chances_told(home))
    return 0
