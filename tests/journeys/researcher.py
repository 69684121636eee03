"""A researcher with SLURM: plan the real models on a laptop, sweep through submitit, run an array, compare.

python tests/journeys/researcher.py NEW_FOLDER
"""

from __future__ import annotations

import json
from importlib.metadata import distributions
from pathlib import Path

from steps import Journey, main

V1 = "model=dragonfly_v1 data=general_stage1 trainer=gpu8"
V2 = "stage=2 model=dragonfly_v2 data=general_stage2 trainer=gpu8 trainer.num_nodes=4 strategy=fsdp"
FULL = "strategy.activation_checkpointing=full"
SHORT = "data.num_workers=0 trainer.limit_val_batches=1 callbacks.answers=null"


def installed() -> set[str]:
    """Names of all packages that are installed."""
    return {found.name.lower().replace("_", "-") for found in distributions() if found.name}


def journey(folder: Path) -> None:
    """The steps; nothing of the real models is on disk."""
    go = Journey(folder)
    go.step("compose the real configuration", f"python train.py {V2} {FULL} --cfg job", says="dragonfly_v2")
    go.step("what its mix comes to", f"python -m data_prep mix-plan stage=1 {V1}", says="stage.samples=556,800 are")
    go.step("what four nodes hold", f"python -m dragonfly_lit plan {V2} {FULL} --gpu H100", says="32 x 1 micro-batches")
    tower = "python -m data_prep mix-plan stage=2 model=dragonfly_v1 vision=siglip_so400m"
    go.step("a tower that does not fit", tower, says="an image takes 12,410 tokens", status=1)
    weights = f"python train.py stage=1 {V1}"
    go.step("start without weights", weights, says="hf download openai/clip-vit-base-patch32", status=1)
    data = "python train.py stage=1 data=general_stage1"
    go.step("start without data", data, says="data_prep pack --from llava blip_laion_cc_sbu_558k.json", status=1)
    sweep = f"python train.py -m stage=1,2 name=both stage.steps=1 init_from=null {SHORT}"
    launcher = "submitit_local" if "hydra-submitit-launcher" in installed() else "basic"
    go.step(f"sweep stages through {launcher}", f"{sweep} hydra/launcher={launcher}")
    assert len(list(folder.glob("runs/both/*/result.json"))) == 2
    for task in ("0", "1"):  # what SLURM does for each task of `#SBATCH --array=0-1`
        run = f"python train.py stage=1 seed={task} name=array/{task} resume=auto stage.steps=1 {SHORT}"
        go.step(f"task {task} of an array", run, says="1 step", SLURM_ARRAY_TASK_ID=task)
        go.step("score it", f"python evaluate.py checkpoint=runs/array/{task} benchmark.limit=4", says="95% interval")
    folders = " ".join(f"runs/array/{task}/evaluation/easy_vqa-test-default-limit4" for task in "01")
    go.step("compare", f"python -m dragonfly_lit compare {folders} --json both.json", says="accuracy")
    assert json.loads((folder / "both.json").read_text())["differences"]
    world = f"python train.py stage=1 {SHORT}"
    go.step("another number of processes than said", world, says="torchrun has started 2 processes", status=1, **TWO)


TWO = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}


if __name__ == "__main__":
    main(journey)
