"""What libraries say on every run and nobody can act on is not shown; their warnings about anything else are."""

from __future__ import annotations

import logging
import warnings

from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers.utils import logging as transformers_logging

EXPECTED = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # lightning 2.6.6 on torch 2.13
    r"`broadcast_buffers` is deprecated",  # likewise
    r"Found \d+ module\(s\) in eval mode",  # frozen parts stay in eval mode on purpose
    # The position of the data is a part of every checkpoint; Lightning looks for it in another place.
    r"You're resuming from a checkpoint that ended before the epoch ended and your dataloader is not resumable",
    r"Be aware that when using `ckpt_path`.*\['Timer'\]",  # of runs of 0.1.0: how long they had trained
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # the last step is always logged
    r"FSDP2-wrapped module .* returned a view tensor",  # nothing is changed in place behind a block
)


def silence_known_warnings() -> None:
    """Silence Lightning's greetings and transformers' bars, here and in the warnings that we cause on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    hide_bars()
    for message in EXPECTED:
        warnings.filterwarnings("ignore", message)


def hide_bars() -> None:
    """Hide transformers' bars of reading and writing weights, which every command would draw for less than a second.

    Nothing is downloaded by this project; the bars of an upload (`export --push`) stay.
    """
    hub_is_quiet = are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if not hub_is_quiet:
        enable_progress_bars()  # the line above ends the hub's bars too
