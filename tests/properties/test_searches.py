"""What holds for any search over any resources: pages, and, or, totals, prefixes."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from urllib.parse import quote, urlencode

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.access.door import Door, content, entries, next_link
from tests.properties.conftest import DATABASE, fresh
from tests.properties.operations import (
    DATES,
    NAMES,
    PATIENTS,
    URLS,
    Body,
    codings,
    observations,
    some,
)
from tests.support.resources import patient, put, reference, resource, transaction

Pair = tuple[str, str]
PREFIXES = ("", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")


def token(coding: Body, form: int) -> str:
    """Return one of the ways to ask for a coding."""
    system, code = coding.get("system", ""), coding["code"]
    return (f"{code}", f"{system}|{code}", f"{system}|" if system else f"|{code}")[form]


tokens = st.builds(token, codings, st.integers(0, 2))
dates = st.builds("{}{}".format, some(*PREFIXES), some(*DATES, "2019", "2020-02-29T12:00"))
quantities = st.builds(
    "{}{}{}".format,
    some(*PREFIXES),
    some("5", "5.4", "5.40", "-1", "1e20", "6"),
    some("", "||mg", "|http://unitsofmeasure.org|mg", "|http://unitsofmeasure.org|", "||kg"),
)
VALUES: dict[str, st.SearchStrategy[str]] = {
    "code": tokens,
    "_tag": tokens,
    "status": some("final", "amended", "preliminary"),
    "date": dates,
    "_lastUpdated": st.builds("{}{}".format, some(*PREFIXES), some("2026", "2020", "2030-01-01")),
    "value-quantity": quantities,
    "value-string": some(*(name[:60] for name in NAMES), "m", "feels"),
    "patient": some(*PATIENTS, "p1", *URLS),
    "subject": some(*PATIENTS, *URLS, "Group/g1", "d1"),
    "performer": some("Practitioner/d1", "d1", "Patient/p1"),
    "encounter": some("e1", "Encounter/e2"),
    "_profile": some("http://example.org/p", "http://example.org/p|1", "http://example.org/p|2"),
    "_source": some("urn:feed", "urn:feed#1"),
    "_id": some("o1", "o3", "o5", "nobody"),
}
criteria = some(*VALUES).flatmap(lambda name: st.tuples(st.just(name), VALUES[name]))
queries = st.lists(criteria, max_size=3)


@st.composite
def shelves(draw: st.DrawFn) -> list[Body]:
    """Return Observations o0, o1, ..."""
    bodies = draw(st.lists(observations(), min_size=1, max_size=9))
    return [{**body, "id": f"o{n}"} for n, body in enumerate(bodies)]


async def filled(door: Door, bodies: Sequence[Body]) -> Door:
    """Return the door of a server that holds these resources and no others."""
    door = await fresh(door)
    reply = await door.ask("POST", "", transaction(*(put(body) for body in bodies)))
    assert reply.status == 200, reply.body
    return door


def url(type: str, query: Sequence[Pair]) -> str:
    """Return the URL of a search."""
    return f"{type}?{urlencode(query, quote_via=quote)}"


async def find(door: Door, type: str, *query: Pair) -> list[str]:
    """Return the ids that a search finds, in order."""
    return [e["resource"]["id"] for e in entries(await door.get(url(type, query)))]


def in_order(whole: list[str], *parts: list[str]) -> list[str]:
    """Return those of `whole` that are in every part."""
    return [id for id in whole if all(id in part for part in parts)]


@DATABASE
@given(bodies=shelves(), query=queries, size=st.integers(1, 4))
async def test_pages_concatenate_to_the_whole(
    door: Door, bodies: list[Body], query: list[Pair], size: int
) -> None:
    door = await filled(door, bodies)
    whole = await door.get(url("Observation", query))

    walked, following = [], url("Observation", [*query, ("_count", str(size))])
    while following:
        page = await door.get(following)
        walked += [entry["resource"]["id"] for entry in entries(page)]
        following = next_link(page)
        assert len(walked) <= len(bodies)

    assert walked == [entry["resource"]["id"] for entry in entries(whole)]
    assert content(whole)["total"] == len(walked) == len(set(walked))


@DATABASE
@given(bodies=shelves(), query=queries)
async def test_several_criteria_find_what_each_of_them_finds(
    door: Door, bodies: list[Body], query: list[Pair]
) -> None:
    door = await filled(door, bodies)
    everything = await find(door, "Observation")

    together = await find(door, "Observation", *query)
    turned = await find(door, "Observation", *reversed(query))
    alone = [await find(door, "Observation", criterion) for criterion in query]

    assert together == turned == in_order(everything, *alone)


@DATABASE
@given(bodies=shelves(), name=some(*VALUES), data=st.data())
async def test_several_values_find_what_one_of_them_finds(
    door: Door, bodies: list[Body], name: str, data: st.DataObject
) -> None:
    values = data.draw(st.lists(VALUES[name], min_size=1, max_size=3))
    door = await filled(door, bodies)
    everything = await find(door, "Observation")

    together = await find(door, "Observation", (name, ",".join(values)))
    alone = [await find(door, "Observation", (name, value)) for value in values]

    assert together == [id for id in everything if any(id in found for found in alone)]


@DATABASE
@given(bodies=shelves(), query=queries, criterion=criteria)
async def test_another_criterion_never_finds_more(
    door: Door, bodies: list[Body], query: list[Pair], criterion: Pair
) -> None:
    door = await filled(door, bodies)

    fewer = await find(door, "Observation", *query, criterion)
    more = await find(door, "Observation", *query)

    assert in_order(more, fewer) == fewer


# --- prefixes, against a calendar and decimals ---------------------------------------------------

PLACES = {4: "%Y", 7: "%Y-%m", 10: "%Y-%m-%d", 16: "%Y-%m-%dT%H:%M", 19: "%Y-%m-%dT%H:%M:%S"}
moments = st.datetimes(datetime(2019, 11, 1), datetime(2020, 3, 2))
near = st.sampled_from([datetime(2019, 12, 31, 23, 59, 59), datetime(2020, 1, 1)]) | moments


def written(moment: datetime, length: int) -> str:
    """Return a date of that many characters."""
    return moment.strftime(PLACES[length])


def bounds(text: str) -> tuple[datetime, datetime]:
    """Return the first moment of a date and the first one after it."""
    low = datetime.strptime(text, PLACES[len(text)])
    steps = {7: timedelta(31), 10: timedelta(1), 16: timedelta(minutes=1), 19: timedelta(seconds=1)}
    high = low.replace(year=low.year + 1) if len(text) == 4 else low + steps[len(text)]
    return low, high.replace(day=1) if len(text) == 7 else high


def date_fits(prefix: str, text: str, low: datetime, high: datetime) -> bool:
    """Return whether a stored [low, high) fits, in the words of search.html#prefix."""
    a, b = bounds(text)
    contained = a <= low and high <= b
    above, below = high > b, low < a
    return {
        "eq": contained,
        "ne": not contained,
        "gt": above,
        "lt": below,
        "ge": above or contained,
        "le": below or contained,
        "sa": low >= b,
        "eb": high <= a,
    }[prefix]


@DATABASE
@given(
    stored=st.lists(st.tuples(near, some(4, 7, 10)), min_size=1, max_size=8),
    term=st.tuples(near, some(*PLACES)),
)
async def test_dates_compare_as_intervals(
    door: Door, stored: list[tuple[datetime, int]], term: tuple[datetime, int]
) -> None:
    texts = {f"p{n}": written(*one) for n, one in enumerate(stored)}
    asked = written(*term)
    door = await filled(door, [patient(id=id, birthDate=text) for id, text in texts.items()])

    prefixes = [prefix for prefix in PREFIXES if prefix not in ("", "ap")]
    found = {p: set(await find(door, "Patient", ("birthdate", p + asked))) for p in prefixes}

    assert found == {
        p: {id for id, text in texts.items() if date_fits(p, asked, *bounds(text))}
        for p in prefixes
    }
    assert found["eq"] | found["ne"] == set(texts)
    assert found["eq"] & found["ne"] == set()
    assert found["eq"] == set(await find(door, "Patient", ("birthdate", asked)))


@DATABASE
@given(
    periods=st.lists(
        st.tuples(st.none() | near, st.none() | near, some(10, 19)), min_size=1, max_size=8
    ),
    term=st.tuples(near, some(*PLACES)),
)
async def test_periods_compare_as_intervals(
    door: Door,
    periods: list[tuple[datetime | None, datetime | None, int]],
    term: tuple[datetime, int],
) -> None:
    bodies, limits = [], {}
    for n, (start, end, length) in enumerate(periods):
        if (start is None and end is None) or (start and end and start > end):
            continue
        zone = "Z" if length == 19 else ""
        texts = {"start": start and written(start, length), "end": end and written(end, length)}
        period = {name: text + zone for name, text in texts.items() if text}
        limits[f"e{n}"] = (
            bounds(texts["start"])[0] if texts["start"] else datetime.min,
            bounds(texts["end"])[1] if texts["end"] else datetime.max,
        )
        body = {"status": "finished", "class": {"code": "AMB"}, "period": period}
        bodies.append(resource("Encounter", {"id": f"e{n}", **body}, {}))
    assume(bodies)
    asked = written(*term)
    door = await filled(door, bodies)

    prefixes = [prefix for prefix in PREFIXES if prefix not in ("", "ap")]
    found = {p: set(await find(door, "Encounter", ("date", p + asked))) for p in prefixes}

    assert found == {
        p: {id for id, limit in limits.items() if date_fits(p, asked, *limit)} for p in prefixes
    }


decimals = st.decimals(-12, 12, places=2) | st.integers(-12, 12).map(Decimal)


@DATABASE
@given(stored=st.lists(decimals, min_size=1, max_size=8), term=decimals)
async def test_numbers_compare_as_decimals(
    door: Door, stored: list[Decimal], term: Decimal
) -> None:
    numbers = {f"c{n}": number for n, number in enumerate(stored)}
    item = {
        "status": "billable",
        "code": {"text": "session"},
        "subject": reference("Patient/p1"),
    }
    bodies = [
        resource("ChargeItem", {"id": id, **item, "factorOverride": float(number)}, {})
        for id, number in numbers.items()
    ]
    door = await filled(door, bodies)

    prefixes = [prefix for prefix in PREFIXES if prefix not in ("", "ap")]
    asked = ("factor-override", "{}" + f"{term:f}")
    found = {
        p: set(await find(door, "ChargeItem", (asked[0], asked[1].format(p)))) for p in prefixes
    }

    # search.html#number: half a unit of the last digit for eq and ne, the number itself for others
    half = Decimal(1).scaleb(int(term.as_tuple().exponent)) / 2
    equal = {id for id, n in numbers.items() if term - half <= n < term + half}
    above = {id for id, n in numbers.items() if n > term}
    below = {id for id, n in numbers.items() if n < term}
    assert found == {
        "eq": equal,
        "ne": set(numbers) - equal,
        "gt": above,
        "lt": below,
        "ge": set(numbers) - below,
        "le": set(numbers) - above,
        "sa": above,
        "eb": below,
    }
    assert found["eq"] == set(await find(door, "ChargeItem", (asked[0], asked[1].format(""))))
