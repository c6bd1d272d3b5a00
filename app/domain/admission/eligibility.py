"""Whether a program suits somebody: a screening by fixed rules, which advises and decides nothing.

A screening reads the answers of a QuestionnaireResponse whose linkIds are the names of the rules
(`needs-wm`, `motivated`), and the age on a day. What nobody answered is unknown, never assumed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from app.domain import chart, days
from app.domain.vocabulary import CRITERION, Vocabulary
from app.fhir.errors import refused
from app.fhir.interaction import Reply
from app.fhir.operations import Call, Plan, Trial
from app.fhir.operations.parameters import answered
from app.fhir.wire import Resource

Recommendation = Literal[
    "suitable", "suitable-with-conditions", "refer-higher", "refer-lower", "needs-review"
]
Truth = bool | None  # None is unknown

YOUNGEST = 12
ADOLESCENTS = "adolescents"
RESULTS: Mapping[Truth, str] = {True: "met", False: "not-met", None: "unknown"}


@dataclass(frozen=True)
class Facts:
    """What a screening knows: the answers by rule name, the age, and whom the program is for."""

    answers: Mapping[str, tuple[Any, ...]]
    age: int | None = None
    populations: tuple[str, ...] = ()

    def says(self, name: str) -> Truth:
        """Return the answer to a question of yes or no."""
        found = [value for value in self.answers.get(name, ()) if isinstance(value, bool)]
        return found[0] if found else None

    def codes(self, name: str) -> tuple[str, ...]:
        """Return the answers to a question that is answered by codes or words."""
        return tuple(value for value in self.answers.get(name, ()) if isinstance(value, str))


def denied(need: str, criterion: str) -> Callable[[Facts], Truth]:
    """Return what finds whether a need is not there; asked either way, a need once said counts."""

    def met(facts: Facts) -> Truth:
        needed, free = facts.says(need), facts.says(criterion)
        if needed is None:
            return free
        return not needed and free is not False

    return met


def said(name: str) -> Callable[[Facts], Truth]:
    """Return what finds the answer to a question."""
    return lambda facts: facts.says(name)


def old_enough(facts: Facts) -> Truth:
    """Return whether somebody is of the age of any program."""
    return None if facts.age is None else facts.age >= YOUNGEST


def belongs(facts: Facts) -> Truth:
    """Return whether a program is for somebody: by age, and by what he says of himself."""
    others = set(facts.populations) - {ADOLESCENTS}
    if facts.age is None:
        return None
    if (facts.age < chart.ADULT) != (ADOLESCENTS in facts.populations):
        return False
    if not others:
        return True
    named = facts.codes("population")
    return None if not named else not others.isdisjoint(named)


def mild_or_moderate(facts: Facts) -> Truth:
    """Return whether the severity is mild or moderate."""
    severity = facts.codes("severity")
    return severity[0] in ("mild", "moderate") if severity else facts.says("severity-mild-moderate")


def livable(facts: Facts) -> Truth:
    """Return whether there is a home, or a recovery house, to recover in."""
    unsafe, nowhere = facts.says("unsafe-or-unsupportive-home"), facts.says("no-recovery-housing")
    if unsafe is None:
        return facts.says("recovery-environment")
    if not unsafe:
        return True
    return None if nowhere is None else not nowhere


@dataclass(frozen=True)
class Criterion:
    """One criterion: whether an admission hangs on it, how it is found, and why it is asked."""

    code: str
    blocking: bool
    met: Callable[[Facts], Truth]
    basis: str


CRITERIA = (
    Criterion(
        "no-wm-need",
        True,
        denied("needs-wm", "no-wm-need"),
        "For people who need no supervised withdrawal",
    ),
    Criterion(
        "no-24h-need",
        True,
        denied("needs-24h", "no-24h-need"),
        "Not for people who need supervision around the clock",
    ),
    Criterion(
        "no-acute-safety-risk",
        True,
        denied("acute-safety-risk", "no-acute-safety-risk"),
        "An acute risk needs care around the clock first",
    ),
    Criterion("age", True, old_enough, "Programs begin at twelve years"),
    Criterion("population", True, belongs, "The program is for the people that it names"),
    Criterion(
        "recovery-environment",
        False,
        livable,
        "Patients live at home, so home has to be safe, or a recovery house there",
    ),
    Criterion(
        "support-network", False, said("support-network"), "Works best with supportive people"
    ),
    Criterion("motivated", False, said("motivated"), "For people who want to recover"),
    Criterion("stable-home", False, said("stable-home"), "For people with a stable home"),
    Criterion(
        "severity-mild-moderate",
        False,
        mild_or_moderate,
        "For disorders that are mild or moderate",
    ),
    Criterion(
        "post-residential",
        False,
        said("post-residential"),
        "A step down after residential treatment",
    ),
    Criterion(
        "structure-preference", False, said("structure-preference"), "For people who like structure"
    ),
    Criterion("schedule-fit", False, said("schedule-fit"), "All sessions are to be attended"),
)
NEEDS = ("no-wm-need", "no-24h-need", "no-acute-safety-risk")
CONDITIONS = ("support-network", "motivated", "stable-home")
BLOCKING = tuple(one.code for one in CRITERIA if one.blocking)


def screened(facts: Facts) -> dict[str, Truth]:
    """Return whether each criterion is met, in the order of CRITERIA."""
    return {one.code: one.met(facts) for one in CRITERIA}


def recommended(facts: Facts) -> Recommendation:
    """Return what the rules advise; the first that applies does."""
    found = screened(facts)
    if any(found[code] is False for code in NEEDS):
        return "refer-higher"
    if facts.says("unsafe-or-unsupportive-home") and facts.says("no-recovery-housing"):
        return "refer-higher"
    if _little(facts, found):
        return "refer-lower"
    if any(not found[code] for code in BLOCKING):
        return "needs-review"
    if any(found[code] is False for code in CONDITIONS):
        return "suitable-with-conditions"
    return "suitable"


def _little(facts: Facts, found: Mapping[str, Truth]) -> bool:
    """Return whether less than an intensive program is enough, as far as rules can say."""
    return bool(
        found["no-wm-need"]
        and found["no-24h-need"]
        and "mild" in facts.codes("severity")
        and facts.says("prior-episode") is False
        and any(level.startswith("1.") for level in facts.codes("recommended-level"))
    )


def answers(response: Resource) -> dict[str, tuple[Any, ...]]:
    """Return the answers of a QuestionnaireResponse by linkId, codings as their codes."""
    found: dict[str, tuple[Any, ...]] = {}
    open = list(response.get("item", ()))
    while open:
        item = open.pop()
        values = [_plain(one) for one in item.get("answer", ())]
        found[item["linkId"]] = (*found.get(item["linkId"], ()), *values)
        open += item.get("item", ())
        open += [inner for one in item.get("answer", ()) for inner in one.get("item", ())]
    return found


def _plain(answer: Resource) -> Any:
    held = next((value for key, value in answer.items() if key.startswith("value")), None)
    return held.get("code", "") if isinstance(held, dict) else held


async def screen(vocabulary: Vocabulary, call: Call) -> Reply | Plan | Trial:
    """Return the advice for a patient and a program, and how each criterion came out."""
    await call.store.connection.snapshot()
    reader = call.reader
    program = chart.program(vocabulary, await reader.read("HealthcareService", call.asked.id))
    named = chart.reference(call.one("patient"))
    patient = await reader.get(named)
    if patient is None:
        raise refused("not-found", "There is no such patient", "http.patient", 422)
    response, source = await _response(call)
    if chart.reference(response.get("subject")) not in ("", named):
        text = "The answers are not those of this patient"
        raise refused("business-rule", text, "QuestionnaireResponse.subject", 422)
    asof = call.one("asof")
    today = days.local_day(days.moment(call.now), program.zone)
    facts = Facts(
        answers(response),
        chart.age(patient, days.whole(asof, "asof") if asof else today),
        program.populations,
    )
    results = screened(facts)
    criteria = [
        {
            "code": vocabulary.coding(CRITERION, one.code),
            "result": RESULTS[results[one.code]],
            "source": {"reference": named} if one.code == "age" else source,
            "seed-basis": one.basis,
        }
        for one in CRITERIA
    ]
    told = {"recommendation": recommended(facts), "criterion": criteria}
    return Reply(200, answered(call.operation, told))


async def _response(call: Call) -> tuple[Resource, Resource | None]:
    """Return the answers that a call names or brings, and the Reference of those it names."""
    named, brought = call.one("response"), call.one("answers")
    if (named is None) == (brought is None):
        text = "Expected either response, a Reference, or answers, a QuestionnaireResponse"
        raise refused("required", text, "http.response", 400)
    if brought is not None:
        return brought, None
    found = await call.reader.get(chart.reference(named))
    if found is None or found["resourceType"] != "QuestionnaireResponse":
        text = "response names no QuestionnaireResponse that is here"
        raise refused("not-found", text, "http.response", 422)
    return found, named


def operations(vocabulary: Vocabulary) -> Mapping[str, Mapping[str, Any]]:
    """Return what performs the operations of this module, by their code."""
    return {
        "eligibility-screen": {
            "perform": partial(screen, vocabulary),
            "needs": {"instance": ("read",)},
        }
    }
