"""What somebody keeps among the checkpoints of a run is never pruned, nor taken for what a kill left behind."""

import shutil
from pathlib import Path

import pytest

from dragonfly_lit.training.checkpoint.callback import clear_unfinished, prune

RUN = Path(__file__).resolve().parents[2] / "integration" / "run_of_0_1"
KEPT = ("step-00000001-best", "step-backup", "step-notes.partial", "mine", "step-x.replaced")


@pytest.fixture
def checkpoints(tmp_path):
    folder = tmp_path / "checkpoints"
    for name in ("step-00000001", "step-00000002", "step-00000003", "step-00000004.partial", *KEPT):
        shutil.copytree(RUN / "checkpoints" / "step-00000003", folder / name)
    (folder / "step-00000005.partial").write_text("mine")
    (folder / "step-00000006.partial").symlink_to(RUN)
    return folder


def test_pruning_and_clearing_know_their_own(checkpoints):
    clear_unfinished(checkpoints.parent)
    prune(checkpoints.parent, 1, None, newest=checkpoints / "step-00000003")
    left = {path.name for path in checkpoints.iterdir()}
    assert left == {*KEPT, "step-00000003", "step-00000005.partial", "step-00000006.partial"}
    assert (RUN / "config.yaml").is_file()
