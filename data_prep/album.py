"""Images that others are compared with: what is known of each, on the disk, where every process reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from .likeness import ALIKE, MAX_BITS, PARTS, TURNS, WHOLE, Look, alike, bits_apart

KINDS = ("same pixels", "same picture", "turned or mirrored", "part of it")


class Album:
    """The images of the benchmarks as a folder, which every process reads without a copy of its own.

    Args:
        folder: written by `write`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked: list[list[str]] = json.loads((folder / "asked.json").read_text())
        self.hashes = np.load(folder / "hashes.npy", mmap_mode="r")
        self.shows = np.load(folder / "shows.npy", mmap_mode="r")
        self._ends = np.load(folder / "ends.npy")
        self._digests: dict[bytes, list[int]] = {}
        for number, digest in enumerate(np.load(folder / "digests.npy")):
            self._digests.setdefault(digest.tobytes(), []).append(number)

    @staticmethod
    def write(folder: Path, asked: Sequence[tuple[str, str]], looks: Sequence[Look]) -> None:
        """Write what is known of the images.

        Args:
            folder: that is there.
            asked: benchmark and question of each.
            looks: of each.
        """
        (folder / "asked.json").write_text(json.dumps(asked))
        np.save(folder / "hashes.npy", np.stack([look.hashes for look in looks]))
        np.save(folder / "shows.npy", np.stack([look.shows for look in looks]))
        np.save(folder / "digests.npy", np.stack([np.frombuffer(look.digest, np.uint8) for look in looks]))
        ends = []
        with (folder / "small.bin").open("wb") as file:
            for look in looks:
                look.small.save(file, "PNG", compress_level=1)
                ends.append(file.tell())
        np.save(folder / "ends.npy", np.array([0, *ends]))

    def small(self, number: int) -> Image.Image:
        """An image in small."""
        start, end = int(self._ends[number]), int(self._ends[number + 1])
        with (self.folder / "small.bin").open("rb") as file:
            file.seek(start)
            return Image.open(BytesIO(file.read(end - start))).convert("RGB")

    def like(self, look: Look) -> Iterator[tuple[int, str, float]]:
        """Number, kind and likeness of the images that show what another does."""
        known = set(self._digests.get(look.digest, []))
        yield from ((number, KINDS[0], 1.0) for number in sorted(known))
        for number, box, theirs in self._near(look):
            if number in known:
                continue
            small = self.small(number)
            found = alike(look.small, small, box) if theirs else alike(small, look.small, box)
            if found >= ALIKE:
                known.add(number)
                yield number, KINDS[1] if box == WHOLE else KINDS[3], found
        for number, turn in self._near_turned(look):
            if number not in known and (found := alike(look.small.transpose(turn), self.small(number))) >= ALIKE:
                yield number, KINDS[2], found

    def _near(self, look: Look) -> Iterator[tuple[int, tuple, bool]]:
        """Images with a near hash: which, the part that has it, and whether it is theirs or that of the other."""
        whole, far = look.hashes[0], 65
        theirs = np.where(self.shows, bits_apart(self.hashes, whole), far) if look.shows[0] else None
        ours = np.where(self.shows[:, :1] & look.shows, bits_apart(self.hashes[:, :1], look.hashes), far)
        least = ours.min(1) if theirs is None else np.minimum(ours.min(1), theirs.min(1))
        for number in np.flatnonzero(least <= MAX_BITS):
            if theirs is not None and theirs[number].min() <= ours[number].min():
                yield int(number), PARTS[int(theirs[number].argmin())], True
            else:
                yield int(number), PARTS[int(ours[number].argmin())], False

    def _near_turned(self, look: Look) -> Iterator[tuple[int, Image.Transpose]]:
        """Images to whose hash that of the whole is near when it is turned or mirrored, and how it then is."""
        if not look.shows[0]:
            return
        apart = np.where(self.shows[:, :1], bits_apart(self.hashes[:, :1], look.turned), 65)
        for number in np.flatnonzero(apart.min(1) <= MAX_BITS):
            yield int(number), TURNS[int(apart[number].argmin())]
