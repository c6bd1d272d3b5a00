"""A story, made to happen: each event through the one door, at its time.

What a program does by an operation is done by it here; the rest are ordinary writes.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import date, timedelta
from typing import Any

from app.domain.days import DAY, instant, midnight, week_of, written
from app.domain.seed import center, people
from app.domain.seed.cases import cases
from app.domain.seed.center import Group, hours_a_week
from app.domain.seed.sizes import Size
from app.domain.seed.story import (
    Admitted,
    Attendance,
    Discharged,
    Event,
    Joined,
    Met,
    Moved,
    Paused,
    Planned,
    Resumed,
    Score,
    Stay,
    Unmet,
    Visit,
    Written,
    arrivals,
    events,
    holidays,
)
from app.domain.seed.teller import Seeded, Teller, part, reference, telling
from app.domain.vocabulary import (
    ACT_CODE,
    ATTENDANCE,
    CANCELATION,
    DIAGNOSIS_ROLE,
    DISCHARGE_REASON,
    KIND,
    LEVEL,
    LOC_PERIOD,
    PARTICIPATION,
    PROGRAM,
    Vocabulary,
)
from app.fhir.rest import Server
from app.fhir.wire import Resource

WAIVED = "Written by the seed, which makes no aftercare plans"
MINUTE = timedelta(minutes=1)


async def seed(
    server: Server,
    vocabulary: Vocabulary,
    size: Size,
    number: int,
    last: date,
    show: Callable[[int, int], None],
) -> Seeded:
    """Make a program up to the morning of its `last` day, and return what that came to.

    `show` is told how many events of how many have happened. Raises Refused.
    """
    first = week_of(last) - DAY * 7 * size.weeks
    where = center.center(size.tracks, size.times, size.groups)
    stays = cases(where, last, number)
    if size.arriving:
        stays = arrivals(where, first, last, number, stays)
    story = events(where, stays, first, last, number)
    seeded = Seeded(patients=len(stays), events=len(story))
    teller = telling(server, vocabulary, number, seeded)
    teller.clock.set(midnight(first - DAY * 14, where.tracks[0].zone))
    for some in _portions(center.resources(vocabulary, where, first)):
        await teller.put(some)
    for done, event in enumerate(story, 1):
        teller.clock.set(event.at)
        await TOLD[type(event)](teller, event)
        show(done, len(story))
    return seeded


def _portions(resources: Iterable[Resource], size: int = 500) -> Iterable[list[Resource]]:
    """Yield the resources in lists of one size."""
    held = list(resources)
    return (held[n : n + size] for n in range(0, len(held), size))


# --- what happens ------------------------------------------------------------------------------


async def planned(teller: Teller, event: Planned) -> None:
    """Make the sessions of a group."""
    await _plan(teller, event.group, event.start, event.end, event.off)


async def _plan(teller: Teller, group: Group, start: date, end: date, off: Iterable[date]) -> None:
    facilitators = [
        part("facilitator", {"name": "action", "valueString": slot.id},
             reference("practitioner-role", group.therapist))
        for slot in group.track.slots
    ]  # fmt: skip
    await teller.call(
        f"PlanDefinition/{group.id}/$generate-sessions",
        {"name": "from", "valueDate": f"{start}"},
        {"name": "to", "valueDate": f"{end}"},
        *({"name": "holidays", "valueDate": f"{day}"} for day in off),
        *facilitators,
    )
    found = await teller.search(
        "Appointment",
        ("supporting-info", group.reference),
        ("date", f"ge{start}"),
        ("date", f"lt{end + 2 * DAY}"),
        ("_elements", "identifier"),
    )
    for one in found:
        for identifier in one.get("identifier", ()):
            teller.sessions[identifier["value"]] = f"Appointment/{one['id']}"


def _session(teller: Teller, event: Met | Unmet) -> str:
    plan = event.group.id
    return teller.sessions[f"urn:iop:session:{plan}:{event.slot.id}:{event.day}"]


async def admitted(teller: Teller, event: Admitted) -> None:
    """Write down what is known of a patient, and admit."""
    v, stay = teller.vocabulary, event.stay
    id, track = stay.patient, stay.track
    record = people.record(v, id, stay.person, stay.start, track.level, stay.populations)
    await teller.put([*record, *([people.refusal(id, stay.start)] if stay.denies else [])])
    therapist = stay.places[0].group.therapist if stay.places else "PractitionerRole/therapist-1"
    given = [
        reference("patient", f"Patient/{id}"),
        reference("program", track.program),
        {"name": "start", "valueDate": f"{stay.start}"},
        {"name": "level", "valueCoding": v.coding(LEVEL, track.level)},
        {"name": "hours-per-week", "valueDecimal": track.hours},
        {"name": "entry-path", "valueCode": stay.person.entry},
        reference("assessment", f"Observation/{id}-asam"),
        reference("intake", f"QuestionnaireResponse/{id}-intake"),
        *(reference("diagnosis", f"Condition/{id}-problem-{n}")
          for n in range(1, len(stay.person.diagnoses) + 1)),
        reference("care-manager", f"PractitionerRole/case-manager-{1 + stay.number % 3}"),
        reference("primary-therapist", therapist),
        *([reference("coverage", f"Coverage/{id}-coverage")] if stay.person.payer else []),
        reference("consent-to-treat", f"DocumentReference/{id}-consent"),
        reference("part2-notice", f"DocumentReference/{id}-notice"),
        *(reference("group", one.group.reference) for one in stay.places
          if one.start == stay.start),
    ]  # fmt: skip
    if stay.person.relative:
        relative = reference("member", f"RelatedPerson/{id}-relative")
        given.append(part("team-member", relative, {"name": "role", "valueCode": "supporter"}))
    if stay.waits:
        given.append({"name": "waitlist", "valueBoolean": True})
    answer = await teller.call("EpisodeOfCare/$admit", *given)
    teller.episodes[id] = {
        one["name"]: one["valueReference"]["reference"]
        for one in answer["parameter"]
        if "valueReference" in one
    }


async def joined(teller: Teller, event: Joined) -> None:
    """Join one more group."""
    await _change_place(teller, event.stay, event.group, "join", event.day)


async def _change_place(teller: Teller, stay: Stay, group: Group, how: str, day: date) -> None:
    patient = reference("patient", f"Patient/{stay.patient}")
    await teller.call(f"{group.reference}/${how}", patient, {"name": "date", "valueDate": f"{day}"})


async def met(teller: Teller, event: Met) -> None:
    """Record who attended a session."""
    rows = [_participant(teller.vocabulary, one) for one in event.attendance]
    address = f"{_session(teller, event)}/$attendance"
    await teller.call(address, *rows, who=event.group.therapist)


def _participant(v: Vocabulary, one: Attendance) -> Resource:
    inner = [
        reference("patient", f"Patient/{one.stay.patient}"),
        {"name": "status", "valueCode": one.status},
    ]
    if one.presence:
        start, end = map(written, one.presence)
        inner.append({"name": "presence", "valuePeriod": {"start": start, "end": end}})
    if one.telehealth:
        inner.append({"name": "mode", "valueCode": "telehealth"})
        inner.append({"name": "location-state", "valueCode": "CA"})
    if one.reason:
        concept = v.concept(ATTENDANCE, one.reason)
        inner.append({"name": "reason", "valueCodeableConcept": concept})
    if one.note:
        inner.append({"name": "note", "valueString": one.note})
    return part("participant", *inner)


async def unmet(teller: Teller, event: Unmet) -> None:
    """Cancel a session."""
    reason = {"name": "reason", "valueString": "Not held"}
    await teller.call(f"{_session(teller, event)}/$cancel-session", reason)


async def noted(teller: Teller, event: Written) -> None:
    """Write down the visits and scores of a day."""
    visits = [_encounter(teller, one) for one in event.visits]
    await teller.put([*visits, *(_observation(one) for one in event.scores)])


def _encounter(teller: Teller, visit: Visit) -> Resource:
    v, id = teller.vocabulary, visit.stay.patient
    start, end = visit.start, visit.start + visit.minutes * MINUTE
    participants = [("PPRF", visit.by)]
    if visit.kind == "family":
        participants.append(("PART", f"RelatedPerson/{id}-relative"))
    found: Resource = {
        "resourceType": "Encounter",
        "status": "finished",
        "class": {"system": ACT_CODE, "code": "VR" if visit.telehealth else "AMB"},
        "type": [v.concept(KIND, visit.kind)],
        "subject": {"reference": f"Patient/{id}"},
        "episodeOfCare": [{"reference": teller.episodes[id]["episode"]}],
        "participant": [
            {"type": [{"coding": [{"system": PARTICIPATION, "code": code}]}],
             "individual": {"reference": who}}
            for code, who in participants
        ],
        "period": {"start": written(start), "end": written(end)},
        "serviceProvider": {"reference": visit.stay.track.organization},
    }  # fmt: skip
    if visit.telehealth:
        found["location"] = [{"location": {"reference": "Location/virtual"}}]
        found["extension"] = [v.extended("iop-location-state", valueCode="CA")]
    return found


def _observation(score: Score) -> Resource:
    return people.score(score.stay.patient, score.instrument, score.day, score.value)


async def paused(teller: Teller, event: Paused) -> None:
    """Put an episode on hold, and cancel what is booked meanwhile."""
    assert event.stay.away is not None
    _, end = event.stay.away
    booked = await teller.search(
        "Appointment",
        ("patient", f"Patient/{event.stay.patient}"),
        ("status", "booked"),
        ("date", f"ge{written(event.at)}"),
    )
    ended = midnight(end, event.stay.track.zone)
    off = [one for one in booked if instant(one["start"]) < ended]
    why = {"coding": [{"system": CANCELATION, "code": "pat"}]}
    cancelled = [{**one, "status": "cancelled", "cancelationReason": why} for one in off]
    episode = await _episode(teller, event.stay)
    await teller.put([*cancelled, {**episode, "status": "onhold"}])


async def _episode(teller: Teller, stay: Stay) -> Resource:
    return await teller.read(teller.episodes[stay.patient]["episode"])


async def resumed(teller: Teller, event: Resumed) -> None:
    """Go on with an episode, and book the sessions that were made meanwhile."""
    await teller.put([{**await _episode(teller, event.stay), "status": "active"}])
    assert event.stay.away is not None
    start = event.stay.away[1]
    end = start + 13 * DAY
    for place in event.stay.places:
        if place.on(start):
            await _plan(teller, place.group, start, end, holidays(start, end))


async def moved(teller: Teller, event: Moved) -> None:
    """Go on at another level: the groups change, the order, and the level of the episode."""
    stay, v = event.stay, teller.vocabulary
    assert stay.moves is not None
    day, track = stay.moves
    for place in stay.places:
        if place.end == day:
            await _change_place(teller, stay, place.group, "leave", day)
    since = written(midnight(day, track.zone), track.zone)
    episode, known = await _episode(teller, stay), teller.episodes[stay.patient]
    old = await teller.read(known["order"])
    order = {name: held for name, held in old.items() if name not in ("id", "meta", "identifier")}
    order |= {
        "id": f"{stay.patient}-order-2",
        "occurrencePeriod": {"start": since},
        "orderDetail": [v.concept(LEVEL, track.level)],
        "quantityRatio": hours_a_week(track.hours),
    }
    period = {**old["occurrencePeriod"], "end": since}
    extensions = _other_extensions(v, episode, PROGRAM)
    for one in v.all({"extension": extensions}, LOC_PERIOD):
        for inner in one["extension"]:
            if inner["url"] == "period":
                inner["valuePeriod"]["end"] = since
    now_at = v.complex(
        LOC_PERIOD,
        ("code", "valueCodeableConcept", v.concept(LEVEL, track.level)),
        ("period", "valuePeriod", {"start": since}),
        ("order", "valueReference", {"reference": f"ServiceRequest/{order['id']}"}),
        ("program", "valueReference", {"reference": track.program}),
    )
    program = v.extended(PROGRAM, valueReference={"reference": track.program})
    episode["extension"] = [program, *extensions, now_at]
    await teller.put([{**old, "status": "completed", "occurrencePeriod": period}, order, episode])
    known["order"] = f"ServiceRequest/{order['id']}"
    for place in stay.places:
        if place.start == day:
            await _change_place(teller, stay, place.group, "join", day)


def _other_extensions(v: Vocabulary, episode: Resource, name: str) -> list[Resource]:
    url = v.extension(name)
    return [one for one in episode.get("extension", ()) if one["url"] != url]


async def discharged(teller: Teller, event: Discharged) -> None:
    """End an episode: leave the groups, then finish it and what belongs to it."""
    stay, v = event.stay, teller.vocabulary
    assert stay.end is not None
    for place in stay.places:
        if place.end == stay.end and place.start <= stay.end:
            await _change_place(teller, stay, place.group, "leave", stay.end)
    zone = stay.track.zone
    ended = midnight(stay.end, zone) if stay.end > stay.start else event.at
    at = written(ended, zone)
    known = teller.episodes[stay.patient]
    episode, order = await _episode(teller, stay), await teller.read(known["order"])
    team = await teller.read(known["careteam"])
    for one in v.all(episode, LOC_PERIOD):
        for inner in one["extension"]:
            if inner["url"] == "period":
                inner["valuePeriod"].setdefault("end", at)
    why = v.extended(
        DISCHARGE_REASON, valueCodeableConcept=v.concept(DISCHARGE_REASON, stay.reason)
    )
    waived = v.extended("iop-aftercare-waiver", valueString=WAIVED)
    episode["extension"] += [why, waived]
    episode["status"] = "finished"
    episode["period"]["end"] = at
    role = {"coding": [{"system": DIAGNOSIS_ROLE, "code": "DD"}]}
    episode["diagnosis"].append({"condition": episode["diagnosis"][0]["condition"], "role": role})
    order["occurrencePeriod"]["end"] = at
    names = ("treatment-plan", "discharge-plan", "safety-plan")
    plans = [await teller.read(known[name]) for name in names]
    state = "completed" if stay.reason == "completed" else "revoked"
    await teller.put(
        [
            {**order, "status": "completed"},
            {**team, "status": "inactive"},
            *({**plan, "status": state} for plan in plans),
            episode,
        ]
    )


TOLD: Mapping[type[Event], Callable[[Teller, Any], Awaitable[None]]] = {
    Planned: planned,
    Admitted: admitted,
    Joined: joined,
    Met: met,
    Unmet: unmet,
    Written: noted,
    Paused: paused,
    Resumed: resumed,
    Moved: moved,
    Discharged: discharged,
}
