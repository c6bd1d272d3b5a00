"""What follows from attendance: notes to sign, who to call, and whose treatment to look at again.

Nobody is discharged by it: that is for people to decide.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from app.domain import chart
from app.domain.attendance.credit import EXCUSED, NO_SHOW, review_due
from app.domain.attendance.register import Draft, Register
from app.domain.attendance.rollcall import Mark
from app.domain.attendance.sitting import Sitting
from app.domain.chart import reference
from app.domain.days import moment, written
from app.domain.vocabulary import FLAG, TASK
from app.fhir.operations import Call
from app.fhir.reader import Reader, named
from app.fhir.wire import Resource

LOOKED_BACK = timedelta(weeks=12)
OPEN = "requested,received,accepted,ready,in-progress"
OUTREACH, REVIEW = "outreach-no-show", "step-review"
# The status of attendance that the status of an Appointment stands for
HISTORY = {"fulfilled": "attended", "noshow": NO_SHOW, "cancelled": EXCUSED}


@dataclass(frozen=True)
class FollowUp:
    """One call of $attendance, and the Tasks and Flags that come of it."""

    call: Call
    reader: Reader
    scene: Sitting
    register: Register

    async def drafts(self, known: Sequence[Mark], recorded: Sequence[Draft]) -> list[Draft]:
        """Return the Tasks and Flags; `recorded` are the bookings and Encounters."""
        before = self.scene.statuses
        missed = [m for m in known if m.status == NO_SHOW and before.get(m.patient) != NO_SHOW]
        came = [m for m in known if m.status != NO_SHOW and before.get(m.patient) == NO_SHOW]
        found = [] if self.scene.recorded else self._signing(known, recorded)
        if missed or came:
            tasks = await self._open_tasks(mark.patient for mark in (*missed, *came))
            found += self._called_off(came, tasks)
            found += self._outreach(missed, recorded)
            found += await self._reviews(missed, tasks)
        return found

    def _signing(self, known: Sequence[Mark], recorded: Sequence[Draft]) -> list[Draft]:
        """Return the Task to sign the notes of who was there (INV-EN-7)."""
        if not any(mark.present for mark in known):
            return []
        alone = recorded[-1] if self.scene.alone else None
        encounter = named(alone.resource) if alone else self.register.shared
        patient, now = alone.patient if alone else "", moment(self.call.now)
        return [Draft(patient, self.register.signing(self.call.new_id(), encounter, now, patient))]

    async def _open_tasks(self, patients: Iterable[str]) -> list[Resource]:
        system = self.register.vocabulary.system(TASK)
        codes = ",".join(f"{system}|{code}" for code in (OUTREACH, REVIEW))
        asked = (("patient", ",".join(patients)), ("code", codes), ("status", OPEN))
        return await self.reader.search("Task", *asked)

    def _called_off(self, came: Iterable[Mark], tasks: Iterable[Resource]) -> list[Draft]:
        """Return the outreach that is no more needed, cancelled."""
        bookings = {named(self.scene.bookings[mark.patient]): mark.patient for mark in came}
        return [
            Draft(bookings[reference(one.get("focus"))], {**one, "status": "cancelled"}, one)
            for one in tasks
            if reference(one.get("focus")) in bookings
        ]

    def _outreach(self, missed: Iterable[Mark], recorded: Iterable[Draft]) -> list[Draft]:
        bookings = {
            one.patient: named(one.resource)
            for one in recorded
            if one.resource["resourceType"] == "Appointment"
        }
        return [
            Draft(mark.patient, self._task(OUTREACH, mark, bookings[mark.patient]))
            for mark in missed
        ]

    async def _reviews(self, missed: Sequence[Mark], tasks: Iterable[Resource]) -> list[Draft]:
        """Return a Flag and a Task for who is away too often, one each as long as it stands."""
        v = self.register.vocabulary
        due = await self._often_away(missed) if missed else []
        if not due:
            return []
        flagged = await self._flagged(due)
        reviewed = {
            reference(one.get("for")) for one in tasks if v.code(one.get("code"), TASK) == REVIEW
        }
        flags = [m for m in due if m.patient not in flagged]
        reviews = [m for m in due if m.patient not in reviewed]
        return [
            *(Draft(m.patient, self.register.flag(self.call.new_id(), m)) for m in flags),
            *(Draft(m.patient, self._task(REVIEW, m, self._episode(m))) for m in reviews),
        ]

    def _task(self, code: str, mark: Mark, focus: str) -> Resource:
        """Return a Task for who manages the care of a participant."""
        episode = self.scene.episodes.get(mark.patient, {})
        owner = reference(episode.get("careManager"))
        now = moment(self.call.now)
        return self.register.task(self.call.new_id(), code, mark.patient, focus, owner, now)

    def _episode(self, mark: Mark) -> str:
        episode = self.scene.episodes.get(mark.patient)
        return named(episode) if episode else ""

    async def _often_away(self, missed: Sequence[Mark]) -> list[Mark]:
        """Return who is away too often, by the bookings of 12 weeks up to this session."""
        start = self.scene.session.start
        past = await self.reader.search(
            "Appointment",
            ("patient", ",".join(mark.patient for mark in missed)),
            ("status", ",".join(HISTORY)),
            ("date", f"ge{written(start - LOOKED_BACK)}"),
            ("date", f"lt{written(start)}"),
        )
        bookings = [chart.booking(self.register.vocabulary, one) for one in past]
        statuses: dict[str, list[str]] = {}
        for one in sorted(bookings, key=lambda one: one.start):
            statuses.setdefault(one.patient, []).append(one.attendance or HISTORY[one.status])
        policy = self.scene.program.policy
        return [m for m in missed if review_due([*statuses.get(m.patient, ()), NO_SHOW], policy)]

    async def _flagged(self, due: Iterable[Mark]) -> frozenset[str]:
        """Return who has a Flag for attendance that is active."""
        found = await self.reader.search("Flag", ("patient", ",".join(m.patient for m in due)))
        v = self.register.vocabulary
        return frozenset(
            reference(one["subject"])
            for one in found
            if one["status"] == "active" and v.code(one["code"], FLAG) == "attendance"
        )
