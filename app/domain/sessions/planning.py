"""What $generate-sessions is asked, and of which timetable."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from app.domain.chart import Roster
from app.domain.chart import program as track_of
from app.domain.chart import roster as roster_of
from app.domain.days import whole
from app.domain.program.timetable import Meeting, meetings, programs
from app.domain.vocabulary import CHARACTERISTIC, ISSUE, ROSTER, Vocabulary
from app.fhir.errors import FhirError, Issue, refused
from app.fhir.operations import Call

MOST_DAYS = 184
LEADING = ("PractitionerRole", "Practitioner")


def refusal(
    vocabulary: Vocabulary, rule: str, text: str, at: str = "", status: int = 422
) -> FhirError:
    """Return a refusal by a rule of the program."""
    code = "conflict" if status == 409 else "business-rule"
    return FhirError([Issue("error", code, text, at, (vocabulary.system(ISSUE), rule))], status)


@dataclass(frozen=True)
class Asked:
    """A call of $generate-sessions: for which days, without which, for whom, led by whom.

    `facilitators` are by the id of an action, "" for all.
    """

    first: date
    last: date
    holidays: frozenset[date]
    groups: tuple[str, ...]
    facilitators: Mapping[str, tuple[str, ...]]
    preview: bool
    despite_conflicts: bool


def asked(vocabulary: Vocabulary, call: Call) -> Asked:
    """Return what is asked; a 422 for days that are none, or too many."""
    first, last = (whole(call.one(name), name) for name in ("from", "to"))
    if last < first or (last - first).days >= MOST_DAYS:
        text = f"Sessions are made for 1 to {MOST_DAYS} days at once"
        raise refusal(vocabulary, "range", text, "Parameters.parameter")
    led: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for part in call.given.get("facilitator", ()):
        action = next(iter(part.get("action", ())), "")
        who = (call.named(one, "facilitator", *LEADING) for one in part["practitioner-role"])
        led[action] = tuple(dict.fromkeys((*led[action], *who)))
    keep = _chosen(call, "holiday-mode", "skip", "keep") == "keep"
    days = () if keep else call.given.get("holidays", ())
    return Asked(
        first=first,
        last=last,
        holidays=frozenset(whole(one, "holidays") for one in days),
        groups=tuple(
            dict.fromkeys(call.named(one, "group", "Group") for one in call.given.get("group", ()))
        ),
        facilitators=led,
        preview=_chosen(call, "mode", "create", "preview") == "preview",
        despite_conflicts=bool(call.one("allow-conflicts")),
    )


def _chosen(call: Call, name: str, *choices: str) -> str:
    """Return the code that a parameter has, the first choice where it has none; else a 400."""
    code: str = call.one(name) or choices[0]
    if code not in choices:
        text = f"{name} is {' or '.join(choices)}"
        raise refused("value", text, "Parameters.parameter", 400)
    return code


@dataclass(frozen=True)
class Timetable:
    """A plan with what it needs: its program, and the rosters of the groups that it is for."""

    plan: str
    active: bool
    meetings: tuple[Meeting, ...]
    program: str
    zone: ZoneInfo
    rosters: Mapping[str, Roster]

    def groups_of(self, meeting: Meeting, asked: Asked) -> tuple[str, ...]:
        """Return the groups that have a session: its own, or those that are asked for.

        Of a session with a group of its own none, if only others are asked for.
        """
        if not meeting.group:
            return asked.groups or ("",)
        return (meeting.group,) if meeting.group in (asked.groups or (meeting.group,)) else ()

    @property
    def members(self) -> list[str]:
        """Return who is, was or will be in one of the groups."""
        return sorted({m.patient for roster in self.rosters.values() for m in roster.members})


async def timetable(vocabulary: Vocabulary, call: Call, asked: Asked) -> Timetable:
    """Return the timetable that is called, as it stands now; a 422 for one that is not usable."""
    v, reader = vocabulary, call.reader
    plan = await reader.read("PlanDefinition", call.asked.id)
    known = meetings(v, plan)
    if not known or len(known) < len(plan["action"]):
        text = "The timetable has actions that are no weekly sessions"
        raise refusal(v, "INV-PD-1", text, "PlanDefinition.action")
    if asked.facilitators.keys() - {"", *(one.action for one in known)}:
        text = "The timetable has no such action"
        raise refusal(v, "action", text, "Parameters.parameter")
    services = await reader.get_all(programs(plan))
    if len(services) != 1:
        text = "The timetable is for no program, or for several"
        raise refusal(v, "required", text, "PlanDefinition.useContext")
    ((program, service),) = services.items()
    groups = {*asked.groups, *(one.group for one in known if one.group)}
    held = await reader.get_all(sorted(groups))
    rosters = {n for n, one in held.items() if v.code(one.get("code"), CHARACTERISTIC) == ROSTER}
    if groups - rosters:
        raise refusal(v, "required", "There is no such group", "Parameters.parameter")
    return Timetable(
        plan=plan["id"],
        active=plan["status"] == "active",
        meetings=known,
        program=program,
        zone=track_of(v, service).zone,
        rosters={name: roster_of(v, one) for name, one in held.items()},
    )
