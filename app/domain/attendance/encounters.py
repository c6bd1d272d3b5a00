"""Encounters of a program: what each must say, and what follows from it.

A session Encounter (its subject is a Group) holds once what is shared: when, where, who led, how
many clinical minutes. What a patient attended is an Encounter of his own, part of it. An EHR may
write either; of a finished Encounter with a kind of ours that says nothing of attendance, its
minutes are filled in.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from app.domain.attendance.credit import Held, credited, length
from app.domain.chart import Visit, period, reference, visit
from app.domain.chart import session as session_of
from app.domain.extensions import malformed
from app.domain.vocabulary import (
    ATTENDANCE,
    CLINICAL_MINUTES,
    KIND,
    KINDS,
    LOCATION_STATE,
    SESSION,
    UCUM,
    Vocabulary,
    parts,
)
from app.fhir.reader import Reader
from app.fhir.rules import Change, Finding, Rule
from app.fhir.wire import Resource

WITH_RELATED = frozenset({"family", "family-collateral"})
COLLATERAL = "family-collateral"
POLICY_DECIDES = "peer-support"  # whether it counts is for the program to say
WITHDRAWN = "entered-in-error"
GONE = frozenset({WITHDRAWN, "cancelled"})


def rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Return the rules INV-EN-1 to INV-EN-8 about every Encounter of a program."""
    return (
        Rule(
            "INV-EN",
            frozenset({"Encounter"}),
            (vocabulary.mark,),
            check=partial(check, vocabulary),
            fill=partial(fill, vocabulary),
            locks=partial(locks, vocabulary),
        ),
    )


def locks(vocabulary: Vocabulary, change: Change) -> Iterable[str]:
    """Return the sessions of an Encounter: who writes one of the same patient has to wait."""
    found = [reference(vocabulary.value(one, SESSION)) for one in _sides(change)]
    return [one for one in found if one.startswith("Appointment/")]


# --- what is filled in -------------------------------------------------------------------------


async def fill(
    vocabulary: Vocabulary, resource: Resource, before: Resource | None, reader: Reader
) -> Resource:
    """Return a finished Encounter of a patient with what its kind and its period say of attendance.

    What it says itself stays, but what only followed from how it was before follows anew. One that
    is not as it has to be stays as it is, to be refused.
    """
    try:
        filled = await _filled(vocabulary, resource, before, reader)
        return resource if malformed(vocabulary, filled) else filled
    except (AttributeError, KeyError, TypeError, ValueError):
        return resource  # not even FHIR, which validation says better


async def _own(
    vocabulary: Vocabulary, resource: Resource, before: Resource | None, reader: Reader
) -> Resource:
    """Return an Encounter without what was filled in before and comes back as it was.

    Of a session that is for $attendance to say.
    """
    was = visit(vocabulary, before) if before is not None else None
    if before is None or was is None or was.session or not _is_creditable(before, was):
        return resource
    held = _attended(vocabulary, before)
    now = _attended(vocabulary, resource)
    followed = {url: one for url, _, one in await _followed(vocabulary, was, reader)}
    stale = {url for url, one in followed.items() if held.get(url) == one == now.get(url)}
    kept = [
        {**one, "extension": [part for part in one["extension"] if part["url"] not in stale]}
        if one["url"] == vocabulary.extension(ATTENDANCE)
        else one
        for one in resource.get("extension", ())
    ]
    found = {**resource, "extension": kept}
    if "credited" in stale and resource.get("length") == in_minutes(held["credited"]):
        del found["length"]
    return found


def _attended(vocabulary: Vocabulary, encounter: Resource) -> dict[str, Any]:
    """Return the parts of the iop-attendance of an Encounter, none where it has not any."""
    return next((parts(one) for one in vocabulary.all(encounter, ATTENDANCE)), {})


async def _filled(
    vocabulary: Vocabulary, resource: Resource, before: Resource | None, reader: Reader
) -> Resource:
    seen = visit(vocabulary, {"id": "", **resource})
    if seen is None or not _is_creditable(resource, seen):
        return resource
    resource = await _own(vocabulary, resource, before, reader)
    said: Resource = next(iter(vocabulary.all(resource, ATTENDANCE)), {})
    known = parts(said)
    missing = [one for one in await _followed(vocabulary, seen, reader) if one[0] not in known]
    if not missing and "length" in resource:
        return resource
    whole = [*said.get("extension", ()), *vocabulary.complex(ATTENDANCE, *missing)["extension"]]
    others = [one for one in resource.get("extension", ()) if one is not said]
    extension = {"url": vocabulary.extension(ATTENDANCE), "extension": whole}
    minutes = parts(extension)["credited"]
    return {"length": in_minutes(minutes), **resource, "extension": [*others, extension]}


def _is_creditable(resource: Resource, seen: Visit) -> bool:
    """Return whether minutes follow: a finished Encounter of a patient whose times are known."""
    known = all("T" in time for time in resource["period"].values() if isinstance(time, str))
    ours = seen.kind in KINDS and seen.patient.startswith("Patient/")
    return ours and known and seen.status == "finished"


async def _followed(
    vocabulary: Vocabulary, seen: Visit, reader: Reader
) -> list[tuple[str, str, object]]:
    """Return the parts of iop-attendance that follow from an Encounter."""
    most = length(seen.period, seen.breaks)
    session = await reader.get(seen.session) if seen.session else None
    if session is not None:
        most = min(most, session_of(vocabulary, session).minutes)
    held = Held(*seen.period, seen.breaks, most)
    counts = None if seen.kind == POLICY_DECIDES else KINDS[seen.kind].counts
    return [
        ("status", "valueCode", "attended"),
        ("credited", "valueUnsignedInt", credited(seen.intervals or (seen.period,), held)),
        *([("countsTowardHours", "valueBoolean", counts)] if counts is not None else []),
    ]


def in_minutes(minutes: int) -> Resource:
    """Return minutes as a Duration."""
    return {"value": minutes, "unit": "min", "system": UCUM, "code": "min"}


# --- what must hold ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """What the record says around some Encounters, by reference."""

    vocabulary: Vocabulary
    known: Mapping[str, Resource]
    visits: Counter[tuple[str, str]]

    def bounds(self, seen: Visit) -> tuple[datetime | None, datetime | None]:
        """Return when the session of a visit was, or is to be; None where there is nothing."""
        part_of, session = self.known.get(seen.part_of), self.known.get(seen.session)
        return period(part_of["period"] if part_of and "period" in part_of else session)

    def clinical_minutes(self, seen: Visit) -> int:
        """Return the most that may be credited for a visit."""
        for place in (seen.part_of, seen.session):
            found = self.known.get(place, {})
            minutes = self.vocabulary.value(found, CLINICAL_MINUTES)
            if minutes is not None:
                return int(minutes)
        return length(seen.period, seen.breaks)


async def check(vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader) -> list[Finding]:
    """Return what is wrong with Encounters that were written, and with the visits of a session."""
    there = [(c, one) for c in changes if (one := c.after or _withdrawn(c.before)) is not None]
    held = [(c, one) for c, one in there if one["status"] != WITHDRAWN]
    affected = await _children(vocabulary, held, reader)
    scene = await _scene(vocabulary, [one for _, one in [*there, *affected]], reader)
    found = [finding for c, one in held for finding in _wrong(scene, c, one)]
    for change, child in affected:
        found += _limits(scene, change, child)
    withdrawn = [(c, one) for c, one in there if one["status"] == WITHDRAWN]
    return [*found, *(finding for c, one in withdrawn for finding in _still_held(scene, c, one))]


def _withdrawn(deleted: Resource | None) -> Resource | None:
    """Return what was deleted as if it had been withdrawn: what it leaves behind is the same."""
    return {**deleted, "status": WITHDRAWN} if deleted is not None else None


async def _children(
    vocabulary: Vocabulary, held: Iterable[tuple[Change, Resource]], reader: Reader
) -> list[tuple[Change, Resource]]:
    """Return the visits of session Encounters that say something else than before."""
    found = []
    for change, after in held:
        names = ("period", CLINICAL_MINUTES)
        if change.before is not None and _is_session(after):
            old, new = (
                (one.get(names[0]), vocabulary.value(one, names[1]))
                for one in (change.before, after)
            )
            if old != new:
                children = await reader.search("Encounter", ("part-of", change.reference))
                found += [(change, one) for one in children if one["status"] != WITHDRAWN]
    return found


async def _scene(vocabulary: Vocabulary, encounters: Sequence[Resource], reader: Reader) -> Scene:
    """Read what the rules look at: the sessions, the bookings and places, the other visits."""
    wanted = {place for one in encounters for place in _looked_at(vocabulary, one)}
    sessions = {reference(vocabulary.value(one, SESSION)) for one in encounters} - {""}
    visits: Counter[tuple[str, str]] = Counter()
    if sessions:
        for one in await reader.search("Encounter", ("iop-session", ",".join(sorted(sessions)))):
            if one["status"] not in GONE:
                visits[_identity(vocabulary, one)] += 1
    return Scene(vocabulary, await reader.get_all(sorted(wanted)), visits)


def _looked_at(vocabulary: Vocabulary, encounter: Resource) -> Iterator[str]:
    """Yield the references that the rules follow from an Encounter."""
    if encounter["status"] == WITHDRAWN:
        yield from (reference(one) for one in encounter.get("appointment", ()))
        return
    part_of = reference(encounter.get("partOf"))
    if not _is_session(encounter):
        yield part_of or reference(vocabulary.value(encounter, SESSION))
    if _is_virtual(encounter):
        yield from (reference(one["location"]) for one in encounter.get("location", ()))


def _wrong(scene: Scene, change: Change, encounter: Resource) -> Iterator[Finding]:
    if not _is_session(encounter):
        yield from _limits(scene, change, encounter)
        yield from _once(scene, change, encounter)
    if encounter["status"] == "finished":
        for look in WHEN_FINISHED:
            yield from look(scene, change, encounter)


def _limits(scene: Scene, change: Change, encounter: Resource) -> Iterator[Finding]:
    """INV-EN-1, INV-EN-2: a visit is inside its session, and has no more minutes."""
    seen = visit(scene.vocabulary, encounter)
    if seen is None:
        return
    start, end = scene.bounds(seen)
    begun, ended = seen.period
    if (start is not None and begun < start) or (end is not None and end < ended):
        text = "The encounter is not inside the period of its session"
        yield Finding(change, text, "period", rule="INV-EN-1")
    most = scene.clinical_minutes(seen)
    if (seen.credited or 0) > most:
        text = f"{seen.credited} minutes are credited; the session has {most} clinical minutes"
        yield Finding(change, text, "extension", rule="INV-EN-2")


def _once(scene: Scene, change: Change, encounter: Resource) -> Iterator[Finding]:
    """INV-EN-3: a patient has one Encounter for a session."""
    if scene.visits[_identity(scene.vocabulary, encounter)] > 1:
        text = "There is another encounter of this patient for this session"
        yield Finding(change, text, "extension", code="duplicate", rule="INV-EN-3")


def _led(scene: Scene, change: Change, encounter: Resource) -> Iterator[Finding]:
    """INV-EN-4: somebody has led what is finished."""
    if scene.vocabulary.code(encounter.get("type"), KIND) and not _with(encounter, "Practitioner"):
        text = "A finished encounter needs at least one facilitator"
        yield Finding(change, text, "participant", rule="INV-EN-4")


def _with_family(scene: Scene, change: Change, encounter: Resource) -> Iterator[Finding]:
    """INV-EN-5: family sessions are with family; without the patient they earn him no hours."""
    kind = scene.vocabulary.code(encounter.get("type"), KIND)
    if _is_session(encounter) or kind not in WITH_RELATED:
        return
    if not _with(encounter, "RelatedPerson"):
        text = f"A finished encounter of kind {kind} needs a RelatedPerson as participant"
        yield Finding(change, text, "participant", rule="INV-EN-5")
    said = next((parts(one) for one in scene.vocabulary.all(encounter, ATTENDANCE)), {})
    if kind == COLLATERAL and said.get("countsTowardHours"):
        text = "A session without the patient does not count towards the patient's hours"
        yield Finding(change, text, "extension", rule="INV-EN-5")


def _where(scene: Scene, change: Change, encounter: Resource) -> Iterator[Finding]:
    """INV-EN-6: of telehealth it is known where the patient was, and in which virtual room."""
    if _is_session(encounter) or not _is_virtual(encounter):
        return
    places = [reference(one["location"]) for one in encounter.get("location", ())]
    rooms = [scene.known[place] for place in places if place in scene.known]
    if not scene.vocabulary.value(encounter, LOCATION_STATE):
        text = "It is not said in which state the patient was"
        yield Finding(change, text, "extension", "warning", rule="INV-EN-6")
    if not any("physicalType" not in room for room in rooms):
        text = "The location of a telehealth encounter is a virtual one"
        yield Finding(change, text, "location", "warning", rule="INV-EN-6")


WHEN_FINISHED: Sequence[Callable[[Scene, Change, Resource], Iterator[Finding]]] = (
    _led,
    _with_family,
    _where,
)


def _still_held(scene: Scene, change: Change, encounter: Resource) -> Iterator[Finding]:
    """INV-EN-8: what never was has no fulfilled appointment; both are withdrawn together."""
    bookings = [reference(one) for one in encounter.get("appointment", ())]
    if any(scene.known.get(one, {}).get("status") == "fulfilled" for one in bookings):
        text = "Its appointment is fulfilled: change that in the same transaction"
        yield Finding(change, text, "status", rule="INV-EN-8")


# --- what an Encounter is ----------------------------------------------------------------------


def _sides(change: Change) -> list[Resource]:
    return [one for one in (change.before, change.after) if one is not None]


def _identity(vocabulary: Vocabulary, encounter: Resource) -> tuple[str, str]:
    """Return the session and the patient of an Encounter."""
    session = reference(vocabulary.value(encounter, SESSION))
    return session, reference(encounter.get("subject")) if session else ""


def _is_session(encounter: Resource) -> bool:
    return reference(encounter.get("subject")).startswith("Group/")


def _is_virtual(encounter: Resource) -> bool:
    return bool(encounter["class"].get("code") == "VR")


def _with(encounter: Resource, kind: str) -> bool:
    """Return whether somebody of a kind (the beginning of a type) took part."""
    names = [reference(one.get("individual")) for one in encounter.get("participant", ())]
    return any(name.startswith(kind) for name in names)
