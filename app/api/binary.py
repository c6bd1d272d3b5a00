"""Binary by its own content type: bytes in, bytes out.

https://hl7.org/fhir/R4/binary.html#rest

A Binary travels as the content that it holds, unless a client names FHIR. Both ways are conversions
at the edge: the engine knows the resource alone.

Rule: content comes from whoever may write, and a browser may be who reads it. It is never shown as
a page of ours: what is not in `SHOWN` is a download, in a sandbox.
"""

import base64
import re
from typing import Any, NamedTuple

import msgspec

from app.api.negotiation import FHIR_TYPES, RESOURCE_TYPES, XML_TYPES, parsed, quality, ranges
from app.fhir.errors import refused
from app.fhir.interaction import Interaction, Place
from app.fhir.wire import encode

TYPES = frozenset({"Binary"})
READS = frozenset({"read", "vread"})
WRITES = frozenset({"create", "update"})
# Parameters that ask for the resource, or for a part of it
OF_THE_RESOURCE = frozenset({"_format", "_pretty", "_summary", "_elements"})

TOKEN = r"[\w!#$%&'*+.^`|~-]+"  # RFC 9110, 5.6.2
VALUE = r"[\w!#$%&'*+.^`|~:/-]+|\"(?:[ !#-\[\]-~]|\\[ -~])*\""
MEDIA_TYPE = re.compile(f"{TOKEN}/{TOKEN}(?: ?; ?{TOKEN}=(?:{VALUE}))*", re.ASCII)
# The first element of an XML document, after what may stand before it; and JSON that is broken
ROOT = re.compile(
    rb"(?:\s++|\xef\xbb\xbf|<\?(?>.*?\?>)|<!--(?>.*?-->))*+<([\w.-]++:)?+Binary[\s/>]",
    re.DOTALL,
)
LOOKS = re.compile(rb'"resourceType"\s*+:\s*+"Binary"')
ENVELOPE = 1024  # what there is in a Binary beside its data: id, meta, media type
UNKNOWN = "application/octet-stream"
# What a browser shows without running any of it
SHOWN = frozenset(
    {
        "application/pdf",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "image/gif",
        "image/jpeg",
        "image/png",
        "image/webp",
        "text/plain",
        "video/mp4",
        "video/webm",
    }
)


class Content(NamedTuple):
    """What a Binary holds: a media type that is safe in a header, and the bytes."""

    content_type: str
    data: bytes


class Typed(msgspec.Struct):
    """The property of a resource that says what it is."""

    resourceType: str = ""


class Held(msgspec.Struct):
    """The properties of a Binary that its content is made of."""

    contentType: str = ""
    data: str = ""


def takes_any(place: Place) -> bool:
    """Return whether an interaction may be answered in any media type."""
    return place.type in TYPES and place.route.code in READS | WRITES


def most(limit: int) -> int:
    """Return how long content may be, so that its resource fits into `limit` bytes."""
    return max(limit - ENVELOPE, 0) * 3 // 4


def is_content(content_type: str, body: bytes) -> bool:
    """Return whether what was sent to be a Binary is its content, not the resource.

    JSON and XML are content too, FHIR's own included, unless they are a Binary. JSON that is broken
    is taken for the resource, and refused, where it says that it is FHIR, or a Binary.
    """
    name, _ = parsed(content_type)
    if name not in RESOURCE_TYPES:
        return True
    if name in XML_TYPES:
        return not ROOT.match(body)
    try:
        return msgspec.json.decode(body, type=Typed).resourceType != "Binary"
    except msgspec.ValidationError:
        return True
    except msgspec.DecodeError:
        return name not in FHIR_TYPES and not LOOKS.search(body)


def stored(id: str, content_type: str, security_context: str, body: bytes) -> bytes:
    """Return the Binary that holds a body; raises 415 where its media type is none.

    `security_context` is X-Security-Context: a reference to whoever's resource this is part of.
    """
    known = " ".join(content_type.split()).rstrip("; ")
    if not MEDIA_TYPE.fullmatch(known):
        text = "Content-Type must be the media type of the content, such as application/pdf"
        raise refused("not-supported", text, status=415)
    resource: dict[str, Any] = {"resourceType": "Binary"}
    if id:
        resource["id"] = id
    resource["contentType"] = known
    if security_context:
        resource["securityContext"] = {"reference": security_context}
    if body:
        resource["data"] = base64.b64encode(body).decode()
    return encode(resource)


def wanted(asked: Interaction) -> bool:
    """Return whether the answer may be a Binary's content."""
    if asked.code not in READS:
        return False
    return not any(name in OF_THE_RESOURCE and value for name, value in asked.pairs)


def content(raw: bytes, accept: str) -> Content | None:
    """Return what a Binary holds; None if `accept` asks for the resource.

    It does if it names FHIR's own types. The generic types of JSON and XML ask for it too where
    they are all that is accepted, and the content is of another type.
    """
    held = msgspec.json.decode(raw, type=Held)
    asked = ranges(accept)
    named = {one.name for one in asked if one.quality}
    own = parsed(held.contentType)[0]
    if named & FHIR_TYPES or (named & RESOURCE_TYPES and not quality(asked, own)):
        return None
    known = held.contentType if MEDIA_TYPE.fullmatch(held.contentType) else UNKNOWN
    return Content(known, base64.b64decode(held.data))


def described(content_type: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of content: its type, and what keeps a browser from running it."""
    found = [(b"content-type", content_type.encode()), (b"x-content-type-options", b"nosniff")]
    if parsed(content_type)[0] not in SHOWN:
        found.append((b"content-disposition", b"attachment"))
        found.append((b"content-security-policy", b"default-src 'none'; sandbox"))
    return found
