"""What a search term and an index row compare: dates, numbers, tokens, texts, references.

https://hl7.org/fhir/R4/search.html#ptypes
https://hl7.org/fhir/R4/datatypes.html

Rule 1: the same function makes both sides. A term and a row that went through one function here
can be compared as they are: integers, floats and strings, never a Decimal or a datetime.
Rule 2: pure. The server's time zone, base URL, clock and randomness come in as arguments.
Rule 3: text that does not fit raises ValueError with the sentence the client may see; the caller
knows where the text stood.

A moment is an integer: microseconds since 1970-01-01 UTC. A date of any precision is the
half-open interval of the moments that it may mean, so `2020` holds `2020-02` holds
`2020-02-29T12:00:00Z`. Open ends are the integers NEVER and ALWAYS, never None.
"""

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal, DecimalException
from functools import lru_cache
from hashlib import sha256
from math import inf, isinf, nextafter
from typing import Final, NamedTuple

# ------------------------------------------------------------------------------------- dates

ALWAYS: Final = -(2**62)
"""The lower end of a period without a start."""
NEVER: Final = 2**62
"""The upper end of a period without an end."""

SECOND: Final = 1_000_000
DAY: Final = 86_400 * SECOND

EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
FIRST: Final = (date.min.toordinal() - EPOCH_DAY) * DAY
LAST: Final = (date.max.toordinal() + 1 - EPOCH_DAY) * DAY

DATE: Final = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d|60)(?:\.(\d{1,99}))?)?"
    r"(Z|[+-](?:0\d|1[0-3]):[0-5]\d|[+-]14:00)?)?)?)?",
    re.ASCII,
)
MOMENT: Final = re.compile(
    r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.(\d{1,99}))?"
    r"(?:Z|[+-](?:0\d|1[0-3]):[0-5]\d|[+-]14:00)",
    re.ASCII,
)
"""The part of DATE that rows are full of, and that the standard library reads as we do."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Interval(NamedTuple):
    """The moments from `lo` up to, but without, `hi`; a bare tuple because rows are many."""

    lo: int
    hi: int


@lru_cache(maxsize=8192)
def parse_date(text: str, zone: tzinfo = UTC) -> Interval:
    """Return the moments that a date, dateTime, instant or search term may mean.

    Any precision from the year to the fraction of a second is taken, minutes included, for search
    terms may stop there. A fraction is as wide as its last digit, at the least 1 us. What names no
    zone is read in `zone`. The interval is cut to the years 1 to 9999 of UTC; ValueError where
    nothing of it is left, and for text that is no date.
    https://hl7.org/fhir/R4/search.html#date
    """
    match = MOMENT.fullmatch(text)
    if match is None or text[:4] == "0000":
        lo, hi = _by_parts(text, zone)
    else:
        try:
            since = datetime.fromisoformat(text) - EPOCH
        except ValueError:
            raise ValueError("a date must name a day that the calendar has") from None
        lo = since.days * DAY + since.seconds * SECOND + since.microseconds
        hi = lo + _width(match[1])
    if lo >= FIRST and hi <= LAST:
        return Interval(lo, hi)
    lo, hi = max(lo, FIRST), min(hi, LAST)
    if lo >= hi:
        raise ValueError("a date must lie in the years 1 to 9999 of UTC")
    return Interval(lo, hi)


def _by_parts(text: str, zone: tzinfo) -> tuple[int, int]:
    """Return the moments of a date of any precision, not yet cut to the years 1 to 9999."""
    match = DATE.fullmatch(text)
    if match is None:
        raise ValueError("a date must look like 2020, 2020-02, 2020-02-29 or 2020-02-29T12:30:00Z")
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    lo, hi = _days(year, month, day)
    if hour is None:
        return lo - _shift(lo, zone), hi - _shift(hi, zone)
    # A leap second, :60, is the first second of the next minute
    lo += (int(hour) * 3600 + int(minute) * 60 + int(second or 0)) * SECOND
    if fraction is not None:
        lo += int(fraction[:6].ljust(6, "0"))
    lo -= _shift(lo, zone) if offset is None else _offset(offset)
    return lo, lo + (60 * SECOND if second is None else _width(fraction))


def _width(fraction: str | None) -> int:
    """Return how long a second is, or what the last digit of a fraction of it stands for."""
    return SECOND if fraction is None else 10 ** max(6 - len(fraction), 0)


@lru_cache(maxsize=8192)
def _days(year: str, month: str | None, day: str | None) -> tuple[int, int]:
    """Return the first midnight of a year, month or day, and the one after its last."""
    if int(year) == 0:
        raise ValueError("a date must lie in the years 1 to 9999 of UTC")
    try:
        first = date(int(year), int(month or 1), int(day or 1)).toordinal()
    except ValueError:
        raise ValueError("a date must name a day that the calendar has") from None
    if day is not None:
        after = first + 1
    elif month is None or month == "12":
        after = date(int(year), 12, 31).toordinal() + 1
    else:
        after = date(int(year), int(month) + 1, 1).toordinal()
    return (first - EPOCH_DAY) * DAY, (after - EPOCH_DAY) * DAY


def _offset(text: str) -> int:
    """Return the microseconds by which a zone, `Z` or `+hh:mm`, is ahead of UTC."""
    if text == "Z":
        return 0
    minutes = int(text[1:3]) * 60 + int(text[4:6])
    return (-minutes if text[0] == "-" else minutes) * 60 * SECOND


def _shift(local: int, zone: tzinfo) -> int:
    """Return the microseconds by which `zone` is ahead of UTC when its clocks show `local`."""
    if zone is UTC:
        return 0
    inside = min(max(local, FIRST), LAST - DAY)  # the year 10000 has no datetime: ask a day before
    days, rest = divmod(inside, DAY)
    clock = datetime.fromordinal(days + EPOCH_DAY).replace(
        hour=rest // (3600 * SECOND), minute=rest // (60 * SECOND) % 60, tzinfo=zone
    )
    ahead = clock.utcoffset()
    return 0 if ahead is None else ahead.days * DAY + ahead.seconds * SECOND


def widen(interval: Interval, now: int) -> Interval:
    """Return the interval that `ap` means: a tenth of the gap to `now` wider at both ends.

    https://hl7.org/fhir/R4/search.html#prefix
    """
    gap = max(interval.lo - now, now - interval.hi, 0) // 10
    return Interval(interval.lo - gap, interval.hi + gap)


# -------------------------------------------------------------------- prefixes and escapes

PREFIXES: Final = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
"""search.html#prefix, for the ordered types: number, date and quantity."""

ESCAPED: Final = re.compile(r"\\([,|$\\])")


def split_prefix(text: str) -> tuple[str, str]:
    """Return the prefix of an ordered search term, `eq` where none is written, and the rest."""
    return (text[:2], text[2:]) if text[:2] in PREFIXES else ("eq", text)


def split_escaped(text: str, separator: str) -> list[str]:
    r"""Return the parts of `text` between separators that no `\` escapes; the escapes stay in.

    https://hl7.org/fhir/R4/search.html#escaping
    """
    if "\\" not in text:
        return text.split(separator)
    cuts = [m.start() for m in re.finditer(rf"\\.|{re.escape(separator)}", text) if len(m[0]) == 1]
    return [text[i:j] for i, j in zip([0, *(c + 1 for c in cuts)], [*cuts, None], strict=True)]


def unescape(text: str) -> str:
    r"""Return `text` with `\,` `\|` `\$` `\\` as the characters meant; other `\` stay."""
    return ESCAPED.sub(r"\1", text) if "\\" in text else text


# ------------------------------------------------------------------- numbers and quantities

LEAST: Final = -sys.float_info.max
"""The lower end of an interval of numbers that has none; finite, so that any format keeps it."""
MOST: Final = sys.float_info.max
"""The upper end of an interval of numbers that has none."""

NUMBER: Final = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class NumberTerm:
    """A number as searched: as written, as float8, and the interval [lo, hi) of eq, ne and ap.

    gt, lt, ge, le, sa and eb compare with `exact`: there the precision is ignored.
    https://hl7.org/fhir/R4/search.html#number
    """

    value: Decimal
    exact: float
    lo: float
    hi: float

    def near(self) -> tuple[float, float]:
        """Return the interval that `ap` means: a tenth up and down, never less than eq's."""
        tenth = abs(self.value) / 10
        return (
            min(self.lo, max(LEAST, float(self.value - tenth))),
            max(self.hi, min(MOST, float(self.value + tenth))),
        )

    def scaled(self, scale: Callable[[Decimal], Decimal]) -> "NumberTerm":
        """Return the same term in another unit; ValueError where it no longer fits a double."""
        lo, hi = (scale(Decimal(repr(end))) for end in (self.lo, self.hi))
        value = scale(self.value)
        return NumberTerm(value, to_float(value), to_float(lo), to_float(hi))


def parse_number(text: str) -> NumberTerm:
    """Return a search number with its implicit precision: half a unit of its last digit.

    `100` is [99.5, 100.5), `100.00` is [99.995, 100.005). Elements that hold integers need no rule
    of their own: the one integer in such an interval is the one that was written.

    The page prints `1e2` as [95, 105), where its rule ("to 1 significant figures") gives
    [50, 150). We follow the example: an exponent form without a point is read as if it ended
    in `.0`, so `1e2` is `1.0e2`.
    https://hl7.org/fhir/R4/search.html#number
    """
    match = NUMBER.fullmatch(text)
    if match is None:
        raise ValueError("a number must look like 100, 100.00 or 1e2")
    point, exponent = match.groups()
    try:
        value = Decimal(text)
        exact = to_float(value)
        unit = int(value.as_tuple().exponent) - (exponent is not None and point is None)
        half = Decimal((0, (5,), unit - 1))
        # Beyond 15 digits a float8 has no room for half a unit: the number itself stays inside
        hi = max(to_float(value + half), nextafter(exact, inf))
        return NumberTerm(value, exact, to_float(value - half), hi)
    except DecimalException:
        raise ValueError("a number must fit a double") from None


def to_float(value: Decimal | int) -> float:
    """Return the float8 that stands for a number in rows and terms; ValueError where none does."""
    try:
        number = float(value)
    except OverflowError:
        number = inf
    if isinf(number):
        raise ValueError("a number must fit a double")
    return number


@dataclass(frozen=True, slots=True)
class QuantityTerm:
    """A quantity as searched; `system` None: any, "": none; `code` "": any unit."""

    number: NumberTerm
    system: str | None
    code: str


def parse_quantity(text: str) -> QuantityTerm:
    """Return the term `[number]`, `[number]|[system]|[code]` or `[number]||[code]`, less prefix.

    `||mg` asks for the unit or the code mg in any system, so its `system` is None.
    https://hl7.org/fhir/R4/search.html#quantity
    """
    parts = [unescape(part) for part in split_escaped(text, "|")]
    if len(parts) not in (1, 3):
        raise ValueError("a quantity must look like 5.4, 5.4|system|code or 5.4||code")
    system, code = parts[1:] or ("", "")
    return QuantityTerm(parse_number(parts[0]), system or None, code)


def bounds(value: Decimal | int, comparator: str | None = None) -> tuple[float, float]:
    """Return the closed interval of a stored number or quantity: a point, or open to one side.

    A comparator leaves one end open; `<` and `>` leave out the number itself.
    https://hl7.org/fhir/R4/valueset-quantity-comparator.html
    """
    point = to_float(value)
    match comparator:
        case None | "":
            return point, point
        case "<":
            return LEAST, nextafter(point, -inf)
        case "<=":
            return LEAST, point
        case ">=":
            return point, MOST
        case ">":
            return nextafter(point, inf), MOST
    raise ValueError("a comparator must be one of < <= >= >")


# -------------------------------------------------------------------------- texts and tokens

NORM_LENGTH: Final = 200
"""How many characters of a string the index holds."""

WHOLE_BYTES: Final = 400
KEPT_BYTES: Final = 300
WORD: Final = re.compile(r"[^\W_]+")
WORD_LENGTH: Final = 100


def fold(text: str) -> str:
    """Return the form in which strings are compared: no case, no accents, single spaces.

    Punctuation stays, for "may" is not "shall" and names like O'Neil and Al-Rashid need it.
    https://hl7.org/fhir/R4/search.html#string
    """
    if not text.isascii():
        # Unicode D146 (compatibility caseless matching), and without the marks it takes apart
        text = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", text).casefold())
        text = unicodedata.normalize("NFKD", text.casefold())
        text = "".join(c for c in text if not unicodedata.combining(c))
    return " ".join(text.casefold().split())


def words(text: str) -> list[str]:
    """Return the words of a text, each once, folded; a word is what has letters and digits alone.

    Of a long one it is the beginning. No word is an operator of a full-text search.
    https://hl7.org/fhir/R4/search.html#text
    """
    return list(dict.fromkeys(word[:WORD_LENGTH] for word in WORD.findall(fold(text))))


def fold_code(code: str) -> str:
    """Return the form in which codes of systems that are not case-sensitive are compared.

    https://hl7.org/fhir/R4/search.html#token: when in doubt, case-insensitive
    """
    if code.isascii():
        return code.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", code).casefold())


def bounded(text: str) -> str:
    """Return `text` when it fits an index entry, else its first bytes and its digest.

    Longer than 400 UTF-8 bytes: the characters within its first 300 bytes, `#`, SHA-256 in hex.
    The result is never longer than 365 bytes, so a second application changes nothing.
    """
    if len(text) <= WHOLE_BYTES // 4:
        return text
    raw = text.encode()
    if len(raw) <= WHOLE_BYTES:
        return text
    return f"{raw[:KEPT_BYTES].decode(errors='ignore')}#{sha256(raw).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Token:
    """A token as searched; `system` None: any, "": none; `code` "": any code of the system."""

    system: str | None
    code: str


def stored_code(system: str, code: str, case_sensitive: Container[str]) -> str:
    """Return the form in which the index holds a code: bounded, and folded where case is free."""
    return bounded(code if system in case_sensitive else fold_code(code))


def stored_codes(token: Token, case_sensitive: Container[str]) -> tuple[str, ...]:
    """Return the forms under which the codes that `token` asks for may be held.

    Without a system these are two: as written, for the systems where case matters, and folded.
    """
    if token.system is not None:
        return (stored_code(token.system, token.code, case_sensitive),)
    return tuple(dict.fromkeys((bounded(fold_code(token.code)), bounded(token.code))))


def stored_typed(system: str, kind: str, value: str, case_sensitive: Container[str]) -> str:
    """Return the form in which the index holds an identifier together with its type's code.

    The system of the identifier plays no part, so its value is folded.
    https://hl7.org/fhir/R4/search.html#token, `:of-type`
    """
    return bounded(f"{stored_code(system, kind, case_sensitive)}|{fold_code(value)}")


def parse_token(text: str) -> Token:
    """Return the term `code`, `system|code`, `|code` or `system|`, escapes resolved.

    https://hl7.org/fhir/R4/search.html#token
    """
    parts = [unescape(part) for part in split_escaped(text, "|")]
    if len(parts) > 2 or not any(parts):
        raise ValueError("a token must look like code, system|code, |code or system|")
    return Token(None, parts[0]) if len(parts) == 1 else Token(parts[0], parts[1])


# ------------------------------------------------------------------------ ids and references

ID: Final = re.compile(r"[A-Za-z0-9.-]{1,64}", re.ASCII)

POINTER: Final = re.compile(rb'"(?:reference|url)":("(?:[^"\\]|\\.)*")')
REFERENCE: Final = re.compile(rb'"reference":"([^"\\]*(?:\\.[^"\\]*)*)"')

LITERAL: Final = re.compile(
    r"(?P<base>[a-z][a-z0-9+.-]*://\S*?/)?(?P<type>[A-Z][A-Za-z]*)/(?P<id>[A-Za-z0-9.-]{1,64})"
    r"(?:/_history/(?P<version>[A-Za-z0-9.-]{1,64}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a reference points; every part that is not there is "".

    With `id`, a resource of this server. With `url`, one elsewhere: then `type` is what the URL
    says, if it says so. With `fragment` alone, a contained resource.
    """

    type: str = ""
    id: str = ""
    version: str = ""
    url: str = ""
    fragment: str = ""


def is_id(text: str) -> bool:
    """Return whether `text` can be the id of a resource.

    https://hl7.org/fhir/R4/datatypes.html#id
    """
    return ID.fullmatch(text) is not None


def parse_reference(text: str, base_url: str) -> Reference:
    """Return where a literal reference or a canonical points, seen from the server at `base_url`.

    `Type/id`, with or without `/_history/version`, and the same under `base_url` are ours; other
    absolute URLs and URNs keep `url` whole, less version and fragment; `url|version` is a
    canonical.
    https://hl7.org/fhir/R4/references.html#literal
    """
    location, _, fragment = text.partition("#")
    match = LITERAL.fullmatch(location)
    if match is not None:
        base, kind, identity, version = match.groups(default="")
        if not base or base.rstrip("/") == base_url.rstrip("/"):
            return Reference(kind, identity, version, "", fragment)
        return Reference(kind, "", version, f"{base}{kind}/{identity}", fragment)
    url, version = split_canonical(location)
    return Reference("", "", version, url, fragment)


def references_in(raw: bytes) -> set[str]:
    """Return the text of each Reference in a compact resource, wherever it stands."""
    texts = REFERENCE.findall(raw)
    return {str(json.loads(b'"%b"' % t)) if b"\\" in t else t.decode() for t in texts}


def links_in(raw: bytes) -> Iterator[str]:
    """Yield the text of each Reference and URL of an attachment in a compact resource, in order."""
    for text in POINTER.findall(raw):
        yield str(json.loads(text)) if b"\\" in text else text[1:-1].decode()


def split_canonical(text: str) -> tuple[str, str]:
    """Return the URL and the version ("" where none is named) of a canonical, less fragment.

    https://hl7.org/fhir/R4/references.html#canonical
    """
    url, _, version = text.partition("#")[0].partition("|")
    return url, version


def new_id(now_ms: int, random: bytes) -> str:
    """Return the UUIDv7 of a time in Unix milliseconds and ten random bytes.

    https://www.rfc-editor.org/rfc/rfc9562#section-5.7
    """
    low = int.from_bytes(random[:10])
    value = (
        (now_ms & (1 << 48) - 1) << 80
        | 0x7 << 76
        | (low >> 62 & 0xFFF) << 64
        | 0b10 << 62
        | low & (1 << 62) - 1
    )
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
