"""From a value of a datatype to the rows of a search parameter, less the parameter's code.

https://hl7.org/fhir/R4/search.html#ptypes

Rule: converters raise on broken values (BROKEN), and the generated functions catch that at the
element. Composites will read the same converters: they pair the tails of two components per
element.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from datetime import tzinfo
from decimal import Decimal
from typing import Literal

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
)
from app.fhir.wire import Resource

Table = Literal["token", "reference", "date", "quantity", "string", "uri"]
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


def quantity(value: Resource) -> Iterator[Quantity]:
    """Yield the row of a Quantity and, where its unit reads otherwise than its code, another."""
    if (number := value.get("value")) is None:
        return
    lo, hi = bounds(number, value.get("comparator"))
    written, unit = value.get("code", ""), value.get("unit", "")
    if written or not unit:
        yield bounded(value.get("system", "")), bounded(written), lo, hi
    if unit and unit != written:  # search.html#quantity: ||mg is the code or the stated unit
        yield "", bounded(unit), lo, hi


def money(value: Resource) -> tuple[Quantity, ...]:
    """Return an amount in the currency that is its unit."""
    if (number := value.get("value")) is None:
        return ()
    return ((CURRENCY, bounded(value.get("currency", "")), *bounds(number)),)


def span(value: Resource) -> Iterator[Quantity]:
    """Yield a Range as a Quantity whose value is an interval, open where a limit is missing."""
    low, high = value.get("low", {}), value.get("high", {})
    for limit in (low, high):
        if "value" in limit:
            lo = bounds(low["value"])[0] if "value" in low else LEAST
            hi = bounds(high["value"])[1] if "value" in high else MOST
            for system, unit, _, _ in quantity(limit):
                yield system, unit, lo, hi


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
    return value.get("type") or parse_reference(value["reference"], base_url).type


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


def has_extension(value: Resource, url: str) -> bool:
    """Return whether an element has an extension of this URL."""
    return any(one.get("url") == url for one in value.get("extension", ()))


# search.html#ptypes: search type, its datatypes, the table, and the call. What the names in a call
# stand for is in `Indexer.names`; {systems} is what the binding of a code implies. SampledData has
# no entry (no single value), nor has text where a date is asked for: they count for `present` only.
CALLS: tuple[tuple[str, str, Table, str], ...] = (
    ("token", "CodeableConcept", "token", "concept({v}, known)"),
    ("token", "Coding", "token", "coding({v}, known)"),
    ("token", "Identifier", "token", "identifier({v}, sensitive)"),
    ("token", "ContactPoint", "token", "contact({v})"),
    ("token", "boolean", "token", "boolean({v})"),
    ("token", "code id string uri url canonical oid uuid", "token", "code({v}, {systems})"),
    ("string", "string markdown", "string", "string({v})"),
    ("string", "HumanName", "string", "parts({v}, NAME_PARTS)"),
    ("string", "Address", "string", "parts({v}, ADDRESS_PARTS)"),
    ("date", "date dateTime instant", "date", "moment({v}, zone)"),
    ("date", "Period", "date", "period({v}, zone)"),
    ("date", "Timing", "date", "timing({v}, zone)"),
    ("quantity", "Quantity Age Count Distance Duration", "quantity", "quantity({v})"),
    ("quantity", "Money", "quantity", "money({v})"),
    ("quantity number", "Range", "quantity", "span({v})"),
    ("number", "integer decimal positiveInt unsignedInt", "quantity", "number({v})"),
    ("reference", "Reference", "reference", "reference({v}, base_url, types)"),
    ("reference", "Resource", "reference", "inline({v}, types)"),
    ("reference uri", "canonical", "uri", "canonical({v})"),
    ("reference uri", "uri url oid uuid", "uri", "uri({v})"),
)
CONVERTERS: dict[tuple[str, str], tuple[Table, str]] = {
    (search_type, datatype): (table, call)
    for search_types, datatypes, table, call in CALLS
    for search_type in search_types.split()
    for datatype in datatypes.split()
}
