"""`pages`: documents of 1,024 px with one printed symbol amid the text, too small to be seen without a closer look.

The text describes data sets (scikit-learn's) and is set in the typefaces of matplotlib, as is the symbol: a circle, a
rectangle, a star or a triangle of 2% to 25% of the page's side. Words are printed in the symbols' colours too. The
splits share no document and no family of typefaces. Symbols, colours and places are drawn first and uniformly, so
chance is known; `pages.json` tells it.
"""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import numpy as np

from dragonfly_lit.spec.samples import Record, Turn

from .drawn import JITTER, SIZES, SPLITS, TRAIN_SIZES, chances_told, drawn_parser, make_drawn
from .page_images import COLOURS, SYMBOLS, draw_page

NAME = "pages"
LICENCE = "text: BSD-3-Clause (scikit-learn); typefaces: Bitstream Vera, OFL-1.1 and BaKoMa (matplotlib)"
QUESTIONS = {"colour": "what color is the shape?", "shape": "what shape is in the image?"}
NUM_TRAIN, NUM_TEST, SIDE = 2000, 700, 1024
"""What the study of zoom variants is made with."""
EDGE = 2
"""Pixels between a symbol and the end of the page, at least."""


def page(split: str, number: int, *, seed: int, side: int) -> Record:
    """Sample `number` of a split: a pure function of its arguments.

    Args:
        split: `train` or `test`.
        number: of the sample, which gives the size of its symbol.
        seed: of all that is random.
        side: of the page, in pixels.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    sizes = TRAIN_SIZES if split == "train" else SIZES
    size = sizes[number % len(sizes)]
    answers = {"colour": str(rng.choice(list(COLOURS))), "shape": str(rng.choice(list(SYMBOLS)))}
    width = round(side * size * rng.uniform(1 - JITTER, 1 + JITTER))
    left, top = (int(rng.integers(EDGE, side - EDGE - width)) for _ in range(2))
    box = (left, top, left + width, top + width)
    encoded = io.BytesIO()
    drawn = draw_page(rng, split, side, box, answers["shape"], answers["colour"])
    drawn.save(encoded, "JPEG", quality=60, subsampling=0)
    key = f"{split}-{number:06d}"
    return Record(
        key=key,
        source=NAME,
        licence=LICENCE,
        share_image=True,
        images=(encoded.getvalue(),),
        turns=tuple(
            turn
            for i, (kind, text) in enumerate(QUESTIONS.items())
            for turn in (
                Turn(role="user", text=text, num_images=int(i == 0)),
                Turn(role="assistant", text=answers[kind]),
            )
        ),
        meta={
            "question_ids": [f"{key}-{i}" for i in range(len(QUESTIONS))],
            "kinds": list(QUESTIONS),
            "boxes": [list(box)] * len(QUESTIONS),
            "size": size,
            "side": side,
        },
    )


def prepare(root: str | Path) -> None:
    """Draw both splits as the study has them, unless some lie there: a training's first use of them."""
    if not (Path(root) / NAME / f"{NAME}.json").is_file():
        make_pages(Path(root))


def make_pages(
    root: Path, *, num_train: int = NUM_TRAIN, num_test: int = NUM_TEST, seed: int = 0, side: int = SIDE
) -> Path:
    """Draw both splits under `root/pages` unless they lie there already with the same settings.

    Raises:
        ValueError: other settings made what lies there.
    """
    settings = {"num_train": num_train, "num_test": num_test, "seed": seed, "side": side}
    return make_drawn(root / NAME, partial(page, seed=seed, side=side), settings=settings, licence=LICENCE)


def main(argv: list[str]) -> int:
    """Draw the pages and say where they are and what chance gives."""
    args = drawn_parser(NAME, __doc__, num_train=NUM_TRAIN, num_test=NUM_TEST, side=SIDE).parse_args(argv)
    home = make_pages(args.root, num_train=args.num_train, num_test=args.num_test, seed=args.seed, side=args.side)
    print(chances_told(home))
    return 0
