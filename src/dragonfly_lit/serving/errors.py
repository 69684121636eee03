"""Errors in OpenAI's form."""

from __future__ import annotations

from dragonfly_lit.serving.files import FilesFullError, NoFileError
from dragonfly_lit.serving.tickets import FullError, LateError, StoppedError


class ApiError(Exception):
    """An answer that is an error, in OpenAI's form.

    Args:
        status: of HTTP.
        message: one line for whoever asked.
        kind: `type` of the error.
        code: short and fixed, for programs.
        param: the field of the request that it is about.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def as_api_error(error: Exception) -> ApiError:
    """Any error in OpenAI's form; what is not meant for whoever asked is not told."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, NoFileError):
        return ApiError(404, str(error), param="id")
    if isinstance(error, FilesFullError):
        return ApiError(400, str(error), code="files_full", param="file")
    if isinstance(error, LateError):
        # A client that tries again by itself would wait as long again.
        return ApiError(504, str(error), kind="server_error", code="timeout", headers={"x-should-retry": "false"})
    if isinstance(error, FullError):
        return ApiError(
            429,
            str(error),
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            headers={"retry-after": str(error.retry_after)},
        )
    if isinstance(error, StoppedError):
        return ApiError(503, str(error), kind="server_error", code="going_down", headers={"retry-after": "5"})
    return ApiError(500, "the answer failed; the server's log says why.", kind="server_error", code="internal_error")
