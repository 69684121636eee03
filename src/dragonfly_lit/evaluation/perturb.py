"""Images made worse on purpose, since resolution is the claim: JPEG, fewer pixels, a cut margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from dragonfly_lit.processing.images import decode

STRENGTHS: Mapping[str, Sequence[float]] = {
    "jpeg": (90, 50, 25, 10, 5),
    "downscale": (1.5, 2, 4, 8),
    "crop": (0.05, 0.1, 0.2, 0.4),
}
"""Of a sweep, from mild to severe: the quality, the factor by which sides shrink, the share of the sides cut off."""
BOUNDS = {"jpeg": (1, 100), "downscale": (1, 1000), "crop": (0, 0.99)}


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """What is done to every image before the model sees it.

    Attributes:
        kind: `jpeg` compresses at a quality, `downscale` divides the sides by a factor, `crop` cuts a share of both
            sides off, evenly around.
        strength: that quality, factor or share.
    """

    kind: str
    strength: float

    def __post_init__(self) -> None:
        if self.kind not in BOUNDS:
            raise ValueError(f"perturb.kind={self.kind}: use one of {', '.join(BOUNDS)}.")
        least, most = BOUNDS[self.kind]
        if not least <= self.strength <= most:
            raise ValueError(f"perturb.strengths: {self.kind} takes {least} to {most}, not {self.strength:g}.")

    @property
    def name(self) -> str:
        """`jpeg50`."""
        return f"{self.kind}{self.strength:g}"

    def of(self, data: bytes) -> bytes:
        """The encoded image, made worse."""
        image, file = decode(data), BytesIO()
        width, height = image.size
        if self.kind == "jpeg":
            image.save(file, "JPEG", quality=round(self.strength))
        elif self.kind == "downscale":
            size = [max(1, round(side / self.strength)) for side in (width, height)]
            image.resize((size[0], size[1]), Image.Resampling.BICUBIC).save(file, "PNG")
        else:
            kept = [max(1, round(side * (1 - self.strength))) for side in (width, height)]
            left, top = (width - kept[0]) // 2, (height - kept[1]) // 2
            image.crop((left, top, left + kept[0], top + kept[1])).save(file, "PNG")
        return file.getvalue()
