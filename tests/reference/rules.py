r"""How one value of a resource is compared with one value of a search, type by type.

https://hl7.org/fhir/R4/search.html#ptypes
https://hl7.org/fhir/R4/search.html#prefix

Theory of operation. What is ordered is compared as a `Span`, from the least to the greatest that
the value may be, both included. An end is a pair (number, nudge): the nudge, -1 or 1, says that
the value only comes near to the number, as a day comes near to the midnight that ends it.
"""

import re
import unicodedata
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from math import asin, cos, inf, radians, sin, sqrt
from typing import Any, NamedTuple

from tests.reference.paths import Value

Number = Decimal | float
End = tuple[Number, int]

EVER = inf
SECOND = 1_000_000
DAY = 86_400 * SECOND


class Span(NamedTuple):
    """From the least to the greatest that a value may be."""

    low: End
    high: End

    def holds(self, other: "Span") -> bool:
        """Return whether all of the other lies within this one."""
        return self.low <= other.low and other.high <= self.high

    def meets(self, other: "Span") -> bool:
        """Return whether the two have something in common."""
        return self.low <= other.high and other.low <= self.high


def split(text: str, separator: str) -> list[str]:
    r"""Return the parts between separators that no `\` precedes (search.html#escaping)."""
    parts, escaped = [""], False
    for character in text:
        if character == separator and not escaped:
            parts.append("")
        else:
            parts[-1] += character
        escaped = character == "\\" and not escaped
    return parts


def plain(text: str) -> str:
    r"""Return the characters that were meant: `\,` is a comma."""
    return re.sub(r"\\([,|$\\])", r"\1", text)


def prefixed(text: str) -> tuple[str, str]:
    """Return the prefix, `eq` where there is none, and what follows it."""
    found = re.match(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)(?=[-+\d])", text)
    return (found[1], text[2:]) if found else ("eq", text)


# ------------------------------------------------------------------------------------- dates

# search.html#prefix, with `value` the resource's span and `asked` that of the search
DATES: dict[str, Callable[[Span, Span], bool]] = {
    "eq": lambda value, asked: asked.holds(value),
    "ne": lambda value, asked: not asked.holds(value),
    "gt": lambda value, asked: value.high > asked.high,
    "lt": lambda value, asked: value.low < asked.low,
    "ge": lambda value, asked: value.high > asked.high or asked.holds(value),
    "le": lambda value, asked: value.low < asked.low or asked.holds(value),
    "sa": lambda value, asked: value.low > asked.high,
    "eb": lambda value, asked: value.high < asked.low,
    "ap": lambda value, asked: asked.meets(value),
}


def microseconds(moment: datetime) -> int:
    """Return the microseconds since the first day of the calendar."""
    return round((moment - datetime.min.replace(tzinfo=UTC)) / timedelta(microseconds=1))


@lru_cache(4096)
def day_span(text: str) -> Span:
    """Return the moments that a date of any precision may mean, without a zone in UTC."""
    calendar, _, clock = text.partition("T")
    year, month, day = [*map(int, calendar.split("-")), 0, 0][:3]
    first = date(year, month or 1, day or 1).toordinal() - 1
    if not clock:
        last = date(year, month or 12, day or 28)
        while (
            not day and (last + timedelta(1) if last < date.max else date.min).month == last.month
        ):
            last += timedelta(1)
        return Span((first * DAY, 0), (last.toordinal() * DAY, -1))
    found = re.fullmatch(r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(Z|[-+]\d\d:\d\d)?", clock)
    assert found is not None, text
    hour, minute, second, fraction, zone = found.groups()
    low = first * DAY + (int(hour) * 3600 + int(minute) * 60 + int(second or 0)) * SECOND
    if fraction:
        low += int(fraction[:6].ljust(6, "0"))
    if zone and zone != "Z":
        ahead = (int(zone[1:3]) * 60 + int(zone[4:])) * 60 * SECOND
        low -= -ahead if zone[0] == "-" else ahead
    width = SECOND // 10 ** len(fraction) if fraction else SECOND if second else 60 * SECOND
    return Span((low, 0), (low + max(width, 1), -1))


def dates(value: Value) -> Iterator[Span]:
    """Yield the span of a date, dateTime, instant, Period or Timing (its outer limits)."""
    match value.type:
        case "date" | "dateTime" | "instant":
            yield day_span(value.data)
        case "Period" if "start" in value.data or "end" in value.data:
            yield period(value.data)
        case "Timing":
            found = [day_span(event) for event in value.data.get("event", ())]
            bounds = value.data.get("repeat", {}).get("boundsPeriod", {})
            found += [period(bounds)] if bounds else []
            if found:
                yield Span(min(one.low for one in found), max(one.high for one in found))


def period(data: Mapping[str, str]) -> Span:
    """Return the span of a Period; without a start or an end it lasts for ever."""
    return Span(
        day_span(data["start"]).low if "start" in data else (-EVER, 0),
        day_span(data["end"]).high if "end" in data else (EVER, 0),
    )


def date_fits(value: Value, text: str, now: datetime) -> bool:
    """Return whether a date fits (search.html#date)."""
    prefix, rest = prefixed(text)
    asked = day_span(rest)
    if prefix == "ap":  # a tenth of the gap between now and the date
        (low, _), (high, nudge) = asked
        here = microseconds(now)
        gap = int(max(low - here, here - high, 0)) // 10
        asked = Span((low - gap, 0), (high + gap, nudge))
    return any(DATES[prefix](span, asked) for span in dates(value))


# ------------------------------------------------------------------- numbers and quantities

UCUM = "http://unitsofmeasure.org"
CURRENCY = "urn:iso:std:iso:4217"


class Unit(NamedTuple):
    """What a unit measures, the factor to the first unit for it, and what is then added."""

    measures: str
    factor: Decimal = Decimal(1)
    offset: Decimal = Decimal(0)

    def scaled(self, number: Number) -> Number:
        """Return a number of this unit as one of the first unit for the same."""
        return number * self.factor + self.offset if isinstance(number, Decimal) else number


ONE = Unit("")
UNITS = {
    "ug": Unit("mass", Decimal("1e-6")),
    "mg": Unit("mass", Decimal("1e-3")),
    "g": Unit("mass"),
    "kg": Unit("mass", Decimal("1e3")),
    "Mg": Unit("mass", Decimal("1e6")),
    "mm": Unit("length", Decimal("1e-3")),
    "cm": Unit("length", Decimal("1e-2")),
    "m": Unit("length"),
    "umol/L": Unit("concentration", Decimal("1e-6")),
    "mmol/L": Unit("concentration", Decimal("1e-3")),
    "mol/L": Unit("concentration"),
    "s": Unit("time"),
    "min": Unit("time", Decimal(60)),
    "h": Unit("time", Decimal(3600)),
    "d": Unit("time", Decimal(86400)),
    "a": Unit("time", Decimal(31557600)),
    "kPa": Unit("pressure"),
    "mm[Hg]": Unit("pressure", Decimal("0.133322")),
    "K": Unit("temperature"),
    "Cel": Unit("temperature", Decimal(1), Decimal("273.15")),
}


class Amount(NamedTuple):
    """A stored quantity: what it may amount to, the system and code of its unit, and its text."""

    span: Span
    system: str
    code: str
    unit: str

    @property
    def measured(self) -> str:
        """Return what a UCUM unit measures, "" for any other unit."""
        return UNITS.get(self.code, ONE).measures if self.system == UCUM else ""

    def scaled(self) -> Span:
        """Return the span in the first unit for what a UCUM unit measures."""
        (low, up), (high, down) = self.span
        return Span((UNITS[self.code].scaled(low), up), (UNITS[self.code].scaled(high), down))


@dataclass(frozen=True, slots=True)
class Asked:
    """A number asked for: as written, and the span of its implicit precision."""

    exact: Decimal
    implicit: Span

    def near(self) -> Span:
        """Return the span of `ap`: a tenth up and down, never less than the implicit precision."""
        tenth = abs(self.exact) / 10
        (low, _), (high, nudge) = self.implicit
        up = max((self.exact + tenth, 0), (high, nudge))
        return Span(min((self.exact - tenth, 0), (low, 0)), up)


# search.html#number: the implicit precision counts for eq and ne only
NUMBERS: dict[str, Callable[[Span, Asked], bool]] = {
    "eq": lambda value, asked: asked.implicit.holds(value),
    "ne": lambda value, asked: not asked.implicit.holds(value),
    "gt": lambda value, asked: value.high > (asked.exact, 0),
    "lt": lambda value, asked: value.low < (asked.exact, 0),
    "ge": lambda value, asked: value.high >= (asked.exact, 0),
    "le": lambda value, asked: value.low <= (asked.exact, 0),
    "sa": lambda value, asked: value.low > (asked.exact, 0),
    "eb": lambda value, asked: value.high < (asked.exact, 0),
    "ap": lambda value, asked: asked.near().meets(value),
}


def asked_number(text: str, unit: Unit = ONE) -> Asked:
    """Return a number asked for, in a unit: the precision is half a unit of the last digit.

    The page prints `1e2` as [95, 105): an exponent alone reads as if it ended in `.0`.
    """
    exact = Decimal(text)
    last = int(exact.as_tuple().exponent) - ("e" in text.lower() and "." not in text)
    half = Decimal(5).scaleb(last - 1)
    low, high = unit.scaled(exact - half), unit.scaled(exact + half)
    return Asked(Decimal(unit.scaled(exact)), Span((low, 0), (high, -1)))


def compared(number: Any, comparator: str = "") -> Span:
    """Return the span of a stored number (valueset-quantity-comparator.html)."""
    point = Decimal(number)
    return {
        "": Span((point, 0), (point, 0)),
        "<": Span((-EVER, 0), (point, -1)),
        "<=": Span((-EVER, 0), (point, 0)),
        ">=": Span((point, 0), (EVER, 0)),
        ">": Span((point, 1), (EVER, 0)),
    }[comparator]


def amounts(value: Value) -> Iterator[Amount]:
    """Yield the amounts of a number, Quantity, Money or Range."""
    match value.type:
        case "integer" | "decimal" | "positiveInt" | "unsignedInt":
            yield Amount(compared(value.data), "", "", "")
        case "Money" if "value" in value.data:
            yield Amount(
                compared(value.data["value"]), CURRENCY, value.data.get("currency", ""), ""
            )
        case "Range":
            ends = [value.data.get(name, {}) for name in ("low", "high")]
            low, high = (one.get("value") for one in ends)
            span = Span((-EVER if low is None else low, 0), (EVER if high is None else high, 0))
            yield from (Amount(span, *units(one)) for one in ends if "value" in one)
        case "Quantity" | "Age" | "Count" | "Distance" | "Duration" if "value" in value.data:
            span = compared(value.data["value"], value.data.get("comparator", ""))
            yield Amount(span, *units(value.data))


def units(data: Mapping[str, str]) -> tuple[str, str, str]:
    """Return the system, the code and the text of a Quantity's unit."""
    return data.get("system", ""), data.get("code", ""), data.get("unit", "")


def number_fits(value: Value, text: str) -> bool:
    """Return whether a number fits (search.html#number)."""
    prefix, rest = prefixed(text)
    return any(NUMBERS[prefix](amount.span, asked_number(rest)) for amount in amounts(value))


def quantity_fits(value: Value, text: str) -> bool:
    """Return whether a quantity fits (search.html#quantity).

    With the system UCUM and a code, amounts in any unit of the same kind are compared; else the
    unit must be the one asked for.
    """
    prefix, rest = prefixed(text)
    number, system, code = ([plain(part) for part in split(rest, "|")] + ["", ""])[:3]
    unit = UNITS.get(code, ONE) if system == UCUM else ONE
    if unit.measures:
        spans = [one.scaled() for one in amounts(value) if one.measured == unit.measures]
    else:
        spans = [one.span for one in amounts(value) if in_unit(one, system, code)]
    return any(NUMBERS[prefix](span, asked_number(number, unit)) for span in spans)


def in_unit(amount: Amount, system: str, code: str) -> bool:
    """Return whether an amount has this unit; without a system its text counts as well."""
    if system:
        return amount.system == system and code in ("", amount.code)
    return code in ("", amount.code, amount.unit)


# ------------------------------------------------------------------------- texts and tokens

PARTS = {
    "HumanName": ("text", "family", "given", "prefix", "suffix"),
    "Address": ("text", "line", "city", "district", "state", "postalCode", "country"),
}
BOOLEANS = "http://terminology.hl7.org/CodeSystem/special-values"


@lru_cache(4096)
def folded(text: str) -> str:
    """Return a text without case, accents and more than one space in a row."""
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return " ".join("".join(c for c in apart if not unicodedata.combining(c)).split())


# search.html#string: equal, and at the beginning, without case, accents and more than one space
TEXTS: dict[str, Callable[[str, str], bool]] = {
    "": lambda text, asked: folded(text).startswith(folded(asked)),
    "exact": lambda text, asked: text == asked,
    "contains": lambda text, asked: folded(asked) in folded(text),
    "text": lambda text, asked: folded(text).startswith(folded(asked)),
}


def strings(value: Value) -> Iterator[str]:
    """Yield the texts of a string, a HumanName or an Address."""
    if value.type in ("string", "markdown"):
        yield value.data
    for name in PARTS.get(value.type, ()):
        found = value.data.get(name, ())
        yield from [found] if isinstance(found, str) else found


@dataclass(frozen=True, slots=True)
class Coded:
    """A code in a code system, "" for none."""

    system: str
    code: str


@dataclass(frozen=True, slots=True)
class Codes:
    """What the definitions know of codes.

    `sensitive` are the systems in which case matters; `implied` gives the system that the required
    binding of an element implies for a code, from the place of the element and the code.
    """

    sensitive: Container[str]
    implied: Callable[[str, str], str]

    def form(self, system: str, code: str) -> str:
        """Return a code as it is compared (docs/decisions.md, 5)."""
        return code if system in self.sensitive else unicodedata.normalize("NFC", code).casefold()

    def of(self, value: Value) -> Iterator[Coded]:
        """Yield the codes of a value (search.html#token, the table of datatypes)."""
        match value.type, value.data:
            case "CodeableConcept", data:
                for coding in data.get("coding", ()):
                    yield Coded(coding.get("system", ""), coding.get("code", ""))
            case "Coding", data:
                yield Coded(data.get("system", ""), data.get("code", ""))
            case "Identifier", data:
                yield Coded(data.get("system", ""), data.get("value", ""))
            case "ContactPoint", data:
                yield Coded("", data.get("value", ""))
            case "boolean", bool(data):
                yield Coded(BOOLEANS, str(data).lower())
            case _, str(data):
                yield Coded(self.implied(value.place, data), data)

    def fits(self, found: Coded, text: str) -> bool:
        """Return whether a code fits `code`, `system|code`, `|code` or `system|`."""
        *systems, code = [plain(part) for part in split(text, "|")]
        if not systems:
            # No system is asked for, so nobody knows whether case matters
            own = self.form(found.system, found.code)
            return bool(code) and own in (code, self.form("", code))
        (system,) = systems
        same = self.form(found.system, found.code) == self.form(system, code)
        return found.system == system and (same or not code)


def labels(value: Value) -> Iterator[str]:
    """Yield what `:text` searches: CodeableConcept.text, Coding.display, Identifier.type.text."""
    match value.type:
        case "CodeableConcept":
            yield value.data.get("text", "")
            yield from (coding.get("display", "") for coding in value.data.get("coding", ()))
        case "Coding":
            yield value.data.get("display", "")
        case "Identifier":
            yield value.data.get("type", {}).get("text", "")


# ------------------------------------------------------------------------------------- URIs


def below(uri: str, asked: str) -> bool:
    """Return whether a URI is another one, or below it in the tree that their paths are."""
    return uri == asked or uri.startswith(asked.removesuffix("/") + "/")


URIS: dict[str, Callable[[str, str], bool]] = {
    "": lambda uri, asked: uri == asked,
    "below": below,
    "above": lambda uri, asked: below(asked, uri),
}


def uri_fits(value: Value, text: str, modifier: str) -> bool:
    """Return whether a URI fits (search.html#uri); the version of a canonical may be left out."""
    if value.type == "canonical" and not modifier:
        return canonical_fits(value.data, text)
    own = value.data.partition("|")[0] if value.type == "canonical" else value.data
    return URIS[modifier](own, text)


def canonical_fits(found: str, asked: str, modifier: str = "") -> bool:
    """Return whether a canonical is the one asked for, of any version if none is named.

    With `:below` a version stands for those that it begins (search.html#versions).
    """
    url, _, version = found.partition("|")
    own, _, wanted = asked.partition("|")
    family = modifier == "below" and version.startswith(f"{wanted}.")
    return url == own and (wanted in ("", version) or family)


# ------------------------------------------------------------------------------------ places

EARTH = 6371.0088  # kilometres, the mean radius
KILOMETRES = {"": 1.0, "km": 1.0, "m": 0.001, "[mi_i]": 1.609344}


def place_fits(value: Value, text: str) -> bool:
    """Return whether a position is as near as `latitude|longitude|distance|units` asks."""
    there, here = float(value.data["latitude"]), float(value.data["longitude"])
    north, east, distance, unit = (*text.split("|"), "")[:4]
    across = radians(float(north) - there) / 2, radians(float(east) - here) / 2
    bent = cos(radians(float(north))) * cos(radians(there))
    half = sin(across[0]) ** 2 + bent * sin(across[1]) ** 2  # of the great circle: haversine
    return 2 * EARTH * asin(min(1, sqrt(half))) <= float(distance) * KILOMETRES[unit]
