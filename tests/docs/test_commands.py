"""Every command and every piece of Python that the pages print works.

A fenced block is run, shortened, in a folder like a clone. A comment before it says where that cannot be:

    <!-- test: compose -->        wants GPUs, weights, data, a cluster or hours: composed, type-checked, and checked
                                  up to what is missing here
    <!-- test: help -->           takes minutes: its options are compared with its `--help`
    <!-- test: tools -->          installs, formats or tests: extras, files and programs that it names exist;
                                  other commands of the block are run
    <!-- test: skip REASON -->    not at all
"""

import ast
import fcntl
import hashlib
import importlib
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from clone import SHORTER, link_clone
from command_checks import TOOLS, check_composes, check_help, check_sentence
from docs_pages import PAGES, ROOT, Block, blocks, commands, sentences
from limits import patient
from PIL import Image
from programs import SCRIPTS, run_python
from pyarrow import parquet

from data_prep.demo import make_demo

pytest.importorskip("easy_vqa")
BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in BLOCKS if block.language in ("bash", "sh", "shell")]
PYTHON = [block for block in BLOCKS if block.language == "python"]
HOW = ("", "compose", "help", "tools")
LANGUAGES = ("bash", "python", "yaml", "json", "bibtex", "text")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A clone with the demo packed, two short runs with results, and images of a user's own."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "prepared_clone"
    (folder.parent / "passed").mkdir(exist_ok=True)
    with Path(f"{folder}.lock").open("w") as lock:  # one test process prepares it, the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            prepare(folder)
            (folder / "ready").touch()
    return folder


def prepare(folder: Path) -> None:
    """Fill the clone."""
    link_clone(folder)
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    make_demo(folder / "data")
    (folder / "photos").mkdir()
    rows = ["image,caption"]
    for number in range(4):
        Image.new("RGB", (64, 48), (60 * number, 90, 120)).save(folder / f"photos/{number}.jpg")
        rows.append(f"{number}.jpg,a plain picture of shade {number}")
    for table in (folder / "captions.csv", folder / "photos/captions.csv"):
        table.write_text("\n".join(rows) + "\n")
    shutil.copy(folder / "photos/1.jpg", folder / "photo.jpg")
    (folder / "hub").mkdir()
    photo = [{"bytes": (folder / "photo.jpg").read_bytes(), "path": "1.jpg"}]
    for part, number in (("train", 8), ("validation", 2)):
        texts = [[{"user": "Which shade?", "assistant": f"{n}."}] for n in range(number)]
        table = pa.table({"images": [photo] * number, "texts": texts})
        parquet.write_table(table, folder / f"hub/{part}-00000-of-00001.parquet", row_group_size=3)
    for words in (
        [
            "-m",
            "data_prep",
            "pack",
            "--from",
            "captions",
            "captions.csv",
            "--images",
            "photos",
            "--out",
            "data/mine",
            "--source",
            "mine",
            "--licence",
            "own",
        ],
        ["train.py", "stage=1", *SHORTER["train"], "callbacks.progress=false"],
        ["evaluate.py", "checkpoint=runs/tiny-stage1", *SHORTER["evaluate"]],
        ["-m", "dragonfly_lit", "export", "runs/tiny-stage1", "my-vlm"],
    ):
        status, output = run_python(words, folder)
        assert status == 0, output
    results = next((folder / "runs").rglob("results.json"))
    for name in ("a", "b"):
        shutil.copytree(results.parent, folder / f"runs/{name}/evaluation/easy_vqa")
    for name, path in {
        "Llama-3-8B-Dragonfly-v1": "checkpoint",
        "FOLDER": "checkpoint",
        "clip-vit-base-patch32": "image_encoder",
        "CLIP": "image_encoder",
    }.items():
        (folder / name).symlink_to(ROOT / "tests/parity/v1" / path)
    write_study(folder / "runs/zoom_ablation")


def write_study(folder: Path) -> None:
    """The results of a sweep of two cells, as their jobs leave them."""
    for cell, seed in itertools.product(("low", "low_medium"), (0, 1, 2)):
        job = folder / f"cell={cell},seed={seed}"
        job.mkdir(parents=True)
        config = {
            "about": {"title": cell.replace("_", " + "), "parts": ["levels"]},
            "data_root": "data",
            "benchmark": {"_target_": "x", "split": "test", "limit": None},
        }
        (job / "config.yaml").write_text(yaml.safe_dump(config))
        groups = {size: {"num_questions": 10, "score": 0.3 + 0.01 * seed} for size in ("02%", "09%", "25%")}
        entry = {
            "headline": "accuracy",
            "scores": {"accuracy": 0.3 + 0.01 * seed},
            "answers_per_s": 9.0,
            "selection": None,
            "groups": {"split": groups, "category": {"colour": {"num_questions": 30, "score": 0.4}}},
            "folder": "evaluation/probes",
            "answers": "answers/probes.jsonl",
        }
        result = {"val_loss": 1.0, "image_tokens": 18, "image_gflops": 0.1, "samples_per_s": 9.0, "config": config}
        (job / "result.json").write_text(json.dumps(result | {"benchmarks": {"probes": entry}}))


@pytest.fixture
def clone(prepared, tmp_path):
    """A copy of the prepared clone for one block, since a command may write anywhere in it."""
    demo = str(prepared / "data")  # large, and only read
    shutil.copytree(
        prepared, tmp_path / "clone", symlinks=True, ignore=lambda at, _: {"easy_vqa"} if at == demo else set()
    )
    (tmp_path / "clone/data/easy_vqa").symlink_to(prepared / "data/easy_vqa")
    (tmp_path / "clone/passed").symlink_to(prepared.parent / "passed")
    return tmp_path / "clone"


@pytest.mark.parametrize("block", [b for b in SHELL if not b.how.startswith("skip")], ids=str)
def test_a_command_of_the_pages_works(block, clone, monkeypatch):
    folder, passed, todo = clone, clone / "passed", commands(block.body)
    while todo and ran_before(todo[-1], passed):  # on another page, and nothing here builds on it
        todo.pop()
    for command in todo:
        words = shlex.split(command)
        if words[0] == "cd":
            folder = folder / words[1]
            assert folder.is_dir(), f"{block}: {command}"
            continue
        monkeypatch.chdir(folder)
        check(block, command, words, folder)
        if kind_of(words) and not block.how:
            marker_of(command, passed).touch()


def check(block: Block, command: str, words: list[str], folder: Path) -> None:
    """One command, as its block says."""
    assert block.how in HOW, f"{block}: <!-- test: {block.how} --> is not one of {HOW[1:]} or a skip with its reason"
    if block.how == "compose":
        check_composes(tuple(words))
    elif block.how == "help":
        check_help(words, folder)
    elif block.how == "tools" and words[0] in TOOLS:
        TOOLS[words[0]](words)
    else:
        status, output = run(words, folder)
        assert status == 0, f"{block}: {command}\n{output}"


def marker_of(command: str, passed: Path) -> Path:
    """A file that is there once a run of training or scoring by this very command has passed."""
    return passed / hashlib.sha256(command.encode()).hexdigest()


def ran_before(command: str, passed: Path) -> bool:
    return marker_of(command, passed).exists()


# Run


def run(words: list[str], folder: Path) -> tuple[int, str]:
    """Exit status and output, shortened where it would take long."""
    kind = kind_of(words)
    if "pack" in words and "--out" in words:  # the clone has a packed folder already
        shutil.rmtree(folder / words[words.index("--out") + 1], ignore_errors=True)
    if kind in SHORTER and "--cfg" not in words and "--help" not in words:
        given = {word.lstrip("+~").partition("=")[0] for word in words}
        words = [*words, *(item for item in SHORTER[kind] if item.partition("=")[0] not in given)]
    if words[0] in SCRIPTS:
        return run_python(words, folder)
    if words[0] in ("python", "python3"):
        return run_python(words[1:], folder)
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=patient(60))
    return done.returncode, done.stdout + done.stderr


def kind_of(words: list[str]) -> str:
    """`train` or `evaluate`, else empty."""
    for word in words[:2]:
        name = Path(word).stem.removeprefix("dragonfly-")
        if name in SHORTER:
            return name
    return ""


@pytest.mark.parametrize("page", [p for p in PAGES if sentences(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_command_inside_a_sentence_or_a_table_names_what_exists(page, prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    for command in sentences(page):
        for part in command.split("&&"):
            check_sentence(part, prepared)


# Python, YAML, JSON


@pytest.mark.parametrize("block", [b for b in PYTHON if not b.how.startswith("skip")], ids=str)
def test_python_of_the_pages_works(block, clone):
    """It is run, or, where a comment says `<!-- test: names -->`, compiled and its imports looked up."""
    tree = ast.parse(block.body, f"{block}")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("my_parts"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
    assert block.how in ("", "names"), block
    if not block.how:
        status, output = run_python(["-c", block.body], clone)
        assert status == 0, f"{block}\n{output}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in ("yaml", "json")], ids=str)
def test_yaml_and_json_of_the_pages_can_be_read(block):
    assert yaml.safe_load(block.body)


def test_what_is_not_tried_says_why():
    for block in (b for b in BLOCKS if b.how.startswith("skip")):
        assert len(block.how.split()) > 3, f"{block}: <!-- test: {block.how} --> gives no reason"


def test_every_fenced_block_has_a_language_that_is_known():
    """A command in a block without a language would not be tested."""
    unknown = [f"{block}: {block.language!r}" for block in BLOCKS if block.language not in LANGUAGES]
    assert unknown == []


def test_no_command_hides_in_an_indented_block():
    for page in PAGES:
        text = re.sub(r"^[ ]*```.*?^[ ]*```[ ]*$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        found = re.search(r"^ {4}(\$ )?(python|torchrun|srun|pip|dragonfly)\b.*", text, re.MULTILINE)
        assert not found, f"{page.name}: {found[0] if found else ''}: give it a fenced block"
