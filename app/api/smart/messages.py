"""The bodies of the OAuth endpoints: forms and JSON in, JSON out, and their errors.

https://www.rfc-editor.org/rfc/rfc6749#section-3.2 and #section-5

Rule: whatever a client sends, it gets an answer in JSON that says what was wrong, and nothing of
what it sent comes back in it.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

BYTES = 64 * 1024
FIELDS = 100
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
# RFC 6749, 5.1: tokens are for who asked, and for nobody's cache
UNKEPT = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class Bad(Exception):
    """A request that cannot be answered: the status, the OAuth error and a sentence."""

    def __init__(
        self,
        description: str,
        error: str = "invalid_request",
        status: int = 400,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(description)
        self.description, self.error, self.status = description, error, status
        self.headers = dict(headers or {})

    def reply(self) -> Response:
        """Return the answer."""
        said = {"error": self.error, "error_description": self.description}
        return reply(said, self.status, self.headers)


def reply(
    body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return JSON that no cache keeps."""
    told = {**UNKEPT, **(headers or {}), "Content-Type": JSON}
    return Response(msgspec.json.encode(body), status, told)


async def received(request: Request, kind: str) -> bytes:
    """Return the body of a request, which must be of the media type `kind`; raises Bad."""
    told = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if told != kind:
        raise Bad(f"The Content-Type has to be {kind}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Bad("The body must not be compressed")
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > BYTES:
                raise Bad(f"The body is longer than {BYTES} bytes", status=413)
    except ClientDisconnect:
        raise Bad("The client went away") from None
    return bytes(body)


async def form(request: Request) -> dict[str, str]:
    """Return the parameters in the body, without those that have no value; raises Bad.

    RFC 6749, 3.2: what is sent without a value counts as omitted, and nothing is sent twice. What
    is in the URL is not looked at: tokens and secrets do not belong there.
    """
    return fields(await received(request, FORM))


def fields(body: bytes) -> dict[str, str]:
    """Return the parameters of a form; raises Bad."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=FIELDS,
        )
    except (UnicodeError, ValueError):
        raise Bad("The form cannot be read") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise Bad("A parameter is given more than once")
        if "\0" in value:
            raise Bad("A parameter has a character that is in no text")
        found[name] = value
    return {name: value for name, value in found.items() if value}


async def document(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body; raises Bad."""
    try:
        found = msgspec.json.decode(await received(request, JSON))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Bad("The body is not JSON") from None
    if not isinstance(found, dict):
        raise Bad("The body is not a JSON object")
    return found
