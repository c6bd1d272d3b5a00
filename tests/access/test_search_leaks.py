"""What a search finds through references follows from what its caller may see, and nothing else.

Whatever is hidden is neither a link of a chain, nor evidence of `_has`, nor a List, nor included,
nor counted; and it does not change the order of what is shown.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from app.fhir.access import Policy
from app.fhir.query import All, Not, Nothing
from tests.access.door import Door, content, entries, named, next_link
from tests.access.world import POLICIES, REFERS, RESTRICTED, RESTRICTED_ONES
from tests.support.resources import coded, observation, reference, resource

Seen = set[str]
R = f"{RESTRICTED['system']}|R"
ADA, BOB = {"Patient/ada"}, {"Patient/bob"}
SECRETS = {"Observation/ada-secret", "Observation/bob-secret"}
COMPARTMENTS = {
    "ada": {"Patient/ada", "Observation/ada-open", "Observation/ada-secret", "Appointment/shared"},
    "bob": {
        *("Patient/bob", "Observation/bob-open", "Observation/bob-secret"),
        *("Appointment/shared", "Appointment/bob-only"),
    },
}


def of(type: str, seen: Seen) -> Seen:
    """Return what of it is of that type."""
    return {name for name in seen if name.startswith(f"{type}/")}


def own(owner: str, seen: Seen) -> Seen:
    """Return what of it is in a Patient's compartment, which is there if the Patient is."""
    return seen & COMPARTMENTS[owner] if f"Patient/{owner}" in seen else set()


def to(sources: Seen, targets: Seen) -> Seen:
    """Return the sources that refer to one of the targets."""
    return {name for name in sources if REFERS[name] & targets}


def by(targets: Seen, sources: Seen) -> Seen:
    """Return the targets that one of the sources refers to."""
    return {name for name in targets if any(name in REFERS[source] for source in sources)}


# A search, and what it finds for those who see so much
FINDS: Mapping[str, Callable[[Seen], Seen]] = {
    # chains
    "Observation?subject:Patient._id=ada,bob": lambda s: to(
        of("Observation", s), s & ADA | s & BOB
    ),
    "Observation?patient.gender=female": lambda s: to(of("Observation", s), s & ADA),
    "Observation?patient.gender:not=female": lambda s: to(of("Observation", s), s & BOB),
    "Observation?subject.gender:missing=true": lambda s: set(),
    "Observation?patient._lastUpdated=gt1990": lambda s: to(of("Observation", s), of("Patient", s)),
    "Appointment?patient.gender=male": lambda s: to(of("Appointment", s), s & BOB),
    "Appointment?actor:Patient.name=marsh": lambda s: to(of("Appointment", s), of("Patient", s)),
    f"List?item:Observation._security={R}": lambda s: to(of("List", s), s & SECRETS),
    "List?item:Observation.patient.gender=male": lambda s: to(
        of("List", s), to(of("Observation", s), s & BOB)
    ),
    "List?item:List.item:Appointment.patient.gender=female": lambda s: to(
        of("List", s), to(of("List", s), to(of("Appointment", s), s & ADA))
    ),
    # reverse chains
    f"Patient?_has:Observation:patient:_security={R}": lambda s: by(of("Patient", s), s & SECRETS),
    "Patient?_has:Observation:patient:status=final": lambda s: by(
        of("Patient", s), of("Observation", s)
    ),
    "Patient?_has:Observation:patient:status:not=amended": lambda s: by(
        of("Patient", s), of("Observation", s)
    ),
    "Patient?_has:Appointment:actor:_id=bob-only": lambda s: by(
        of("Patient", s), s & {"Appointment/bob-only"}
    ),
    "Patient?_has:Observation:patient:_has:List:item:_id=secret": lambda s: by(
        of("Patient", s), by(of("Observation", s), s & {"List/secret"})
    ),
    "Observation?_has:List:item:status=current": lambda s: by(of("Observation", s), of("List", s)),
    "Observation?patient._has:Appointment:actor:_id=bob-only": lambda s: to(
        of("Observation", s), by(of("Patient", s), s & {"Appointment/bob-only"})
    ),
    "Observation?_has:List:item:item:Patient.gender=female": lambda s: by(
        of("Observation", s), to(of("List", s), s & ADA)
    ),
    # lists
    "Observation?_list=secret": lambda s: by(of("Observation", s), s & {"List/secret"}),
    "Patient?_list=open": lambda s: by(of("Patient", s), s & {"List/open"}),
    "List?_list=secret": lambda s: by(of("List", s), s & {"List/secret"}),
    # compartments
    "Patient/ada/Observation": lambda s: of("Observation", own("ada", s)),
    "Patient/bob/Appointment": lambda s: of("Appointment", own("bob", s)),
    "Patient/ada/*": lambda s: own("ada", s),
    "Patient/bob/*?_type=Patient,Observation": lambda s: (
        of("Patient", own("bob", s)) | of("Observation", own("bob", s))
    ),
    # all types
    "?_type=Patient,Observation,List": lambda s: (
        of("Patient", s) | of("Observation", s) | of("List", s)
    ),
    f"?_type=Observation,List&_security={R}": lambda s: s & (SECRETS | {"List/secret"}),
    # what has no such value
    f"Observation?_security:not={R}": lambda s: of("Observation", s) - SECRETS,
    "Observation?_security:missing=true": lambda s: of("Observation", s) - SECRETS,
}

# Includes: a search for all of a type, and what comes along
INCLUDES: Mapping[str, Callable[[Seen], Seen]] = {
    "Observation?_include=Observation:patient": lambda s: by(
        of("Patient", s), of("Observation", s)
    ),
    "Appointment?_include=Appointment:actor": lambda s: by(of("Patient", s), of("Appointment", s)),
    "Patient?_revinclude=Observation:subject": lambda s: to(of("Observation", s), of("Patient", s)),
    "Appointment?_revinclude=List:item": lambda s: to(of("List", s), of("Appointment", s)),
    "Appointment?_include=*": lambda s: by(of("Patient", s), of("Appointment", s)),
    # a hidden link does not lead on
    "Appointment?_revinclude=List:item&_include:iterate=List:item:Observation": lambda s: (
        (lists := to(of("List", s), of("Appointment", s))) | by(of("Observation", s), lists)
    ),
    "Appointment?_include=Appointment:actor&_revinclude:iterate=Observation:patient": lambda s: (
        (owners := by(of("Patient", s), of("Appointment", s))) | to(of("Observation", s), owners)
    ),
}

SORTS = ["_id", "-_id", "_lastUpdated", "_tag", "-_tag,_id", "-_security", "_security,-_id"]


async def walk(door: Door, url: str) -> list[str]:
    """Return the names on all pages, in order."""
    seen: list[str] = []
    while url:
        reply = await door.get(url)
        seen += named(reply)
        url = next_link(reply)
    return seen


async def put(door: Door, body: dict[str, Any]) -> None:
    """Put a resource that must be valid."""
    reply = await door.put(body)
    assert reply.status == 201, reply.body


def joined(url: str, more: str) -> str:
    """Return the URL with more of a query."""
    return f"{url}{'&' if '?' in url else '?'}{more}"


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", POLICIES)
async def test_a_search_follows_nothing_that_is_hidden(lasting_world: Door, name: str) -> None:
    policy, shown = POLICIES[name]
    somebody = lasting_world.under(policy)

    seen = {url: sorted(await walk(somebody, joined(url, "_count=2"))) for url in FINDS}

    assert seen == {url: sorted(finds(shown)) for url, finds in FINDS.items()}


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", POLICIES)
async def test_no_total_counts_what_is_hidden(lasting_world: Door, name: str) -> None:
    policy, shown = POLICIES[name]
    somebody = lasting_world.under(policy)
    ways = ["_total=accurate&_count=1", "_total=estimate&_count=1", "_summary=count", "_count=0"]

    totals = {
        url: [content(await somebody.get(joined(url, way)))["total"] for way in ways]
        for url in FINDS
    }

    assert totals == {url: [len(finds(shown))] * len(ways) for url, finds in FINDS.items()}


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", POLICIES)
async def test_nothing_hidden_is_included_or_leads_to_what_is(
    lasting_world: Door, name: str
) -> None:
    policy, shown = POLICIES[name]
    somebody = lasting_world.under(policy)

    found = {}
    for url in INCLUDES:
        reply = await somebody.get(url)
        modes = [entry["search"]["mode"] for entry in entries(reply)]
        pairs = list(zip(modes, named(reply), strict=True))
        found[url] = (
            sorted(n for m, n in pairs if m == "match"),
            sorted(n for m, n in pairs if m == "include"),
        )

    assert found == {
        url: (
            sorted(of(url.partition("?")[0], shown)),
            sorted(along(shown) - of(url.partition("?")[0], shown)),
        )
        for url, along in INCLUDES.items()
    }


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", POLICIES)
async def test_what_is_hidden_does_not_change_the_order(lasting_world: Door, name: str) -> None:
    policy, shown = POLICIES[name]
    somebody = lasting_world.under(policy)
    urls = [
        *(f"{type}?_sort={sort}" for type in ("Observation", "List") for sort in SORTS),
        *("Observation", "Appointment", "Observation?_sort=subject", "List?_sort=-item"),
    ]

    orders = {url: await walk(somebody, joined(url, "_count=2")) for url in urls}

    assert orders == {
        url: [name for name in await walk(lasting_world, url) if name in shown] for url in urls
    }


async def test_a_hidden_value_set_is_one_that_nobody_knows(door: Door) -> None:
    made = {"status": "active", "url": "http://example.org/vs", "meta": {"security": [RESTRICTED]}}
    made["compose"] = {"include": [{"system": "urn:s", "concept": [{"code": "a"}]}]}
    await put(door, resource("ValueSet", {"id": "hidden", **made}, {}))
    await put(door, observation(id="o", code=coded("a", "urn:s")))
    somebody = door.under(Policy(otherwise=Not(RESTRICTED_ONES)))

    for asked in ("http://example.org/{}", "ValueSet/{}"):
        for way in ("Observation?code:in={}", "Observation?code:not-in={}"):
            url = way.format(asked)
            known = url.format("vs" if "http" in asked else "hidden")
            unknown = url.format("no" if "http" in asked else "absent")
            allowed, told, absent = (
                await door.get(known),
                await somebody.get(known),
                await somebody.get(unknown),
            )

            assert allowed.status == 200
            assert (told.status, absent.status) == (400, 400)
            assert told.body.replace(b"vs", b"no").replace(b"hidden", b"absent") == absent.body


async def test_a_hidden_code_system_has_no_hierarchy(door: Door) -> None:
    made = {"status": "active", "url": "urn:s", "content": "complete", "hierarchyMeaning": "is-a"}
    made["concept"] = [{"code": "a", "concept": [{"code": "b"}]}]  # type: ignore[assignment]
    await put(
        door, resource("CodeSystem", {"id": "h", "meta": {"security": [RESTRICTED]}, **made}, {})
    )
    await put(door, observation(id="o", code=coded("b", "urn:s")))
    somebody = door.under(Policy(otherwise=Not(RESTRICTED_ONES)))

    allowed = await door.get("Observation?code:below=urn:s|a")
    told = await somebody.get("Observation?code:below=urn:s|a")
    absent = await somebody.get("Observation?code:below=urn:t|a")

    assert named(allowed) == ["Observation/o"]
    assert told.status == absent.status == 400
    assert told.body.replace(b"urn:s", b"urn:t") == absent.body


async def test_a_hidden_place_does_not_connect_those_above_and_below_it(door: Door) -> None:
    places = {"campus": None, "house": "campus", "ward": "house"}
    for id, parent in places.items():
        labels = {"meta": {"security": [RESTRICTED]}} if id == "house" else {}
        part_of = {"partOf": reference(f"Location/{parent}")} if parent else {}
        await put(door, resource("Location", {"id": id, **labels, **part_of}, {}))
        body = {"id": f"at-{id}", "status": "planned", "class": {"code": "AMB"}}
        at = [{"location": reference(f"Location/{id}")}]
        await put(door, resource("Encounter", {**body, "location": at}, {}))
    somebody = door.under(Policy(otherwise=Not(RESTRICTED_ONES)))

    allowed = named(await door.get("Encounter?location:below=campus&_sort=_id"))
    told = named(await somebody.get("Encounter?location:below=campus&_sort=_id"))
    above = named(await somebody.get("Encounter?location:above=ward&_sort=_id"))

    assert allowed == ["Encounter/at-campus", "Encounter/at-house", "Encounter/at-ward"]
    assert "Encounter/at-ward" not in told
    assert "Encounter/at-campus" not in above


async def test_hidden_versions_of_a_questionnaire_are_no_end_of_a_chain(door: Door) -> None:
    for version, labels in (("1", {}), ("2", {"meta": {"security": [RESTRICTED]}})):
        made = {"id": f"q{version}", "url": "http://example.org/q", "version": version, **labels}
        made |= {"status": "active", "title": "Mood"}
        await put(door, resource("Questionnaire", made, {}))
        asked = {"questionnaire": f"http://example.org/q|{version}", "status": "completed"}
        await put(door, resource("QuestionnaireResponse", {"id": f"r{version}", **asked}, {}))
    somebody = door.under(Policy(otherwise=Not(RESTRICTED_ONES)))
    chain = "QuestionnaireResponse?questionnaire.title=mood&_sort=_id"
    include = "QuestionnaireResponse?_sort=_id&_include=QuestionnaireResponse:questionnaire"

    assert named(await door.get(chain)) == ["QuestionnaireResponse/r1", "QuestionnaireResponse/r2"]
    assert named(await somebody.get(chain)) == ["QuestionnaireResponse/r1"]
    assert named(await somebody.get(include)) == [
        *("QuestionnaireResponse/r1", "QuestionnaireResponse/r2", "Questionnaire/q1")
    ]


async def test_a_chain_looks_at_the_search_right_of_its_target(door: Door) -> None:
    await put(door, resource("Patient", {"id": "ada", "gender": "female"}, {}))
    await put(door, observation(id="o", subject=reference("Patient/ada")))
    policy = Policy({("Patient", "search"): Nothing(), ("Patient", "read"): All()})
    somebody = door.under(policy)

    assert named(await somebody.get("Observation?patient.gender=female")) == []
    assert (await somebody.get("Patient/ada")).status == 200
