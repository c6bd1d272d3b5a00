"""Random resources and random sequences of writes over few ids, so that writes meet each other."""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from app.fhir.interaction import Reply
from tests.access.door import Door
from tests.support.resources import delete, observation, patient, post, put, reference, resource
from tests.support.resources import encounter as encounter_
from tests.support.resources import transaction as bundle

Body = dict[str, Any]

DATES = ["2020", "2020-02", "2020-02-29", "2020-02-29T12:00:00Z", "2020-03-01T01:30:00.5+02:00"]
WHOLE_DAYS = [text for text in DATES if "T" not in text]
SYSTEMS = ["urn:a", "urn:b", "http://terminology.hl7.org/CodeSystem/v3-ActCode", None]
CODES = ["one", "One", "two", "two words", "é" * 300]
NAMES = ["Marsh", "márşh", "Vale", "O'Neil", "山田", "a" * 250, "a" * 199 + "é"]
URLS = ["http://other.example/fhir/Patient/p1", "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0"]
PATIENTS = ["Patient/p1", "Patient/p2", "Patient/p3", "http://milepost.test/fhir/Patient/p1"]


def some(*options: Any) -> st.SearchStrategy[Any]:
    """Return one of the options."""
    return st.sampled_from(options)


def present(fields: dict[str, Any]) -> Body:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value not in (None, [], {})}


def lists(of: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[list[Any]]:
    """Return up to `most` values, equal ones among them."""
    return st.lists(of, max_size=most)


codings = st.builds(
    lambda system, code: present({"system": system, "code": code}), some(*SYSTEMS), some(*CODES)
)
periods = some(
    {"start": "2020-02-29"},
    {"end": "2020-03-01"},
    {"start": "2020-01-01T00:00:00Z", "end": "2020-02-29"},
    {"start": "2020-02-29T10:00:00Z", "end": "2020-02-29T11:00:00Z"},
)
quantities = st.builds(
    lambda value, unit, comparator: present({"value": value, "comparator": comparator, **unit}),
    some(5, 5.4, 5.45, -1, 1e20),
    some({}, {"unit": "mg"}, {"unit": "mg", "system": "http://unitsofmeasure.org", "code": "mg"}),
    some(None, "<", ">="),
)
components = st.builds(
    lambda code, quantity: present({"code": {"coding": [code]}, "valueQuantity": quantity}),
    some({"system": "urn:c", "code": "One"}, {"code": "three"}),  # never the Observation's (obs-7)
    quantities,
)
metas = st.builds(
    lambda tag, profile, source: present({"tag": tag, "profile": profile, "source": source}),
    lists(codings, 2),
    lists(
        some("http://example.org/p|1", "http://example.org/p", "http://example.org/" + "x" * 500)
    ),
    some(None, "urn:feed", "urn:feed#1"),
)
subjects = some(None, *(reference(t) for t in (*PATIENTS, *URLS, "Group/g1", "Device/d1")))
performers = lists(some(*(reference(t) for t in (*PATIENTS, "Practitioner/d1"))))


def ids(letter: str) -> st.SearchStrategy[str]:
    """Return one of two ids that begin with a letter."""
    return some(f"{letter}1", f"{letter}2")


@st.composite
def patients(draw: st.DrawFn) -> Body:
    """Return a Patient."""
    names = draw(lists(st.builds(lambda f, g: {"family": f, "given": [g]}, *[some(*NAMES)] * 2)))
    return patient(
        id=draw(ids("p")),
        meta=draw(metas) or None,
        name=names or None,
        birthDate=draw(some(None, *WHOLE_DAYS)),
        gender=draw(some(None, "male", "female")),
        deceasedBoolean=draw(some(None, True, False)),
        generalPractitioner=draw(lists(some(reference("Practitioner/d1")), 1)) or None,
    )


@st.composite
def observations(draw: st.DrawFn) -> Body:
    """Return an Observation with every kind of search parameter."""
    when = draw(
        some(
            {},
            *({"effectiveDateTime": text} for text in DATES),
            {"effectiveTiming": {"event": ["2020-03-01", "2020-02-28"]}},
        )
        | periods.map(lambda period: {"effectivePeriod": period})
    )
    value = draw(
        some({}, *({"valueString": name} for name in NAMES))
        | quantities.map(lambda quantity: {"valueQuantity": quantity})
    )
    return observation(
        **{"effectiveDateTime": None, "valueQuantity": None, **when, **value},
        id=draw(ids("o")),
        meta=draw(metas) or None,
        status=draw(some("final", "amended")),
        code={"coding": draw(st.lists(codings, min_size=1, max_size=3))},
        subject=draw(subjects),
        performer=draw(performers) or None,
        encounter=draw(some(None, reference("Encounter/e1"))),
        component=draw(lists(components, 2)) or None,
    )


@st.composite
def encounters(draw: st.DrawFn) -> Body:
    """Return an Encounter."""
    return encounter_(
        id=draw(ids("e")),
        period=draw(st.none() | periods),
        subject=draw(some(None, *(reference(t) for t in (*PATIENTS, "Group/g1")))),
    )


@st.composite
def appointments(draw: st.DrawFn) -> Body:
    """Return an Appointment, which may be in the compartments of several Patients."""
    actors = draw(st.lists(some(*PATIENTS, "Practitioner/d1"), min_size=1, max_size=3))
    parts = [{"actor": reference(actor), "status": "accepted"} for actor in actors]
    elements = {"status": "proposed", "participant": parts}
    return resource("Appointment", {"id": draw(ids("a")), **elements}, {})


@st.composite
def groups(draw: st.DrawFn) -> Body:
    """Return a Group, which is in the compartments of its members."""
    members = [{"entity": reference(t)} for t in draw(lists(some(*PATIENTS)))]
    elements = {"id": "g1", "type": "person", "actual": True, "member": members or None}
    return {name: v for name, v in resource("Group", elements, {}).items() if v is not None}


@st.composite
def locations(draw: st.DrawFn) -> Body:
    """Return a Location, somewhere or nowhere."""
    place = draw(
        some(None, {"latitude": 52.5, "longitude": 13.4}, {"latitude": -90, "longitude": 0})
    )
    return resource("Location", {"id": "l1", "name": "Ward"}, {"position": place})


resources = patients() | observations() | encounters() | appointments() | groups() | locations()


@dataclass(frozen=True)
class Operation:
    """One request that writes."""

    method: str
    url: str
    body: Body | None = None
    conditions: tuple[tuple[str, str], ...] = ()

    async def at(self, door: Door) -> Reply:
        """Return the reply of a server to it."""
        return await door.ask(self.method, self.url, self.body, **dict(self.conditions))


def identity(body: Body) -> str:
    """Return `Type/id`."""
    return f"{body['resourceType']}/{body['id']}"


def element(name: str) -> str:
    """Return the element of a property: the properties of a choice are one element."""
    return next((choice for choice in ("effective", "value") if name.startswith(choice)), name)


def edited(old: Body, new: Body, elements: set[str]) -> Body:
    """Return `old` with these elements as they are in `new`."""
    kept = {name: value for name, value in old.items() if element(name) not in elements}
    return kept | {name: value for name, value in new.items() if element(name) in elements}


BY_TYPE = {
    "Patient": patients(),
    "Observation": observations(),
    "Encounter": encounters(),
    "Appointment": appointments(),
    "Group": groups(),
    "Location": locations(),
}
tags = some((), (), (), (), (("if_match", 'W/"1"'),), (("if_match", 'W/"2"'),))


@st.composite
def transactions(draw: st.DrawFn) -> Operation:
    """Return a transaction over resources that are all different."""
    bodies = draw(st.lists(resources, min_size=1, max_size=4, unique_by=identity))
    entries = []
    for body in bodies:
        kind = draw(some("PUT", "PUT", "POST", "DELETE"))
        made = {"PUT": put, "POST": post}.get(kind)
        entries.append(made(body) if made else delete(identity(body)))
    return Operation("POST", "", bundle(*entries))


@st.composite
def operations(draw: st.DrawFn) -> list[Operation]:
    """Return a sequence of writes; every second one changes a few elements of what is there."""
    written: list[Operation] = []
    known: dict[str, Body] = {}
    for kind in draw(st.lists(some(*["put", "edit"] * 3, "post", "delete", "all"), max_size=12)):
        body = draw(resources)
        if kind == "edit" and known:
            old = known[draw(some(*sorted(known)))]
            new = draw(BY_TYPE[old["resourceType"]])
            names = sorted({element(name) for name in new} - {"resourceType", "id"})
            body = edited(old, new, draw(st.sets(some(*names), min_size=1, max_size=2)))
        if kind in ("put", "edit"):
            written.append(Operation("PUT", identity(body), body, draw(tags)))
            known[identity(body)] = body
        elif kind == "post":
            written.append(Operation("POST", body["resourceType"], body))
        elif kind == "delete" and known:
            written.append(Operation("DELETE", draw(some(*sorted(known)))))
        elif kind == "all":
            written.append(draw(transactions()))
    return written
