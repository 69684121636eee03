"""What is looked up of a command that a page prints, where it cannot be run."""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import os
import re
import shlex
import tomllib
from pathlib import Path

from clone import SHORTER
from docs_pages import ROOT
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from programs import run_python

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.check import check_train
from dragonfly_lit.app.overrides import CONF, check_types, normalize_overrides
from dragonfly_lit.app.values import check_values

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MISSING = r"does not exist|finds no CUDA device"
"""What `check_train` says where only weights, data or a GPU are missing."""


@functools.cache
def check_composes(words: tuple[str, ...]) -> None:
    """The configuration of a command, also behind torchrun or srun, is complete, of the right types and allowed."""
    at = next((i for i, word in enumerate(words) if Path(word).stem.removeprefix("dragonfly-") in SHORTER), None)
    if at is None:
        assert words[0] in ("[", "scontrol", "sbatch", "export"), f"{words[0]} is not a command that can be composed"
        return
    kind = Path(words[at]).stem.removeprefix("dragonfly-")
    options = [word for word in words[at + 1 :] if word.startswith("-")]
    assert set(options) <= {"-m", "--multirun"}, options
    normalized = normalize_overrides(words[at + 1 :], kind)
    given = [word for word in normalized if not word.startswith("-")]
    plugins = ("hydra/launcher", "hydra.launcher", "hydra.sweeper")
    overrides = [item for item in given if not item.startswith(plugins)]
    check_types(overrides, kind)
    if options and not has_sweeper(overrides):
        return
    for job in jobs(overrides) if options else [overrides]:
        config = compose(job, kind)
        if kind == "train":
            refused = refusal(config)
            assert refused is None or re.search(MISSING, refused), refused


def refusal(config: dict) -> str | None:
    """What `check_train` has against a configuration."""
    try:
        check_values(config, "train")
        check_train(config)
    except ValueError as error:
        return str(error)
    return None


def has_sweeper(overrides: list[str]) -> bool:
    """Whether the sweeper of an experiment is installed; one that is not comes with an extra."""
    named = [item.partition("=")[2] for item in overrides if item.startswith("experiment=")]
    files = [CONF / "experiment" / f"{name}.yaml" for name in named]
    if not any("override /hydra/sweeper: optuna" in file.read_text() for file in files):
        return True
    assert "hydra-optuna-sweeper" in required()
    return any(found.name == "hydra-optuna-sweeper" for found in importlib.metadata.distributions())


def jobs(overrides: list[str]) -> list[list[str]]:
    """Jobs of a sweep, so many that each choice on the command line and in the experiment is in one of them."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    fixed = [o.input_line for o in parsed if not o.is_sweep_override()]
    swept = [[f"{o.key_or_group}={v}" for v in o.sweep_string_iterator()] for o in parsed if o.is_sweep_override()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = hydra_compose("train", overrides=fixed, return_hydra_config=True)
    for key, values in (composed.hydra.sweeper.get("params") or {}).items():
        sweep = OverridesParser.create().parse_overrides([f"{key}={values}"])[0]
        if sweep.is_interval_sweep():  # a sweeper that searches asks for any value between its ends
            ends = sweep.value()
            swept.append([f"{key}={ends.start}", f"{key}={ends.end}"])
        else:
            swept.append([f"{key}={value}" for value in str(values).split(",")])
    most = max(map(len, swept))
    return [[*fixed, *(choices[number % len(choices)] for choices in swept)] for number in range(most)]


# Help


def check_help(words: list[str], folder: Path) -> None:
    """A program exists, and every option of its command is one that its help lists."""
    words = words[words[0] in ("python", "python3") :]
    if words[0].endswith(".py") and not re.search(r"\bargparse\b|\bparser\(", (ROOT / words[0]).read_text()):
        assert len(words) == 1, f"{words[0]} takes no arguments"
        return
    front = words[: 2 if words[0] == "-m" else 1]
    if words[len(front) :] and front[-1] in WITH_COMMANDS and not words[len(front)].startswith("-"):
        front = words[: len(front) + 1]
    text = help_of(tuple(front), folder)
    for word in words[len(front) :]:
        if word.startswith("-"):
            option = re.escape(word.partition("=")[0])
            assert re.search(rf"(^|[\s,\[]){option}\b", text), f"{word} of {words}\n{text}"


WITH_COMMANDS = ("data_prep", "dragonfly_lit", "dragonfly", "dragonfly-data")


@functools.cache
def help_of(front: tuple[str, ...], folder: Path) -> str:
    """What a program prints for `--help`."""
    status, output = run_python([*front, "--help"], folder)
    assert status == 0, output
    return output


# Of a command inside a sentence or a table


def check_sentence(command: str, folder: Path) -> None:
    """What a command names exists: keys and choices of a configuration, options, extras; `NAME` is the reader's own."""
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    words = [word for word in words if word != "..." and not re.search(r"(^|=)[A-Z]+$", word)]
    if words[0] in TOOLS:
        TOOLS[words[0]](words)
    elif any(Path(word).stem.removeprefix("dragonfly-") in SHORTER for word in words):
        check_composes(tuple(words))
    else:
        check_help(words, folder)


# Tools


def check_install(words: list[str]) -> None:
    """`pip install`: the extras are those of the project, the constraints are a file of it."""
    assert words[1] == "install", words
    for word in words[2:]:
        found = re.fullmatch(r"(\.|dragonfly_lit)(\[([\w,]+)\])?", word)
        if found:
            assert set((found[3] or "").split(",")) - {""} <= set(PROJECT["optional-dependencies"]), word
        elif word == "constraints.txt":
            assert (ROOT / word).is_file()
        else:
            assert word in ("-e", "-c", "-U", "--no-deps") or word in required(), f"{word} is not in any extra"


def check_pytest(words: list[str]) -> None:
    """Paths and markers that a `pytest` line names exist."""
    markers = {line.partition(":")[0] for line in tool("pytest")["ini_options"]["markers"]}
    for word, before in zip(words[1:], words, strict=False):
        if before == "-m":
            assert set(re.findall(r"\w+", word)) - {"and", "or", "not"} <= markers, word
        elif not word.startswith("-") and before not in ("-n", "-k"):
            assert (ROOT / word.partition("::")[0]).exists(), word


def check_declared(words: list[str]) -> None:
    """A program comes with one of the project's extras."""
    name = {"mkdocs": "mkdocs-material"}.get(words[0], words[0])
    assert name in required(), f"{words[0]} does not come with an extra of pyproject.toml"


def check_script(words: list[str]) -> None:
    """A script of the repository exists and may be run."""
    assert os.access(ROOT / words[0], os.X_OK), words[0]


def required() -> set[str]:
    """Names of the packages of all extras."""
    lines = itertools.chain.from_iterable(PROJECT["optional-dependencies"].values())
    return {re.match(r"[\w.-]+", line)[0] for line in lines}


def tool(name: str) -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][name]


TOOLS = {
    "pip": check_install,
    "pytest": check_pytest,
    ".ci/run": check_script,
    **dict.fromkeys(("ruff", "pyright", "mkdocs", "pre-commit"), check_declared),
}
