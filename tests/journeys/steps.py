"""What a journey is made of: a folder like a fresh clone, and commands that are printed, run and looked at."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))  # a journey is a script as well
from limits import patient  # noqa: E402

LINKED = ("train.py", "evaluate.py", "conf", "data_prep", "src", "benchmarks", "examples", "pyproject.toml")


class Journey:
    """The steps of somebody who is new here, each printed before it is run.

    Args:
        folder: where it takes place.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)

    def step(self, what: str, command: str, *, says: str = "", status: int = 0, **environment: str) -> str:
        """Run a command as it is typed in a shell; its output, which must say something, with this exit status."""
        self.number += 1
        print(f"{self.number:2}. {what}\n    $ {command}", flush=True)
        words = shlex.split(command)
        if words[0] == "python":
            words[0] = sys.executable
        env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1", **environment}
        done = subprocess.run(words, cwd=self.folder, env=env, capture_output=True, text=True, timeout=patient(900))
        output = done.stdout + done.stderr
        assert done.returncode == status, f"{command}: status {done.returncode}\n{output}"
        assert says in output, f"{command} does not say {says!r}:\n{output}"
        assert "Traceback" not in output, output
        return output

    def has(self, pattern: str) -> Path:
        """The one file of the folder with this pattern."""
        found = sorted(self.folder.glob(pattern))
        assert len(found) == 1, f"{pattern}: {found}"
        return found[0]


def printed(output: str, before: str) -> str:
    """The command that an output names after a few words."""
    return output.partition(before)[2].splitlines()[0].strip()


def main(journey) -> None:
    """`python tests/journeys/NAME.py FOLDER` runs it by hand."""
    journey(Path(sys.argv[1]))
    print("The journey ends well.")
