"""Enrollment: the resources with which an admission begins an episode.

https://hl7.org/fhir/R4/episodeofcare.html

Nothing is read here: an `Admission` holds all that was asked for, and ids come in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from app.domain import chart
from app.domain.chart import Program
from app.domain.days import local_day, midnight, written
from app.domain.vocabulary import (
    AUTHORIZATION,
    CAREPLAN,
    DIAGNOSIS_ROLE,
    ENTRY_PATH,
    EPISODE_TYPE,
    HCPCS,
    LEVEL,
    LEVELS,
    LOC_PERIOD,
    PRIOR_EPISODE,
    PROGRAM,
    ROLE,
    STAGE,
    TASK,
    UCUM,
    Vocabulary,
    parts,
)
from app.fhir.errors import refused
from app.fhir.wire import Resource

PLAN_WITHIN = timedelta(days=14)
REVIEW_AHEAD = 3  # business days before an authorization ends
BILLED = {"2.1": "H0015"}  # the program day of a level, in HCPCS
ORIENTATION = (
    "Please bring: a photo ID, your medical records, the medicines prescribed to you, a journal or "
    "a book, a water bottle and a sweater."
)
US_CORE_PLAN = "http://hl7.org/fhir/us/core/CodeSystem/careplan-category"
COMMUNICATION = "http://terminology.hl7.org/CodeSystem/communication-category"
IDENTIFIERS = "http://terminology.hl7.org/CodeSystem/v2-0203"
PLANS = {
    "treatment-plan": "Treatment plan",
    "discharge-plan": "Discharge plan",
    "safety-plan": "Safety plan",
}


@dataclass(frozen=True)
class Admission:
    """What is asked for, once it is known to be there.

    `named` are the references in each parameter, relative ones, and `known` what they lead to;
    `members` are the others of the care team, as (role, reference).
    """

    vocabulary: Vocabulary
    named: Mapping[str, tuple[str, ...]]
    known: Mapping[str, Resource]
    program: Program
    start: date
    level: str
    hours: Decimal | int | None
    weeks: int
    entry_path: str
    stage: str
    members: Sequence[tuple[str, str]]
    overrides: Sequence[Resource]
    now: datetime

    def one(self, name: str) -> str:
        """Return the reference in a parameter, "" for none."""
        return next(iter(self.named[name]), "")

    @property
    def patient(self) -> str:
        """Return the reference of who is admitted."""
        return self.one("patient")

    @property
    def since(self) -> str:
        """Return when the first day begins, where the program is."""
        return written(midnight(self.start, self.program.zone), self.program.zone)

    @property
    def age(self) -> int | None:
        """Return the age of the patient on the first day."""
        return chart.age(self.known[self.patient], self.start)

    def set_aside(self, rule: str) -> list[Resource]:
        """Return the overrides of a rule."""
        return [one for one in self.overrides if parts(one)["rule"] == rule]

    def references(self, name: str) -> list[Resource]:
        """Return what a parameter refers to, as References."""
        return [{"reference": one} for one in self.named[name]]


def taken_up(waiting: Resource, episode: Resource) -> Resource:
    """Return an episode that waited, with what an admission says of it."""
    said = {one["url"] for one in episode["extension"]}
    kept = [one for one in waiting.get("extension", ()) if one["url"] not in said]
    named = waiting.get("identifier", episode["identifier"])
    extension = [*kept, *episode["extension"]]
    return {**waiting, **episode, "identifier": named, "extension": extension}


def episode(admission: Admission, id: str, prior: str) -> Resource:
    """Return what an episode says from the beginning on, also while the patient waits."""
    a, v = admission, admission.vocabulary
    extension = [
        v.extended(PROGRAM, valueReference={"reference": a.program.reference}),
        v.extended(ENTRY_PATH, valueCode=a.entry_path),
        v.extended(STAGE, valueCode=a.stage),
    ]
    if prior:
        extension.append(v.extended(PRIOR_EPISODE, valueReference={"reference": prior}))
    return {
        "resourceType": "EpisodeOfCare",
        "id": id,
        "extension": extension,
        "identifier": [{"system": f"{v.base}/identifier/episode", "value": id}],
        "type": [{"coding": [{"system": EPISODE_TYPE, "code": "da"}]}],
        "patient": {"reference": a.patient},
        "managingOrganization": {"reference": a.program.organization},
    }


def active(admission: Admission, begun: Resource, ids: Mapping[str, str]) -> Resource:
    """Return an episode that is active from the first day on; `ids` are of its order and team."""
    a = admission
    ordered = level(a, f"ServiceRequest/{ids['order']}")
    return {
        **begun,
        "extension": [*begun["extension"], ordered, *a.set_aside("INV-EC-6")],
        "status": "active",
        "diagnosis": diagnoses(a),
        "period": {"start": a.since},
        "careManager": {"reference": a.one("care-manager")},
        "team": [{"reference": f"CareTeam/{ids['careteam']}"}],
    }


def diagnoses(admission: Admission) -> list[Resource]:
    """Return the diagnoses at admission: the principal one, and what comes with it."""
    return [
        {
            "condition": {"reference": name},
            "role": {"coding": [{"system": DIAGNOSIS_ROLE, "code": "CM" if n else "AD"}]},
            "rank": n + 1,
        }
        for n, name in enumerate(admission.named["diagnosis"])
    ]


def level(admission: Admission, order: str) -> Resource:
    """Return the first period at a level of care."""
    a = admission
    return a.vocabulary.complex(
        LOC_PERIOD,
        ("code", "valueCodeableConcept", a.vocabulary.concept(LEVEL, a.level)),
        ("period", "valuePeriod", {"start": a.since}),
        ("order", "valueReference", {"reference": order}),
        ("program", "valueReference", {"reference": a.program.reference}),
    )


def order(admission: Admission, id: str) -> Resource:
    """Return the order of the level of care."""
    a, code = admission, {"text": f"Level of care {admission.level}"}
    if a.level in BILLED:
        code |= {"coding": [{"system": HCPCS, "code": BILLED[a.level]}]}  # type: ignore[dict-item]
    hours = {"value": _hours(a), "unit": "h", "system": UCUM, "code": "h"}
    week = {"value": 1, "unit": "wk", "system": UCUM, "code": "wk"}
    made: Resource = {
        "resourceType": "ServiceRequest",
        "id": id,
        "status": "active",
        "intent": "order",
        "code": code,
        "orderDetail": [a.vocabulary.concept(LEVEL, a.level)],
        "quantityRatio": {"numerator": hours, "denominator": week},
        "subject": {"reference": a.patient},
        "occurrencePeriod": {"start": a.since},
        "authoredOn": _now(a),
        "requester": {"reference": a.one("primary-therapist")},
        "reasonReference": a.references("diagnosis"),
    }
    if a.set_aside("INV-SR-1"):
        made["extension"] = a.set_aside("INV-SR-1")
    if a.named["coverage"]:
        made["insurance"] = a.references("coverage")
    return made


def _hours(admission: Admission) -> Any:
    """Return the hours a week that are ordered: those given, or the least of the level."""
    if admission.hours is not None:
        return admission.hours
    least = LEVELS[admission.level].minimum
    if least is None:
        text = "The level of care has no least hours a week; hours-per-week is needed"
        raise refused("required", text, "http.hours-per-week", 422)
    return least[(admission.age or chart.ADULT) < chart.ADULT] // 60


def team(admission: Admission, id: str) -> Resource:
    """Return the care team of an episode."""
    a = admission
    members = [
        ("primary-therapist", a.one("primary-therapist")),
        ("care-manager", a.one("care-manager")),
        *a.members,
    ]
    return {
        "resourceType": "CareTeam",
        "id": id,
        "status": "active",
        "subject": {"reference": a.patient},
        "period": {"start": a.start.isoformat()},
        "participant": [
            {"role": [a.vocabulary.concept(ROLE, role)], "member": {"reference": member}}
            for role, member in members
        ],
        "managingOrganization": [{"reference": a.program.organization}],
    }


def draft(admission: Admission, id: str, category: str, team: str) -> Resource:
    """Return the draft of a plan; its narrative says no more than its title."""
    a, title = admission, PLANS[category]
    period = {"start": a.start.isoformat()}
    if category == "treatment-plan":
        period["end"] = (a.start + timedelta(weeks=a.weeks)).isoformat()
    said = f"{title}, a draft from {a.start.isoformat()} on"
    return {
        "resourceType": "CarePlan",
        "id": id,
        "text": {
            "status": "generated",
            "div": f'<div xmlns="http://www.w3.org/1999/xhtml"><p>{said}</p></div>',
        },
        "status": "draft",
        "intent": "plan",
        "category": [
            {"coding": [{"system": US_CORE_PLAN, "code": "assess-plan"}]},
            a.vocabulary.concept(CAREPLAN, category),
        ],
        "title": title,
        "subject": {"reference": a.patient},
        "period": period,
        "created": _now(a),
        "author": {"reference": a.one("primary-therapist")},
        "careTeam": [{"reference": f"CareTeam/{team}"}],
        "addresses": a.references("diagnosis"),
        "supportingInfo": [*a.references("assessment"), *a.references("intake")],
    }


def tasks(admission: Admission, plan: str, new_id: Callable[[], str]) -> list[Resource]:
    """Return what is to be done: the treatment plan, and a review where the payer sets limits."""
    a = admission
    made = [
        _task(
            a, new_id(), "complete-treatment-plan", plan, "primary-therapist", a.start + PLAN_WITHIN
        )
    ]
    for name in a.named["coverage"]:
        limits = [parts(one) for one in a.vocabulary.all(a.known[name], AUTHORIZATION)]
        ends = [chart.period(one.get("period"))[1] for one in limits]
        days = [local_day(end, a.program.zone) for end in ends if end is not None]
        if limits:
            due = before(min(days), REVIEW_AHEAD) if days else a.start
            made.append(_task(a, new_id(), "ur-review", name, "care-manager", due))
    return made


def before(day: date, count: int) -> date:
    """Return the day that is so many business days before another."""
    while count:
        day -= timedelta(days=1)
        count -= day.weekday() < 5
    return day


def _task(admission: Admission, id: str, code: str, focus: str, owner: str, due: date) -> Resource:
    a = admission
    return {
        "resourceType": "Task",
        "id": id,
        "status": "requested",
        "intent": "order",
        "code": a.vocabulary.concept(TASK, code),
        "focus": {"reference": focus},
        "for": {"reference": a.patient},
        "authoredOn": _now(a),
        "owner": {"reference": a.one(owner)},
        "restriction": {"period": {"end": due.isoformat()}},
    }


def orientation(admission: Admission, id: str, episode: str) -> Resource:
    """Return the message that says what to bring on the first day; it is still to be sent."""
    category = {"coding": [{"system": COMMUNICATION, "code": "instruction"}]}
    return {
        "resourceType": "Communication",
        "id": id,
        "status": "preparation",
        "category": [category],
        "subject": {"reference": admission.patient},
        "about": [{"reference": f"EpisodeOfCare/{episode}"}],
        "recipient": [{"reference": admission.patient}],
        "payload": [{"contentString": ORIENTATION}],
    }


def numbered(admission: Admission) -> Resource | None:
    """Return a Patient with a medical record number, None for one who has an identifier."""
    patient = admission.known[admission.patient]
    if patient.get("identifier"):
        return None
    number = {
        "use": "usual",
        "type": {"coding": [{"system": IDENTIFIERS, "code": "MR"}]},
        "system": f"{admission.vocabulary.base}/identifier/mrn",
        "value": patient["id"],
    }
    return {**patient, "identifier": [number]}


def _now(admission: Admission) -> str:
    return written(admission.now, admission.program.zone)
