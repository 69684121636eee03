"""The body of an upload: a form of several parts, read in memory."""

from __future__ import annotations

from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import FormParser, parse_options_header

from dragonfly_lit.serving.errors import ApiError
from dragonfly_lit.serving.files import Upload

KIND = "multipart/form-data"
PURPOSES = ("vision", "user_data")
MAX_NAME, MAX_VALUE = 255, 100
LIFE = ("expires_after[anchor]", "expires_after[seconds]")
_KNOWN = ("file", "purpose", *LIFE)


def read_upload(content_type: str, body: bytes) -> Upload:
    """The file that a body is.

    Args:
        content_type: of the request.
        body: whole.

    Raises:
        ApiError: it is none; what is wrong is named.
    """
    fields = _fields(content_type, body)
    data, name = fields.get("file", (None, None))
    if data is None or name is None:
        raise ApiError(400, "there is no file. Send one as the part `file` of the form, with a name.", param="file")
    purpose = _text(fields, "purpose")
    if purpose not in PURPOSES:
        raise ApiError(
            400,
            f"the purpose {purpose!r} is not one of {', '.join(PURPOSES)}: images are all that is kept here.",
            param="purpose",
        )
    return Upload(name=_named(name), purpose=purpose, data=data, seconds=_seconds(fields))


def _fields(content_type: str, body: bytes) -> dict[str, tuple[bytes, bytes | None]]:
    """The parts by their names: what each holds, and the name of its file if it is one."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise ApiError(400, f"Content-Type: {KIND} must name the boundary of its parts.")
    found: dict[str, tuple[bytes, bytes | None]] = {}
    ends: list[bool] = []

    def on_field(field: Any) -> None:
        add(field.field_name, field.value or b"", None)

    def on_file(file: Any) -> None:
        file.file_object.seek(0)
        add(file.field_name, file.file_object.read(), file.file_name)
        file.close()

    def add(name: bytes, value: bytes, file_name: bytes | None) -> None:
        known = name.decode("utf-8", "replace")
        if known not in _KNOWN or known in found:
            what = "is there twice" if known in found else f"is not one of {', '.join(_KNOWN)}"
            raise ApiError(400, f"the part {known[:60]!r} {what}.", param=known[:60])
        found[known] = (value, file_name)

    in_memory = {"MAX_MEMORY_FILE_SIZE": float("inf")}  # of any size: nothing goes into a file of this machine
    try:
        parser = FormParser(KIND, on_field, on_file, lambda: ends.append(True), boundary=boundary, config=in_memory)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise ApiError(400, f"the form is damaged: {' '.join(str(error).split())[:200]}.") from error
    if not ends:
        raise ApiError(400, "the form has no end: its last boundary is missing. Send the whole of it.")
    return found


def _text(fields: dict[str, tuple[bytes, bytes | None]], name: str) -> str:
    value = fields.get(name, (b"", None))[0]
    if len(value) > MAX_VALUE:
        raise ApiError(400, f"the part {name} is longer than {MAX_VALUE} bytes.", param=name.partition("[")[0])
    return value.decode("utf-8", "replace")


def _named(name: bytes) -> str:
    """The name of a file, as one line that JSON can say."""
    if len(name) > MAX_NAME:
        raise ApiError(400, f"the name of the file is longer than {MAX_NAME} bytes.", param="file")
    return "".join(letter if letter.isprintable() else "?" for letter in name.decode("utf-8", "replace"))


def _seconds(fields: dict[str, tuple[bytes, bytes | None]]) -> int | None:
    if not any(name in fields for name in LIFE):
        return None
    anchor, seconds = (_text(fields, name) for name in LIFE)
    if anchor != "created_at" or not (seconds.isascii() and seconds.isdigit() and 0 < int(seconds) < 2**31):
        raise ApiError(
            400, "expires_after needs the anchor created_at and a whole number of seconds.", param="expires_after"
        )
    return int(seconds)
