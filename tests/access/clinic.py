"""The records of two patients, full of words that no answer to anybody else may hold.

Each version of each resource has a word of its own in everything that can hold one: narrative,
tag, identifier, names, codes, notes. So whatever leaks can be searched for in the bytes of an
answer. `BELONGS` says of each version whose it is, in plain words, and `CALLERS` who may see what:
neither asks the server.
"""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal, NamedTuple

from app import db
from app.fhir.access import SYSTEM, Caller, Grant, Kind, Policy, parse_scopes, policy_of
from app.fhir.definitions import Definitions
from app.fhir.interaction import Reply
from tests.access.door import Door, content
from tests.support.resources import ACT_CODE, coded, quantity, reference

Body = dict[str, Any]
Right = Literal["read", "search"]

START = 1_780_000_000_000_000  # microseconds: 2026-05-28
AFTER = START + 3_600_000_000
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
WORDS = "urn:words"  # the system of the codes that are words


def place(owner: str, kind: str) -> str:
    """Return the id of a resource, which is a word as well."""
    return f"zq-{owner}-{kind}-i"


def word(owner: str, kind: str, version: int) -> str:
    """Return the word that all of one version is full of."""
    return f"zq{owner}{kind}v{version}w"


class Version(NamedTuple):
    """One version of a resource: whose it is from then on, and its body, None for a deletion."""

    type: str
    id: str
    number: int
    belongs: str
    body: Body | None

    @property
    def name(self) -> str:
        """Return `Type/id`."""
        return f"{self.type}/{self.id}"

    @property
    def url(self) -> str:
        """Return where this version is read."""
        return f"{self.name}/_history/{self.number}"

    @property
    def words(self) -> frozenset[str]:
        """Return the words that only this version holds."""
        if self.body is None:
            return frozenset()
        found = {self.body["meta"]["tag"][0]["code"]}
        return frozenset({*found, self.body["data"]} if "data" in self.body else found)


# --- what there is -------------------------------------------------------------------------------

IDENTIFIED_ONCE = ("Composition", "QuestionnaireResponse", "Bundle")
NOT_IDENTIFIED = ("Binary", "Provenance")


def made(resource_type: str, owner: str, kind: str, version: int = 1, **elements: Any) -> Body:
    """Return a resource full of its word; elements whose name Python reserves end in `_`."""
    said = word(owner, kind, version)
    identifier: Any = {"system": WORDS, "value": said}
    own: Body = {"resourceType": resource_type, "id": place(owner, kind)}
    own["meta"] = {"tag": [{"system": WORDS, "code": said}]}
    if resource_type not in ("Binary", "Bundle"):
        div = f'<div xmlns="http://www.w3.org/1999/xhtml"><p>{said}</p></div>'
        own["text"] = {"status": "generated", "div": div}
    if resource_type not in NOT_IDENTIFIED:
        own["identifier"] = identifier if resource_type in IDENTIFIED_ONCE else [identifier]
    return own | {name.removesuffix("_"): value for name, value in elements.items()}


def about(owner: str) -> dict[str, str]:
    """Return a Reference to a patient."""
    return reference(f"Patient/{place(owner, 'pat')}")


def to(type: str, owner: str, kind: str) -> dict[str, str]:
    """Return a Reference to one of these resources."""
    return reference(f"{type}/{place(owner, kind)}")


def observation(owner: str, kind: str, version: int = 1, **changes: Any) -> Body:
    """Return an Observation, which is about its owner unless `changes` say otherwise."""
    said = word(owner, kind, version)
    elements: Body = {
        "status": "final",
        "category": [coded("survey", CATEGORY)],
        "code": {"coding": [{"system": WORDS, "code": said, "display": said}], "text": said},
        "subject": about(owner) if owner in ("ada", "bob") else None,
        "effectiveDateTime": "2026-03-02T09:30:00Z",
        "valueString": said,
        "note": [{"text": said}],
    } | changes
    given = {name: value for name, value in elements.items() if value is not None}
    return made("Observation", owner, kind, version, **given)


def appointment(owner: str, kind: str, version: int, *patients: str) -> Body:
    """Return an Appointment of these patients with the doctor."""
    actors = [*map(about, patients), to("Practitioner", "all", "doc")]
    parts = [{"actor": actor, "status": "accepted"} for actor in actors]
    said = word(owner, kind, version)
    return made(
        "Appointment",
        owner,
        kind,
        version,
        status="booked",
        start="2026-03-03T09:00:00Z",
        end="2026-03-03T10:00:00Z",
        participant=parts,
        description=said,
        comment=said,
    )


def group(owner: str, kind: str, *patients: str) -> Body:
    """Return a roster of these patients."""
    members = [{"entity": about(patient)} for patient in patients]
    said = word(owner, kind, 1)
    return made(
        "Group", owner, kind, type="person", actual=True, name=said, member=members, quantity=2
    )


DIRECTORY: list[Body] = [
    made("Organization", "all", "org", name=word("all", "org", 1)),
    made("Location", "all", "loc", name=word("all", "loc", 1)),
    made("Practitioner", "all", "doc", name=[{"family": word("all", "doc", 1)}]),
    made(
        "PractitionerRole",
        "all",
        "role",
        practitioner=to("Practitioner", "all", "doc"),
        organization=to("Organization", "all", "org"),
    ),
    made("HealthcareService", "all", "service", name=word("all", "service", 1)),
    made("Medication", "all", "drug", code={"text": word("all", "drug", 1)}),
    made("Questionnaire", "all", "form", status="active", url="http://example.org/form"),
    made(
        "ValueSet",
        "all",
        "codes",
        status="active",
        url="http://example.org/codes",
        compose={"include": [{"system": "http://loinc.org", "concept": [{"code": "718-7"}]}]},
    ),
]


def record(owner: str, other: str) -> list[Body]:
    """Return all that is of one patient; some of it names what is of the `other`."""
    said = {kind: word(owner, kind, 1) for kind in ("pat", "rel", "enc", "cond", "task", "dev")}
    subject = about(owner)
    doctor = to("Practitioner", "all", "doc")
    seen: Body = {"subject": subject, "encounter": to("Encounter", owner, "enc")}
    file = to("Binary", owner, "bin")["reference"]
    female = owner == "ada"
    return [
        made(
            "Patient",
            owner,
            "pat",
            name=[{"family": said["pat"], "given": ["Marsh"]}],
            gender="female" if female else "male",
            birthDate="1985-04-12" if female else "1958-12-24",
            telecom=[{"system": "email", "value": f"{said['pat']}@example.org"}],
            generalPractitioner=[doctor],
            managingOrganization=to("Organization", "all", "org"),
        ),
        made("RelatedPerson", owner, "rel", patient=subject, name=[{"family": said["rel"]}]),
        made(
            "Encounter",
            owner,
            "enc",
            status="finished",
            class_={"system": ACT_CODE, "code": "AMB"},
            subject=subject,
            participant=[{"individual": doctor}],
            location=[{"location": to("Location", "all", "loc")}],
            period={"start": "2026-03-02T09:00:00Z", "end": "2026-03-02T12:00:00Z"},
            reasonCode=[{"text": said["enc"]}],
        ),
        observation(owner, "obs", **seen, performer=[doctor]),
        observation(
            owner,
            "lab",
            category=[coded("laboratory", CATEGORY)],
            code=coded("718-7"),
            effectiveDateTime="2026-03-05" if female else "2026-03-01",
            valueString=None,
            valueQuantity=quantity(11 if female else 17, "g/dL"),
        ),
        made("Condition", owner, "cond", subject=subject, code={"text": said["cond"]}),
        made(
            "MedicationRequest",
            owner,
            "med",
            status="active",
            intent="order",
            subject=subject,
            medicationReference=to("Medication", "all", "drug"),
            dosageInstruction=[{"text": word(owner, "med", 1)}],
        ),
        made(
            "Task",
            owner,
            "task",
            status="requested",
            intent="order",
            description=said["task"],
            focus=to("Observation", owner, "obs"),
            for_=subject,
        ),
        made(
            "Device",
            owner,
            "dev",
            patient=subject,
            deviceName=[{"name": said["dev"], "type": "user-friendly-name"}],
        ),
        made(
            "Binary",
            owner,
            "bin",
            contentType="text/plain",
            data=base64.b64encode(word(owner, "bin", 1).encode()).decode(),
        ),
        made(
            "DocumentReference",
            owner,
            "doc",
            status="current",
            subject=subject,
            description=word(owner, "doc", 1),
            content=[{"attachment": {"url": file, "title": word(owner, "doc", 1)}}],
        ),
        made(
            "Composition",
            owner,
            "note",
            status="final",
            type={"text": word(owner, "note", 1)},
            title=word(owner, "note", 1),
            date="2026-03-02",
            author=[doctor],
            **seen,
            section=[{"entry": [to("Observation", owner, "obs")]}],
        ),
        # what is visible may name what is not: that it is there, and what it is, stays unknown
        made(
            "Composition",
            owner,
            "both",
            status="final",
            type={"text": word(owner, "both", 1)},
            title=word(owner, "both", 1),
            date="2026-03-02",
            author=[doctor],
            subject=subject,
            section=[{"entry": [to("Observation", owner, "obs"), to("Observation", other, "obs")]}],
        ),
        made(
            "List",
            owner,
            "list",
            status="current",
            mode="working",
            subject=subject,
            title=word(owner, "list", 1),
            entry=[
                {"item": to("Observation", owner, "obs")},
                {"item": to("Observation", other, "lab")},
                {"item": to("Condition", other, "cond")},
            ],
        ),
        made(
            "QuestionnaireResponse",
            owner,
            "answers",
            status="completed",
            questionnaire="http://example.org/form",
            subject=subject,
            item=[{"linkId": "1", "answer": [{"valueString": word(owner, "answers", 1)}]}],
        ),
        appointment(owner, "visit", 1, owner),
        made(
            "Communication",
            owner,
            "letter",
            status="completed",
            subject=subject,
            payload=[{"contentString": word(owner, "letter", 1)}],
        ),
        made("Basic", owner, "basic", code={"text": word(owner, "basic", 1)}, subject=subject),
        made(
            "Provenance",
            owner,
            "origin",
            target=[subject],
            recorded="2026-03-02T09:30:00Z",
            agent=[{"who": doctor}],
        ),
        group(owner, "alone", owner),
    ]


SHARED = [
    group("both", "roster", "ada", "bob"),
    appointment("both", "session", 1, "ada", "bob"),
    made(
        "Procedure",
        "both",
        "proc",
        status="completed",
        subject=about("ada"),
        performer=[{"actor": about("bob")}],
        note=[{"text": word("both", "proc", 1)}],
    ),
    made(
        "Communication",
        "both",
        "talk",
        status="completed",
        subject=about("ada"),
        recipient=[about("bob")],
        payload=[{"contentString": word("both", "talk", 1)}],
    ),
    made("Account", "both", "bill", status="active", subject=[about("ada"), about("bob")]),
    observation("both", "pair", subject=about("ada"), performer=[about("bob")]),
]
NOBODYS = [
    observation("none", "crowd", subject=to("Group", "both", "roster")),
    made(
        "DocumentReference",
        "none",
        "minutes",
        status="current",
        subject=to("Group", "both", "roster"),
        content=[{"attachment": {"url": to("Binary", "none", "bin")["reference"]}}],
    ),
    made(
        "Binary",
        "none",
        "bin",
        contentType="text/plain",
        data=base64.b64encode(word("none", "bin", 1).encode()).decode(),
    ),
    made("Basic", "none", "basic", code={"text": word("none", "basic", 1)}),
    made(
        "Provenance",
        "none",
        "origin",
        target=[to("Observation", "bob", "obs"), to("Observation", "ada", "obs")],
        recorded="2026-03-02T09:30:00Z",
        agent=[{"who": to("Practitioner", "all", "doc")}],
    ),
    made(
        "Bundle",
        "none",
        "bundle",
        type="collection",
        entry=[{"resource": {k: v for k, v in record("bob", "ada")[0].items() if k != "text"}}],
    ),
    made("Slot", "none", "slot", status="free", start="2026-03-03T09:00:00Z",
         end="2026-03-03T10:00:00Z", schedule=reference("Schedule/nobody"),
         comment=word("none", "slot", 1)),
]  # fmt: skip


def appointment_by(kind: str, link: str) -> Body:
    """Return an Appointment of Ada with Bob, who is referred to in another way."""
    body = appointment("both", kind, 1, "ada")
    body["participant"].append({"actor": reference(link), "status": "accepted"})
    return body


def task(owner: str, kind: str, version: int, patient: str) -> Body:
    """Return a Task for a patient."""
    said = word(owner, kind, version)
    elements: Body = {"status": "requested", "intent": "order", "for": about(patient)}
    return made("Task", owner, kind, version, **elements, description=said)


def device(owner: str, kind: str, version: int, patient: str) -> Body:
    """Return a Device of a patient."""
    name = {"name": word(owner, kind, version), "type": "user-friendly-name"}
    return made("Device", owner, kind, version, patient=about(patient), deviceName=[name])


def binary(owner: str, kind: str, version: int = 1, **changes: Any) -> Body:
    """Return a Binary."""
    data = base64.b64encode(word(owner, kind, version).encode()).decode()
    return made("Binary", owner, kind, version, contentType="text/plain", data=data, **changes)


def document(owner: str, kind: str, version: int, patient: str, *binaries: Body) -> Body:
    """Return a DocumentReference of a patient that points at Binaries."""
    links = [{"attachment": {"url": f"Binary/{one['id']}"}} for one in binaries]
    elements: Body = {"status": "current", "subject": about(patient), "content": links}
    return made("DocumentReference", owner, kind, version, **elements)


def versions() -> list[Version]:
    """Return all that is written, in order: whose each version is, and what is in it."""
    found: list[Version] = []

    def put(belongs: str, *bodies: Body) -> None:
        for body in bodies:
            known = [v for v in found if v.id == body["id"] and v.type == body["resourceType"]]
            row = (body["resourceType"], body["id"], len(known) + 1, belongs, body)
            found.append(Version(*row))

    put("all", *DIRECTORY)
    put("ada", *record("ada", "bob"))
    put("bob", *record("bob", "ada"))
    put("both", *SHARED)
    put("none", *NOBODYS)
    # what went from one to another: its id is of both, its words are of the versions
    put("bob", observation("move", "toada", 1, subject=about("bob")))
    put("ada", observation("move", "toada", 2, subject=about("ada")))
    put("ada", observation("move", "tobob", 1, subject=about("ada")))
    put("bob", observation("move", "tobob", 2, subject=about("bob")))
    put("both", appointment("move", "alone", 1, "ada", "bob"))
    put("ada", appointment("move", "alone", 2, "ada"))
    put("ada", appointment("move", "shared", 1, "ada"))
    put("both", appointment("move", "shared", 2, "ada", "bob"))
    put("none", observation("move", "found", 1, subject=None))
    put("ada", observation("move", "found", 2, subject=about("ada")))
    base = "http://milepost.test/fhir/Patient/"
    put("both", appointment_by("absolute", f"{base}{place('bob', 'pat')}"))
    put("both", appointment_by("versioned", f"Patient/{place('bob', 'pat')}/_history/1"))
    put("bob", task("move", "task", 1, "bob"))
    put("ada", task("move", "task", 2, "ada"))
    put("ada", device("move", "dev", 1, "ada"))
    put("bob", device("move", "dev", 2, "bob"))
    # a Binary is of whoever has what points at it now
    put("none", before := binary("move", "before"))
    put("ada", after := binary("move", "after"), leaflet := binary("both", "leaflet"))
    put("bob", lost := binary("move", "lost"))
    put("ada", binary("ada", "twice", 1, securityContext=about("ada")))
    put("ada", binary("ada", "twice", 2, securityContext=about("ada")))
    put("bob", binary("bob", "context", 1, securityContext=about("bob")))
    put("bob", document("move", "came", 1, "bob", before))
    put("ada", document("move", "came", 2, "ada", after, leaflet))
    put("ada", document("move", "went", 1, "ada", lost))
    put("bob", document("move", "went", 2, "bob", lost, leaflet))
    for owner in ("ada", "bob"):
        put(owner, observation(owner, "twice", 1), observation(owner, "twice", 2))
        put(owner, observation(owner, "gone", 1))
        found.append(Version("Observation", place(owner, "gone"), 2, owner, None))
    put("both", observation("both", "gone", 1, subject=about("ada"), performer=[about("bob")]))
    found.append(Version("Observation", place("both", "gone"), 2, "both", None))
    return found


VERSIONS = versions()
CURRENT = {v.name: v for v in VERSIONS}
TYPES = sorted({v.type for v in VERSIONS})
IDS = frozenset(v.id for v in VERSIONS)
ALL_WORDS = frozenset(word for v in VERSIONS for word in v.words) | IDS


def named_in(versions: Sequence[Version]) -> frozenset[str]:
    """Return the words and ids that are in these versions."""
    text = "".join(repr(version) for version in versions)
    return frozenset(one for one in ALL_WORDS if one in text)


# --- who asks ------------------------------------------------------------------------------------

Sees = Callable[[Version], bool]


def everything(version: Version) -> bool:
    """Return that every version is shown."""
    del version
    return True


def nothing(version: Version) -> bool:
    """Return that no version is shown."""
    del version
    return False


def of_types(*types: str) -> Sees:
    """Return what shows all of these types."""
    return lambda version: version.type in types


# What other resources, or index rows, say the owner of: older versions are not indexed
NOW_ONLY = ("Task", "Device", "Binary")


def of_ada(version: Version) -> bool:
    """Return whether a version is Ada's alone, as the resource is now; or of the directory."""
    if version.belongs == "all":
        return True
    if version.type in NOW_ONLY and version != CURRENT[version.name]:
        return False
    return version.belongs == "ada" and CURRENT[version.name].belongs == "ada"


def labs(version: Version) -> bool:
    """Return whether it is a laboratory Observation.

    What is judged by a criterion has no older versions: the criterion is about the newest.
    """
    body = version.body
    if version.type != "Observation" or body is None or version != CURRENT[version.name]:
        return False
    return bool(body["category"][0]["coding"][0]["code"] == "laboratory")


def labs_of_ada(version: Version) -> bool:
    """Return whether it is one of Ada's laboratory Observations."""
    return labs(version) and of_ada(version)


def read_by_the_laboratory(version: Version) -> bool:
    """Return whether it is what somebody of the laboratory reads."""
    return labs(version) or version.type in ("Patient", "Practitioner")


def found_by_the_laboratory(version: Version) -> bool:
    """Return whether it is what somebody of the laboratory finds."""
    return labs(version) or version.type in ("Encounter", "Practitioner")


@dataclass(frozen=True)
class Person:
    """Somebody who asks: what they are, what was granted, and what of the clinic they see.

    `reads` is what read, vread and the history of an instance show; `finds` what searches and
    other histories do. `types` are those that are not refused as such, by right; None for all.
    """

    kind: Kind
    scope: str
    reads: Sees
    finds: Sees
    patient: str = ""
    readable: Callable[[Definitions], set[str]] | None = None
    searchable: Callable[[Definitions], set[str]] | None = None

    def caller(self, door: Door, name: str) -> Caller:
        """Return the caller that a token of this person makes."""
        language = door.server.language
        scopes = parse_scopes(self.scope, language).granted
        patient = f"Patient/{self.patient}" if self.patient else ""
        fhir_user = patient if self.kind == "patient" else ""
        grant = Grant(self.kind, scopes, patient=patient, fhir_user=fhir_user)
        policy: Policy = policy_of(grant, language, AFTER)
        return Caller(name, policy, self.kind, name, patient=patient, fhir_user=fhir_user)

    def may(self, definitions: Definitions, type: str, right: Right) -> bool:
        """Return whether any resource of a type may be shown under a right."""
        of = self.readable if right == "read" else self.searchable
        return of is None or type in of(definitions)


# docs/security.md: outside the compartment
OUTSIDE = {
    *("Practitioner", "PractitionerRole", "Organization", "Location", "HealthcareService"),
    *("Medication", "Questionnaire", "ValueSet", "Task", "Device", "Binary"),
}


def around_a_patient(definitions: Definitions) -> set[str]:
    """Return the types of which a patient may have some."""
    members = definitions.compartments["Patient"]
    return {"Patient", *OUTSIDE, *(t for t in members if members[t])} - {"AuditEvent"}


def only(*types: str) -> Callable[[Definitions], set[str]]:
    """Return that these types may be shown and no others."""
    return lambda definitions: set(types)


LABS = f"patient/Observation.rs?category={CATEGORY}|laboratory"
ADA = place("ada", "pat")
OWN = (of_ada, of_ada, ADA, around_a_patient, around_a_patient)
ALL = (everything, everything)
NONE = (nothing, nothing, "", only(), only())

CALLERS: Mapping[str, Person] = {
    "a patient": Person("patient", "launch/patient patient/*.cruds", *OWN),
    "a patient, in words of v1": Person("patient", "openid fhirUser patient/*.*", *OWN),
    "a patient as user": Person("patient", "user/*.cruds", *OWN),
    "the laboratory values of a patient": Person(
        "patient",
        LABS,
        labs_of_ada,
        labs_of_ada,
        ADA,
        only("Observation"),
        only("Observation"),
    ),
    "a staff member with a patient": Person("workforce", "launch patient/*.rs", *OWN),
    "a client with a patient": Person("system", "patient/*.rs", *OWN),
    "a staff member": Person("workforce", "user/*.rs", *ALL),
    "a privacy officer": Person("privacy-officer", "user/*.rs", *ALL),
    "somebody of the laboratory": Person(
        "workforce",
        f"user/Observation.rs?category={CATEGORY}|laboratory user/Patient.r user/Encounter.s"
        " user/Practitioner.read patient/*.rs system/*.rs",
        read_by_the_laboratory,
        found_by_the_laboratory,
        "",
        only("Observation", "Patient", "Practitioner"),
        only("Observation", "Encounter", "Practitioner"),
    ),
    "a client": Person("system", "system/*.cruds", *ALL),
    "a client of observations": Person(
        "system",
        "system/Observation.rs",
        of_types("Observation"),
        of_types("Observation"),
        "",
        only("Observation"),
        only("Observation"),
    ),
    "a client that only searches": Person(
        "system", "system/*.s", nothing, everything, "", only(), None
    ),
    "a client that only reads": Person(
        "system", "system/*.r", everything, nothing, "", None, only()
    ),
    "a representative": Person("representative", "user/*.cruds patient/*.cruds", *NONE),
    "an administrator": Person("administrator", "user/*.cruds system/*.cruds", *NONE),
    "nobody in particular": Person("system", "openid user/*.cruds system/Nothing.rs", *NONE),
}


# --- a server that holds it ----------------------------------------------------------------------


def at(door: Door, moment: int) -> Door:
    """Return the door of the same server whose clock stands still, and which notes nothing."""
    server = replace(door.server, trail=None, now=lambda: moment, new_id=lambda: "new")
    return Door(server, door.caller)


def numbered(door: Door) -> Door:
    """Return the door of the same server whose clock stands still, with ids of one length."""
    numbers = count()
    fresh = at(door, AFTER).server
    return Door(replace(fresh, new_id=lambda: f"new-{next(numbers):06}"), door.caller)


def anonymous(reply: Reply, id: str) -> tuple[Any, ...]:
    """Return an answer in which the id, and any new one, is as good as another."""

    def plain(text: str) -> str:
        return re.sub(r"new-\d{6}", "new-······", text.replace(id, "·" * len(id)))

    headers = {name: plain(value) for name, value in reply.extra.items()}
    location = plain(reply.location)
    text = re.sub(r"_cursor=[^\"&]*", "_cursor=", plain(reply.body.decode()))
    return reply.status, text, location, headers, reply.version, reply.updated


async def fill(door: Door, sees: Sees = everything) -> Door:
    """Write the clinic, and take away the versions that are not seen; return SYSTEM's door.

    What is seen is as if all had been written: at the same moments, under the same versions.
    """
    shown = {version.name for version in VERSIONS if sees(version)}
    for n, version in enumerate(VERSIONS):
        if version.name not in shown:
            continue
        then = at(Door(door.server, SYSTEM), START + n * 1_000_000)
        if version.body is None:
            reply = await then.ask("DELETE", version.name)
        else:
            reply = await then.put(version.body)
        assert reply.status in (200, 201, 204), content(reply)
    lost = [v for v in VERSIONS if v.name in shown and not sees(v)]
    await forget(door, lost)
    return at(Door(door.server.newest(), SYSTEM), AFTER)


async def forget(door: Door, versions: Sequence[Version]) -> None:
    """Take single versions out of the history."""
    numbers = door.server.definitions.type_numbers

    async def work(connection: db.Connection) -> None:
        await connection.begin()
        for one in versions:
            key = f"SELECT key FROM resource WHERE type = {numbers[one.type]} AND id = '{one.id}'"
            text = f"DELETE FROM resource_version WHERE key = ({key}) AND version = {one.number}"
            await connection.rows(db.Statement(text, ()), {})

    await door.server.database.write(work)
