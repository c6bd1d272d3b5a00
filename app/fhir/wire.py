"""JSON as it travels: bytes to dict without loss, and bytes to bytes without a dict between.

https://hl7.org/fhir/R4/json.html

Rule 1: a resource is stored and served as the bytes it came in as; only `id` and `meta` are
spliced, and white space between tokens is dropped. Rule 2: nothing here knows a resource type.

`decode` uses the standard library's scanner because it alone shows every property of an object
(duplicates) and the text of every decimal. `compact` and `fields` use msgspec, which cuts bytes
without looking inside them.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any, NoReturn

import msgspec

from app.fhir.errors import FhirError, Issue

Resource = dict[str, Any]
Buffer = bytes | memoryview

MAX_DEPTH = 64
MOST_FLAWS = 100  # that one answer names
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
SURROGATE = re.compile("[\ud800-\udfff]")
ONLY_BRACKETS = bytes(b for b in range(256) if b not in b'{}[]"')
STRINGS = re.compile(rb'"[^"]*"')


def malformed(text: str) -> FhirError:
    """Return the 400 that says why the bytes are not acceptable JSON."""
    return FhirError([Issue("error", "structure", text)])


@dataclass(frozen=True, slots=True)
class _Flaw:
    """What stands where the bytes hold something that is no value: the sentence about it."""

    text: str


class Number(Decimal):
    """A decimal that is written again as it was read: 150e-2 does not become 1.50."""

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> "Number":
        """Return the number that a JSON text stands for."""
        made = super().__new__(cls, text)
        made.text = text
        return made


def _written(value: Any) -> msgspec.Raw:
    """Return what the encoder does not know, which is a Number, as its text."""
    if not isinstance(value, Number):
        raise TypeError(f"{type(value).__name__} is no JSON")
    return msgspec.Raw(value.text.encode())


def _object(pairs: list[tuple[str, Any]]) -> Resource:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a property twice")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(name)


def _object_with_flaws(pairs: list[tuple[str, Any]]) -> Resource:
    found: Resource = {}
    for name, value in pairs:
        twice = _Flaw(f"The property {name[:80]!r} occurs twice in one object")
        found[name] = twice if name in found else value
    return found


def _integer(text: str) -> int:
    """Return an integer; for one of more digits than Python reads, one that no type allows."""
    try:
        return int(text)
    except ValueError:
        return 10**400


def _decimal(text: str) -> Decimal:
    """Return a decimal; for one whose exponent nobody can hold, one that no type allows."""
    try:
        return Decimal(text)
    except ArithmeticError:
        return Decimal("Infinity")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Decimal, parse_constant=_constant
)
_EXACT = json.JSONDecoder(object_pairs_hook=_object, parse_float=Number, parse_constant=_constant)
# Reads what the others refuse, so that each flaw can be named with its place
_TOLERANT = json.JSONDecoder(
    object_pairs_hook=_object_with_flaws,
    parse_int=_integer,
    parse_float=_decimal,
    parse_constant=lambda name: _Flaw(f"{name} is not a JSON number"),
)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_STORED = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)
_ENCODER = msgspec.json.Encoder(decimal_format="number", enc_hook=_written)
_SORTED = msgspec.json.Encoder(decimal_format="number", order="sorted")


def decode(raw: bytes, place: str = "", *, exact: bool = False) -> Resource:
    """Return the JSON object in `raw`: decimals as Decimal, so that 1.50 stays 1.50.

    An `exact` one has Numbers instead, for what is changed and written again.

    Raises a 400 for anything but one well-formed UTF-8 JSON object, for duplicate properties,
    NaN and Infinity, NUL characters, lone surrogates, and nesting deeper than `MAX_DEPTH`; flaws
    inside the object are named from `place` downward. A number beyond what Python can read
    becomes one that validation refuses.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise malformed(f"The body is not UTF-8: byte {error.start} is wrong") from None
    unusual = b"\\u" in raw or b"\0" in raw
    try:
        found = _read(_EXACT if exact else _DECODER, text)
    except (ArithmeticError, ValueError):
        found, unusual = _read(_TOLERANT, text), True
    if not isinstance(found, dict):
        raise malformed("The body is not a JSON object")
    issues = list(islice(_flaws(found, place), MOST_FLAWS)) if unusual else []
    if issues:
        raise FhirError(issues)
    if deeper_than(raw, MAX_DEPTH):
        raise malformed(f"The body nests deeper than {MAX_DEPTH} levels")
    return found


def stored(raw: bytes) -> Resource:
    """Return the JSON object in bytes of the record: decimals as Decimal, as `decode` has them.

    They came in through `decode` once, so that nothing about them needs to be looked at again.
    """
    return _STORED.decode(raw)


def _read(decoder: json.JSONDecoder, text: str) -> Any:
    """Return what a decoder reads; a 400 for what is no JSON."""
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise malformed(f"The body is not JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise malformed(f"The body nests deeper than {MAX_DEPTH} levels") from None


def _flaws(value: Any, place: str) -> Iterator[Issue]:
    """Yield what an escape can bring in and PostgreSQL cannot hold, and each `_Flaw`."""
    stack = [(place, value)]
    while stack:
        at, item = stack.pop()
        if isinstance(item, dict):
            for name in item:
                if flaw := _flaw(name):
                    yield Issue("error", "structure", flaw.text, at)
            inner = [
                (f"{at}.{name}" if at else name, held) if NAME.fullmatch(name) else (at, held)
                for name, held in item.items()
            ]
            stack += reversed(inner)
        elif isinstance(item, list):
            stack += reversed([(f"{at}[{n}]", held) for n, held in enumerate(item)])
        elif flaw := _flaw(item):
            yield Issue("error", "structure", flaw.text, at)


def _flaw(item: Any) -> _Flaw | None:
    if isinstance(item, str):
        if "\0" in item:
            return _Flaw("A string holds the NUL character")
        if SURROGATE.search(item):
            return _Flaw("A string holds half of a surrogate pair")
    return item if isinstance(item, _Flaw) else None


def deeper_than(raw: bytes, limit: int) -> bool:
    """Return whether well-formed JSON nests more than `limit` levels.

    Only the brackets outside strings are kept; then each round removes the innermost pairs, so the
    number of rounds is the depth. A few passes over a short string, all of them in C.
    """
    if raw.count(b"{") + raw.count(b"[") <= limit:
        return False
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = raw.translate(None, ONLY_BRACKETS).replace(b'""', b"")
    if b'"' in brackets:
        brackets = STRINGS.sub(b"", brackets)
    for _ in range(limit):
        brackets = brackets.replace(b"{}", b"e").replace(b"[]", b"e").replace(b"e", b"")
        if not brackets:
            return False
    return True


def compact(raw: bytes, place: str = "") -> bytes:
    """Return well-formed JSON without white space between tokens; the tokens stay as they are.

    A flaw is named from `place` downward.
    """
    try:
        if not raw.isascii():
            raw.decode()  # msgspec does not look inside strings
        return msgspec.json.format(raw, indent=-1)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        decode(raw, place)  # says better what is wrong, and where
        raise malformed(f"The body is not JSON: {error}") from None


def pretty(raw: bytes) -> bytes:
    """Return the same JSON indented by two spaces."""
    return msgspec.json.format(raw, indent=2)


def encode(value: Any) -> bytes:
    """Return compact JSON; a Decimal is written as a number with all its digits."""
    return _ENCODER.encode(value)


def canonical(value: Resource) -> bytes:
    """Return the same bytes for equal content, whatever the order of properties was."""
    return _SORTED.encode(value)


def fields(raw: bytes | memoryview) -> dict[str, memoryview]:
    """Return the properties of a compact JSON object as views into `raw`, in order.

    msgspec keeps the last of two equal names, so the lengths are added up: a property that went
    missing leaves a gap, and is refused as a duplicate.
    """
    try:
        found = {name: memoryview(value) for name, value in _FIELDS.decode(raw).items()}
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise malformed("Expected a JSON object") from None
    # two quotes, a colon and a comma (or the second brace) a property
    length = 1 + 4 * len(found) + sum(map(len, found)) + sum(map(len, found.values()))
    if found and len(raw) != length:
        raise malformed("A property occurs twice in one object, or its name is not plain ASCII")
    return found


def items(raw: bytes | memoryview) -> list[bytes]:
    """Return the elements of a compact JSON array as raw bytes."""
    try:
        return [bytes(value) for value in _LIST.decode(raw)]
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise malformed("Expected a JSON array") from None


def join(parts: Mapping[str, Buffer] | Iterable[tuple[str, Buffer]]) -> bytes:
    """Return the JSON object that has these raw properties in this order."""
    pieces: list[Buffer] = []
    before = b'{"'
    for name, value in parts.items() if isinstance(parts, Mapping) else parts:
        pieces += (before, name.encode(), b'":', value)
        before = b',"'
    return b"".join((*pieces, b"}")) if pieces else b"{}"


def splice(raw: bytes, id: str, version: int, updated: str) -> bytes:
    """Return a compact resource with this id, meta.versionId and meta.lastUpdated.

    Other properties of `meta` stay as they are; `id` and `meta` stay in their place, or follow
    `resourceType` where the client sent none (resource.html#Meta).
    """
    found = fields(raw)
    meta: dict[str, Buffer] = {
        "versionId": b'"%d"' % version,
        "lastUpdated": b'"%b"' % updated.encode(),
    }
    if "meta" in found:
        sent = fields(found["meta"])
        meta = {**meta, **{n: v for n, v in sent.items() if n not in meta}}
    own: dict[str, Buffer] = {"id": b'"%b"' % id.encode(), "meta": join(meta)}
    missing = {name: value for name, value in own.items() if name not in found}
    anchor = "id" if "id" in found else "resourceType"
    placed: dict[str, Buffer] = {}
    for name, value in found.items():
        placed[name] = own.get(name, value)
        if name == anchor:
            placed.update(missing)
    return join(placed)
