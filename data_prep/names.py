"""Names of rows (ids, file names) as codes: alike under the same salt, and no way back without it."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

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
        ValueError: the file lies in `out`, cannot be read or made, or holds too little to be a secret.
    """
    if path.resolve().is_relative_to(out.resolve()):
        raise ValueError(
            f"--hash-names {path} lies in --out, and whoever gets the shards would get it. Keep it elsewhere."
        )
    try:
        made = _make(path)
        salt = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(
            f"--hash-names {path}: {error.strerror or error}. Name a file that you can read, or one that is not there "
            "yet in a folder that is."
        ) from error
    if len(salt) < MIN_SALT:
        raise ValueError(
            f"--hash-names {path} holds {len(salt)} characters; a salt that cannot be guessed has {MIN_SALT} or more. "
            "Name a file that is not there yet, and it is made."
        )
    return salt, made


def _make(path: Path) -> bool:
    """Make the file with a new salt, if none is there: from its first byte on nobody else can read it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with open(descriptor, "w") as file:
        file.write(secrets.token_hex(SALT_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return True
