"""A reader of one's own, whose records show scenes."""

from io import BytesIO

from test_overlap import scene

from dragonfly_lit.data.source import Reader
from dragonfly_lit.spec.samples import Record, Turn


class Scenes(Reader):
    """A scene for each seed."""

    def __init__(self, seeds):
        self.seeds = seeds

    @property
    def digest(self) -> str:
        return str(self.seeds)

    def __len__(self) -> int:
        return len(self.seeds)

    def record(self, index: int, epoch: int) -> Record:
        out = BytesIO()
        scene(self.seeds[index]).save(out, "PNG")
        turns = (Turn(role="user", text="?", num_images=1), Turn(role="assistant", text="a"))
        key = f"scene-{self.seeds[index]}"
        return Record(key=key, source="own", licence="l", turns=turns, images=(out.getvalue(),))
