"""Admission: an episode and all that begins with it, in one transaction.

Whoever is admitted has been assessed, has given consent, and has a place. What is made is what is
needed from the first day on: the episode and the order behind it, a team, plans as drafts, a seat
in the groups and their sessions, and what is to be done next.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from app.domain import chart
from app.domain.admission import enrollment, groups
from app.domain.admission.enrollment import PLANS, Admission
from app.domain.admission.episodes import OPEN, current
from app.domain.admission.evidence import EVIDENCE
from app.domain.admission.groups import conflict, seen
from app.domain.admission.overrides import granted
from app.domain.admission.rosters import is_roster
from app.domain.chart import reference
from app.domain.days import moment, whole
from app.domain.vocabulary import ISSUE, LEVEL, LEVELS, Vocabulary
from app.domain.writes import created, provenance, updated
from app.fhir.errors import FhirError, Issue, outcome, refused
from app.fhir.interaction import Interaction, Reply
from app.fhir.operations import Call, Plan, Trial, answered
from app.fhir.wire import Resource

YOUNGEST = 12
WEEKS, FEWEST, MOST = 12, 8, 12  # planned where nothing is said, and what is usual
OVERRIDABLE = frozenset({"INV-EC-6", "INV-SR-1", "INV-GR-4"})
EMERGENCY = frozenset({"C", "EP"})  # relationships of v2-0131
LONGEST = 520  # weeks that an episode can be planned for
# What a parameter may say, the first where nothing is said
ALLOWED = {
    "entry-path": ("step-down", "step-up", "direct", "re-entry", "transfer"),
    "stage": ("early", "middle", "advanced", "continuing-care"),
}

# To what each parameter leads that is a reference; and what says whose a resource is, by its type
STAFF = ("PractitionerRole", "Practitioner")
REFERENCES: Mapping[str, tuple[str, ...]] = {
    "patient": ("Patient",),
    "program": ("HealthcareService",),
    "assessment": ("Observation",),
    "intake": ("QuestionnaireResponse",),
    "diagnosis": ("Condition",),
    "care-manager": STAFF,
    "primary-therapist": STAFF,
    "team-member": (*STAFF, "RelatedPerson", "Organization"),
    "group": ("Group",),
    "coverage": ("Coverage",),
    "consent-to-treat": ("DocumentReference",),
    "part2-notice": ("DocumentReference",),
}
OWNER = {
    "Observation": "subject",
    "QuestionnaireResponse": "subject",
    "Condition": "subject",
    "RelatedPerson": "patient",
    "Coverage": "beneficiary",
    "DocumentReference": "subject",
}


async def admit(vocabulary: Vocabulary, call: Call) -> Reply | Plan | Trial:
    """Return the plan of an admission, or of a place on the waiting list.

    Raises a 409 where the patient is in an episode already, or a group is full or closed.
    """
    named = {name: _named(call, name, *types) for name, types in REFERENCES.items()}
    standing = [*named["patient"], *named["program"], *named["group"]]
    await call.store.lock([(type, id) for type, _, id in (one.partition("/") for one in standing)])
    admission = await _read(vocabulary, call, named)
    waiting, prior = await _before(call, admission)
    if call.one("waitlist"):
        if waiting is not None:
            raise conflict(vocabulary, "duplicate-episode", "The patient waits already", "")
        return _waitlisted(call, admission, prior)
    _refuse_unready(admission)
    return await _admitted(call, admission, waiting, prior)


# --- what is asked for -------------------------------------------------------------------------


def _named(call: Call, name: str, *types: str) -> tuple[str, ...]:
    rows = call.given.get(name, ())
    given = [one["member"][0] if "member" in one else one for one in rows]
    return tuple(call.named(one, name, *types) for one in given)


async def _read(
    vocabulary: Vocabulary, call: Call, named: Mapping[str, tuple[str, ...]]
) -> Admission:
    """Return what is asked for; a 422 for what is not there, or is another patient's."""
    known = await call.reader.get_all(one for some in named.values() for one in some)
    for name, references in named.items():
        for one in references:
            if one not in known:
                raise refused("not-found", f"{name} leads to nothing", f"http.{name}", 422)
            owner = OWNER.get(known[one]["resourceType"])
            if owner and reference(known[one].get(owner)) != named["patient"][0]:
                text = f"{name} is not about this patient"
                raise refused("business-rule", text, f"http.{name}", 422)
    level = call.one("level")
    if level.get("system") != vocabulary.system(LEVEL) or level.get("code") not in LEVELS:
        text = f"level must be a code of {vocabulary.system(LEVEL)}"
        raise refused("code-invalid", text, "http.level", 422)
    said = {name: call.one(name) or allowed[0] for name, allowed in ALLOWED.items()}
    for name, allowed in ALLOWED.items():
        if said[name] not in allowed:
            text = f"{name} must be one of {', '.join(allowed)}"
            raise refused("code-invalid", text, f"http.{name}", 422)
    if (call.one("planned-weeks") or 1) > LONGEST:
        text = f"planned-weeks must be {LONGEST} at most"
        raise refused("value", text, "http.planned-weeks", 422)
    roles = [one["role"][0] for one in call.given.get("team-member", ())]
    return Admission(
        vocabulary=vocabulary,
        named=named,
        known=known,
        program=chart.program(vocabulary, known[named["program"][0]]),
        start=whole(call.one("start"), "start"),
        level=level["code"],
        hours=call.one("hours-per-week"),
        weeks=call.one("planned-weeks") or WEEKS,
        entry_path=said["entry-path"],
        stage=said["stage"],
        members=tuple(zip(roles, named["team-member"], strict=True)),
        overrides=await granted(vocabulary, call, OVERRIDABLE),
        now=moment(call.now),
    )


async def _before(call: Call, admission: Admission) -> tuple[Resource | None, str]:
    """Return the episode in which the patient waits for this program, and his last one that ended.

    Raises a 409 where he is in treatment in this organization already.
    """
    a, states = admission, (*OPEN, "planned", "waitlist", "finished")
    found = [
        (chart.episode(a.vocabulary, one), one)
        for one in await current(a.vocabulary, call.reader, [a.patient], *states)
    ]
    here = [row for row in found if row[0].organization == a.program.organization]
    if any(episode.status in OPEN for episode, _ in here):
        text = "There is an active episode of this patient in this organization already"
        raise conflict(a.vocabulary, "duplicate-episode", text, "EpisodeOfCare.patient")
    waits = [
        resource
        for episode, resource in here
        if episode.status in ("planned", "waitlist") and episode.program == a.program.reference
    ]
    ended = sorted(
        (one for one, _ in here if one.status == "finished"),
        key=lambda one: one.end or moment(0),
    )
    prior = ended[-1].reference if ended else ""
    return (waits[0] if waits else None), prior


def _refuse_unready(admission: Admission) -> None:
    """Refuse who is too young, and who comes without what has to be on record (INV-EC-6)."""
    a, system = admission, admission.vocabulary.system(ISSUE)
    if a.age is None or a.age < YOUNGEST:
        text = f"Nobody is admitted who is younger than {YOUNGEST}, or without a birth date"
        raise FhirError([Issue("error", "business-rule", text, "", (system, "INV-PT-1"))])
    lacking = [
        Issue("error", "business-rule", one.text, f"http.{name}", (system, "INV-EC-6"))
        for name, one in EVIDENCE.items()
        if not one.sound(a.vocabulary, a.known[a.one(name)], a.start)
    ]
    if lacking and not a.set_aside("INV-EC-6"):
        raise FhirError(lacking)


# --- what is made ------------------------------------------------------------------------------


def _waitlisted(call: Call, admission: Admission, prior: str) -> Plan:
    """Return the plan that puts a patient on the waiting list, and does nothing else."""
    made = enrollment.episode(admission, call.new_id(), prior) | {"status": "waitlist"}
    write = created(made)
    told = {"episode": f"EpisodeOfCare/{made['id']}"}
    return Plan([write, provenance(admission.vocabulary, call, [write])], told=told)


async def _admitted(call: Call, admission: Admission, waiting: Resource | None, prior: str) -> Plan:
    """Return the plan of an admission; who waited for the program has his episode become active."""
    a = admission
    ids = {name: call.new_id() for name in ("order", "careteam", *PLANS, "communication")}
    id = waiting["id"] if waiting else call.new_id()
    episode = enrollment.active(a, enrollment.episode(a, id, prior), ids)
    tasks = enrollment.tasks(a, f"CarePlan/{ids['treatment-plan']}", call.new_id)
    rosters, booked = await _joined(call, a)
    own = [
        updated(enrollment.taken_up(waiting, episode)) if waiting else created(episode),
        created(enrollment.order(a, ids["order"])),
        created(enrollment.team(a, ids["careteam"])),
        *(created(enrollment.draft(a, ids[name], name, ids["careteam"])) for name in PLANS),
        created(enrollment.orientation(a, ids["communication"], id)),
        *map(created, tasks),
        *map(created, booked),
    ]
    if (numbered := enrollment.numbered(a)) is not None:
        own.append(updated(numbered))
    writes = [*own, provenance(a.vocabulary, call, own), *rosters]
    if rosters:
        writes.append(provenance(a.vocabulary, call, rosters))
    return Plan(writes, told=_told(a, id, ids, tasks, booked))


def _told(
    admission: Admission,
    episode: str,
    ids: Mapping[str, str],
    tasks: Sequence[Resource],
    booked: Sequence[Resource],
) -> dict[str, Any]:
    """Return what the answer is made of: references, and whether a contact is missing."""
    patient = admission.known[admission.patient]
    related = [one for contact in patient.get("contact", ()) for one in _relations(contact)]
    return {
        "episode": f"EpisodeOfCare/{episode}",
        "order": f"ServiceRequest/{ids['order']}",
        "careteam": f"CareTeam/{ids['careteam']}",
        **{name: f"CarePlan/{ids[name]}" for name in PLANS},
        "appointment": [f"Appointment/{one['id']}" for one in booked],
        "task": [f"Task/{one['id']}" for one in tasks],
        "group": list(dict.fromkeys(admission.named["group"])),
        "warnings": [] if EMERGENCY.intersection(related) else ["INV-PT-2"],
    }


def _relations(contact: Resource) -> list[str]:
    concepts = contact.get("relationship", ())
    return [one.get("code", "") for concept in concepts for one in concept.get("coding", ())]


async def _joined(call: Call, admission: Admission) -> tuple[list[Interaction], list[Resource]]:
    """Return the writes of the groups that are joined, and the bookings of their sessions."""
    a, v = admission, admission.vocabulary
    writes: list[Interaction] = []
    booked: list[Resource] = []
    for name in dict.fromkeys(a.named["group"]):
        group = a.known[name]
        if not is_roster(v, group):
            text = "The Group is not the roster of a program"
            raise refused("business-rule", text, "http.group", 422)
        roster = chart.roster(v, group)
        await groups.admitting(v, call.reader, roster, a.patient, a.start)
        seat = groups.joined(group, a.patient, a.start, a.set_aside("INV-GR-4"))
        writes.append(updated(seat))
        booked += await groups.places(v, call, roster, a.patient, a.start, a.program.zone)
    return writes, booked


# --- what is answered --------------------------------------------------------------------------


async def tell(
    vocabulary: Vocabulary, call: Call, told: Mapping[str, Any], issues: Sequence[Issue]
) -> Reply:
    """Return what an admission has made, as far as the caller may see it."""
    names = ("episode", "order", "careteam", *PLANS)
    shown: dict[str, Any] = {name: {"reference": told[name]} for name in names if name in told}
    for name in ("appointment", "task"):
        shown[name] = await seen(call, told.get(name, ()))
    shown["outcome"] = outcome([*_said(told), *_warned(vocabulary, call, told), *issues])
    return Reply(200, answered(call.operation, shown))


def _said(told: Mapping[str, Any]) -> list[Issue]:
    """Return in words what was done."""
    joined = ", ".join(told.get("group", ()))
    text = "admitted" if "order" in told else "put on the waiting list"
    text += f"; appointments created for all booked sessions of {joined}" if joined else ""
    return [Issue("information", "informational", text)]


def _warned(vocabulary: Vocabulary, call: Call, told: Mapping[str, Any]) -> list[Issue]:
    """Return what is worth a warning about what was asked for."""
    system, found = vocabulary.system(ISSUE), []
    weeks = call.one("planned-weeks")
    if weeks is not None and not FEWEST <= weeks <= MOST:
        text = f"Programs are planned for {FEWEST} to {MOST} weeks"
        found.append(("planned-weeks", text))
    if "INV-PT-2" in told.get("warnings", ()):
        found.append(("INV-PT-2", "The patient has no emergency contact"))
    return [Issue("warning", "business-rule", text, "", (system, code)) for code, text in found]


def operations(vocabulary: Vocabulary) -> Mapping[str, Mapping[str, Any]]:
    """Return what performs the operations of this module, by their code."""
    return {
        "admit": {
            "perform": partial(admit, vocabulary),
            "tell": partial(tell, vocabulary),
            "writes": True,
            "needs": {"type": ("create",)},
        }
    }
