"""Errors as OpenAI's API has them."""

from __future__ import annotations

from typing import Any

from tailorbird.errors import TailorbirdError, UsageError

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refused(TailorbirdError):
    """A request that gets no answer, with the HTTP status that says why.

    Args:
        status: HTTP status.
        message: what was wrong.
        param: the field of the request it is about.
        code: a word for programs.
        retry_after: seconds after which to try again.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = {"retry-after": str(retry_after)} if retry_after else {}

    def to_json(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def refusal(error: BaseException) -> Refused:
    """What a client is told of an error: a wrong request in full, a fault of the server's not at all."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, UsageError):
        return Refused(400, f"{error.message} ({error.hint})" if error.hint else error.message)
    return Refused(500, "the server failed at this request; its log says how", code="internal_error")
