"""The arguments of `python -m dragonfly_lit COMMAND`, apart from what the commands load: --help answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Literal

from dragonfly_lit.io.amounts import count, share, whole
from dragonfly_lit.io.commands import as_typed

LAYOUTS = ("transformers", "released", "peft")
QUANTIZE = ("nf4", "int8")
SMALL = 0.09
"""Details up to this share of the side count as small in a study unless --small says otherwise."""
TRUST_HELP = "a module of your own whose classes the model may have as its parts; again for more of them"


PLAN = """What fits and what binds, before anyone queues.

Parameters, FLOPs, memory of a GPU by part, time and traffic of a step, from the configuration alone: without weights,
data or a GPU. Memory is what eager layers keep; trainer.compile=blocks needs less.

    python -m dragonfly_lit plan stage=2 model=dragonfly_v2 data=general_stage2 trainer=gpu8 strategy=fsdp
    python -m dragonfly_lit plan stage=1 model=dragonfly_v1 trainer=gpu --gpu H200 --mfu 0.56
"""


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=as_typed(f"python -m dragonfly_lit {name}"), description=description)


def _add_model(parser: argparse.ArgumentParser) -> None:
    """The options that `app.load.load_named` reads."""
    parser.add_argument("--model", type=Path, required=True, help="a run, a checkpoint, or a model folder")
    parser.add_argument("--version", choices=("v1", "v2"), help="of a released folder, which does not say")
    parser.add_argument("--vision", help="folder or cached name of the tower's config, for a released folder")
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help=TRUST_HELP)
    parser.add_argument("--device", help="(default: cuda where there is one, else cpu)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="(default: float32 on a CPU, else bfloat16)"
    )
    parser.add_argument(
        "--quantize", choices=QUANTIZE, help="hold the language model's linear layers in 4 or 8 bits (default: floats)"
    )
    parser.add_argument(
        "--base", type=Path, help="of a folder of adapters: the model below them (default: the named one)"
    )


def add_pictures(parser: argparse._ActionsContainer, of_window: str) -> None:
    """The options that say which pictures an image file becomes, of `ask` and `data_prep pack` alike.

    Args:
        parser: that gets `--frames` and `--window`.
        of_window: what its help says of `--window` beside the words of both.
    """
    parser.add_argument(
        "--frames",
        type=_frames,
        metavar="all|middle|N",
        help="of a DICOM file with several frames: all of them, each an image, or one, counted from 0 (default: such a "
        "file is refused)",
    )
    parser.add_argument(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help=f"black and white of images of more than 8 bits, in their own values{of_window}",
    )


def _frames(text: str) -> Literal["all", "middle"] | int:
    if text == "all" or text == "middle":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not all, middle or a number from 0")
    return int(text)


def window_of(given: list[float] | None) -> tuple[float, float] | None:
    """The two numbers of `--window`; ValueError where black is not below white."""
    if given is None:
        return None
    low, high = given
    if not -inf < low < high < inf:
        raise ValueError(f"--window {low:g} {high:g}: give two numbers, black below white.")
    return low, high


def ask_parser() -> argparse.ArgumentParser:
    """The command line of `ask`."""
    parser = _parser("ask", "Ask a model about an image; the answer is written as it comes.")
    parser.add_argument("question", nargs="?", help="what to ask; with --chat it may be left out")
    _add_model(parser)
    parser.add_argument("--chat", action="store_true", help="go on asking, line by line, in one conversation")
    parser.add_argument("--batch", type=Path, metavar="FOLDER", help="ask about every image below FOLDER")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.jsonl", help="with --batch: where the answers go; goes on where it stopped"
    )
    parser.add_argument(
        "--image",
        type=Path,
        action="append",
        default=[],
        help="an image file, or FILE.parquet#ROW:COLUMN; again for more; <image> in the question: where one stands",
    )
    add_pictures(parser, " (default: what the file says, else their smallest and largest value)")
    parser.add_argument("--max-new-tokens", type=count, default=128, help="(default: %(default)s)")
    parser.add_argument("--show-zoom", type=Path, metavar="FILE.png", help="draw the first image with the kept crops")
    return parser


def export_parser() -> argparse.ArgumentParser:
    """The command line of `export`."""
    parser = _parser("export", "The weights of a run, as a folder that others can load.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run, or one of its checkpoints")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write; must not hold anything yet")
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="transformers",
        help="peft: the adapters of stage.lora by themselves, their model in FOLDER/base (default: %(default)s)",
    )
    parser.add_argument(
        "--base", type=Path, help="with --layout peft: an export of that model which is there, instead of FOLDER/base"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default=None, help="of the weights; default: as trained"
    )
    parser.add_argument(
        "--push", metavar="REPO", help="then upload FOLDER to OWNER/NAME on the hub; a new repository is private"
    )
    parser.add_argument("--public", action="store_true", help="with --push: a new repository is seen by everybody")
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help=TRUST_HELP)
    return parser


def plan_parser() -> argparse.ArgumentParser:
    """The command line of `plan`."""
    parser = argparse.ArgumentParser(
        prog=as_typed("python -m dragonfly_lit plan"),
        description=as_typed(PLAN),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration as train.py takes it")
    parser.add_argument("--config-dir", help="a folder with configuration groups of your own, as train.py takes it")
    parser.add_argument(
        "--gpu", default="H100", metavar="NAME", help="such as H200, A100 or L40S (default: %(default)s)"
    )
    parser.add_argument("--memory", type=float, metavar="GB", help="of a GPU (default: as made)")
    parser.add_argument(
        "--mfu", type=share, default=0.4, help="share of its peak that is expected (default: %(default)s)"
    )
    parser.add_argument(
        "--text", type=int, default=128, metavar="TOKENS", help="of a sample beside its image (default: %(default)s)"
    )
    parser.add_argument(
        "--network", type=float, default=400, metavar="GBIT", help="of a GPU between nodes (default: %(default)s)"
    )
    return parser


def compare_parser() -> argparse.ArgumentParser:
    """The command line of `compare`."""
    parser = _parser("compare", "Runs side by side.")
    parser.add_argument("results", nargs="+", type=Path, help="results.json of a run, or the folder it lies in")
    parser.add_argument("--names", nargs="+", help="what to call the runs; their paths otherwise")
    parser.add_argument("--json", type=Path, help="also write the comparison to this file")
    parser.add_argument("--html", type=Path, help="also write a page with both answers to each question (two runs)")
    parser.add_argument("--resamples", type=count, default=1000, help="of the bootstrap (default 1000)")
    parser.add_argument("--seed", type=whole, default=0, help="of the bootstrap (default 0)")
    return parser


def study_parser() -> argparse.ArgumentParser:
    """The command line of `study`."""
    parser = _parser("study", "A sweep side by side.")
    parser.add_argument("folder", type=Path, help="of the sweep, such as runs/zoom_ablation")
    parser.add_argument("--out", type=Path, help="folder of what is written (default: that of the sweep)")
    parser.add_argument(
        "--small", type=share, default=SMALL, help="largest small detail, share of the side (%(default)s)"
    )
    parser.add_argument("--images", type=whole, default=2, help="images of each size in the gallery (%(default)s)")
    return parser


def serve_parser() -> argparse.ArgumentParser:
    """The command line of `serve`."""
    parser = _parser("serve", "A model behind OpenAI's API, for this machine alone unless told otherwise.")
    _add_model(parser)
    parser.add_argument("--name", help="what clients call the model (default: the name of its folder)")
    parser.add_argument("--host", default="127.0.0.1", help="another one needs an API key (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="clients must send one of its lines; or DRAGONFLY_API_KEY"
    )
    parser.add_argument(
        "--allow-urls",
        action="append",
        default=[],
        metavar="HOST",
        help="images at http(s)://HOST/... are fetched; again for more hosts (default: nothing is fetched)",
    )
    numbers = {
        "max-answers": (16, "that are given at the same time"),
        "max-waiting": (64, "requests that wait beyond those; the next one is told to come back (429)"),
        "cache-tokens": (32768, "of the key-value cache: answers at a time, times tokens of the longest one"),
        "image-tokens": (16384, "of images that are kept for the next question about them"),
        "max-tokens": (2048, "of an answer"),
        "max-body": (20 * 2**20, "bytes of a request"),
        "max-pixels": (2**25, "of an image"),
        "max-images": (16, "of a request"),
        "max-files": (64, "images that a client may have uploaded at a time"),
        "max-file-bytes": (2**28, "of those together"),
    }
    for name, (default, what) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=300.0, metavar="SECONDS", help="of an answer (default: %(default)g)"
    )
    parser.add_argument(
        "--file-seconds", type=float, default=3600.0, metavar="SECONDS", help="an upload is kept (default: %(default)g)"
    )
    parser.add_argument(
        "--drain",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="that answers may take to end after SIGTERM (default: %(default)g)",
    )
    return parser


PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "ask": ask_parser,
    "export": export_parser,
    "plan": plan_parser,
    "compare": compare_parser,
    "study": study_parser,
    "serve": serve_parser,
}
"""By command."""
