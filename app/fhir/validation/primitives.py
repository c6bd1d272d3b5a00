"""The values of primitive types: which JSON type, which text, which range.

https://hl7.org/fhir/R4/datatypes.html#primitive

Rule 1: a sentence about a bad value never quotes the value.
Rule 2: `accepts` is asked for every text of every resource, so it is one call into C where a
regular expression can say it all; `fault` explains and may take its time.
"""

import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from math import isfinite
from typing import Any

from app.fhir.definitions import Structure
from app.fhir.narrative import flaws
from app.fhir.values import parse_date

Fault = tuple[str, str]  # issue type and sentence
LONGEST = 1024 * 1024  # datatypes.html#string: characters

# The official patterns of these leave out what the text says: no control characters, not blank,
# not longer than 1 MB. `\S` of string and markdown is meant as ASCII: a no-break space is a
# character like any other. The white space of a code is a single space, and none at its ends. XML
# has no U+FFFE and no U+FFFF, and every resource must be readable in XML.
BLACK = r"!-\ufffd\U00010000-\U0010ffff"
STRING = rf"[ \t\r\n]{{0,{LONGEST}}}[{BLACK}][\t\r\n {BLACK}]{{0,{LONGEST - 1}}}"
UNBROKEN = r"[^\s\x00-\x1f\ufffe\uffff]"
URI = rf"[!-~]{{1,{LONGEST}}}|{UNBROKEN}{{1,{LONGEST}}}"
TIGHTER = {
    "string": STRING,
    "markdown": STRING,
    "uri": URI,
    "url": URI,
    "canonical": URI,
    "code": rf"[!-~]+|{UNBROKEN}+(?:[ \t\r\n]{UNBROKEN}+)*",
}
RANGES = {
    "integer": (-(2**31), 2**31 - 1),
    "unsignedInt": (0, 2**31 - 1),
    "positiveInt": (1, 2**31 - 1),
}
CALENDAR = {"date", "dateTime", "instant"}

# What the client is told to write
SHAPES = {
    "base64Binary": "base64, in groups of four characters",
    "code": "a code: no white space at the ends, single spaces inside",
    "date": "a date: YYYY, YYYY-MM or YYYY-MM-DD, a day of the calendar",
    "dateTime": "a dateTime: YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm:ss+zz:zz, a real moment",
    "id": "an id: 1 to 64 letters, digits, - and .",
    "instant": "an instant: YYYY-MM-DDThh:mm:ss.sss+zz:zz, a real moment",
    "markdown": "text that is not blank, without control characters",
    "oid": "an OID: urn:oid: and numbers between dots",
    "string": "text that is not blank, without control characters",
    "time": "a time: hh:mm:ss",
    "uri": "a URI, without white space",
    "url": "a URL, without white space",
    "canonical": "a canonical URL, without white space",
    "uuid": "a UUID: urn:uuid: and 36 characters in lower case",
}

Accepts = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Primitive:
    """A primitive type: a quick yes for texts, and the reasons of a no.

    `accepts` is None where JSON holds no text, or where a text needs more than a yes.
    """

    accepts: Accepts | None
    fault: Callable[[Any], list[Fault]]


def primitive(structure: Structure) -> Primitive:
    """Return the checks of a primitive type."""
    name = structure.name
    if name == "boolean":
        return Primitive(None, boolean_fault)
    if name in RANGES:
        return Primitive(None, lambda value: integer_fault(value, name))
    if name == "decimal":
        return Primitive(None, decimal_fault)
    if name == "xhtml":
        return Primitive(None, xhtml_fault)
    accepts = acceptance(structure)
    return Primitive(accepts, lambda value: text_fault(value, name, accepts))


def coded(name: str, codes: Mapping[str, str], value_set: str) -> Primitive:
    """Return the checks of a code that must come from a value set."""
    sentence = f"The code is not in the value set {value_set}"

    def fault(value: Any) -> list[Fault]:
        if isinstance(value, str) and value in codes:
            return []
        shape = text_fault(value, name, re.compile(TIGHTER["code"]).fullmatch)
        return shape or [("code-invalid", sentence)]

    return Primitive(codes.__contains__, fault)


def acceptance(structure: Structure) -> Accepts:
    """Return the quick test of a type whose values are texts."""
    if structure.name == "base64Binary":
        return is_base64
    pattern = TIGHTER.get(structure.name) or structure.pattern or STRING
    fits = re.compile(pattern).fullmatch
    if structure.name not in CALENDAR:
        return fits
    quick = DAY if structure.name == "date" else MOMENT
    return lambda text: (quick(text) and is_iso(text)) or (fits(text) and is_real(text))


# What most dates look like: a form that the official pattern allows, once the calendar agrees.
# The first and last year may leave the calendar when shifted to UTC.
YEAR = r"(?!0001|9999)[0-9]{4}"
DAY = re.compile(rf"{YEAR}-[0-9]{{2}}-[0-9]{{2}}").fullmatch
MOMENT = re.compile(
    rf"{YEAR}-[0-9]{{2}}-[0-9]{{2}}T[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}(?:\.[0-9]{{1,6}})?"
    r"(?:Z|[+-](?:0[0-9]|1[0-3]):[0-5][0-9])"
).fullmatch


def is_iso(text: str) -> bool:
    """Return whether the standard library can read a date; it knows no leap seconds."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def is_real(text: str) -> bool:
    """Return whether a date is in the calendar, and in the years 1 to 9999 of UTC."""
    try:
        parse_date(text)
    except ValueError:
        return False
    return True


def is_base64(text: str) -> bool:
    """Return whether a text is base64; white space is skipped.

    The official pattern takes exponential time on long runs of white space, and passes `====`.
    """
    try:
        return bool(binascii.a2b_base64("".join(text.split()), strict_mode=True))
    except ValueError:
        return False


def text_fault(value: Any, name: str, accepts: Accepts) -> list[Fault]:
    """Return what is wrong with a value that should be a text of type `name`."""
    if not isinstance(value, str):
        return [("structure", f"Must be a JSON string ({name})")]
    if accepts(value):
        return []
    if len(value) > LONGEST and name != "base64Binary":
        return [("too-long", "Must not be longer than 1 MB")]
    if not value:
        return [("structure", "Must not be an empty string")]
    return [("value", f"Must be {SHAPES.get(name, name)}")]


def boolean_fault(value: Any) -> list[Fault]:
    """Return what is wrong with a value that should be a boolean."""
    return [] if isinstance(value, bool) else [("structure", "Must be true or false (boolean)")]


def integer_fault(value: Any, name: str) -> list[Fault]:
    """Return what is wrong with a value that should be an integer of 32 bits."""
    lowest, highest = RANGES[name]
    if type(value) is not int:
        return [("structure", f"Must be a JSON number without fraction and exponent ({name})")]
    if lowest <= value <= highest:
        return []
    return [("value", f"Must be from {lowest} to {highest} ({name})")]


def decimal_fault(value: Any) -> list[Fault]:
    """Return what is wrong with a value that should be a decimal of the range of a double."""
    if type(value) is not Decimal and type(value) is not int:
        return [("structure", "Must be a JSON number (decimal)")]
    try:
        near = float(value)
    except OverflowError:
        near = float("inf")
    if isfinite(near) and (near or not value):
        return []
    return [("value", "Must be within the range of an IEEE 754 double (decimal)")]


def xhtml_fault(value: Any) -> list[Fault]:
    """Return what is wrong with a narrative's div: txt-1 and txt-2, each flaw for itself."""
    if not isinstance(value, str):
        return [("structure", "Must be a JSON string (xhtml)")]
    return [("invariant", flaw) for flaw in flaws(value)]
