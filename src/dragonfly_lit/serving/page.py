"""The page at `/`: one file without any other, and what a browser may do with it."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

ELSEWHERE = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"


@cache
def page() -> bytes:
    """The page."""
    return files("dragonfly_lit.serving").joinpath("page.html").read_bytes()


@cache
def headers() -> dict[str, str]:
    """Of its answer: a browser runs this script and style alone, shows the page in no other, and asks no one else."""
    text = page().decode()
    allowed = [ELSEWHERE, "frame-ancestors 'none'"]
    for name in ("script", "style"):
        (inside,) = re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        allowed.append(f"{name}-src 'sha256-{digest}'")
    return {
        "content-security-policy": "; ".join(allowed),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
