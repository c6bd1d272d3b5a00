"""Bodies as they travel: bounded on their way in, and compressed in either direction.

https://www.rfc-editor.org/rfc/rfc9110#name-content-codings

Rule 1: nothing is unpacked beyond the limit, so a small body cannot become a big one.
Rule 2: what takes longer than a hop to a thread does not hold up the loop.
"""

import asyncio
import gzip
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from app.fhir.errors import FhirError, Issue, refused

T = TypeVar("T")

# Below it, packing costs more time than the bytes do on the way
WORTH_PACKING = 4096
# From here on the loop is held up for a good part of a millisecond
LONG = 128 * 1024
GZIP = 16 + zlib.MAX_WBITS
TIGHTEST = 1032  # bytes that one byte of gzip can stand for


class Receive(Protocol):
    """What gives the messages of a request, and knows how many bytes of it are in memory."""

    async def __call__(self) -> dict[str, Any]:
        """Return the next message."""

    def hold(self, size: int) -> None:
        """Count more bytes, or fewer; raises a 503 where there is no room."""


async def received(headers: Mapping[str, str], receive: Receive, limit: int) -> bytes:
    """Return the body, unpacked; a 413 as soon as it is known to be longer than `limit`.

    What is unpacked counts as in memory too, before it is: raises a 503 where there is no room.
    """
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise too_long(limit)
    coding = headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip"):
        text = "Content-Encoding must be gzip, or there must be none"
        # RFC 9110, 15.5.16
        raise FhirError([Issue("error", "not-supported", text)], 415, {"Accept-Encoding": "gzip"})
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise refused("processing", "The client went away", status=400)
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > limit:
            raise too_long(limit)
        if not message.get("more_body"):
            break
    body = b"".join(parts)
    if coding.endswith("gzip"):
        room = min(limit, len(body) * TIGHTEST)
        receive.hold(room)
        body = await asyncio.to_thread(unpacked, body, limit)
        receive.hold(len(body) - room)
    return body


def too_long(limit: int) -> FhirError:
    """Return the refusal of a body over the limit."""
    return refused("too-long", f"The body is longer than {limit} bytes")


def unpacked(body: bytes, limit: int) -> bytes:
    """Return what is packed in a gzip body; raises 413 beyond `limit`, 400 for no gzip."""
    reader = zlib.decompressobj(GZIP)
    try:
        found = reader.decompress(body, limit + 1)
    except zlib.error:
        raise refused("structure", "The body is not gzip, as Content-Encoding says") from None
    if len(found) > limit:
        raise too_long(limit)
    if not reader.eof or reader.unused_data:
        raise refused("structure", "The gzip body is cut off, or something follows it")
    return found


async def packed(body: bytes) -> bytes:
    """Return a body as gzip, quickly rather than tightly."""
    return await aside(len(body), gzip.compress, body, 1, mtime=0)


async def aside(length: int, work: Callable[..., T], *given: Any, **named: Any) -> T:
    """Return what `work` gives, from a thread where `length` bytes would hold up the loop."""
    if length < LONG:
        return work(*given, **named)
    return await asyncio.to_thread(work, *given, **named)
