"""Every training command of the pages, of their tables and of the SLURM script starts on any usual cluster."""

import re
import shlex
from pathlib import Path

import pytest
from command_checks import MISSING, has_sweeper, jobs, refusal
from docs_pages import PAGES, ROOT, blocks, commands, sentences

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.launch import check_processes
from dragonfly_lit.app.overrides import normalize_overrides
from dragonfly_lit.data.dealing import MANY, SAMPLES_PER_STREAM, check_streams, choose_streams, fit_workers

PROGRAMS = ("train.py", "dragonfly-train", "train.sbatch")
FLAGS = ("-m", "--multirun", "--cfg", "--help", "--package")


def arguments(command: str) -> tuple[str, ...] | None:
    """What a command gives to train.py; None of any other."""
    if not any(program in command for program in PROGRAMS):
        return None
    words = shlex.split(command, comments=True)
    at = next((place for place, word in enumerate(words) if Path(word).name in PROGRAMS), None)
    if at is None or (words[at] == "dragonfly-train" and at):
        return None
    script = re.search(r"python train\.py (.*) \"\$@\"", (ROOT / "examples/slurm/train.sbatch").read_text())
    before = script[1].split() if script and Path(words[at]).name == "train.sbatch" else []
    return (*before, *(word.rstrip(",.") for word in words[at + 1 :]))


PRINTED = {
    found
    for page in PAGES
    for command in [*(c for block in blocks(page) for c in commands(block.body)), *sentences(page)]
    for part in command.split("&&")
    if (found := arguments(part)) is not None
}


def configurations(given: tuple[str, ...], monkeypatch) -> list[dict]:
    """What a command composes to; of a sweep, of the first and the last of its jobs."""
    words = [word for word in given if word not in ("job", "...") and not re.search(r"(^|=)[A-Z_]+$", word)]
    words = [word.replace("$SLURM_ARRAY_TASK_ID", "3") for word in words]
    sweeps = bool({"-m", "--multirun"} & set(words))
    overrides = [word for word in normalize_overrides(words, "train") if word not in FLAGS]
    if any(word.startswith(("--config-dir", "hydra.searchpath")) or "my_parts" in word for word in overrides):
        monkeypatch.chdir(ROOT / "examples")  # a folder of the user's own
        monkeypatch.syspath_prepend(ROOT / "examples")
    overrides = [word for word in overrides if not word.startswith(("hydra/launcher", "hydra.launcher"))]
    if sweeps and not has_sweeper(overrides):
        return []
    found = jobs(overrides) if sweeps else [overrides]
    return [compose(job, "train") for job in found[:: max(1, len(found) - 1)]]


@pytest.mark.parametrize("given", sorted(PRINTED), ids=" ".join)
def test_it_starts_on_1_to_128_ranks_with_0_to_12_workers(given, monkeypatch):
    for key in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(key, raising=False)
    for config in configurations(given, monkeypatch):
        config["trainer"] |= {key: 1 for key in ("devices", "num_nodes") if config["trainer"][key] == "auto"}
        refused = refusal(config)
        assert refused is None or re.search(MISSING, refused), refused
        many = config["trainer"]["accelerator"] == "gpu" and config["strategy"]["name"] != "single"
        streams = config["data"]["num_streams"]
        for ranks in range(1, 129):
            if many:  # as torchrun starts them on nodes of eight
                nodes, devices = (ranks // 8, 8) if ranks % 8 == 0 else (1, ranks)
                config["trainer"] |= {"devices": devices, "num_nodes": nodes}
                check_processes(config, {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(devices)})
            for num_samples in (4000, MANY * SAMPLES_PER_STREAM):
                num_streams = streams or choose_streams(num_samples, ranks)
                for num_workers in range(13):
                    fitting = num_workers if streams else fit_workers(num_streams, ranks, num_workers)
                    check_streams(num_streams, ranks, fitting)


def test_all_of_them_are_found():
    """In blocks that are run, in those that are not, behind a launcher, in a table, as a sweep, in a folder's own."""
    joined = {" ".join(given) for given in PRINTED}
    for text in (
        "stage=1",
        "stage=2 model=dragonfly_v1 data=general_stage2 trainer=gpu8 strategy=fsdp resume=auto",
        "stage=1 trainer.fast_dev_run=true",
        "-m stage=1 seed=0,1,2 name=seeds hydra/launcher=submitit_local",
        "--config-dir conf projector=gated data_root=../data",
        "trainer=gpu8 trainer.devices=auto trainer.num_nodes=auto resume=auto stage=2 model=dragonfly_v2 "
        "data=general_stage2 strategy=fsdp strategy.activation_checkpointing=full",
    ):
        assert text in joined
    text = "\n".join(page.read_text() for page in PAGES if page.name != "CHANGELOG.md")
    printed = len(re.findall(r"^(?:\$ |`)?(?:python (?:\.\./)?train\.py|dragonfly-train) ", text, re.MULTILINE))
    assert len(PRINTED) > printed / 2 > 20  # many are printed more than once
