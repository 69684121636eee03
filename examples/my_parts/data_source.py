"""A data source of your own: scikit-learn's handwritten digits, each an image with the question which digit it is.

    python ../train.py --config-dir conf data=digits

`conf/data/digits.yaml` names this class as the `reader` of a source. Nothing is packed: records are made when they are
read.
"""

from hashlib import sha256
from io import BytesIO

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from dragonfly_lit.data.source import Reader
from dragonfly_lit.spec.records import Record, Turn

EVERY = 10
"""Every tenth digit is kept for validation."""


class Digits(Reader):
    """1,797 digits of 8x8 pixels, drawn larger.

    Args:
        split: `train` or `val`.
        side: of an image, in pixels.
        noise: how far a grey value is moved at random, another way in every epoch.
    """

    def __init__(self, split: str = "train", side: int = 32, noise: float = 0.0):
        pixels, digits = load_digits(return_X_y=True)
        chosen = (np.arange(len(digits)) % EVERY == 0) == (split == "val")
        self.pixels, self.digits = pixels[chosen].reshape(-1, 8, 8), digits[chosen]
        self.split, self.side, self.noise = split, side, noise

    def __len__(self) -> int:
        return len(self.digits)

    @property
    def digest(self) -> str:
        """Of the data and of every setting: a checkpoint of another digest is refused, its samples being others."""
        settings = f"{self.split} {self.side} {self.noise}".encode()
        return sha256(self.pixels.tobytes() + self.digits.tobytes() + settings).hexdigest()[:16]

    def record(self, index: int, epoch: int) -> Record:
        """An image, its question and answer. Randomness is seeded by index and epoch: a resumed run sees the same."""
        moved = np.random.default_rng((index, epoch)).uniform(-self.noise, self.noise, (8, 8))
        grey = np.clip(255 - 16 * (self.pixels[index] + moved), 0, 255).astype(np.uint8)
        image = BytesIO()
        Image.fromarray(grey).resize((self.side, self.side)).convert("RGB").save(image, "PNG")
        turns = (
            Turn(role="user", text="Which digit is it?", num_images=1),
            Turn(role="assistant", text=str(self.digits[index])),
        )
        return Record(key=f"{self.split}-{index:04d}", source="digits", turns=turns, images=(image.getvalue(),))
