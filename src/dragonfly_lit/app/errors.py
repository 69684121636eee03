"""Errors that a user can mend end a command with one line: the key, the value, the way out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from dragonfly_lit.app import known_keys, mistyped
from dragonfly_lit.app.overrides import choices
from dragonfly_lit.io import disk
from dragonfly_lit.io.commands import INTERRUPT_STATUS, SET_BY_US, as_typed, wants_traceback, was_interrupted

EXIT_USER_ERROR = 1
INTERRUPTED = {
    "train": "no step was being trained. The same command with resume=auto goes on from the newest checkpoint, if any.",
    "sweep": "the job that ran is saved. The same command goes on with it, and with those that are missing.",
    "evaluate": "the answers so far are kept. The same command goes on with those that are missing.",
}
"""What Ctrl-C leaves behind, by command; within training the run is saved first (`training.survival.Preemption`)."""
GO_ON = {"train": " Then resume=auto goes on.", "evaluate": " Then the same command goes on."}
"""After an error of the disk is mended, by configuration."""

LONG_LIST = 120
"""Characters of a list of choices from which on the nearest is named first."""
USER_ERRORS = (ValueError, OSError, HydraException, OmegaConfBaseException)
"""What a user can mend."""


@contextmanager
def report_user_errors(config: str, *, job: bool = False) -> Iterator[None]:
    """Within it, what a user can mend ends in one line and exit status 1, a bug in its traceback.

    With `HYDRA_FULL_ERROR=1` in the environment every error keeps its traceback.

    Args:
        config: name of the configuration, for the keys that an answer names.
        job: inside what Hydra runs, so that Hydra adds no line of its own. The job of a sweep leaves it to the sweep.
    """
    if not wants_traceback():
        os.environ[SET_BY_US] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints errors itself, over several lines
    try:
        with _one_line_of_a_job():
            yield
    except (KeyboardInterrupt, Exception) as error:
        if was_interrupted(error):
            if job:
                raise  # Hydra's own, and a sweep's, are ended as well
            left = "sweep" if {"-m", "--multirun"} & set(sys.argv) else config
            print(as_typed(f"\ninterrupted: {INTERRUPTED[left]}"), file=sys.stderr)
            sys.exit(INTERRUPT_STATUS)
        is_sweeps = job and HydraConfig.get().mode == RunMode.MULTIRUN
        if not isinstance(error, USER_ERRORS) or wants_traceback() or is_sweeps:
            raise
        print(as_typed(f"error: {describe(error, config, sys.argv[1:])}"), file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


@contextmanager
def _one_line_of_a_job() -> Iterator[None]:
    """Within it, Hydra does not print the overrides of a failed job above an error that is told in one line."""
    printing: Any = JobReturn.return_value

    def value(job: Any) -> Any:
        if isinstance(job._return_value, USER_ERRORS) and not wants_traceback():
            raise job._return_value
        return printing.fget(job)

    JobReturn.return_value = printing.getter(value)  # type: ignore[method-assign]
    try:
        yield
    finally:
        JobReturn.return_value = printing


def describe(error: BaseException, config: str, arguments: Sequence[str] = ()) -> str:
    """One line for `error`, with the nearest existing key or the existing choices.

    Args:
        error: of a user, of Hydra or of this project.
        config: name of the configuration.
        arguments: of the command line; its `--config-dir` and `hydra.searchpath` bring further choices.
    """
    # What Hydra wraps says more than the wrapping; what this project raises from another error says it better.
    wrappers = (HydraException, OmegaConfBaseException)
    said = [str(error)]
    while error.__cause__ and isinstance(error, wrappers) and not isinstance(error, MissingConfigException):
        error = error.__cause__
        said.append(str(error))
    if isinstance(error, OSError) and (line := disk.explain(error, go_on=GO_ON.get(config, ""))) is not None:
        return " ".join(line.split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = choices(group, arguments) or ", ".join(error.options or [])
        if group in ("hydra/launcher", "hydra/sweeper"):
            options += "; others come with pip install 'dragonfly_lit[sweep]'"
        if not choice.strip("'"):
            return f"{group}= names no choice. Use one of {options}."
        near = known_keys.nearest(choice, options.split(", ")) if len(options) > LONG_LIST else []
        meant = f" Did you mean {' or '.join(f'{group}={name}' for name in near)}?" if near else ""
        return f"{group}={choice} does not exist.{meant} Use one of {options}."
    if (line := mistyped.explain(said, config, arguments)) is not None:
        return line
    return " ".join(str(error).split()) or type(error).__name__
