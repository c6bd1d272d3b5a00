"""What a client sends and what it wants back: media types, encodings, preferences.

https://hl7.org/fhir/R4/http.html#mime-type
https://www.rfc-editor.org/rfc/rfc9110#section-12

Everything here is a function of the texts of headers. Clients repeat these from request to request,
so each text is read once and then answered from a small cache.
"""

from functools import lru_cache
from typing import NamedTuple

from app.fhir.errors import FhirError, Issue, refused
from app.fhir.interaction import Pairs
from app.fhir.query import single

FHIR_JSON = "application/fhir+json"
FHIR_XML = "application/fhir+xml"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
WWW_FORM = "application/x-www-form-urlencoded"
HTML = "text/html"

# What we write, in the order that we prefer, and whether it is XML. http.html#mime-type: who asks
# for a generic type is answered with that type
OFFERED = {
    FHIR_JSON: False,
    FHIR_XML: True,
    "application/json": False,
    "text/json": False,
    "application/xml": True,
    "text/xml": True,
}
FORMATS = {**{name: name for name in OFFERED}, "json": FHIR_JSON, "xml": FHIR_XML}
JSON_TYPES = frozenset({FHIR_JSON, "application/json", "text/json"})
XML_TYPES = frozenset(OFFERED) - JSON_TYPES
FHIR_TYPES = frozenset({FHIR_JSON, FHIR_XML})
RESOURCE_TYPES = frozenset(OFFERED)

VERSIONS = ("", "4.0", "4.0.1")  # http.html#version-parameter
UTF_8 = ("", "utf-8", "utf8", "us-ascii")

PREFERENCES = {
    "return": ("minimal", "representation", "OperationOutcome"),
    "handling": ("strict", "lenient"),
}


class Format(NamedTuple):
    """How an answer is written: its Content-Type, as XML or as JSON, indented or not."""

    content_type: bytes
    xml: bool = False
    pretty: bool = False


class Range(NamedTuple):
    """One media range of an Accept header, and whether it names a version of FHIR."""

    name: str
    quality: float
    versioned: bool = False


class Preferences(NamedTuple):
    """What `Prefer` asks for, "" for nothing or something unknown (RFC 7240)."""

    returning: str = ""
    handling: str = ""
    respond_async: bool = False


MOST_RANGES = 100  # that are read of one header: nobody means more
ANYTHING = (Range("*/*", 1.0),)


def written(name: str, *, pretty: bool = False, versioned: bool = False) -> Format:
    """Return the format of one of the media types that are `OFFERED`."""
    version = "; fhirVersion=4.0" if versioned else ""
    content_type = f"{name}; charset=utf-8{version}".encode()
    return Format(content_type, OFFERED[name], pretty)


PLAIN = written(FHIR_JSON)


def negotiated(pairs: Pairs, accept: str) -> Format | None:
    """Return how the answer is to be written, None if `accept` allows nothing that we write.

    http.html#parameters: `_format` wins over Accept; raises 406 for one that we do not write.
    """
    if not pairs:
        return accepted(accept)
    given = single(pairs, ("_format", "_pretty"))
    pretty = given.get("_pretty", "false")
    if pretty not in ("true", "false"):
        raise refused("value", "_pretty must be true or false", "http._pretty", 400)
    found = named(given["_format"]) if "_format" in given else accepted(accept)
    return found._replace(pretty=True) if found and pretty == "true" else found


@lru_cache(256)
def named(format: str) -> Format:
    """Return the format that `_format` names."""
    # a plus sign that was not percent-encoded has become a space
    asked, *_ = ranges(format.strip().replace("fhir ", "fhir+")) or (Range("", 1.0),)
    if asked.name not in FORMATS:
        text = f"_format must be json, xml, {FHIR_JSON} or {FHIR_XML}, of fhirVersion 4.0"
        raise refused("not-supported", text, "http._format", 406)
    return written(FORMATS[asked.name], versioned=asked.versioned)


@lru_cache(256)
def accepted(accept: str) -> Format | None:
    """Return the format that an Accept header likes best, None if it likes none.

    Of equally good ones it is the more specific, then the first; a wildcard means JSON. Whoever
    likes a page at least as well is a browser: it gets JSON that people can read.
    """
    asked = ranges(accept) if accept.strip() else ANYTHING
    liked = [(rank(asked, name), name) for name in OFFERED]
    (best, _, _), name = max(liked, key=lambda one: one[0])
    if not best:
        return None
    versioned = any(one.versioned and one.name == name for one in asked)
    page = any(one.name == HTML and one.quality >= best for one in asked)
    if page and quality(asked, FHIR_JSON):
        return written(FHIR_JSON, pretty=True)
    return written(name, versioned=versioned)


@lru_cache(256)
def ranges(accept: str) -> tuple[Range, ...]:
    """Return the media ranges of an Accept header, without those of another FHIR or charset."""
    found = []
    for part in accept.split(",", MOST_RANGES)[:MOST_RANGES]:
        name, parameters = parsed(part)
        try:
            quality = float(parameters.get("q", "1"))
        except ValueError:
            quality = -1
        if not 0 <= quality <= 1:
            raise refused("invalid", "Accept: q must be a number from 0 to 1", status=400)
        version = parameters.get("fhirversion", "")
        if name and version in VERSIONS and parameters.get("charset", "").lower() in UTF_8:
            # some clients of Java's own library send a bare asterisk
            found.append(Range("*/*" if name == "*" else name, quality, bool(version)))
    return tuple(found)


def parsed(text: str) -> tuple[str, dict[str, str]]:
    """Return a media type or range in lower case, and its parameters."""
    name, *rest = text.split(";")
    pairs = (one.partition("=") for one in rest)
    return name.strip().lower(), {n.strip().lower(): v.strip(' "') for n, _, v in pairs}


def rank(asked: tuple[Range, ...], name: str) -> tuple[float, int, int]:
    """Return how well a media type is liked: quality, how specifically, and how early."""
    wanted = (name, name.partition("/")[0] + "/*", "*/*")
    for specific, one in enumerate(wanted):
        fitting = [(r.quality, -n) for n, r in enumerate(asked) if r.name == one]
        if fitting:
            best, place = max(fitting)
            return best, -specific, place
    return 0, -len(wanted), 0


def quality(asked: tuple[Range, ...], name: str) -> float:
    """Return the quality of a media type, 0 if it is not acceptable."""
    return rank(asked, name)[0]


# --- what is sent --------------------------------------------------------------------------------

SEARCH_TYPES = frozenset({WWW_FORM})
PATCH_TYPES = RESOURCE_TYPES | {JSON_PATCH, MERGE_PATCH}
TAKEN = {
    SEARCH_TYPES: WWW_FORM,
    RESOURCE_TYPES: f"{FHIR_JSON} or {FHIR_XML}",
    PATCH_TYPES: f"{JSON_PATCH}, {MERGE_PATCH}, {FHIR_JSON} or {FHIR_XML}",
}


@lru_cache(256)
def media_type(content_type: str, taken: frozenset[str]) -> str:
    """Return the media type of a body; raises 415 for one that is not `taken`."""
    name, parameters = parsed(content_type)
    charset = parameters.get("charset", "").lower()
    version = parameters.get("fhirversion", "")
    if name in taken and charset in UTF_8 and version in VERSIONS:
        return name
    text = f"Content-Type must be {TAKEN[taken]}, in UTF-8"
    if name in taken and version not in VERSIONS:
        text = "Content-Type names another version of FHIR; fhirVersion must be 4.0"
    # RFC 5789, 2.2
    headers = {"Accept-Patch": TAKEN[taken].replace(" or", ",")} if taken is PATCH_TYPES else {}
    raise FhirError([Issue("error", "not-supported", text)], 415, headers)


# --- encodings and preferences -------------------------------------------------------------------


@lru_cache(256)
def takes_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header allows gzip."""
    found = {}
    for part in accept_encoding.split(","):
        name, parameters = parsed(part)
        try:
            found[name] = float(parameters.get("q", "1")) > 0
        except ValueError:
            found[name] = False
    return found.get("gzip", found.get("x-gzip", found.get("*", False)))


@lru_cache(256)
def preferences(prefer: str) -> Preferences:
    """Return what a Prefer header asks for; the first of two that contradict each other."""
    found: dict[str, str] = {}
    for part in prefer.replace(";", ",").split(","):
        name, _, value = part.partition("=")
        found.setdefault(name.strip().lower(), value.strip(' "'))
    returning, handling = (
        value if (value := found.get(name, "")) in known else ""
        for name, known in PREFERENCES.items()
    )
    return Preferences(returning, handling, "respond-async" in found)
