"""The attendance register: what is written when it is known who was there. Pure.

A session has one Encounter that holds what is shared, and each who was there one of his own, part
of it. The booking of each says what became of it. What is there already is changed where it says
something else, and only there: what other systems added to it stays.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.domain.attendance.credit import EXCUSED, NO_SHOW, NOT_EXPECTED, Held, next_business_day
from app.domain.attendance.encounters import COLLATERAL, in_minutes
from app.domain.attendance.rollcall import Mark
from app.domain.chart import Interval, Program, Session
from app.domain.days import local_day, written
from app.domain.sessions.bookings import cancelled
from app.domain.vocabulary import (
    ACT_CODE,
    ATTENDANCE,
    BREAK,
    CLINICAL_MINUTES,
    FLAG,
    KIND,
    KINDS,
    LOCATION_STATE,
    PARTICIPATION,
    SESSION,
    TASK,
    TOPIC,
    URI,
    Vocabulary,
)
from app.domain.writes import created, updated
from app.fhir.interaction import Interaction
from app.fhir.wire import Resource

LOINC = "http://loinc.org"
PROGRESS_NOTE = "11506-3"
NOTE_CATEGORY = "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category"
FLAG_CATEGORY = "http://terminology.hl7.org/CodeSystem/flag-category"
SERVICE_TYPE = "http://terminology.hl7.org/CodeSystem/service-type"
DRUG_TREATMENT = "108"
SIGNED_WITHIN = timedelta(hours=72)

# What becomes of a booking, by the status of attendance; of who was there it is fulfilled
BOOKINGS = {NO_SHOW: "noshow", EXCUSED: "cancelled", NOT_EXPECTED: "cancelled"}
# Who is the reason that it is cancelled: the patient, the provider
CANCELLED_BY = {EXCUSED: "pat", NOT_EXPECTED: "prov"}


@dataclass(frozen=True)
class Draft:
    """A resource as it should be, and as it is, None where it is new; "" for no patient."""

    patient: str
    resource: Resource
    before: Resource | None = None

    @property
    def changes(self) -> bool:
        """Return whether anything is to be written."""
        return self.resource != self.before

    @property
    def write(self) -> Interaction:
        """Return the create or the update."""
        return updated(self.resource) if self.before is not None else created(self.resource)


@dataclass(frozen=True)
class Register:
    """A session as it was held, and who writes it down.

    `rooms` are the places of who was in person, `virtual` of who was not. `shared` is the reference
    of the session Encounter, "" for a session of one patient.
    """

    vocabulary: Vocabulary
    program: Program
    session: Session
    held: Held
    facilitators: tuple[str, ...]
    rooms: tuple[str, ...]
    virtual: tuple[str, ...]
    topic: str
    modalities: tuple[Resource, ...]
    shared: str

    def written(self, moment: datetime) -> str:
        """Return a moment as clocks of the program show it."""
        return written(moment, self.program.zone)

    def period(self, interval: Interval) -> Resource:
        """Return an interval as a Period."""
        return {"start": self.written(interval[0]), "end": self.written(interval[1])}

    # --- encounters ----------------------------------------------------------------------------

    def encounter_of_all(self, id: str, *, in_person: bool, before: Resource | None) -> Resource:
        """Return the session Encounter; `in_person` says whether anybody was."""
        v, whole = self.vocabulary, (self.held.start, self.held.end)
        leaders = [{**one, "period": self.period(whole)} for one in self._leaders()]
        own = [*self._breaks(), self._minutes(), *self._topic()]
        return {
            **_started(id, before),
            "extension": _replaced(v, before, own, BREAK, CLINICAL_MINUTES, TOPIC),
            "identifier": [{"system": URI, "value": self.session.identifier}],
            "status": "finished",
            "class": self._class(telehealth=not in_person),
            "type": self._types(),
            "subject": {"reference": self.session.group},
            "appointment": [{"reference": self.session.reference}],
            "participant": leaders,
            "period": self.period(whole),
            **_places(self.rooms + self.virtual),
            **self._provider(),
        }

    def encounter(
        self, id: str, mark: Mark, booking: str, episode: str, before: Resource | None
    ) -> Resource:
        """Return the Encounter of who was there; `booking` and `episode` are "" for none."""
        v = self.vocabulary
        times = mark.presence or ((self.held.start, self.held.end),)
        own = [*self._breaks(), self._attendance(mark)]
        names = [BREAK, ATTENDANCE, LOCATION_STATE]
        if mark.state:
            own.append(v.extended(LOCATION_STATE, valueCode=mark.state))
        if self.shared:
            own.append(v.extended(SESSION, valueReference={"reference": self.session.reference}))
            names.append(SESSION)
        else:
            own += [self._minutes(), *self._topic()]
            names += [CLINICAL_MINUTES, TOPIC]
        related = [_participant("PART", one) for one in mark.related]
        return {
            "identifier": [self._visit(mark)],
            **_started(id, before),
            "extension": _replaced(v, before, own, *names),
            "status": "finished",
            "class": self._class(telehealth=mark.telehealth),
            "type": self._kept_types(before),
            "serviceType": {"coding": [{"system": SERVICE_TYPE, "code": DRUG_TREATMENT}]},
            "subject": {"reference": mark.patient},
            **({"episodeOfCare": [{"reference": episode}]} if episode else {}),
            **({"appointment": [{"reference": booking}]} if booking else {}),
            "participant": [*self._leaders(), *related],
            "period": self.period((times[0][0], times[-1][1])),
            "length": in_minutes(mark.minutes),
            **_places(self.virtual if mark.telehealth else self.rooms),
            **self._provider(),
            **({"partOf": {"reference": self.shared}} if self.shared else {}),
        }

    def _visit(self, mark: Mark) -> Resource:
        ids = ":".join(one.rpartition("/")[2] for one in (self.session.reference, mark.patient))
        return {"system": URI, "value": f"urn:iop:visit:{ids}"}

    def _types(self) -> list[Resource]:
        kind = self.vocabulary.concept(KIND, self.session.kind)
        return [kind, *({"coding": [one]} for one in self.modalities)]

    def _kept_types(self, before: Resource | None) -> list[Resource]:
        """Return the types of a patient's Encounter: billing codes that were added stay."""
        own = self._types() if not self.shared else self._types()[:1]
        kept = (before or {}).get("type", [])
        return [*own, *(one for one in kept if one not in own and not self._is_ours(one))]

    def _is_ours(self, concept: Resource) -> bool:
        codings = concept.get("coding", ())
        return any(one.get("system", "").startswith(self.vocabulary.base) for one in codings)

    def _class(self, *, telehealth: bool) -> Resource:
        return {"system": ACT_CODE, "code": "VR" if telehealth else "AMB"}

    def _leaders(self) -> list[Resource]:
        roles = ("PPRF", *("SPRF" for _ in self.facilitators[1:]))
        return [_participant(*one) for one in zip(roles, self.facilitators, strict=False)]

    def _provider(self) -> Resource:
        name = self.program.organization
        return {"serviceProvider": {"reference": name}} if name else {}

    def _breaks(self) -> list[Resource]:
        periods = [self.period(one) for one in self.held.breaks]
        return [self.vocabulary.extended(BREAK, valuePeriod=one) for one in periods]

    def _minutes(self) -> Resource:
        return self.vocabulary.extended(CLINICAL_MINUTES, valuePositiveInt=self.held.minutes)

    def _topic(self) -> list[Resource]:
        return [self.vocabulary.extended(TOPIC, valueString=self.topic)] if self.topic else []

    def _attendance(self, mark: Mark) -> Resource:
        """Return the outcome of attendance; of who was not there it has no minutes."""
        credit = [
            ("credited", "valueUnsignedInt", mark.minutes),
            *(("presence", "valuePeriod", self.period(one)) for one in mark.presence),
            ("countsTowardHours", "valueBoolean", self._counts()),
        ]
        return self.vocabulary.complex(
            ATTENDANCE,
            ("status", "valueCode", mark.status),
            *(credit if mark.present else ()),
            ("reason", "valueCodeableConcept", mark.reason),
        )

    def _counts(self) -> bool:
        kind = self.session.kind
        if kind == "peer-support":
            return bool(self.program.policy["peer-support-counts"])
        return kind != COLLATERAL and kind in KINDS and KINDS[kind].counts

    # --- appointments --------------------------------------------------------------------------

    def outcome(self, booking: Resource, mark: Mark) -> Resource:
        """Return the booking of a participant with what became of it."""
        v = self.vocabulary
        said = v.complex(
            ATTENDANCE,
            ("status", "valueCode", mark.status),
            ("reason", "valueCodeableConcept", mark.reason),
        )
        kept = {name: held for name, held in booking.items() if name != "cancelationReason"}
        kept["extension"] = _replaced(v, booking, [said], ATTENDANCE)
        kept["status"] = BOOKINGS.get(mark.status, "fulfilled")
        by = CANCELLED_BY.get(mark.status)
        return cancelled(kept, by) if by else kept

    # --- what follows --------------------------------------------------------------------------

    def task(
        self, id: str, code: str, patient: str, focus: str, owner: str, now: datetime
    ) -> Resource:
        """Return a Task about a patient that is due on the next business day."""
        due = next_business_day(local_day(self.session.start, self.program.zone))
        return self._task(id, code, now, str(due), owner, patient, focus)

    def signing(self, id: str, encounter: str, now: datetime, patient: str = "") -> Resource:
        """Return the Task to sign the notes of a session, due within 72 hours."""
        due = self.written(self.held.end + SIGNED_WITHIN)
        owner = next(iter(self.facilitators), "")
        return self._task(id, "sign-note", now, due, owner, patient, encounter)

    def _task(
        self, id: str, code: str, now: datetime, due: str, owner: str, patient: str, focus: str
    ) -> Resource:
        named = {"for": patient, "focus": focus, "owner": owner}
        return {
            "resourceType": "Task",
            "id": id,
            "status": "requested",
            "intent": "order",
            "code": self.vocabulary.concept(TASK, code),
            **{name: {"reference": one} for name, one in named.items() if one},
            "authoredOn": self.written(now),
            "restriction": {"period": {"end": due}},
        }

    def flag(self, id: str, mark: Mark) -> Resource:
        """Return the Flag that somebody is often not there."""
        return {
            "resourceType": "Flag",
            "id": id,
            "status": "active",
            "category": [{"coding": [{"system": FLAG_CATEGORY, "code": "admin"}]}],
            "code": self.vocabulary.concept(FLAG, "attendance"),
            "subject": {"reference": mark.patient},
            "period": {"start": self.written(self.session.start)},
        }

    def note(
        self, id: str, mark: Mark, encounter: str, booking: str, now: datetime, signed: str = ""
    ) -> Resource:
        """Return the draft of a progress note; it adds to one that is `signed`, if there is."""
        addendum = {"code": "appends", "target": {"reference": signed}}
        return {
            "resourceType": "DocumentReference",
            "id": id,
            "status": "current",
            "docStatus": "preliminary",
            "type": {"coding": [{"system": LOINC, "code": PROGRESS_NOTE}]},
            "category": [{"coding": [{"system": NOTE_CATEGORY, "code": "clinical-note"}]}],
            "subject": {"reference": mark.patient},
            "date": self.written(now),
            "author": [{"reference": one} for one in self.facilitators],
            **({"relatesTo": [addendum]} if signed else {}),
            "content": [content(mark.note)],
            "context": {
                **({"encounter": [{"reference": encounter}]} if encounter else {}),
                **({"related": [{"reference": booking}]} if booking else {}),
            },
        }


def content(text: str) -> Resource:
    """Return a text as DocumentReference.content."""
    data = b64encode(text.encode()).decode()
    return {"attachment": {"contentType": "text/plain; charset=utf-8", "data": data}}


def withdrawn(encounter: Resource) -> Resource:
    """Return an Encounter that never was, as an amendment says."""
    return {**encounter, "status": "entered-in-error"}


def _started(id: str, before: Resource | None) -> Resource:
    """Return an Encounter to say more of: a new one, or what was there, without its place."""
    known = before or {"resourceType": "Encounter", "id": id}
    return {name: held for name, held in known.items() if name != "location"}


def _participant(role: str, individual: str) -> Resource:
    return {
        "type": [{"coding": [{"system": PARTICIPATION, "code": role}]}],
        "individual": {"reference": individual},
    }


def _places(locations: Sequence[str]) -> Resource:
    return (
        {"location": [{"location": {"reference": one}} for one in locations]} if locations else {}
    )


def _replaced(
    vocabulary: Vocabulary, before: Resource | None, own: list[Resource], *names: str
) -> list[Resource]:
    """Return the extensions of a resource with those of some names replaced by `own`."""
    urls = {vocabulary.extension(name) for name in names}
    kept = [one for one in (before or {}).get("extension", ()) if one.get("url") not in urls]
    return [*kept, *own]
