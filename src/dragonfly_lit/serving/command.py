"""`python -m dragonfly_lit serve`: a model behind OpenAI's API, on this machine."""

from __future__ import annotations

import argparse
import ipaddress
import math
import os
from importlib.util import find_spec
from pathlib import Path

from dragonfly_lit.io.later import import_quickly
from dragonfly_lit.io.parsers import serve_parser

NEEDED = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
KEY_VARIABLE = "DRAGONFLY_API_KEY"


def main(argv: list[str]) -> int:
    """Exit status of `python -m dragonfly_lit serve`."""
    args = serve_parser().parse_args(argv)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ValueError(f"serve needs {', '.join(missing)}: pip install 'dragonfly_lit[serve]'.")
    _check(args)
    keys = _api_keys(args.api_key_file)
    if not keys and not _is_loopback(args.host):
        raise ValueError(
            f"--host {args.host} lets other machines in, and there is no API key. Give one by --api-key-file FILE or "
            f"the environment variable {KEY_VARIABLE}, or leave the server at 127.0.0.1."
        )

    load = import_quickly("dragonfly_lit.app.load")  # first: the others load torch's compiler and torchao with it
    from dragonfly_lit.app.known_warnings import hide_bars
    from dragonfly_lit.serving.application import Server
    from dragonfly_lit.serving.engine import Engine
    from dragonfly_lit.serving.fetching import Fetcher
    from dragonfly_lit.serving.gate import LOOPBACK, Limits
    from dragonfly_lit.serving.listening import Listener, listen

    fetch = Fetcher(args.allow_urls, max_bytes=args.max_body) if args.allow_urls else None
    with listen(args.host, args.port) as listener:  # before minutes of loading
        hide_bars()
        model, processor = load.load_named(args)
        engine = Engine(
            model,
            processor,
            max_rows=args.max_answers,
            max_waiting=args.max_waiting,
            cache_tokens=args.cache_tokens,
            prefix_tokens=args.image_tokens,
        )
        limits = Limits(
            body=args.max_body,
            seconds=args.timeout,
            tokens=args.max_tokens,
            pixels=args.max_pixels,
            images=args.max_images,
            files=args.max_files,
            file_bytes=args.max_file_bytes,
            file_seconds=args.file_seconds,
        )
        name = args.name or args.model.resolve().name
        server = Server(engine, processor, name=name, limits=limits, fetch=fetch)
        hosts = None if keys else tuple(dict.fromkeys((*LOOPBACK, args.host.lower())))
        address = f"[{args.host}]" if ":" in args.host else args.host
        print(
            f"{server.name} on {model.device} in {str(model.dtype).removeprefix('torch.')}: "
            f"http://{address}:{listener.getsockname()[1]}/v1, {'with' if keys else 'without'} API key; "
            f"context {engine.context} tokens, {args.max_answers} answers at a time.",
            flush=True,
        )
        Listener(server.application(api_keys=keys, hosts=hosts), retire=engine.retire, drain_seconds=args.drain).run(
            sockets=[listener]
        )
    print("stopped.")
    return 0


def _check(args: argparse.Namespace) -> None:
    """ValueError for a number that nothing can be done with."""
    for name, value in vars(args).items():
        least = 0 if name in ("port", "max_waiting", "image_tokens", "drain", "max_files") else 1
        if isinstance(value, int | float) and not value >= least:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at least {least}.")
        if value == math.inf:
            raise ValueError(f"--{name.replace('_', '-')} {value} must have an end. Give a number, such as 86400.")
    if args.port > 65535:
        raise ValueError(f"--port {args.port} must be at most 65535.")
    if not args.model.exists():
        raise ValueError(f"--model {args.model} does not exist. Give a run, a checkpoint or a model folder.")


def _api_keys(file: Path | None) -> tuple[str, ...]:
    """The keys, out of a file or the environment: in a command line everybody on the machine could read them."""
    # What is no text has letters that no key has.
    told = os.environ.get(KEY_VARIABLE) if file is None else file.read_text(encoding="utf-8", errors="replace")
    where = KEY_VARIABLE if file is None else f"--api-key-file {file}"
    if told is None:
        return ()
    keys = told.strip().splitlines() or [""]
    for key in keys:
        if len(key) < 16 or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                f"{where} must hold one key of at least 16 visible ASCII characters, or one a line, such as "
                "`openssl rand -hex 24` prints."
            )
    return tuple(dict.fromkeys(keys))


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
