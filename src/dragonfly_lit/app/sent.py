"""Where the jobs of a sweep went, and what they say: a launcher that is not Hydra's own runs them out of sight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SaysWhereJobsWent(Callback):
    """A callback of Hydra, of the sweep; jobs have none to speak to."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Print one line where a launcher of submitit takes the jobs, whose output the terminal never sees."""
        launcher = config.hydra.launcher
        if "submitit_folder" not in launcher:
            return
        from dragonfly_lit.app.sweep import LOG_FILE  # Hydra makes this object for every command: it loads no torch

        choice = config.hydra.runtime.choices["hydra/launcher"]
        folder = Path(config.hydra.sweep.dir)
        print(
            f"{choice} runs the jobs, and nothing of them is shown here: each is a folder of {folder} with its "
            f"{LOG_FILE}, and what it came to is in {folder / '.submitit'}. This command ends when all have ended.",
            flush=True,
        )
