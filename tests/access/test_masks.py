"""A mask cuts elements, and what a search could tell of them (Policy.mask)."""

import pytest

from app.fhir.access import Policy
from tests.access.door import Door, content, entries, next_link
from tests.support.resources import batch, get, observation, patient, reference

BIRTH = Policy(mask={"Patient": frozenset({"Patient.birthDate"})})
FAMILY = Policy(mask={"Patient": frozenset({"Patient.name.family"})})
NAME = Policy(mask={"Patient": frozenset({"Patient.name"})})
CLINIC = Policy(mask={"Patient": frozenset({"Patient.managingOrganization"})})
VALUE = Policy(mask={"Observation": frozenset({"Observation.value[x]"})})
SUBJECT = Policy(mask={"Observation": frozenset({"Observation.subject"})})


@pytest.fixture
async def record(door: Door) -> Door:
    """A server with a Patient who has an Observation and an Organization."""
    await door.put({"resourceType": "Organization", "id": "clinic", "name": "Clinic"})
    clinic = reference("Organization/clinic")
    await door.put(patient(id="ada", managingOrganization=clinic))
    await door.put(patient(id="ada", managingOrganization=clinic, active=False))
    await door.put(observation(id="o", subject=reference("Patient/ada")))
    return door


async def bodies(door: Door) -> dict[str, dict[str, object]]:
    """Return the Patient as each way of reading shows her."""
    found = {
        "read": content(await door.get("Patient/ada")),
        "vread": content(await door.get("Patient/ada/_history/1")),
        "in a batch": entries(await door.ask("POST", "", batch(get("Patient/ada"))))[0]["resource"],
    }
    for url in (
        *("Patient", "Patient?_sort=_id", "Patient?_elements=birthDate,name", "Patient/ada/*"),
        *("?_type=Patient", "Patient/ada/_history", "Patient/_history", "_history"),
        "Observation?_include=Observation:patient",
    ):
        found |= {
            f"{url} {n}": entry["resource"]
            for n, entry in enumerate(entries(await door.get(url)))
            if entry["resource"]["resourceType"] == "Patient"
        }
    return found


async def test_no_way_of_reading_shows_what_is_masked(record: Door) -> None:
    shown = await bodies(record)
    birth = await bodies(record.under(BIRTH))
    family = await bodies(record.under(FAMILY))

    assert len(shown) == len(birth) == len(family) >= 12
    assert {way: "birthDate" in body for way, body in shown.items()} == dict.fromkeys(shown, True)
    assert {way: "birthDate" in body for way, body in birth.items()} == dict.fromkeys(birth, False)
    assert {way: "Marsh" in str(body) for way, body in family.items()} == dict.fromkeys(
        family, False
    )
    assert {way: "Ada" in str(body) for way, body in family.items()} == dict.fromkeys(family, True)


# A policy, and searches that read what it masks
MASKED: list[tuple[Policy, list[str]]] = [
    (
        BIRTH,
        [
            *("Patient?birthdate=1985-04-12", "Patient?birthdate:missing=true"),
            *("Patient?_sort=birthdate", "Patient?_sort=gender,-birthdate"),
            *("Observation?patient.birthdate=1985", "Observation?subject:Patient.birthdate=1985"),
            "Organization?_has:Patient:organization:birthdate=1985",
            "Patient/ada/Patient?birthdate=1985",
            "?_type=Patient&birthdate=1985",
        ],
    ),
    (
        FAMILY,
        [
            *("Patient?family=marsh", "Patient?name=marsh", "Patient?phonetic=marsh"),
            *("Patient?family:contains=ars", "Patient?_sort=family", "Patient?_sort=name"),
            "Observation?patient.name=marsh",
        ],
    ),
    (NAME, ["Patient?family=marsh", "Patient?given=ada", "Patient?name:exact=Ada"]),
    (
        CLINIC,
        [
            *("Patient?organization=clinic", "Patient?organization.name=clinic"),
            *("Patient?_include=Patient:organization", "Patient?_sort=organization"),
            "Organization?_revinclude=Patient:organization",
            "Organization?_has:Patient:organization:gender=female",
            "Observation?patient.organization=clinic",
        ],
    ),
    (
        VALUE,
        [
            *("Observation?value-quantity=11", "Observation?combo-value-quantity=11"),
            *("Observation?code-value-quantity=44261-6$11", "Observation?_sort=value-quantity"),
            "Patient?_has:Observation:patient:value-quantity=gt1",
        ],
    ),
    (
        SUBJECT,
        [
            *("Observation?subject=Patient/ada", "Observation?patient=ada"),
            *("Observation?patient.gender=female", "Patient?_revinclude=Observation:patient"),
            "Observation?_include=Observation:subject",
            "Patient?_has:Observation:patient:status=final",
        ],
    ),
]


async def test_a_parameter_that_reads_what_is_masked_is_unknown(record: Door) -> None:
    statuses = {
        url: ((await record.get(url)).status, (await record.under(policy).get(url)).status)
        for policy, urls in MASKED
        for url in urls
    }

    assert statuses == dict.fromkeys(statuses, (200, 400))


async def test_an_unknown_parameter_and_a_masked_one_are_told_alike(record: Door) -> None:
    somebody = record.under(BIRTH)
    for way in (
        *("Patient?{}=1985", "Patient?_sort={}", "Observation?subject:Patient.{}=1985"),
        "Organization?_has:Patient:organization:{}=1985",
    ):
        masked = await somebody.get(way.format("birthdate"))
        unknown = await somebody.get(way.format("shoe-size"))

        assert masked.body.replace(b"birthdate", b"shoe-size") == unknown.body, way
        assert masked.body.count(b"birthdate") == unknown.body.count(b"shoe-size"), way


async def test_other_searches_find_as_without_a_mask(record: Door) -> None:
    urls = [
        *("Patient?gender=female", "Patient?given=ada", "Observation?patient.gender=female"),
        *("Patient?_sort=gender", "Observation?_include=Observation:patient&_total=accurate"),
    ]

    everything = [len(entries(await record.get(url))) for url in urls]
    masked = [len(entries(await record.under(BIRTH).get(url))) for url in urls]

    assert masked == everything == [1, 1, 1, 1, 2]


async def test_all_includes_leave_out_what_a_masked_reference_leads_to(record: Door) -> None:
    def types(found: list[dict[str, dict[str, str]]]) -> list[str]:
        return sorted(entry["resource"]["resourceType"] for entry in found)

    everything = entries(await record.get("Patient?_include=*"))
    masked = entries(await record.under(CLINIC).get("Patient?_include=*"))

    assert types(everything) == ["Organization", "Patient"]
    assert types(masked) == ["Patient"]


async def test_what_is_cut_says_so(record: Door) -> None:
    reply = content(await record.under(BIRTH).get("Patient/ada"))

    # resource.html#Meta: SUBSETTED, and an incomplete resource is not to be written back
    assert "SUBSETTED" in [tag["code"] for tag in reply["meta"].get("tag", [])]


async def test_a_cursor_of_one_mask_is_refused_under_another(record: Door) -> None:
    await record.put(patient(id="bob"))
    doors = [record, record.under(BIRTH), record.under(NAME)]

    links = [next_link(await door.get("Patient?_count=1")) for door in doors]
    statuses = [[(await door.get(link)).status for link in links] for door in doors]

    assert statuses == [[200, 400, 400], [400, 200, 400], [400, 400, 200]]
