"""The floor: what uvicorn costs when the application does nothing but answer."""

from collections.abc import Awaitable, Callable
from typing import Any

BODY = b'{"resourceType":"Patient","text":"' + b"x" * 2500 + b'"}'
HEADERS = [
    (b"content-type", b"application/fhir+json"),
    (b"content-length", str(len(BODY)).encode()),
]


async def app(
    scope: dict[str, Any],
    _receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer every HTTP request with one resource of usual size, from memory."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
