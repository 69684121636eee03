"""Which files a remote path means: a pattern with braces, one with stars, a folder of a store, or a single file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from dragonfly_lit.data.failures import RemoteError, is_absent
from dragonfly_lit.data.fetching import FarFile, facts_of, far_file, retrying, system_of
from dragonfly_lit.data.table_files import SUFFIXES

SHARD = ".tar"
MAX_FILES = 1_000_000
ASKED_AT_ONCE = 16
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_web(path: str) -> bool:
    """Whether a URL is of a web server, which lists no files."""
    return urlsplit(path).scheme in ("http", "https")


def names_files(path: str, suffixes: Sequence[str]) -> bool:
    """Whether a URL names files, by a pattern or one by one, and not a folder.

    Args:
        path: the URL.
        suffixes: that files may have.
    """
    return bool(_BRACES.search(path)) or _is_glob(path) or _file_name(path).endswith(tuple(suffixes))


def expand(pattern: str) -> list[str]:
    """The texts that a pattern with braces stands for: `{000..127}` counts, `{a,b}` names; several give every pairing.

    Raises:
        ValueError: braces that are neither, a range that runs backwards, or too many texts.
    """
    found = [""]
    end = 0
    for brace in _BRACES.finditer(pattern):
        choices = _choices(brace[1], pattern)
        if len(choices) * len(found) > MAX_FILES:
            raise ValueError(f"{pattern!r} names more than {MAX_FILES:,} files.")
        found = [f"{text}{pattern[end : brace.start()]}{choice}" for text in found for choice in choices]
        end = brace.end()
    rest = pattern[end:]
    if "{" in rest or "}" in rest or any(mark in text for mark in "{}" for text in found[:1]):
        raise ValueError(f"{pattern!r} has a brace without its partner. Write {{000..127}} or {{a,b}}.")
    return [text + rest for text in found]


def _choices(inner: str, pattern: str) -> list[str]:
    if (bounds := _RANGE.fullmatch(inner)) is None:
        if "," not in inner:
            raise ValueError(f"{pattern!r}: {{{inner}}} is not a range. Write {{000..127}} or {{a,b}}.")
        return inner.split(",")
    first, last = int(bounds[1]), int(bounds[2])
    if last < first or last - first >= MAX_FILES:
        raise ValueError(f"{pattern!r}: {{{inner}}} must run upwards, over at most {MAX_FILES:,} numbers.")
    # As a shell does: zeros in front of either number make all equally wide.
    padded = any(text.startswith("0") and len(text) > 1 for text in bounds.groups())
    width = max(map(len, bounds.groups())) if padded else 0
    return [str(number).zfill(width) for number in range(first, last + 1)]


def find_files(path: str, suffixes: Sequence[str]) -> list[FarFile]:
    """The files that a URL means, those of a folder in the order of their names.

    Args:
        path: a pattern, a file or a folder.
        suffixes: of the files that are looked for.

    Raises:
        ValueError: there are none, or the store cannot be asked; the message names the way out.
    """
    path = _pinned(path)
    if "{" in path or "}" in path:
        urls = expand(path)
        if any(map(_is_glob, urls[:1])):
            raise ValueError(f"{path!r} has both braces and stars. Use one of them.")
        start = path.partition("{")[0].rpartition("/")[0] + "/"
        return _asked([(url, urlsplit(url[len(start) :]).path) for url in urls])
    if _is_glob(path):
        return _listed(path, suffixes)
    if _file_name(path).endswith(tuple(suffixes)):
        return _asked([(path, _file_name(path))])
    if is_web(path):
        raise ValueError(
            f"a web server does not list its files, so name them: {path.rstrip('/')}/{{000..127}}{suffixes[0]}"
        )
    return _listed(path, suffixes)


def _asked(named: Iterable[tuple[str, str]]) -> list[FarFile]:
    """Files of which each is asked for by itself."""
    with ThreadPoolExecutor(ASKED_AT_ONCE, "dragonfly-listing") as pool:
        return list(pool.map(lambda one: replace(facts_of(*one), fixed=_is_fixed(one[0])), named))


def _listed(path: str, suffixes: Sequence[str]) -> list[FarFile]:
    """Files that a store lists; of a hub as they are in the commit of this moment."""
    infos = retrying(path, lambda: _ask(path))
    if len(infos) > MAX_FILES:
        raise RemoteError(f"{path} has more than {MAX_FILES:,} files.")
    system, _ = system_of(path)
    files = {
        system.unstrip_protocol(info["name"]): info
        for info in infos
        if info.get("type") != "directory" and str(info["name"]).endswith(tuple(suffixes))
    }
    if not files:
        held = sorted(str(info["name"]).rstrip("/").rpartition("/")[2] for info in infos)
        told = f"it has {', '.join(held[:5])}{', ...' if len(held) > 5 else ''}" if held else "it is empty"
        raise ValueError(f"{path} has no file that ends in {' or '.join(suffixes)}; {told}.")
    start = _common_folder(files)
    return [far_file(url, url[len(start) :], files[url], fixed=_is_fixed(url)) for url in sorted(files)]


def _is_fixed(url: str) -> bool:
    """Whether a URL, of a pinned path, can never have another content."""
    return urlsplit(url).scheme == "hf" and not url.startswith("hf://buckets/")


def _ask(path: str) -> list[dict[str, Any]]:
    system, inner = system_of(path)
    system.invalidate_cache()
    if _is_glob(path):
        return list(system.glob(inner, detail=True).values())
    return list(system.ls(inner, detail=True))


def _common_folder(urls: Iterable[str]) -> str:
    """What the folders of all begin with, its last slash included."""
    folders = [url.rpartition("/")[0].split("/") for url in urls]
    shared = folders[0]
    for folder in folders[1:]:
        while folder[: len(shared)] != shared:
            shared = shared[:-1]
    return "/".join(shared) + "/"


def _pinned(path: str) -> str:
    """A path of a hub with the commit that its revision is now, so that a push does not change what a run reads."""
    if urlsplit(path).scheme != "hf" or path.startswith("hf://buckets/"):
        return path
    folder, brace, pattern = path.partition("{")

    def ask() -> str:
        from huggingface_hub import HfApi

        system, inner = system_of(folder)
        where = system.resolve_path(inner)
        api = HfApi(endpoint=system.endpoint, token=system.token)
        commit = api.repo_info(where.repo_id, repo_type=where.repo_type, revision=where.revision).sha
        kind = "" if where.repo_type == "model" else f"{where.repo_type}s/"
        end = "/" if folder.endswith("/") else ""
        return f"hf://{kind}{where.repo_id}@{commit}/{where.path_in_repo}{end}{brace}{pattern}"

    return retrying(path, ask)


def _file_name(path: str) -> str:
    return (urlsplit(path).path if is_web(path) else path).rpartition("/")[2]


def _is_glob(path: str) -> bool:
    return not is_web(path) and any(mark in path for mark in "*?[")


def far_tables(path: str) -> list[FarFile]:
    """The tables of a folder of a store; none of a web server, which does not list them, nor of a folder of shards.

    Args:
        path: URL of the folder.
    """
    if is_web(path):
        return []
    try:
        files = find_files(path, (SHARD, *SUFFIXES))
    except RemoteError as error:
        if is_absent(error):  # whoever opens it says so
            return []
        raise
    except ValueError:  # it has neither: whoever opens it says so
        return []
    return [] if any(file.suffix == SHARD for file in files) else files
