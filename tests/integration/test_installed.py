"""Installed from a wheel, without the source tree: the commands train, score, check data and find the user's parts."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from limits import patient

pytest.importorskip("easy_vqa")
pytest.importorskip("setuptools")
pytest.importorskip("sklearn")

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    "stage.steps=2",
    "model.max_tokens=1024",
    "data.num_workers=0",
    "trainer.limit_val_batches=1",
    "callbacks.answers=null",
)


def run(*command, cwd, **environment):
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HYDRA_FULL_ERROR")}
    done = subprocess.run(command, cwd=cwd, env=env | environment, capture_output=True, text=True, timeout=patient(600))
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of what git knows; built in a copy, since the build writes beside the sources."""
    top = tmp_path_factory.mktemp("wheel")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        if name.split("/")[0] in ("src", "conf", "data_prep", "pyproject.toml", "README.md", "LICENSE"):
            (top / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (top / "tree" / name).write_bytes((ROOT / name).read_bytes())
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(sys.executable, *build, "--wheel-dir", str(top), str(top / "tree"), cwd=top)
    return next(top.glob("*.whl"))


@pytest.fixture(scope="module")
def binaries(wheel, tmp_path_factory):
    """The commands of a fresh environment: the wheel, and of this environment the libraries only."""
    home = tmp_path_factory.mktemp("installed") / "env"
    venv.create(home, with_pip=False)
    libraries = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    site = home / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    # A folder named in a .pth is searched, its own .pth files are not read: an editable install there stays unseen.
    (site / "libraries.pth").write_text("\n".join(libraries))
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed")
    run(str(home / "bin" / "python"), *install, str(wheel), cwd=home)
    return home / "bin"


def test_the_wheel_claims_one_name_and_has_every_configuration_file(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dragonfly_lit"}
    packed = {name.removeprefix("dragonfly_lit/conf/") for name in names if name.startswith("dragonfly_lit/conf/")}
    assert {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")} <= packed
    assert "dragonfly_lit/py.typed" in names


def test_installed_commands_work_from_any_folder(binaries, tmp_path):
    where = run(str(binaries / "python"), "-c", "import dragonfly_lit; print(dragonfly_lit.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(binaries.parent)
    train, score, data = (str(binaries / f"dragonfly-{name}") for name in ("train", "evaluate", "data"))
    (tmp_path / "conf" / "trainer").mkdir(parents=True)
    (tmp_path / "conf" / "trainer" / "laptop.yaml").write_text("defaults: [cpu, _self_]\nlog_every: 1\n")

    told = run(train, "--config-dir", "conf", "trainer=laptop", *SHORT, cwd=tmp_path)
    assert "Score it: dragonfly-evaluate checkpoint=runs/tiny-stage1" in told
    assert "log_every: 1\n" in (tmp_path / "runs/tiny-stage1/config.yaml").read_text()
    run(score, "benchmark=easy_vqa", "benchmark.limit=4", cwd=tmp_path)
    assert (tmp_path / "runs/tiny-stage1/evaluation").is_dir()
    assert "1,000 samples read, 0 wrong" in run(data, "lint", "data/easy_vqa/test", cwd=tmp_path)
    assert "easy_vqa" in run(data, "mix-plan", "--config-dir", "conf", "trainer=laptop", cwd=tmp_path)
    examples = shutil.copytree(ROOT / "examples", tmp_path / "examples")
    assert "digits" in run(data, "mix-plan", "--config-dir", "conf", "data=digits", cwd=examples)
    assert run(str(binaries / "dragonfly"), "--help", cwd=tmp_path).startswith("usage: dragonfly COMMAND")


@pytest.mark.slow
def test_an_installed_sweep_runs_its_jobs_with_the_parts_of_the_user(binaries, tmp_path):
    project = shutil.copytree(ROOT / "examples", tmp_path / "project")
    sweep = ("--config-dir", "conf", "-m", "data=digits", "name=sweep", "seed=0,1", *SHORT)
    first, again = (run(str(binaries / "dragonfly-train"), *sweep, cwd=project) for _ in range(2))
    assert [line.partition(": ")[2][:15] for line in first.splitlines()] == ["validation loss"] * 2
    assert [line.partition(": ")[2][:15] for line in again.splitlines()] == ["finished before"] * 2
