"""The matrix: whoever asks, in whichever way, learns nothing of what their scopes do not show.

Two proofs. The first compares what comes back with what `CALLERS` says, word by word. The second
asks a server that holds nothing but what the caller may see, as somebody who may see all of it:
every answer must be the same, to the byte. What is hidden is then not there, in every total, page,
order, chain and text of an error.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
import pytest_asyncio

from app.config import Settings
from app.fhir.access import SYSTEM
from app.fhir.interaction import Reply
from app.main import build
from tests.access.clinic import (
    AFTER,
    ALL_WORDS,
    CALLERS,
    CURRENT,
    IDS,
    START,
    TYPES,
    VERSIONS,
    WORDS,
    Person,
    Sees,
    Version,
    at,
    fill,
    named_in,
    place,
    word,
)
from tests.access.door import Door, content, next_link
from tests.conftest import BASE_URL
from tests.support.resources import batch, get, transaction

LIVE = [v for v in CURRENT.values() if v.body is not None]
MOST_PAGES = 60

Ask = tuple[str, str, Any, dict[str, str]]  # method, URL, body, conditions


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def clinic(clinic_settings: Settings) -> AsyncIterator[Door]:
    """The door of a clinic to which nobody writes."""
    async with build(clinic_settings) as server:
        yield await fill(Door(server, SYSTEM))


Twin = Callable[[Sees], Any]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def twin(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Twin]:
    """What gives the door of a server that holds only what is seen, and shows all of it."""
    async with AsyncExitStack() as stack:
        made: dict[Sees, Door] = {}

        async def of(sees: Sees) -> Door:
            if sees not in made:
                file = copy(sqlite_template, tmp_path_factory.mktemp("twin") / "milepost.db")
                url = f"sqlite:///{file}"
                settings = Settings(database_url=url, base_url=BASE_URL, text_search=True)
                server = await stack.enter_async_context(build(settings))
                made[sees] = await fill(Door(server, SYSTEM), sees)
            return made[sees]

        yield of


def door_of(clinic: Door, name: str) -> Door:
    """Return the door of somebody of CALLERS."""
    return at(Door(clinic.server, CALLERS[name].caller(clinic, name)), AFTER)


def told(*replies: Reply) -> str:
    """Return all that answers tell, headers too; but not the links, which say what was asked."""
    parts = [(r.body.decode(), r.location, r.extra, r.version, r.updated) for r in replies]
    return re.sub(r'"link":\[[^\]]*\]', "", "".join(map(repr, parts)))


def words_in(text: str) -> set[str]:
    """Return the words, but not the ids, that a text holds."""
    return {one for one in ALL_WORDS - IDS if one in text}


async def pages(door: Door, url: str) -> list[Reply]:
    """Return the answer to a GET, and the pages that follow it."""
    found = [await door.get(url)]
    while len(found) < MOST_PAGES:
        if found[-1].status != 200 or "link" not in content(found[-1]):
            break
        following = next_link(found[-1])
        if not following:
            break
        found.append(await door.get(following))
    return found


# --- what is found is what CALLERS says -----------------------------------------------------------


async def by_reading(door: Door) -> list[Reply]:
    return [await door.get(name) for name in CURRENT]


async def by_reading_every_version(door: Door) -> list[Reply]:
    return [await door.get(v.url) for v in VERSIONS]


async def by_instance_histories(door: Door) -> list[Reply]:
    return [r for name in CURRENT for r in await pages(door, f"{name}/_history?_count=1")]


async def by_reading_in_a_batch(door: Door) -> list[Reply]:
    return [await door.ask("POST", "", batch(*(get(name) for name in CURRENT)))]


async def by_reading_in_transactions(door: Door) -> list[Reply]:
    return [await door.ask("POST", "", transaction(get(name))) for name in CURRENT]


async def by_searching(door: Door) -> list[Reply]:
    return [await door.get(f"{t}?_count=100") for t in TYPES]


async def by_paging(door: Door) -> list[Reply]:
    return [reply for t in TYPES for reply in await pages(door, f"{t}?_count=2&_sort=_tag")]


async def by_posting_a_search(door: Door) -> list[Reply]:
    return [await door.ask("POST", f"{t}/_search") for t in TYPES]


async def by_words(door: Door) -> list[Reply]:
    tags = ",".join(f"{WORDS}|{one}" for v in LIVE for one in v.words if one.startswith("zq"))
    return [await door.get(f"{t}?_tag={tags}&_count=100") for t in TYPES]


async def by_ids(door: Door) -> list[Reply]:
    return [await door.get(f"{t}?_id={','.join(IDS)}&_count=100") for t in TYPES]


async def by_searching_all(door: Door) -> list[Reply]:
    return await pages(door, "?_lastUpdated=gt1990&_count=20")


async def by_type_histories(door: Door) -> list[Reply]:
    return [reply for t in TYPES for reply in await pages(door, f"{t}/_history?_count=3")]


async def by_the_history_of_all(door: Door) -> list[Reply]:
    return await pages(door, "_history?_count=10")


async def by_the_history_since(door: Door) -> list[Reply]:
    return await pages(door, "_history?_since=2020-01-01T00:00:00Z&_count=40")


Way = Callable[[Door], Any]
READING: Mapping[str, Way] = {
    "read": by_reading,
    "read in a batch": by_reading_in_a_batch,
    "read in transactions": by_reading_in_transactions,
}
READING_VERSIONS: Mapping[str, Way] = {
    "vread": by_reading_every_version,
    "history of instances": by_instance_histories,
}
FINDING: Mapping[str, Way] = {
    "search": by_searching,
    "search by pages": by_paging,
    "search posted": by_posting_a_search,
    "search by words": by_words,
    "search by ids": by_ids,
    "search of all types": by_searching_all,
}
FINDING_VERSIONS: Mapping[str, Way] = {
    "history of types": by_type_histories,
    "history of all": by_the_history_of_all,
    "history since": by_the_history_since,
}


def shown(versions: Sequence[Version], sees: Sees) -> set[str]:
    """Return the words of what is seen of these versions."""
    return words_in(repr([v for v in versions if sees(v)]))


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", CALLERS)
async def test_each_way_of_reading_shows_all_that_is_admitted_and_no_other_word(
    clinic: Door, name: str
) -> None:
    person, door = CALLERS[name], door_of(clinic, name)
    ways = {**READING, **READING_VERSIONS, **FINDING, **FINDING_VERSIONS}

    found = {way: sorted(words_in(told(*await look(door)))) for way, look in ways.items()}

    assert found == {
        **dict.fromkeys(READING, sorted(shown(LIVE, person.reads))),
        **dict.fromkeys(READING_VERSIONS, sorted(shown(VERSIONS, person.reads))),
        **dict.fromkeys(FINDING, sorted(shown(LIVE, person.finds))),
        **dict.fromkeys(FINDING_VERSIONS, sorted(shown(VERSIONS, person.finds))),
    }


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", CALLERS)
async def test_no_way_of_finding_names_what_is_hidden(clinic: Door, name: str) -> None:
    person, door = CALLERS[name], door_of(clinic, name)

    replies = [r for look in (by_searching, by_type_histories, by_the_history_of_all)
               for r in await look(door)]  # fmt: skip

    names = {one for one in IDS if one in told(*replies)}
    assert names == named_in([v for v in VERSIONS if person.finds(v)]) & IDS


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", CALLERS)
async def test_what_is_not_shown_is_404_and_what_one_has_no_right_to_403(
    clinic: Door, name: str
) -> None:
    person, door = CALLERS[name], door_of(clinic, name)
    definitions = clinic.server.definitions

    def reading(v: Version, status: int) -> int:
        if not person.may(definitions, v.type, "read"):
            return 403
        return status if person.reads(v) else 404

    read = {n: (await door.get(n)).status for n in CURRENT}
    vread = {v.url: (await door.get(v.url)).status for v in VERSIONS}
    found = {t: (await door.get(t)).status for t in TYPES}
    history = {t: (await door.get(f"{t}/_history")).status for t in TYPES}

    finding = {t: 200 if person.may(definitions, t, "search") else 403 for t in TYPES}
    assert read == {n: reading(v, 200 if v.body else 410) for n, v in CURRENT.items()}
    assert vread == {v.url: reading(v, 200 if v.body else 410) for v in VERSIONS}
    assert found == history == finding


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", CALLERS)
async def test_totals_count_what_is_shown(clinic: Door, name: str) -> None:
    person, door = CALLERS[name], door_of(clinic, name)
    types = [t for t in TYPES if person.may(clinic.server.definitions, t, "search")]
    ways = ("?_summary=count", "?_count=0", "?_total=accurate&_count=1", "?_total=estimate")

    totals = {t: {content(await door.get(t + way))["total"] for way in ways} for t in types}
    past = {t: content(await door.get(f"{t}/_history?_count=0"))["total"] for t in types}

    seen = [v for v in VERSIONS if person.finds(v)]
    live = [v for v in LIVE if person.finds(v)]
    assert totals == {t: {len([v for v in live if v.type == t])} for t in types}
    assert past == {t: len([v for v in seen if v.type == t]) for t in types}


# --- every answer is that of a server without the rest --------------------------------------------

A, B = (f"Patient/{place(owner, 'pat')}" for owner in ("ada", "bob"))
DOCTOR = f"Practitioner/{place('all', 'doc')}"
ROSTER = f"Group/{place('both', 'roster')}"
OWNERS = ("ada", "bob")


def tag(owner: str, kind: str) -> str:
    """Return the tag of a first version, as a search asks for it."""
    return f"{WORDS}|{word(owner, kind, 1)}"


def of_each(*templates: str) -> list[str]:
    """Return each template for either patient: `{p}` is the Patient, `{o}` the owner's name."""
    return [t.format(p=f"Patient/{place(o, 'pat')}", o=o) for t in templates for o in OWNERS]


def of_types(*templates: str) -> list[str]:
    """Return each template for each type."""
    return [template.format(t=t) for template in templates for t in TYPES]


SEARCHES = [
    *of_types(
        "{t}?_lastUpdated=gt2026-05-28T20:27:00Z",
        "{t}?_sort=-_lastUpdated,_id&_count=2&_total=accurate",
        "{t}?_tag:not=nothing&_sort=-_tag&_count=3",
        "{t}?_summary=true&_sort=_id",
        "{t}?_elements=id&_sort=-_id&_count=4",
        "{t}?_content=zqbobpatv1w",
        "{t}?_include=*&_include:iterate=*",
        "{t}?_revinclude=Observation:subject&_revinclude=Appointment:actor&_revinclude=List:item"
        "&_revinclude=Group:member&_revinclude:iterate=Provenance:target&_revinclude=Task:focus",
    ),
    # through the other patient, and through those whom both see
    *of_each(
        "Observation?patient={p}",
        "Observation?subject={p}&_sort=-value-quantity",
        "Observation?patient.name=zq{o}patv1w",
        "Observation?subject:Patient._tag=urn:words|zq{o}patv1w",
        "Observation?encounter._tag=urn:words|zq{o}encv1w",
        "Observation?encounter.patient.name=zq{o}patv1w",
        "Observation?performer:Practitioner._has:Encounter:participant:patient._id=zq-{o}-pat-i",
        "Practitioner?_has:Encounter:participant:patient={p}",
        "Practitioner?_has:Encounter:participant:_tag=urn:words|zq{o}encv1w",
        "Practitioner?_has:Appointment:actor:_has:Provenance:target:_id=zq-none-origin-i",
        "Practitioner?_has:Patient:general-practitioner:name=zq{o}patv1w",
        "Organization?_has:Patient:organization:name=zq{o}patv1w",
        "Location?_has:Encounter:location:subject={p}",
        "Medication?_has:MedicationRequest:medication:patient={p}",
        "Questionnaire?_has:QuestionnaireResponse:questionnaire:patient={p}",
        "Patient?_has:Group:member:_tag=urn:words|zqbothrosterv1w&_id=zq-{o}-pat-i",
        "Patient?_has:Appointment:actor:_tag=urn:words|zqbothsessionv1w",
        "Patient?_has:List:subject:item:Condition._tag=urn:words|zq{o}condv1w",
        "List?item:Observation._tag=urn:words|zq{o}labv1w",
        "List?item:Condition.code:text=zq{o}cond",
        "List?item:Condition.patient.name=zq{o}patv1w",
        "List?item=Observation/zq-{o}-lab-i",
        "Composition?entry:Observation._tag=urn:words|zq{o}obsv1w",
        "Composition?entry:Observation.patient={p}",
        "Task?patient={p}",
        "Task?patient.name=zq{o}patv1w",
        "Task?focus:Observation.code:text=zq{o}obs",
        "Device?patient={p}&_include=Device:patient",
        "Device?patient.name=zq{o}patv1w",
        "Observation?_list=zq-{o}-list-i",
        "Condition?_list=zq-{o}-list-i",
        "Observation/_history?_list=zq-{o}-list-i",
        "Group?member={p}",
        "Group?member:Patient.name=zq{o}patv1w",
        "Appointment?actor={p}",
        "Appointment?patient.name=zq{o}patv1w&_include=Appointment:actor",
        "Provenance?target=Observation/zq-{o}-obs-i",
        "Provenance?target={p}",
        "Provenance?patient={p}",
        "DocumentReference?patient={p}&_include=*",
        "Observation?code:text=zq{o}",
        "Observation?combo-code-value-quantity=718-7$gt1&subject={p}",
        "Patient?name=zq{o}",
        "Patient?email=zq{o}patv1w@example.org",
        "Patient?identifier=urn:words|zq{o}patv1w",
        "Patient?_text=zq{o}patv1w",
        "Patient?name:contains={o}pat",
        'Patient?_filter=name co "{o}pat"',
        'Observation?_filter=code eq "zq{o}obsv1w"',
        'Observation?_filter=patient.name sw "zq{o}"',
        'Observation?_filter=patient eq "{p}" and not (code eq "718-7")',
    ),
    "Observation?patient.gender=male",
    "Observation?patient.gender:not=female",
    "Observation?patient.gender:missing=true",
    "Observation?subject.gender:missing=false",
    "Observation?subject:Group.member=" + B,
    f"Observation?subject={ROSTER}",
    "Observation?subject:missing=true",
    "Observation?value-quantity=gt12",
    "Observation?date=lt2026-03-02",
    "Observation?_sort=subject&_count=2",
    "Observation?_sort=-date,_id&_count=1",
    "Observation?_sort=value-quantity&_count=2",
    "Observation?_sort=code&_count=3",
    "Patient?_sort=birthdate",
    "Patient?_sort=-name&_count=1",
    "Patient?gender:not=female",
    "Patient?birthdate=lt1970&_total=accurate",
    "Appointment?date=2026-03-03&_sort=actor",
    "Group?managing-entity:missing=true&_include=Group:member",
    "Group?_include=Group:member&_revinclude=Observation:subject",
    "Practitioner?_revinclude=Encounter:participant&_include:iterate=Encounter:patient",
    "Practitioner?_revinclude=Appointment:actor&_include:iterate=Appointment:actor"
    "&_revinclude:iterate=Observation:subject",
    "Location?_revinclude=Encounter:location&_revinclude:iterate=Observation:encounter",
    "Medication?_revinclude=MedicationRequest:medication",
    "Questionnaire?_revinclude=QuestionnaireResponse:questionnaire",
    "Organization?_revinclude=Patient:organization&_revinclude:iterate=Observation:patient",
    "List?_include=List:item&_include:iterate=Observation:patient",
    "Observation?code:in=http://example.org/codes",
    f"Observation?code:not-in=ValueSet/{place('all', 'codes')}",
    "Observation?code:in=ValueSet/zq-all-nones-i",
    "Observation?nothing=1",
    "Observation?_sort=nothing",
    # compartments
    *of_each(
        "{p}/Observation",
        "{p}/Appointment?_include=*",
        "{p}/Group",
        "{p}/*?_count=5",
        "{p}/*?_type=Patient,Observation,Appointment,Communication",
        "{p}/Observation?_summary=count",
        "Encounter/zq-{o}-enc-i/*",
        "Encounter/zq-{o}-enc-i/Observation?_total=accurate",
        "Device/zq-{o}-dev-i/*",
        "RelatedPerson/zq-{o}-rel-i/*",
    ),
    f"{DOCTOR}/*?_count=4",
    f"{DOCTOR}/Encounter",
    f"{DOCTOR}/Appointment?_total=accurate",
    f"{DOCTOR}/Observation?patient.gender=male",
    # all types
    "?_type=Patient,Observation,Group&_sort=-_lastUpdated&_count=3",
    "?_type=Patient,Practitioner&_tag:not=nothing",
    f"?_type=Observation,Condition&_tag={tag('bob', 'cond')},{tag('ada', 'cond')}",
    "?_type=Practitioner,Location&_revinclude=Encounter:participant&_revinclude=Encounter:location",
    "_history?_at=2999&_count=7",
    "_history?_at=2026-05-28T20:27:30Z&_count=7",
    "_history?_since=2026-05-28T20:28:00Z&_count=7",
    "_history?_count=0",
    *of_each("_history?_list=zq-{o}-list-i"),
    *of_types("{t}/_history?_at=2026-05-28T20:27:30Z", "{t}/_history?_count=2&_summary=true"),
]
OPERATIONS = [
    *of_each(
        "{p}/$everything",
        "{p}/$everything?_count=3",
        "{p}/$everything?_type=Observation,Group,Appointment,Practitioner",
        "{p}/$everything?start=2026-03-02&end=2026-03-03",
        "{p}/$everything?_since=2026-05-28T20:27:20Z",
        "Encounter/zq-{o}-enc-i/$everything",
        "Observation/$lastn?patient={p}&category=survey",
        "Observation/$lastn?patient={p}&category=laboratory&max=3",
        "Composition/zq-{o}-note-i/$document",
        "Composition/zq-{o}-both-i/$document",
        "{p}/$meta",
        "{p}/_history/1/$meta",
        "Observation/zq-{o}-obs-i/$meta",
    ),
    f"Observation/$lastn?subject={ROSTER}&category=survey",
    f"{ROSTER}/$meta",
    f"Appointment/{place('both', 'session')}/$meta",
    *of_types("{t}/$meta"),
    "$meta",
]
READS = [
    *(f"{name}?_summary=text" for name in CURRENT),
    *(f"{name}?_elements=id,meta" for name in CURRENT),
    *(f"{name}/_history?_since=2026-05-28T20:27:00Z" for name in CURRENT),
    *(f"{v.url}?_summary=data" for v in VERSIONS),
]
# One of each set of people who see the same
DIFFERENT = {
    "a patient",
    "the laboratory values of a patient",
    "a client of observations",
    "a client that only searches",
    "a client that only reads",
}


ONE_RIGHT = {"a client that only searches", "a client that only reads"}


def plain(reply: Reply) -> tuple[Any, ...]:
    """Return an answer without its cursors, which belong to a policy."""
    body = re.sub(r"_cursor=[^\"&]*", "_cursor=", reply.body.decode())
    return reply.status, body, reply.version, reply.updated, reply.location, dict(reply.extra)


async def differences(door: Door, other: Door, urls: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return what is answered otherwise at the two doors, a page each, and to which URL."""
    found = []
    for url in urls:
        ours, theirs = await pages(door, url), await pages(other, url)
        if list(map(plain, ours)) != list(map(plain, theirs)):
            found.append((url, [plain(r)[:2] for r in ours], [plain(r)[:2] for r in theirs]))
    return found


def refused(reply: Reply) -> bool:
    """Return whether a right is missing."""
    return reply.status == 403 and content(reply)["issue"][0]["code"] == "forbidden"


async def answered(door: Door, urls: Iterable[str]) -> list[str]:
    """Return the URLs that are not refused for want of a right."""
    return [url for url in urls if not refused(await door.get(url))]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", sorted(DIFFERENT))
async def test_a_search_is_answered_as_if_there_were_nothing_else(
    clinic: Door, twin: Twin, name: str
) -> None:
    person, door = CALLERS[name], door_of(clinic, name)
    allowed = [url for url in SEARCHES if may_search(person, clinic, url)]

    assert await differences(door, await twin(person.finds), allowed) == []
    assert await answered(door, set(SEARCHES) - set(allowed)) == []


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", sorted(DIFFERENT))
async def test_a_read_is_answered_as_if_there_were_nothing_else(
    clinic: Door, twin: Twin, name: str
) -> None:
    person, door = CALLERS[name], door_of(clinic, name)
    types = {t for t in TYPES if person.may(clinic.server.definitions, t, "read")}
    allowed = [url for url in READS if url.split("/")[0] in types]

    assert await differences(door, await twin(person.reads), allowed) == []
    assert await answered(door, set(READS) - set(allowed)) == []


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", sorted(DIFFERENT - ONE_RIGHT))
async def test_an_operation_is_answered_as_if_there_were_nothing_else_or_refused(
    clinic: Door, twin: Twin, name: str
) -> None:
    person, door = CALLERS[name], door_of(clinic, name)
    allowed = await answered(door, OPERATIONS)

    assert await differences(door, await twin(person.reads), allowed) == []
    if name == "a patient":
        assert {url.split("/")[0] for url in set(OPERATIONS) - set(allowed)} <= {"Bundle", "Slot"}


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", CALLERS)
async def test_no_operation_tells_what_can_neither_be_read_nor_found(
    clinic: Door, name: str
) -> None:
    person, door = CALLERS[name], door_of(clinic, name)

    replies = [reply for url in OPERATIONS for reply in await pages(door, url)]

    known = shown(VERSIONS, lambda version: person.reads(version) or person.finds(version))
    assert words_in(told(*replies)) <= known
    assert {reply.status for reply in replies} <= {200, 403, 404, 410, 422}


def shows(person: Person, clinic: Door, type: str) -> bool:
    """Return whether a person may see any of a type in one way or the other."""
    definitions = clinic.server.definitions
    return any(person.may(definitions, type, right) for right in ("read", "search"))


def may_search(person: Person, clinic: Door, url: str) -> bool:
    """Return whether a person has the right that a search or history asks for."""
    definitions = clinic.server.definitions
    path, _, query = url.partition("?")
    parts = path.split("/")
    if parts[-1] == "_history" and len(parts) == 3:
        return person.may(definitions, parts[0], "read")
    if len(parts) == 3 and not shows(person, clinic, parts[0]):
        return False  # the centre of a compartment
    named = re.search(r"(?:^|&)_type=([^&]*)", query)
    types = named[1].split(",") if named else [parts[2] if len(parts) == 3 else parts[0]]
    if types[0] in ("", "*", "_history"):
        return any(person.may(definitions, t, "search") for t in definitions.resource_types)
    return all(person.may(definitions, t, "search") for t in types)


@pytest.mark.asyncio(loop_scope="session")
async def test_the_questions_have_answers(clinic: Door) -> None:
    everybody, patient = door_of(clinic, "a client"), door_of(clinic, "a patient")
    some = SEARCHES[::4]

    different = [u for u in some if (await everybody.get(u)).body != (await patient.get(u)).body]

    assert len(different) > len(some) / 2  # else the questions would prove little


# --- and what was never shown is not told in other ways ------------------------------------------


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", sorted(DIFFERENT - {"a client that only reads"}))
async def test_a_cursor_of_somebody_else_is_refused(clinic: Door, name: str) -> None:
    everybody, door = door_of(clinic, "a client"), door_of(clinic, name)
    urls = ["Observation?_count=1", "Observation/_history?_count=1", "_history?_count=1"]

    links = [next_link(await everybody.get(url)) for url in urls]
    replies = [await door.get(link) for link in links]

    same = name == "a client that only searches"  # who searches all there is, as the client does
    assert same or [reply.status for reply in replies] == [400] * len(urls)
    assert same or words_in(told(*replies)) == set()


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", sorted(DIFFERENT - {"a client that only searches"}))
async def test_how_a_search_was_done_is_not_explained(clinic: Door, name: str) -> None:
    reply = await door_of(clinic, name).get(f"Observation?patient={B}&_explain=1")

    assert refused(reply)
    assert words_in(told(reply)) == set()


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", CALLERS)
async def test_whoever_has_a_version_is_told_only_of_what_is_shown(clinic: Door, name: str) -> None:
    person, door = CALLERS[name], door_of(clinic, name)

    def expected(v: Version) -> tuple[int, int, int]:
        if not person.may(clinic.server.definitions, v.type, "read"):
            return 403, 0, 0
        if not person.reads(v):
            return 404, 0, 0
        return 304, v.number, START + VERSIONS.index(v) * 1_000_000

    replies = {v.url: await door.ask("GET", v.name, if_none_match=f'W/"{v.number}"') for v in LIVE}

    assert {url: (r.status, r.version, r.updated) for url, r in replies.items()} == {
        v.url: expected(v) for v in LIVE
    }
