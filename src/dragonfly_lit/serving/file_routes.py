"""`/v1/files`: images are uploaded once, named in questions by their id, and deleted."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dragonfly_lit.processing.images import decode
from dragonfly_lit.serving.bodies import kind_of
from dragonfly_lit.serving.errors import ApiError
from dragonfly_lit.serving.files import Files, NoFileError, Stored
from dragonfly_lit.serving.forms import named
from dragonfly_lit.serving.prompts import without_advice
from dragonfly_lit.serving.uploads import KIND, read_upload

MAX_LISTED = 10_000


class _Listing(BaseModel):
    """Which files are listed."""

    model_config = ConfigDict(extra="forbid")

    purpose: str | None = None
    order: Literal["asc", "desc"] = "desc"
    limit: Annotated[int, Field(ge=1, le=MAX_LISTED)] = MAX_LISTED
    after: str | None = None


class FileRoutes:
    """Answers what is asked about files.

    Args:
        files: where they are kept.
        max_pixels: of an image.
        pool: threads that decode images.
    """

    def __init__(self, files: Files, *, max_pixels: int, pool: ThreadPoolExecutor) -> None:
        self.files, self.max_pixels, self._pool = files, max_pixels, pool

    async def upload(self, request: Request, body: bytes) -> Response:
        """Keep the image that a body holds."""
        loop, kind = asyncio.get_running_loop(), request.headers.get("content-type", "")
        return JSONResponse(await loop.run_in_executor(self._pool, self._keep, request.state.owner, kind, body))

    async def listing(self, request: Request) -> Response:
        """The files of whoever asks."""
        said = [name for name, _ in request.query_params.multi_items()]
        twice = next((name[:60] for name in said if said.count(name) > 1), None)
        if twice is not None:
            raise ApiError(400, f"{twice!r} is there twice. Give it once.", param=twice)
        try:
            asked = _Listing.model_validate(dict(request.query_params))
        except ValidationError as error:
            raise named(error) from None
        found = [one for one in self.files.of(request.state.owner) if asked.purpose in (None, one.upload.purpose)]
        if asked.order == "desc":
            found.reverse()
        if asked.after is not None:
            places = [place for place, one in enumerate(found, 1) if one.id == asked.after]
            if not places:
                raise ApiError(404, str(NoFileError(asked.after)), param="after")
            found = found[places[0] :]
        data = [_object(one) for one in found[: asked.limit]]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return JSONResponse({"object": "list", "data": data, "has_more": len(found) > asked.limit, **ends})

    async def file(self, request: Request, file_id: str) -> Response:
        """What is known of a file."""
        return JSONResponse(_object(self.files.get(request.state.owner, file_id)))

    async def content(self, request: Request, file_id: str) -> Response:
        """The file itself, as bytes that no browser shows."""
        headers = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}
        data = self.files.get(request.state.owner, file_id).upload.data
        return Response(data, media_type="application/octet-stream", headers=headers)

    async def delete(self, request: Request, file_id: str) -> Response:
        """Forget a file."""
        self.files.delete(request.state.owner, file_id)
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    def _keep(self, owner: str, content_type: str, body: bytes) -> dict[str, Any]:
        upload = read_upload(content_type, body)
        try:
            decode(upload.data, max_pixels=self.max_pixels)
        except ValueError as error:
            # Whoever uploads hears of it now, not with their first question.
            raise ApiError(400, f"the file is not taken: {without_advice(error)}", param="file") from error
        return _object(self.files.add(owner, upload))


def check_form(request: Request) -> None:
    """ApiError where an upload is not a form, or comes from a page of another site.

    A browser sends a form of any page to any server without asking it first, and says whose page it is.
    """
    if kind_of(request) != KIND:
        raise ApiError(415, f"the body must be a form with a file: send Content-Type: {KIND}.")
    origin, own = request.headers.get("origin"), request.headers.get("host", "")
    if origin is not None and origin.lower() not in (f"http://{own}".lower(), f"https://{own}".lower()):
        raise ApiError(
            403, f"pages of {origin[:100]!r} may not upload here.", kind="permission_error", code="unknown_origin"
        )


def _object(stored: Stored) -> dict[str, Any]:
    upload = stored.upload
    return {
        "id": stored.id,
        "object": "file",
        "bytes": len(upload.data),
        "created_at": stored.created,
        "expires_at": stored.expires,
        "filename": upload.name,
        "purpose": upload.purpose,
        "status": "processed",
    }
