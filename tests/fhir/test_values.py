"""search.html#ptypes: what terms and rows are made of."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fhir.values import (
    DAY,
    FIRST,
    LAST,
    LEAST,
    MOST,
    SECOND,
    Interval,
    QuantityTerm,
    Reference,
    Token,
    bounded,
    bounds,
    fold,
    fold_code,
    is_id,
    new_id,
    parse_date,
    parse_number,
    parse_quantity,
    parse_reference,
    parse_token,
    split_canonical,
    split_escaped,
    split_prefix,
    stored_code,
    stored_codes,
    unescape,
    widen,
)

BASE = "http://localhost:8000/fhir"
NEW_YORK = ZoneInfo("America/New_York")


def at(*parts: int) -> int:
    """Return the microseconds of a UTC moment."""
    year, month, day, *clock = parts
    since = datetime(year, month, day, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    hours, minutes, seconds = (*clock, 0, 0, 0)[:3]
    return since.days * DAY + (hours * 3600 + minutes * 60 + seconds) * SECOND


DATES = [
    ("1970", 0, 365 * DAY),
    ("2020", at(2020, 1, 1), at(2021, 1, 1)),
    ("2020-02", at(2020, 2, 1), at(2020, 3, 1)),
    ("2020-12", at(2020, 12, 1), at(2021, 1, 1)),
    ("2020-02-29", at(2020, 2, 29), at(2020, 3, 1)),
    ("1969-12-31", -DAY, 0),
    ("2020-02-29T12:30", at(2020, 2, 29, 12, 30), at(2020, 2, 29, 12, 31)),
    ("2020-02-29T12:30Z", at(2020, 2, 29, 12, 30), at(2020, 2, 29, 12, 31)),
    ("2020-02-29T12:30:10", at(2020, 2, 29, 12, 30, 10), at(2020, 2, 29, 12, 30, 11)),
    ("2020-02-29T12:30:10-05:00", at(2020, 2, 29, 17, 30, 10), at(2020, 2, 29, 17, 30, 11)),
    ("2020-02-29T00:00:00+14:00", at(2020, 2, 28, 10), at(2020, 2, 28, 10, 0, 1)),
    ("1970-01-01T00:00:00.5Z", 500_000, 600_000),
    ("1970-01-01T00:00:00.123Z", 123_000, 124_000),
    ("1970-01-01T00:00:00.123456Z", 123_456, 123_457),
    ("1970-01-01T00:00:00.123456789Z", 123_456, 123_457),
    ("1970-01-01T00:00:00.25", 250_000, 260_000),
    ("2016-12-31T23:59:60Z", at(2017, 1, 1), at(2017, 1, 1, 0, 0, 1)),
    ("0001-01-01", FIRST, FIRST + DAY),
    ("9999", at(9999, 1, 1), LAST),
    ("9999-12-31T23:59:59Z", LAST - SECOND, LAST),
]


@pytest.mark.parametrize(("text", "lo", "hi"), DATES)
def test_a_date_is_the_interval_of_the_moments_that_it_may_mean(
    text: str, lo: int, hi: int
) -> None:
    assert parse_date(text) == Interval(lo, hi)


@pytest.mark.parametrize(
    "text",
    [
        *("", "20", "202", "2020-1", "2020-13", "2020-00", "2020-02-30", "2020-02-32", "0000"),
        *("2020-02-29T", "2020-02-29T12", "2020-02-29T24:00", "2020-02-29T24:00:00Z"),
        *("2020-02-30T12:00:00Z", "0000-01-01T00:00:00Z", "2020-02-29T12:60Z", "20200229"),
        *("2020-02-29 12:00:00Z", "2020-02-29t12:00:00z", "2020-02-29T12:00:61Z", "2020-W01-1"),
        *("2020-02-29T12:00:00+15:00", "2020-02-29T12:00:00+1400", "2020-02-29T12:00:00.Z"),
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01:00", "２０２０", "2020Z", " 2020"),
    ],
)
def test_text_that_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a date must"):
        parse_date(text)


def test_a_date_without_a_zone_is_read_in_the_zone_of_the_server() -> None:
    behind = timezone(-timedelta(hours=5))

    assert parse_date("2020-02-29", behind) == (at(2020, 2, 29, 5), at(2020, 3, 1, 5))
    assert parse_date("2020-02-29T12:30", behind).lo == at(2020, 2, 29, 17, 30)
    assert parse_date("2020-02-29T12:30:00Z", behind).lo == at(2020, 2, 29, 12, 30)


def test_the_day_on_which_summer_time_begins_is_an_hour_short() -> None:
    day = parse_date("2020-03-08", NEW_YORK)

    assert day == (at(2020, 3, 8, 5), at(2020, 3, 9, 4))


@pytest.mark.parametrize("zone", [NEW_YORK, timezone(timedelta(hours=9))])
@pytest.mark.parametrize("text", ["0001", "0001-01-01", "9999-12-31", "9999"])
def test_the_first_and_the_last_day_stand_in_every_zone(
    text: str, zone: ZoneInfo | timezone
) -> None:
    lo, hi = parse_date(text, zone)

    assert FIRST <= lo < hi <= LAST


@given(
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 12, 31)),
    st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))]),
)
def test_a_more_precise_date_lies_within_each_of_its_beginnings(
    moment: datetime, zone: timezone
) -> None:
    text = moment.isoformat(timespec="microseconds")
    intervals = [parse_date(text[:n], zone) for n in (26, 23, 19, 16, 10, 7, 4)]

    assert all(o.lo <= i.lo < i.hi <= o.hi for i, o in pairwise(intervals))


@given(
    st.datetimes(
        min_value=datetime(2, 1, 1),
        max_value=datetime(9998, 12, 31),
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30))]),
    )
)
def test_both_ways_to_read_a_moment_agree(moment: datetime) -> None:
    second = moment.replace(microsecond=0).isoformat()
    minute = second[:16] + second[19:]

    assert parse_date(second).lo == at(*moment.astimezone(UTC).timetuple()[:6])
    assert parse_date(minute).lo == parse_date(second).lo - moment.second * SECOND


def test_ap_widens_a_date_by_a_tenth_of_its_distance_from_now() -> None:
    now = at(2020, 1, 11)

    assert widen(parse_date("2020-01-01"), now) == (
        at(2019, 12, 31, 2, 24),
        at(2020, 1, 2, 21, 36),
    )
    assert widen(parse_date("2020-01-11"), now) == parse_date("2020-01-11")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ge2020", ("ge", "2020")),
        ("2020", ("eq", "2020")),
        ("ap5.4", ("ap", "5.4")),
        ("xx5", ("eq", "xx5")),
        ("", ("eq", "")),
    ],
)
def test_a_prefix_is_split_off(text: str, parts: tuple[str, str]) -> None:
    assert split_prefix(text) == parts


@pytest.mark.parametrize(
    ("text", "lo", "hi"),
    [
        ("100", 99.5, 100.5),
        ("100.00", 99.995, 100.005),
        ("-5.4", -5.45, -5.35),
        ("0", -0.5, 0.5),
        ("1e2", 95.0, 105.0),  # as search.html#number prints it
        ("1.0e2", 95.0, 105.0),
        ("1e-3", 0.00095, 0.00105),
        ("+7", 6.5, 7.5),
    ],
)
def test_a_number_reaches_half_a_unit_of_its_last_digit(text: str, lo: float, hi: float) -> None:
    number = parse_number(text)

    assert (number.lo, number.hi) == (lo, hi)
    assert number.exact == float(text)


@pytest.mark.parametrize(
    "text", ["", "x", "1.", ".5", "1e", "1e400", "-1e400", "1e99999999999999999999", "NaN", "١"]
)
def test_text_that_is_no_number_or_no_double_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a number must"):
        parse_number(text)


def test_ap_is_a_tenth_to_both_sides() -> None:
    assert parse_number("-50").near() == (-55.0, -45.0)
    assert parse_number("0").near() == (-0.5, 0.5)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9))
def test_a_number_finds_itself(value: Decimal) -> None:
    number = parse_number(str(value))

    assert number.lo <= bounds(value)[0] < number.hi


@pytest.mark.parametrize(
    ("comparator", "lo", "hi"),
    [
        (None, 5.0, 5.0),
        ("<", LEAST, 4.999999999999999),
        ("<=", LEAST, 5.0),
        (">=", 5.0, MOST),
        (">", 5.000000000000001, MOST),
    ],
)
def test_a_comparator_leaves_one_end_open(comparator: str | None, lo: float, hi: float) -> None:
    assert bounds(Decimal("5.0"), comparator) == (lo, hi)


def test_a_quantity_may_name_a_system_and_a_unit() -> None:
    number = parse_number("5.4")

    assert parse_quantity("5.4") == QuantityTerm(number, None, "")
    assert parse_quantity("5.4||mg") == QuantityTerm(number, None, "mg")
    assert parse_quantity(r"5.4|http://u\|x|mg") == QuantityTerm(number, "http://u|x", "mg")
    with pytest.raises(ValueError, match=r"^a quantity must"):
        parse_quantity("5.4|mg")


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("final", Token(None, "final")),
        ("http://s|final", Token("http://s", "final")),
        ("|final", Token("", "final")),
        ("http://s|", Token("http://s", "")),
        (r"a\|b", Token(None, "a|b")),
        (r"a\,b|c\\d", Token("a,b", r"c\d")),
    ],
)
def test_a_token_has_a_system_or_leaves_it_open(text: str, token: Token) -> None:
    assert parse_token(text) == token


@pytest.mark.parametrize("text", ["", "|", "a|b|c"])
def test_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a token must"):
        parse_token(text)


def test_escaped_separators_do_not_separate() -> None:
    assert split_escaped(r"a,b\,c,\\,d", ",") == ["a", r"b\,c", r"\\", "d"]
    assert split_escaped("a,,b,", ",") == ["a", "", "b", ""]
    assert split_escaped("ends\\", ",") == ["ends\\"]
    assert unescape(r"b\,c \$ \| \\ \x") == r"b,c $ | \ \x"


@given(st.lists(st.text(alphabet="ab,|$\\"), min_size=1, max_size=5))
def test_what_was_escaped_comes_back(parts: list[str]) -> None:
    escaped = [part.replace("\\", "\\\\").replace(",", "\\,") for part in parts]

    assert [unescape(part) for part in split_escaped(",".join(escaped), ",")] == parts


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Müller-Lüdenscheidt", "muller-ludenscheidt"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("  Van   der\tBerg ", "van der berg"),
        ("O'Neil", "o'neil"),
        ("İstanbul", "istanbul"),
        ("ﬁnal", "final"),
        ("Ångström", "angstrom"),
        ("", ""),
    ],
)
def test_strings_are_folded(text: str, folded: str) -> None:
    assert fold(text) == folded


@given(st.text())
def test_folding_twice_changes_nothing_more(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert fold_code(fold_code(text)) == fold_code(text)


@given(st.text())
def test_case_does_not_matter_to_a_fold(text: str) -> None:
    assert fold(text.casefold()) == fold(text)


@given(st.text(min_size=90), st.integers(1, 30))
def test_bounded_text_fits_an_index_entry_and_stays(text: str, times: int) -> None:
    short = bounded(text * times)

    assert len(short.encode()) <= 400
    assert bounded(short) == short


def test_long_texts_with_one_beginning_stay_apart() -> None:
    assert bounded("é" * 300 + "a") != bounded("é" * 300 + "b")
    assert bounded("é" * 300).startswith("é" * 150 + "#")
    assert bounded("a" * 400) == "a" * 400


def test_codes_keep_their_case_where_the_system_says_so() -> None:
    strict = {"http://strict"}

    assert stored_code("http://strict", "Abc", strict) == "Abc"
    assert stored_code("http://lax", "Abc", strict) == "abc"
    assert stored_codes(Token(None, "Abc"), strict) == ("abc", "Abc")
    assert stored_codes(Token(None, "abc"), strict) == ("abc",)
    assert stored_codes(Token("http://strict", "Abc"), strict) == ("Abc",)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("Patient/1", Reference("Patient", "1")),
        ("Patient/1/_history/2", Reference("Patient", "1", "2")),
        (f"{BASE}/Patient/1", Reference("Patient", "1")),
        ("http://other/fhir/Patient/1", Reference("Patient", url="http://other/fhir/Patient/1")),
        (
            "http://other/fhir/Patient/1/_history/3",
            Reference("Patient", version="3", url="http://other/fhir/Patient/1"),
        ),
        ("urn:uuid:6d1f-0", Reference(url="urn:uuid:6d1f-0")),
        ("urn:oid:1.2.3", Reference(url="urn:oid:1.2.3")),
        ("#p1", Reference(fragment="p1")),
        ("Patient/1#p1", Reference("Patient", "1", fragment="p1")),
        ("http://x/y|1.0", Reference(url="http://x/y", version="1.0")),
        ("http://x/fhir/ValueSet/a|2", Reference(url="http://x/fhir/ValueSet/a", version="2")),
        ("", Reference()),
    ],
)
def test_a_reference_is_taken_apart(text: str, reference: Reference) -> None:
    assert parse_reference(text, BASE) == reference


def test_a_canonical_parts_into_url_and_version() -> None:
    assert split_canonical("http://x|1.0#part") == ("http://x", "1.0")
    assert split_canonical("#contained") == ("", "")


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("a-1.B", True),
        ("", False),
        ("a_b", False),
        ("a" * 64, True),
        ("a" * 65, False),
        ("a\n", False),
    ],
)
def test_ids(text: str, *, valid: bool) -> None:
    assert is_id(text) is valid


def test_a_new_id_is_a_uuid_of_version_7_in_order_of_time() -> None:
    first = new_id(0x0123456789AB, bytes(range(10)))

    assert first == "01234567-89ab-7004-8203-040506070809"
    assert new_id(1, b"\xff" * 10) < new_id(2, bytes(10))
    assert is_id(first)


def test_a_date_is_in_the_calendar_of_the_standard_library() -> None:
    assert parse_date("1900-02-28").hi == (date(1900, 3, 1) - date(1970, 1, 1)).days * DAY
