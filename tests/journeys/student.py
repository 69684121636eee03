"""A student, a laptop, ten minutes: train twice, score, ask, change something, go on, sweep, make a mistake.

python tests/journeys/student.py NEW_FOLDER
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from steps import Journey, main, printed

SHORT = "data.num_workers=0 trainer.limit_val_batches=1 callbacks.answers=null"


def journey(folder: Path) -> None:
    """The steps; the runs are short ones."""
    go = Journey(folder)
    Image.new("RGB", (320, 240), "navy").save(folder / "my photo.png")
    said = go.step("train the projector", f"python train.py stage=1 stage.steps=3 {SHORT}", says="A step reads 1 x")
    score = printed(said, "Score it: ")
    go.step(
        "train everything, from it", f"python train.py stage=2 stage.steps=3 {SHORT}", says="takes runs/tiny-stage1"
    )
    go.step("look at the questions", "python evaluate.py benchmark.show=1")
    go.step("score what the first run printed", f"{score} benchmark.limit=4", says="95% interval")
    go.step("score the newest finished run", "python evaluate.py benchmark.limit=4", says="scores runs/tiny-stage2")
    asked = (
        'python -m dragonfly_lit ask --model runs/tiny-stage2 --image "my photo.png" --show-zoom zoom.png "What is it?"'
    )
    go.step("ask about a picture of one's own", asked, says="where the model looked")
    go.has("zoom.png")
    change = "stage.groups.0.lr=1e-3 'name=\"slower, lr=1e-3\"'"
    said = go.step("change the learning rate", f"python train.py stage=1 stage.steps=2 {change} {SHORT}")
    go.step("score it, commas and all", f"{printed(said, 'Score it: ')} benchmark.limit=4", says="95% interval")
    go.step("stop early", f"python train.py stage=1 name=long stage.steps=2 stage.warmup=0 {SHORT}")
    go.step(
        "go on", f"python train.py stage=1 name=long stage.steps=3 stage.warmup=0 resume=auto {SHORT}", says="goes on"
    )
    go.step("try two seeds", f"python train.py -m stage=1 seed=0,1 name=seeds stage.steps=1 {SHORT}", says="seed=1")
    go.step("mistype a key", "python train.py lr=1e-3", says="Use stage.groups.0.lr=1e-3", status=1)
    go.step("mistype a value", "python train.py stage=1 seed=abc", says="seed=abc is not a whole number", status=1)
    go.step("give a key of training", "python evaluate.py zoom=none", says="the checkpoint brings its own", status=1)
    assert not (folder / "runs/tiny-stage1.1").exists(), "a refused command moved a run aside"


if __name__ == "__main__":
    main(journey)
