"""The profiles say what the server does: whatever its operations make fits them."""

from collections.abc import Iterator
from typing import Any

import pytest

from app.domain import shipped
from app.fhir.definitions import load
from app.fhir.path import Model, compile  # noqa: A004
from tests.domain import clinic
from tests.domain.office import Iop, param, said
from tests.domain.test_admit import asking
from tests.domain.test_attendance import one, presence

V = clinic.V
MODEL = Model(load())
PROFILES = {
    one["id"]: one
    for one in shipped.resources(V.base)
    if one["resourceType"] == "StructureDefinition" and one["type"] != "Extension"
}
CONTEXTS = {
    one["url"]: {context["expression"] for context in one["context"]}
    for one in shipped.resources(V.base)
    if one["resourceType"] == "StructureDefinition" and one["type"] == "Extension"
}
PROVEN = {
    # What an operation or a builder made, by the profile that it has to fit
    "iop-program-service": clinic.service(),
    "iop-program-template": clinic.plan(clinic.action("mon")),
    "iop-roster-group": clinic.roster("Patient/p1"),
    "iop-treatment-episode": clinic.episode("p1"),
    "iop-loc-order": clinic.order("p1"),
    "iop-session-appointment": clinic.session("2026-03-03"),
    "iop-patient-appointment": clinic.booked(clinic.session("2026-03-03"), "p1"),
}


def broken(profile: dict[str, Any], resource: dict[str, Any]) -> list[str]:
    """Return what of a profile a resource does not fit."""
    return [
        expression
        for expression in demanded(profile)
        if compile(expression, profile["type"], MODEL)(resource, resource=resource, root=resource)
        == [False]
    ]


def demanded(profile: dict[str, Any]) -> Iterator[str]:
    """Yield what a profile demands, as FHIRPath."""
    root, *elements = profile["differential"]["element"]
    yield from (one["expression"] for one in root.get("constraint", ()))
    for element in elements:
        *above, name = element["path"].removesuffix("[x]").split(".")[1:]
        what = name
        if "sliceName" in element:
            what += f".where(url = '{element['type'][0]['profile'][0]}')"
        limits = [f"{what}.count() >= {element['min']}"] if "min" in element else []
        if element.get("max", "*") != "*":
            limits.append(f"{what}.count() <= {element['max']}")
        if "fixedCode" in element:
            limits.append(f"{what} = '{element['fixedCode']}'")
        for limit in limits:
            yield f"{above[0]}.all({limit})" if above else limit


def misplaced(resource: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (element, extension) of the extensions of ours that are not where they belong."""
    found = placed(resource["resourceType"], resource)
    return [(path, url) for path, url in found if path not in CONTEXTS.get(url, ())]


def placed(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield (element, extension) of all extensions of ours, but for the parts of others."""
    for element in value if isinstance(value, list) else [value]:
        if isinstance(element, dict):
            urls = [extension["url"] for extension in element.get("extension", ())]
            yield from ((path, url) for url in urls if url.startswith(V.base))
            for name, held in element.items():
                if name != "extension":
                    yield from placed(f"{path}.{name}", held)


@pytest.mark.parametrize(("id", "resource"), PROVEN.items(), ids=PROVEN.keys())
def test_a_resource_of_a_small_program_fits_its_profile(id: str, resource: dict[str, Any]) -> None:
    assert broken(PROFILES[id], resource) == []
    assert misplaced(resource) == []


@pytest.mark.parametrize(
    ("id", "change"),
    [
        ("iop-program-service", {"telecom": [{"system": "phone", "value": "1"}]}),
        ("iop-program-service", {"extension": []}),
        ("iop-program-template", {"action": [{**clinic.action("mon"), "code": []}]}),
        ("iop-roster-group", {"type": "device"}),
        ("iop-treatment-episode", {"period": {}}),
        ("iop-loc-order", {"orderDetail": [{"text": "IOP"}]}),
        ("iop-session-appointment", {"participant": [{"actor": {"reference": "Patient/p1"}}]}),
        ("iop-patient-appointment", {"status": "cancelled"}),
    ],
)
def test_what_a_profile_forbids_does_not_fit(id: str, change: dict[str, Any]) -> None:
    assert broken(PROFILES[id], {**PROVEN[id], **change}) != []


async def test_what_operations_make_fits_the_profiles(iop: Iop) -> None:
    """A patient is admitted, comes late to a session, and misses the next, which is cancelled."""
    await iop.put(*clinic.program())
    await iop.put(clinic.session("2026-03-05"), clinic.session("2026-03-06"))
    await iop.put(*clinic.chart("p1"))
    said(await iop.call("/EpisodeOfCare/$admit", *asking()))
    iop.clock.set("2026-03-05T13:00:00-08:00")
    late = one("p1", "late", presence("09:25", "12:15", day="2026-03-05"))
    said(await iop.call("/Appointment/s-2026-03-05/$attendance", late))
    reason = param("reason", valueString="No heating")
    said(await iop.call("/Appointment/s-2026-03-06/$cancel-session", reason))

    fitted = set()
    for id, resource in [pair async for pair in made(iop)]:
        assert broken(PROFILES[id], resource) == [], (id, resource)
        assert misplaced(resource) == [], (id, resource)
        fitted.add(id)
    assert fitted == set(PROFILES) - {"iop-program-template", "iop-program-service"}


async def made(iop: Iop) -> Any:
    """Yield what is stored, each with the profile that is for it."""
    for group in await iop.search("Group"):
        yield "iop-roster-group", group
    for episode in await iop.search("EpisodeOfCare"):
        yield "iop-treatment-episode", episode
    for order in await iop.search("ServiceRequest"):
        yield "iop-loc-order", order
    for appointment in await iop.search("Appointment"):
        patient = "Patient/" in str(appointment["participant"])
        yield "iop-patient-appointment" if patient else "iop-session-appointment", appointment
    for encounter in await iop.search("Encounter"):
        patient = encounter["subject"]["reference"].startswith("Patient/")
        yield "iop-patient-encounter" if patient else "iop-session-encounter", encounter
