"""Names of rows (ids, file names) as codes: alike under the same salt, and no way back without it."""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from dragonfly_lit.io import atomic

SALT_BYTES = 32
CODE_CHARS = 16
MIN_SALT = 16
"""Characters of a salt: a shorter one can be guessed, and with it every name."""


def hashed(name: str, salt: bytes) -> str:
    """The code of a name: 64 bits of HMAC-SHA256, in 16 hexadecimal characters."""
    return hmac.new(salt, name.encode("utf-8", "surrogatepass"), "sha256").hexdigest()[:CODE_CHARS]


def read_salt(path: Path, out: Path) -> tuple[bytes, bool]:
    """The salt that a file holds, and whether it was made just now because there was none.

    Args:
        path: of the file.
        out: folder of the shards, which are passed on: the salt may not lie there.

    Raises:
        ValueError: the file lies in `out`, or holds too little to be a secret.
    """
    if path.resolve().is_relative_to(out.resolve()):
        raise ValueError(
            f"--hash-names {path} lies in --out, and whoever gets the shards would get it. Keep it elsewhere."
        )
    made = not path.exists()
    if made:
        path.touch(mode=0o600)
        atomic.write(path, secrets.token_hex(SALT_BYTES) + "\n")
        path.chmod(0o600)
    salt = path.read_bytes().strip()
    if len(salt) < MIN_SALT:
        raise ValueError(
            f"--hash-names {path} holds {len(salt)} characters; a salt that cannot be guessed has {MIN_SALT} or more. "
            "Name a file that is not there yet, and it is made."
        )
    return salt, made
