"""Who was there, and for how many minutes: $attendance.

The session is locked before anything is read, so that of two facilitators who send at once the
second finds what the first has written. What the record should say is made from the call and held
against what it says: where nothing differs nothing is written, so the same call again changes
nothing; where something was recorded and differs, the call has to say that it amends.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from app.domain import chart
from app.domain.admission.overrides import directs
from app.domain.attendance.credit import (
    ATTENDED,
    EXCUSED,
    NO_SHOW,
    NOT_EXPECTED,
    Held,
    counts_as_session,
)
from app.domain.attendance.followup import FollowUp
from app.domain.attendance.register import Draft, Register, content, withdrawn
from app.domain.attendance.rollcall import Mark, Rules, faults, marks, not_accepted, said
from app.domain.attendance.sitting import Sitting, sitting
from app.domain.chart import reference
from app.domain.days import instant, moment
from app.domain.sessions.bookings import booking
from app.domain.vocabulary import (
    ATTENDANCE,
    CLINICAL_MINUTES,
    ISSUE,
    Vocabulary,
    parts,
)
from app.domain.workforce import works
from app.domain.writes import provenance
from app.fhir.errors import FhirError, Issue, outcome, refused
from app.fhir.interaction import Interaction, Reply
from app.fhir.operations import Call, Plan, answered
from app.fhir.reader import Reader, named
from app.fhir.wire import Resource

MODES = ("in-person", "virtual", "hybrid")
LATE_AFTER = timedelta(days=7)  # from then on a record needs a reason
SHIFTED = timedelta(days=1)  # that a session may begin off its time
SIGNED = frozenset({"final", "amended"})


def operations(vocabulary: Vocabulary) -> Mapping[str, Mapping[str, Any]]:
    """Return what performs $attendance."""
    return {
        "attendance": {
            "perform": partial(attendance, vocabulary),
            "tell": partial(tell_attendance, vocabulary),
            "writes": True,
            "needs": {"instance": ("read", "update")},
        }
    }


async def attendance(vocabulary: Vocabulary, call: Call) -> Plan:
    """Return the writes that record the attendance of a session."""
    await call.store.lock([("Appointment", call.asked.id)])
    await call.reader.read("Appointment", call.asked.id)  # a 404 for whom it does not exist
    reader = call.overview
    roll = said(call.given["participant"])
    scene = await sitting(vocabulary, reader, call.asked.id, frozenset(one.patient for one in roll))
    held = _held(scene, call)
    rules = _rules(vocabulary, scene, held, call)
    _check_time(rules, scene, call)
    found = faults(roll, scene.expected, rules)
    if found:
        raise FhirError(found, 422)
    known = marks(roll, rules)
    register = await _register(vocabulary, reader, scene, held, known, call)
    recording = Recording(call, reader, scene, register)
    told = {
        "program": scene.program.reference,
        "not-excused": [one.patient for one in roll if not_accepted(one, rules)],
    }
    return await recording.plan(known, told)


def _held(scene: Sitting, call: Call) -> Held:
    """Return a session as it was held: breaks of the call come to those that were scheduled."""
    start, end = (
        instant(call.one(name)) if call.one(name) else planned
        for name, planned in (
            ("actual-start", scene.session.start),
            ("actual-end", scene.session.end),
        )
    )
    breaks = dict.fromkeys((*scene.session.breaks, *chart.intervals(call.given.get("break", ()))))
    return Held(start, end, tuple(breaks), scene.session.minutes)


def _rules(vocabulary: Vocabulary, scene: Sitting, held: Held, call: Call) -> Rules:
    caller, mode = call.store.caller, call.one("mode") or scene.session.mode
    if mode not in MODES:
        raise refused("value", f"mode must be one of {', '.join(MODES)}", "Parameters", 422)
    return Rules(
        vocabulary=vocabulary,
        held=held,
        start=scene.session.start,
        policy=scene.program.policy,
        virtual=mode == "virtual",
        names=works(caller) and caller.policy.may("Patient", "read"),
    )


def _check_time(rules: Rules, scene: Sitting, call: Call) -> None:
    """Refuse a session that has not begun, or ended before; and one of long ago without reason."""
    now, held = moment(call.now), rules.held
    wrong = []
    if scene.session.start > now:
        wrong.append(rules.issue("not-started", "The session has not begun", "Appointment.start"))
    if held.start >= held.end:
        text = "The session must end after it has begun"
        wrong.append(rules.issue("range", text, "Parameters"))
    if abs(held.start - scene.session.start) > SHIFTED:
        text = "actual-start must be within a day of the start that was scheduled"
        wrong.append(rules.issue("range", text, "Parameters"))
    if call.one("actual-end") and held.end > now:
        wrong.append(rules.issue("range", "actual-end is in the future", "Parameters"))
    if len(chart.intervals(call.given.get("break", ()))) < len(call.given.get("break", ())):
        text = "A break needs both a start and an end"
        wrong.append(rules.issue("range", text, "Parameters"))
    late = now - held.end > LATE_AFTER
    if (late or call.one("amend")) and not call.one("amend-reason"):
        text = "amend-reason is needed for an amendment, and seven days after the session"
        wrong.append(rules.issue("amend-reason", text, "Parameters"))
    if wrong:
        raise FhirError(wrong, 422)


async def _register(
    vocabulary: Vocabulary,
    reader: Reader,
    scene: Sitting,
    held: Held,
    known: Sequence[Mark],
    call: Call,
) -> Register:
    leaders = tuple(reference(one) for one in call.given.get("facilitator", ()))
    places = scene.session.locations
    apart = len(places) > 1 or any(one.telehealth for one in known)
    rooms = await _rooms(reader, places) if apart else places
    shared = named(scene.shared) if scene.shared else f"Encounter/{call.new_id()}"
    return Register(
        vocabulary=vocabulary,
        program=scene.program,
        session=scene.session,
        held=held,
        facilitators=leaders or scene.session.facilitators,
        rooms=rooms,
        virtual=tuple(one for one in places if one not in rooms),
        topic=call.one("topic") or "",
        modalities=tuple(call.given.get("modality", ())),
        shared="" if scene.alone else shared,
    )


async def _rooms(reader: Reader, places: Sequence[str]) -> tuple[str, ...]:
    """Return those of some Locations where people meet in person: the others have no form."""
    found = await reader.get_all(places)
    return tuple(one for one in places if "physicalType" in found.get(one, {}))


# --- what is written ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """One call, what it found, and what it writes."""

    call: Call
    reader: Reader
    scene: Sitting
    register: Register

    async def plan(self, known: Sequence[Mark], told: Mapping[str, Any]) -> Plan:
        """Return the writes of a roll call, and what is told of it; none where nothing differs."""
        drafts = [draft for mark in known for draft in self._of(mark)]
        notes = await self._notes(known, drafts)
        changed = [one for one in (*self._of_all(known), *drafts, *notes) if one.changes]
        if changed and self.scene.recorded:
            await self._check_amendment(changed)
        if changed:
            follow = FollowUp(self.call, self.reader, self.scene, self.register)
            changed += await follow.drafts(known, drafts)
        return Plan(self._written(changed), told={**told, **self._told(known, drafts)})

    def _new(self) -> str:
        return self.call.new_id()

    def _of_all(self, known: Sequence[Mark]) -> list[Draft]:
        """Return the session Encounter, and the session as fulfilled."""
        if self.scene.alone:
            return []
        before = self.scene.shared
        id = self.register.shared.rpartition("/")[2]
        present = [one for one in known if one.present]
        in_person = any(not one.telehealth for one in present or known)
        whole = self.register.encounter_of_all(id, in_person=in_person, before=before)
        session = self.scene.appointment
        return [Draft("", whole, before), Draft("", {**session, "status": "fulfilled"}, session)]

    def _of(self, mark: Mark) -> list[Draft]:
        """Return the booking of a participant, and his Encounter."""
        scene, found = self.scene, []
        old = scene.bookings.get(mark.patient)
        place = ""
        unbooked = mark.patient in scene.members and mark.status != NOT_EXPECTED
        if old is not None or unbooked:
            start = old or booking(
                self.register.vocabulary, scene.appointment, mark.patient, self._new()
            )
            place = named(start)
            found.append(Draft(mark.patient, self.register.outcome(start, mark), old))
        visit = scene.visits.get(mark.patient)
        if mark.present:
            id = visit["id"] if visit else self._new()
            episode = scene.episodes.get(mark.patient)
            where = named(episode) if episode else ""
            whole = self.register.encounter(id, mark, place, where, visit)
            found.append(Draft(mark.patient, whole, visit))
        elif visit is not None:
            found.append(Draft(mark.patient, withdrawn(visit), visit))
        return found

    def _written(self, changed: Sequence[Draft]) -> list[Interaction]:
        """Return the writes, with a Provenance for each patient and one for what is of nobody."""
        writes: dict[str, list[Interaction]] = {}
        for draft in changed:
            writes.setdefault(draft.patient, []).append(draft.write)
        v, reason = self.register.vocabulary, self.call.one("amend-reason") or ""
        activity = "amend" if self.scene.recorded else ""
        sealed = [
            provenance(v, self.call, some, reason, activity=activity) for some in writes.values()
        ]
        return [*(one for some in writes.values() for one in some), *sealed]

    def _told(self, known: Sequence[Mark], drafts: Sequence[Draft]) -> dict[str, Any]:
        """Return references to what was recorded, in the order of the call."""
        rows: dict[str, dict[str, str]] = {
            mark.patient: {"patient": mark.patient} for mark in known
        }
        for draft in drafts:
            key = draft.resource["resourceType"].lower()
            if draft.resource["status"] != "entered-in-error":
                rows[draft.patient][key] = named(draft.resource)
        session = self.register.shared or next(
            (row["encounter"] for row in rows.values() if "encounter" in row), ""
        )
        return {"session": session, "participants": list(rows.values())}

    # --- amendments and notes ------------------------------------------------------------------

    async def _check_amendment(self, changed: Sequence[Draft]) -> None:
        """Refuse to change what was recorded, unless the call amends and its caller may."""
        v = self.register.vocabulary
        if not self.call.one("amend"):
            text = "Attendance was recorded before, and says something else: amend it"
            details = (v.system(ISSUE), "already-recorded")
            raise FhirError([Issue("error", "conflict", text, "Appointment", details)], 409)
        visits = [
            one.before
            for one in changed
            if one.before and one.before["resourceType"] == "Encounter"
        ]
        signed = any(one.get("docStatus") in SIGNED for one in await self._documents(visits))
        if signed and not await directs(v, self.call):
            text = "A note of this session is signed: only a program director amends it now"
            details = (v.system(ISSUE), "signed")
            raise FhirError([Issue("error", "forbidden", text, "Appointment", details)], 403)

    async def _documents(self, about: Iterable[Resource]) -> list[Resource]:
        """Return the documents about some Encounters and Appointments."""
        found: dict[str, Resource] = {}
        names = sorted(named(one) for one in about)
        for parameter, type in (("encounter", "Encounter/"), ("related", "Appointment/")):
            values = ",".join(one for one in names if one.startswith(type))
            if values:
                documents = await self.reader.search("DocumentReference", (parameter, values))
                found.update({one["id"]: one for one in documents})
        return list(found.values())

    async def _notes(self, known: Sequence[Mark], drafts: Sequence[Draft]) -> list[Draft]:
        """Return the notes: each a new draft, a draft changed, or an addendum to a signed note."""
        written = [mark for mark in known if mark.note]
        old = [one.before for one in drafts if one.before is not None]
        documents = await self._documents(old) if written and self.scene.recorded else []
        return [self._note(mark, drafts, documents) for mark in written]

    def _note(self, mark: Mark, drafts: Sequence[Draft], documents: Sequence[Resource]) -> Draft:
        own = [one for one in documents if reference(one.get("subject")) == mark.patient]
        own.sort(key=lambda one: one.get("date", ""))
        wanted = [content(mark.note)]
        same = next((one for one in own if one["content"] == wanted), None)
        if same:
            return Draft(mark.patient, same, same)
        last = own[-1] if own else None
        if last is not None and last.get("docStatus") == "preliminary":
            return Draft(mark.patient, {**last, "content": wanted}, last)
        about = {
            one.resource["resourceType"]: named(one.resource)
            for one in drafts
            if one.patient == mark.patient and one.resource["status"] != "entered-in-error"
        }
        places = about.get("Encounter", ""), about.get("Appointment", "")
        now, signed = moment(self.call.now), named(last) if last else ""
        return Draft(mark.patient, self.register.note(self._new(), mark, *places, now, signed))


# --- what is answered --------------------------------------------------------------------------


async def tell_attendance(
    vocabulary: Vocabulary, call: Call, told: Mapping[str, Any], issues: Sequence[Issue]
) -> Reply:
    """Return what the record says of a session; of it, what the caller may see."""
    reader, rows = call.reader, told["participants"]
    places = [place for row in rows for name, place in row.items() if name != "patient"]
    known = await reader.get_all([told["session"], told["program"], *places])
    program = known.get(told["program"])
    policy = chart.program(vocabulary, program).policy if program else chart.POLICIES
    session = known.get(told["session"], {})
    clinical = vocabulary.value(session, CLINICAL_MINUTES) or 0
    participants = [
        row for one in rows if (row := _row(vocabulary, one, known, clinical, policy)) is not None
    ]
    values = {
        "session": {"reference": told["session"]} if session else None,
        "participant": participants,
        "summary": _summary(participants),
        "outcome": outcome([*_unaccepted(vocabulary, told), *issues]),
    }
    return Reply(200, answered(call.operation, values))


def _row(
    vocabulary: Vocabulary,
    row: Mapping[str, str],
    known: Mapping[str, Resource],
    clinical: int,
    policy: Mapping[str, int],
) -> Resource | None:
    """Return what became of a participant, None where nothing of it is to be seen."""
    found = [known[row[name]] for name in ("encounter", "appointment") if row.get(name) in known]
    if not found:
        return None
    own = next((parts(one) for one in vocabulary.all(found[0], ATTENDANCE)), {})
    minutes = own.get("credited", 0)
    return {
        "patient": {"reference": row["patient"]},
        "status": own.get("status"),
        "credited-minutes": minutes,
        "counts-as-session": minutes > 0 and counts_as_session(minutes, clinical, policy),
        **{
            name: {"reference": row[name]}
            for name in ("encounter", "appointment")
            if row.get(name) in known
        },
    }


def _summary(participants: Sequence[Resource]) -> Resource:
    """Return the figures of a session: guests are present, and nobody expected them."""
    statuses = [one["status"] for one in participants]
    booked = [one for one in participants if "appointment" in one]
    return {
        "expected": sum(one["status"] != NOT_EXPECTED for one in booked),
        "present": sum(one in ATTENDED for one in statuses),
        "no-show": statuses.count(NO_SHOW),
        "excused": statuses.count(EXCUSED),
        "credited-total": sum(one["credited-minutes"] for one in participants),
    }


def _unaccepted(vocabulary: Vocabulary, told: Mapping[str, Any]) -> list[Issue]:
    """Return a warning for each excuse that was none."""
    text = "Excused needs notice in time, or a reason that excuses: it is a no-show"
    details = (vocabulary.system(ISSUE), "excuse-not-accepted")
    return [Issue("warning", "business-rule", text, "", details) for _ in told["not-excused"]]
