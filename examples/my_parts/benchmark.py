"""A benchmark of your own: which digit is written in the image? With the handwritten digits that scikit-learn ships."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import ClassVar

from PIL import Image

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.metrics.short import ExactMatch
from dragonfly_lit.evaluation.prompts import Template


class Digits(Benchmark):
    """1,797 images of 8 x 8 pixels, enlarged."""

    # The name is that of the results and of the answers' file. Data lies in data_root/NAME.
    name = "digits"
    expects = "scikit-learn, installed"
    # How answers are scored: one of dragonfly_lit.evaluation.metrics, or a metric of your own.
    metric_type = ExactMatch
    # A prompt of its own where that of `prompt=default` does not fit; every other set has its default here.
    prompts: ClassVar = {"default": Template(text="{question}\nAnswer with one digit.")}

    def locate(self, data_root: str | Path) -> Path:
        """The data is in a package, so no folder is needed; leave this method out where yours lies in a folder."""
        return Path(data_root)

    def read(self, folder: Path) -> Iterable[Question]:
        """All questions in a fixed order: answers are matched by the first argument, the question's id."""
        from sklearn.datasets import load_digits  # here, so that listing benchmarks does not need it

        digits = load_digits()
        for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            image = Image.fromarray((255 - pixels * 255 / 16).astype("uint8")).resize((64, 64))
            file = BytesIO()
            image.save(file, "PNG")
            # An image is its encoded bytes, or the path of a file; `category` is what the report breaks down by.
            kind = "even" if digit % 2 == 0 else "odd"
            yield self.question(
                f"digit-{number:04d}",
                "Which digit is written here?",
                images=[file.getvalue()],
                references=[str(digit)],
                category=kind,
            )
