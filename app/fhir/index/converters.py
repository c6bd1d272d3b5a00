"""From a value of a datatype to the rows of a search parameter, less the parameter's code.

https://hl7.org/fhir/R4/search.html#ptypes

Rule: converters raise on broken values (BROKEN), and the generated functions catch that at the
element. Composites read the same converters: they pair what two components give, per element.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from datetime import tzinfo
from decimal import Decimal
from functools import lru_cache
from itertools import islice, product
from math import cos, radians, sin
from typing import Any, Literal, NamedTuple

from app.fhir import ucum
from app.fhir.values import (
    ALWAYS,
    LEAST,
    MOST,
    NEVER,
    NORM_LENGTH,
    bounded,
    bounds,
    fold,
    is_id,
    parse_date,
    parse_reference,
    split_canonical,
    stored_code,
    stored_typed,
    to_float,
)
from app.fhir.wire import Resource

Table = Literal["token", "reference", "date", "quantity", "string", "uri", "composite", "position"]
Variant = Literal["text", "identifier", "of-type"]
Pair = tuple[str, str]
Quantity = tuple[str, str, float, float]

BROKEN = (AttributeError, TypeError, ValueError, LookupError, ArithmeticError)

SPECIAL_VALUES = "http://terminology.hl7.org/CodeSystem/special-values"
CURRENCY = "urn:iso:std:iso:4217"

Known = Callable[[str, str], Pair]


def concept(value: Resource, known: Known) -> list[Pair]:
    """Return the codings of a CodeableConcept; each may match."""
    return [pair for one in value.get("coding", ()) for pair in coding(one, known)]


def coding(value: Resource, known: Known) -> tuple[Pair, ...]:
    """Return the system and the code of a Coding."""
    system, code = value.get("system", ""), value.get("code", "")
    return (known(system, code),) if system or code else ()


def identifier(value: Resource, sensitive: Container[str]) -> tuple[Pair, ...]:
    """Return the system and the value of an Identifier."""
    system, text = value.get("system", ""), value.get("value", "")
    return ((bounded(system), stored_code(system, text, sensitive)),) if system or text else ()


def typed(value: Resource, sensitive: Container[str]) -> Iterator[Pair]:
    """Yield each type of an Identifier with its value (search.html#token, `:of-type`)."""
    if text := value.get("value"):
        for one in value["type"].get("coding", ()):
            if kind := one.get("code"):
                system = one.get("system", "")
                yield bounded(system), stored_typed(system, kind, text, sensitive)


def contact(value: Resource) -> tuple[Pair, ...]:
    """Return the value of a ContactPoint, which has no namespace (search.html#token)."""
    text = value.get("value")
    return (("", stored_code("", text, ())),) if text else ()


def code(value: str, systems: Mapping[str, Pair]) -> tuple[Pair, ...]:
    """Return a code with the system that its required binding implies, "" where none does."""
    return (systems.get(value) or ("", stored_code("", value, ())),)


def boolean(value: bool) -> tuple[Pair, ...]:
    """Return true or false as a code of the system that search.html#token names for them."""
    return ((SPECIAL_VALUES, "true" if value else "false"),)


def string(value: str) -> tuple[Pair, ...]:
    """Return the beginning of a string, folded and as it is."""
    return ((fold(value)[:NORM_LENGTH], value[:NORM_LENGTH]),)


@lru_cache(4096)
def _label(value: str) -> tuple[Pair, ...]:
    return string(value)


def label(value: str) -> tuple[Pair, ...]:
    """Return the text that stands for a code or a type; these repeat, so their rows are kept."""
    return _label(value) if len(value) < 300 else string(value)


def parts(value: Resource, names: tuple[str, ...]) -> Iterator[Pair]:
    """Yield the strings of a HumanName or an Address: any of its parts may match."""
    for name in names:
        found = value.get(name)
        if found is not None:
            for text in found if isinstance(found, list) else (found,):
                if text is not None:
                    yield fold(text)[:NORM_LENGTH], text[:NORM_LENGTH]


NAME_PARTS = ("text", "family", "given", "prefix", "suffix")
ADDRESS_PARTS = ("text", "line", "city", "district", "state", "postalCode", "country")


def moment(value: str, zone: tzinfo) -> tuple[tuple[int, int], ...]:
    """Return the interval of a date, dateTime or instant."""
    return (parse_date(value, zone),)


def period(value: Resource, zone: tzinfo) -> tuple[tuple[int, int], ...]:
    """Return the interval of a Period, from the start of its start to the end of its end."""
    start, end = value.get("start"), value.get("end")
    lo = ALWAYS if start is None else parse_date(start, zone).lo
    hi = NEVER if end is None else parse_date(end, zone).hi
    return ((lo, hi),) if lo < hi and (start or end) else ()


def timing(value: Resource, zone: tzinfo) -> tuple[tuple[int, int], ...]:
    """Return the outer limits of a Timing; what lies between does not matter (search.html#date)."""
    found: list[tuple[int, int]] = [parse_date(e, zone) for e in value.get("event", ()) if e]
    found += period(value.get("repeat", {}).get("boundsPeriod", {}), zone)
    return ((min(lo for lo, _ in found), max(hi for _, hi in found)),) if found else ()


def quantity(value: Resource) -> list[Quantity]:
    """Return the rows of a Quantity: as it is coded, as its unit reads, and in canonical units.

    The second where the unit reads otherwise than the code, the third where the code is UCUM.
    """
    if (number := value.get("value")) is None:
        return []
    rows = stated(value, *bounds(number, value.get("comparator")))
    if unit := convertible(value):
        rows += measured(unit.code, lambda: bounds(unit.scale(number), value.get("comparator")))
    return rows


def stated(value: Resource, lo: float, hi: float) -> list[Quantity]:
    """Return the rows of an interval in the code and the unit that a Quantity states."""
    rows: list[Quantity] = []
    written, unit = value.get("code", ""), value.get("unit", "")
    if written or not unit:
        rows.append((bounded(value.get("system", "")), bounded(written), lo, hi))
    if unit and unit != written:  # search.html#quantity: ||mg is the code or the stated unit
        rows.append(("", bounded(unit), lo, hi))
    return rows


def convertible(value: Resource) -> ucum.Unit | None:
    """Return the UCUM unit of a Quantity, None where it has none that converts."""
    if value.get("system") != ucum.SYSTEM:
        return None
    return ucum.canonical(value.get("code", ""))


def measured(code: str, limits: Callable[[], tuple[float, float]]) -> list[Quantity]:
    """Return the row in a canonical unit; none for what is a double only in the unit as stated."""
    try:
        return [(ucum.CANONICAL, code, *limits())]
    except (ArithmeticError, ValueError):
        return []


def money(value: Resource) -> tuple[Quantity, ...]:
    """Return an amount in the currency that is its unit."""
    if (number := value.get("value")) is None:
        return ()
    return ((CURRENCY, bounded(value.get("currency", "")), *bounds(number)),)


def span(value: Resource) -> list[Quantity]:
    """Return a Range as a Quantity whose value is an interval, open where a limit is missing."""
    limits = [value[name] for name in ("low", "high") if "value" in value.get(name, ())]
    low, high = value.get("low", {}).get("value"), value.get("high", {}).get("value")
    lo = LEAST if low is None else bounds(low)[0]
    hi = MOST if high is None else bounds(high)[1]
    return [row for limit in limits for row in stated(limit, lo, hi)]


def extent(value: Resource) -> list[Quantity]:
    """Return the rows of a Range, and one in canonical units where all its limits have these."""
    rows = span(value)
    low, high = value.get("low", {}), value.get("high", {})
    units = [convertible(limit) for limit in (low, high) if "value" in limit]
    if units and (first := units[0]) and (last := units[-1]) and first.code == last.code:
        rows += measured(
            first.code,
            lambda: (
                bounds(first.scale(low["value"]))[0] if "value" in low else LEAST,
                bounds(last.scale(high["value"]))[1] if "value" in high else MOST,
            ),
        )
    return rows


def number(value: int | Decimal) -> tuple[Quantity, ...]:
    """Return a number as a quantity without unit."""
    return (("", "", *bounds(value)),)


def reference(value: Resource, base_url: str, types: Container[str]) -> tuple[Pair, ...]:
    """Return the type and id of a resource of this server, or "" and the URL of one elsewhere.

    A contained resource, or an identifier without a literal reference, gives ().
    """
    text = value.get("reference", "")
    kind, _, identity = text.partition("/")
    if kind in types and is_id(identity):
        return ((kind, identity),)
    target = parse_reference(text, base_url)
    if target.id and target.type in types:
        return ((target.type, target.id),)
    url = target.url or (text if target.id else "")
    return (("", bounded(url)),) if url else ()


def elsewhere(value: Resource, base_url: str) -> str:
    """Return the type of what a Reference finds elsewhere, as far as it or its URL says so."""
    return value.get("type") or parse_reference(value.get("reference", ""), base_url).type


def inline(value: Resource, types: Container[str]) -> tuple[Pair, ...]:
    """Return the type and id of a resource that stands in place (Bundle.entry.resource)."""
    kind, identity = value.get("resourceType", ""), value.get("id", "")
    return ((kind, identity),) if kind in types and is_id(identity) else ()


def uri(value: str) -> tuple[Pair, ...]:
    """Return a URI whole."""
    return ((bounded(value), ""),)


def canonical(value: str) -> tuple[Pair, ...]:
    """Return the URL and the version of a canonical; () for a contained resource."""
    url, version = split_canonical(value)
    return ((bounded(url), bounded(version)),) if url else ()


def position(value: Resource) -> tuple[tuple[float, float, float], ...]:
    """Return a place in degrees as a point (z, x, y) of the unit sphere, z towards the north pole.

    ValueError for what is nowhere on earth. The distance of two points follows from their chord.
    https://hl7.org/fhir/R4/location-definitions.html#Location.position
    """
    north, east = to_float(value["latitude"]), to_float(value["longitude"])
    if not (abs(north) <= 90 and abs(east) <= 180):
        raise ValueError("a place must lie between -90 and 90 degrees north, -180 and 180 east")
    level = cos(radians(north))
    return ((sin(radians(north)), level * cos(radians(east)), level * sin(radians(east))),)


MOST_PAIRS = 50_000
"""How many rows the composites of one resource may have: pairs multiply what is written once."""


def pairs(
    first: Iterable[tuple[Any, ...]], second: Iterable[tuple[Any, ...]], rows: Mapping[Any, None]
) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Return each of `first` with each of `second`, as long as `rows` may become more."""
    return islice(product(first, second), max(MOST_PAIRS - len(rows), 0))


def ours(value: str, base_url: str, types: Container[str]) -> tuple[Pair, ...]:
    """Return the type and id of the resource of this server whose address a canonical is."""
    target = parse_reference(value, base_url)
    return ((target.type, target.id),) if target.id and target.type in types else ()


def has_extension(value: Resource, url: str) -> bool:
    """Return whether an element has an extension of this URL."""
    return any(one.get("url") == url for one in value.get("extension", ()))


class Converter(NamedTuple):
    """How values become rows: the table, the call over {v}, and whether it gives at most one row.

    What the names in a call stand for is in `Indexer.names`; {systems} is what the binding of a
    code implies.
    """

    table: Table
    call: str
    single: bool


# search.html#ptypes: search type, its datatypes, the table, the call, and how many rows it gives.
# SampledData has no entry (no single value), nor has text where a date is asked for: they count
# for `present` only.
CALLS: tuple[tuple[str, str, Table, str, Literal["one", "many"]], ...] = (
    ("token", "CodeableConcept", "token", "concept({v}, known)", "many"),
    ("token", "Coding", "token", "coding({v}, known)", "one"),
    ("token", "Identifier", "token", "identifier({v}, sensitive)", "one"),
    ("token", "ContactPoint", "token", "contact({v})", "one"),
    ("token", "boolean", "token", "boolean({v})", "one"),
    ("token", "code id string uri url canonical oid uuid", "token", "code({v}, {systems})", "one"),
    ("string", "string markdown", "string", "string({v})", "one"),
    ("string", "HumanName", "string", "parts({v}, NAME_PARTS)", "many"),
    ("string", "Address", "string", "parts({v}, ADDRESS_PARTS)", "many"),
    ("date", "date dateTime instant", "date", "moment({v}, zone)", "one"),
    ("date", "Period", "date", "period({v}, zone)", "one"),
    ("date", "Timing", "date", "timing({v}, zone)", "one"),
    ("quantity", "Quantity Age Count Distance Duration", "quantity", "quantity({v})", "many"),
    ("quantity", "Money", "quantity", "money({v})", "one"),
    ("quantity", "Range", "quantity", "extent({v})", "many"),
    ("number", "Range", "quantity", "span({v})", "many"),
    ("number", "integer decimal positiveInt unsignedInt", "quantity", "number({v})", "one"),
    ("reference", "Reference", "reference", "reference({v}, base_url, types)", "one"),
    ("reference", "Resource", "reference", "inline({v}, types)", "one"),
    ("reference uri", "canonical", "uri", "canonical({v})", "one"),
    ("reference uri", "uri url oid uuid", "uri", "uri({v})", "one"),
    ("special", "Location.position", "position", "position({v})", "one"),
)
CONVERTERS = {
    (search_type, datatype): Converter(table, call, count == "one")
    for search_types, datatypes, table, call, count in CALLS
    for search_type in search_types.split()
    for datatype in datatypes.split()
}

# search.html#modifiers: what a modifier looks at besides. Search type and datatype; the variant;
# the way from a value to it, in FHIRPath; the table and the call
VARIANTS: tuple[tuple[str, str, Variant, str, Table, str], ...] = (
    ("token", "CodeableConcept", "text", "text | coding.display", "string", "label({v})"),
    ("token", "Coding", "text", "display", "string", "label({v})"),
    ("token", "Identifier", "text", "type.text", "string", "label({v})"),
    ("token", "Identifier", "of-type", "where(type.exists())", "token", "typed({v}, sensitive)"),
    ("reference", "Reference", "identifier", "identifier", "token", "identifier({v}, sensitive)"),
)
VARIANTS_OF = {
    search_type: tuple(dict.fromkeys(v[2] for v in VARIANTS if v[0] == search_type))
    for search_type, *_ in VARIANTS
}
