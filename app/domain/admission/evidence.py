"""Evidence: what has to be on record before an episode begins.

The intake, the assessment, the papers, and a diagnosis that the program treats. An admission names
each of them; of an episode that is written plainly the record is searched for them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial

from app.domain import chart
from app.domain.admission.conditions import is_substance_use
from app.domain.admission.episodes import begins, marks, ours, role_of
from app.domain.admission.overrides import overridden
from app.domain.chart import reference
from app.domain.days import local_day, moment
from app.domain.vocabulary import DIMENSION, LOINC, Vocabulary
from app.fhir.reader import Reader
from app.fhir.rules import Change, Finding, Rule
from app.fhir.wire import Resource

CONSENT, NOTICE = "59284-0", "57016-8"  # types of the papers, in LOINC
ASSESSED_WITHIN = timedelta(days=14)


@dataclass(frozen=True)
class Evidence:
    """Something that has to be on record before an episode begins: what it is, and how it is found.

    `sound` says whether a resource is it, for a start on a day.
    """

    type: str
    text: str
    pairs: Callable[[Vocabulary], tuple[tuple[str, str], ...]]
    sound: Callable[[Vocabulary, Resource, date], bool]


def _intake(vocabulary: Vocabulary, resource: Resource, start: date) -> bool:
    del start
    asked = resource.get("questionnaire", "").partition("|")[0]
    done = resource.get("status") in ("completed", "amended")
    return done and asked == f"{vocabulary.base}/Questionnaire/intake"


def _assessment(vocabulary: Vocabulary, resource: Resource, start: date) -> bool:
    code = vocabulary.code(resource.get("code"), DIMENSION)
    day = (resource.get("effectiveDateTime") or resource.get("effectiveInstant") or "")[:10]
    if code != "4-overall" or len(day) != len("2026-03-02"):
        return False
    final = resource.get("status") in ("final", "amended", "corrected")
    return final and start - ASSESSED_WITHIN <= date.fromisoformat(day) <= start


def _paper(code: str) -> Callable[[Vocabulary, Resource, date], bool]:
    def sound(vocabulary: Vocabulary, resource: Resource, start: date) -> bool:
        del vocabulary, start
        codings = resource.get("type", {}).get("coding", ())
        typed = any((one.get("system"), one.get("code")) == (LOINC, code) for one in codings)
        draft = resource.get("docStatus") in ("preliminary", "entered-in-error")
        return typed and resource.get("status") == "current" and not draft

    return sound


# By the names that the parameters of an admission have
EVIDENCE: Mapping[str, Evidence] = {
    "intake": Evidence(
        "QuestionnaireResponse",
        "The intake is not completed",
        lambda v: (("questionnaire", f"{v.base}/Questionnaire/intake"),),
        _intake,
    ),
    "assessment": Evidence(
        "Observation",
        "There is no assessment of the dimensions from the 14 days before the start",
        lambda v: (("code", f"{v.system(DIMENSION)}|4-overall"),),
        _assessment,
    ),
    "consent-to-treat": Evidence(
        "DocumentReference",
        "There is no consent to treatment",
        lambda _: (("type", f"{LOINC}|{CONSENT}"),),
        _paper(CONSENT),
    ),
    "part2-notice": Evidence(
        "DocumentReference",
        "The notice of privacy was not given",
        lambda _: (("type", f"{LOINC}|{NOTICE}"),),
        _paper(NOTICE),
    ),
}


async def check_begun(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return what is not on record of patients whose episode begins, unless that is overridden."""
    found = []
    for change, after in ours(vocabulary, changes):
        if not begins(change) or overridden(vocabulary, after, "INV-EC-6"):
            continue
        if not principal(after):
            text = "The episode needs a principal diagnosis (role AD, rank 1)"
            found.append(Finding(change, text, "diagnosis"))
        patient = reference(after["patient"])
        start = await start_day(vocabulary, reader, after)
        for evidence in EVIDENCE.values():
            pairs = evidence.pairs(vocabulary)
            record = await reader.search(evidence.type, ("subject", patient), *pairs)
            if not any(evidence.sound(vocabulary, one, start) for one in record):
                found.append(Finding(change, evidence.text))
    return found


async def start_day(vocabulary: Vocabulary, reader: Reader, episode: Resource) -> date:
    """Return the first day of an episode, where its program is; today where it says none."""
    value = chart.episode(vocabulary, episode)
    place = await reader.get(value.program) if value.program else None
    zone = chart.program(vocabulary, place).zone if place else None
    since = value.start or moment(reader.now)
    return local_day(since, zone) if zone else since.date()


def principal(episode: Resource) -> str:
    """Return the reference of the principal diagnosis at admission, "" for none."""
    first = [one for one in episode.get("diagnosis", ()) if role_of(one) == "AD"]
    return next((reference(one["condition"]) for one in first if one.get("rank", 1) == 1), "")


async def check_diagnosis(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return episodes whose principal diagnosis is no substance use disorder of the patient."""
    about = [(c, one, principal(one)) for c, one in ours(vocabulary, changes) if principal(one)]
    known = await reader.get_all(name for _, _, name in about)
    text = "The principal diagnosis is not a substance use disorder of this patient"
    return [
        Finding(change, text, "diagnosis")
        for change, after, name in about
        for condition in [known.get(name)]
        if condition is None
        or condition["resourceType"] != "Condition"
        or reference(condition["subject"]) != reference(after["patient"])
        or not is_substance_use(condition)
    ]


def rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Return the rules of this module."""
    v, types, signs = vocabulary, frozenset({"EpisodeOfCare"}), marks(vocabulary)
    return (
        Rule("INV-EC-6", types, signs, partial(check_begun, v)),
        Rule("INV-CO-1", types, signs, partial(check_diagnosis, v)),
    )
