"""Episodes of care: what an EpisodeOfCare in a program may say, and may come to say next.

https://hl7.org/fhir/R4/episodeofcare.html

An episode of the type `da`, or with anything of our vocabulary, is one of a program. The history of
its status is kept here: a client that says nothing of it gets it, one that does must leave no gap.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from itertools import pairwise

from app.domain import chart
from app.domain.chart import Episode, reference
from app.domain.days import instant, moment, written
from app.domain.vocabulary import (
    CAREPLAN,
    DIAGNOSIS_ROLE,
    EPISODE_TYPE,
    ROLE,
    WAIVER,
    Vocabulary,
)
from app.fhir.reader import Reader
from app.fhir.rules import Change, Finding, Rule
from app.fhir.wire import Resource, encode

OPEN = ("active", "onhold")  # somebody is in treatment
IN_FORCE = (*OPEN, "finished")  # somebody is, or was

# INV-EC-2: what may follow a status; whatever was a mistake may be called one
NEXT: Mapping[str, tuple[str, ...]] = {
    "planned": ("waitlist", "active", "cancelled"),
    "waitlist": ("active", "cancelled"),
    "active": ("onhold", "finished"),
    "onhold": ("active", "finished"),
    "finished": (),
    "cancelled": (),
    "entered-in-error": (),
}
ALWAYS = "entered-in-error"

# What an episode has to have, R4's own apart, and while it is open
REQUIRED = ("identifier", "type", "managingOrganization")
REQUIRED_OPEN = ("careManager", "team")


def of_program(vocabulary: Vocabulary, resource: Resource | None) -> bool:
    """Return whether an EpisodeOfCare is one of a program."""
    if resource is None:
        return False
    types = [one for concept in resource.get("type", ()) for one in concept.get("coding", ())]
    if any((one.get("system"), one.get("code")) == (EPISODE_TYPE, "da") for one in types):
        return True
    return vocabulary.mark in encode(resource)


def marks(vocabulary: Vocabulary) -> tuple[bytes, ...]:
    """Return what the bytes of an episode of a program contain, one of it at least."""
    return vocabulary.mark, EPISODE_TYPE.encode()


def ours(vocabulary: Vocabulary, changes: Sequence[Change]) -> list[tuple[Change, Resource]]:
    """Return the changes of episodes of a program, with what they leave; mistakes are left out."""
    return [
        (change, change.after)
        for change in changes
        if change.type == "EpisodeOfCare" and change.after is not None
        if change.after["status"] != ALWAYS
        if of_program(vocabulary, change.after) or of_program(vocabulary, change.before)
    ]


def begins(change: Change) -> bool:
    """Return whether treatment begins: not where it is taken up again after a hold."""
    was = change.before["status"] if change.before else ""
    return change.after is not None and change.after["status"] in OPEN and was not in OPEN


def enters(vocabulary: Vocabulary, change: Change, episode: Resource) -> str:
    """Return the program that an episode in treatment newly takes a place of, "" for none."""
    now = chart.episode(vocabulary, episode)
    if begins(change):
        return now.program
    if now.status not in OPEN or change.before is None:
        return ""
    return now.program if chart.episode(vocabulary, change.before).program != now.program else ""


# --- one at a time (INV-EC-1), and no more than there is room for --------------------------------


async def check_single(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return episodes of a patient who is in another one of the same organization."""
    open = [(c, one) for c, one in ours(vocabulary, changes) if one["status"] in OPEN]
    others = await current(vocabulary, reader, [reference(one["patient"]) for _, one in open])
    text = "There is an active episode of this patient in this organization already"
    return [
        Finding(change, text, "patient", code="duplicate")
        for change, one in open
        if any(other["id"] != one["id"] and same_place(one, other) for other in others)
    ]


def same_place(one: Resource, other: Resource) -> bool:
    """Return whether two episodes are of one patient and one organization."""
    return all(
        reference(one.get(name)) == reference(other.get(name))
        for name in ("patient", "managingOrganization")
    )


async def current(
    vocabulary: Vocabulary, reader: Reader, patients: Sequence[str], *statuses: str
) -> list[Resource]:
    """Return the episodes in programs that patients are in; open ones, or with some status."""
    if not patients:
        return []
    whose = ("patient", ",".join(dict.fromkeys(patients)))
    found = await reader.search("EpisodeOfCare", whose, ("status", ",".join(statuses or OPEN)))
    return [one for one in found if of_program(vocabulary, one)]


async def check_capacity(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return episodes that begin in a program that is full, or are moved there."""
    begun = {
        place: change
        for change, one in ours(vocabulary, changes)
        if (place := enters(vocabulary, change, one))
    }
    programs = await reader.get_all(begun)
    found = []
    for place, resource in programs.items():
        capacity = chart.program(vocabulary, resource).capacity
        if capacity is not None and await _crowd(vocabulary, reader, place, capacity) > capacity:
            text = "The program is full"
            found.append(Finding(begun[place], text, code="conflict", rule="capacity"))
    return found


async def _crowd(vocabulary: Vocabulary, reader: Reader, place: str, capacity: int) -> int:
    """Return how many are in a program, or a number that is not above its capacity."""
    wanted = (("iop-program", place), ("status", ",".join(OPEN)))
    most = await reader.count("EpisodeOfCare", *wanted)
    if most <= capacity:
        return most
    episodes = [
        chart.episode(vocabulary, one) for one in await reader.search("EpisodeOfCare", *wanted)
    ]
    return sum(one.program == place for one in episodes)


# --- status and its history (INV-EC-2, INV-EC-3) -------------------------------------------------


async def check_status(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return changes of status that no episode goes through."""
    del reader
    text = "An episode in treatment is ended, or entered in error; it is not deleted"
    deleted = [
        Finding(change, text, "status")
        for change in changes
        if change.after is None and of_program(vocabulary, change.before)
        if change.before and change.before["status"] in OPEN
    ]
    return deleted + [
        Finding(change, f"An episode that is {was} does not become {after['status']}", "status")
        for change, after in ours(vocabulary, changes)
        if change.before is not None
        for was in [change.before["status"]]
        if was != after["status"] and after["status"] not in NEXT[was]
    ]


async def fill_history(
    vocabulary: Vocabulary, resource: Resource, before: Resource | None, reader: Reader
) -> Resource:
    """Return an episode with the history of its status, the present one at its end."""
    if not (of_program(vocabulary, resource) or of_program(vocabulary, before)):
        return resource
    past = resource.get("statusHistory") or (before or {}).get("statusHistory", [])
    last = past[-1] if past else None
    if last is None or last["status"] != resource["status"]:
        past = _appended(resource, past, moment(reader.now))
    return (
        resource if past == resource.get("statusHistory") else {**resource, "statusHistory": past}
    )


def _appended(resource: Resource, past: list[Resource], now: datetime) -> list[Resource]:
    """Return a history that goes on with the present status, since it began."""
    last: Resource = past[-1] if past else {"status": "", "period": {}}
    held: Resource = last["period"]
    since = held.get("end") or _since(resource, last["status"], held.get("start"), now)
    closed = [*past[:-1], {**last, "period": {**held, "end": since}}] if past else []
    return [*closed, {"status": resource["status"], "period": {"start": since}}]


def _since(resource: Resource, was: str, last: str | None, now: datetime) -> str:
    """Return since when an episode has its status: as its period says where it can, or now.

    It is never before `last`, the beginning of the status before.
    """
    period = resource.get("period", {})
    said = period.get("end") if resource["status"] == "finished" else None
    if resource["status"] == "active" and was not in OPEN:
        said = period.get("start")
    if said and (last is None or instant(said) >= instant(last)):
        return str(said)
    return last if last is not None and instant(last) > now else written(now)


async def check_history(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return histories of status with gaps, or that do not end with the present one."""
    del reader
    text = "The history of the status has a gap, or does not end with the present status"
    return [
        Finding(change, text, "statusHistory")
        for change, after in ours(vocabulary, changes)
        if not contiguous(after)
    ]


def contiguous(resource: Resource) -> bool:
    """Return whether the history of the status has no gap, and the present one is its last."""
    past = resource.get("statusHistory", [])
    if not past or past[-1]["status"] != resource["status"]:
        return False
    if not all("start" in one["period"] for one in past):
        return False
    return all(
        follows(one["period"].get("end", ""), other["period"]["start"])
        for one, other in pairwise(past)
    )


def follows(end: str, start: str) -> bool:
    """Return whether a period begins where another one ends: a day that is an end is included."""
    if not end:
        return False
    if len(end) == len(start) == len("2026-03-02"):
        return date.fromisoformat(start) - date.fromisoformat(end) in (
            timedelta(0),
            timedelta(days=1),
        )
    return instant(end) == instant(start)


# --- the end (INV-EC-4) --------------------------------------------------------------------------


async def check_end(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return what an episode lacks that is finished."""
    found = []
    for change, after in ours(vocabulary, changes):
        if after["status"] != "finished":
            continue
        episode = chart.episode(vocabulary, after)
        lacks = {
            "period.end": episode.end is None,
            "extension": not episode.discharge_reason,
            "diagnosis": not _has_role(after, "DD"),
        }
        found += [Finding(change, FINISHED[at], at) for at, missing in lacks.items() if missing]
        waived = vocabulary.value(after, WAIVER)
        if not waived and not await _aftercare(vocabulary, reader, episode):
            found.append(Finding(change, "There is no aftercare plan, and no waiver of it"))
    return found


FINISHED = {
    "period.end": "A finished episode needs the end of its period",
    "extension": "A finished episode needs the reason of the discharge",
    "diagnosis": "A finished episode needs the diagnosis at discharge (role DD)",
}


def _has_role(resource: Resource, role: str) -> bool:
    return any(role_of(one) == role for one in resource.get("diagnosis", ()))


def role_of(diagnosis: Resource) -> str:
    """Return in which role an episode has a diagnosis (AD, DD, CM), "" for none."""
    codings = diagnosis.get("role", {}).get("coding", ())
    return next((one.get("code", "") for one in codings if one.get("system") == DIAGNOSIS_ROLE), "")


async def _aftercare(vocabulary: Vocabulary, reader: Reader, episode: Episode) -> bool:
    """Return whether there is an aftercare plan that was made in an episode."""
    category = f"{vocabulary.system(CAREPLAN)}|aftercare-plan"
    plans = await reader.search(
        "CarePlan",
        ("subject", episode.patient),
        ("category", category),
        ("status", "active,completed"),
    )
    starts = [chart.period(one.get("period"))[0] for one in plans]
    since = episode.start
    return any(start is None or since is None or start >= since for start in starts)


# --- what it has to have, and the team (INV-CT-1) ------------------------------------------------


async def check_complete(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return the elements that an episode in a program lacks."""
    del reader
    return [
        Finding(change, f"An episode in a program needs {name}", name, code="required")
        for change, after in ours(vocabulary, changes)
        for name in (*REQUIRED, *(REQUIRED_OPEN if after["status"] in OPEN else ()))
        if name not in after
    ]


async def check_team(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return active care teams without exactly one primary therapist."""
    now = moment(reader.now)
    return [
        Finding(change, "A care team has exactly one primary therapist", "participant")
        for change in changes
        if change.after and change.after.get("status") == "active"
        if len(leading(vocabulary, change.after, now)) != 1
    ]


def leading(vocabulary: Vocabulary, team: Resource, now: datetime) -> list[str]:
    """Return who is the primary therapist of a care team at a moment."""
    found = []
    for one in team.get("participant", ()):
        _, end = chart.period(one.get("period"))
        roles = vocabulary.codes(one.get("role"), ROLE)
        if "primary-therapist" in roles and (end is None or end > now):
            found.append(reference(one.get("member")))
    return found


# --- the tables ----------------------------------------------------------------------------------


def _patients(change: Change) -> Iterable[str]:
    """Return whose other episodes must not change meanwhile."""
    if change.after is not None and change.after["status"] in OPEN:
        yield reference(change.after["patient"])


def _programs(vocabulary: Vocabulary, change: Change) -> Iterable[str]:
    """Return the program in which nobody else may take the last place meanwhile."""
    if change.after is not None and (place := enters(vocabulary, change, change.after)):
        yield place


def rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Return the rules of this module."""
    v = vocabulary
    types, mark = frozenset({"EpisodeOfCare"}), (v.mark,)
    signs = marks(v)
    return (
        Rule("required", types, signs, partial(check_complete, v)),
        Rule("INV-EC-1", types, signs, partial(check_single, v), locks=_patients),
        Rule("INV-HS-2", types, mark, partial(check_capacity, v), locks=partial(_programs, v)),
        Rule("INV-EC-2", types, signs, partial(check_status, v)),
        Rule("INV-EC-3", types, signs, partial(check_history, v), partial(fill_history, v)),
        Rule("INV-EC-4", types, signs, partial(check_end, v)),
        Rule("INV-CT-1", frozenset({"CareTeam"}), mark, partial(check_team, v), past=False),
    )
