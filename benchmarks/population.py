"""Two years of an intensive outpatient program, made from a seed: what searches are measured on.

Eight patients begin together and form a group. For ten weeks they meet three times a week; each
meeting gives an appointment with all of them, a session, and for who came an encounter of their
own with questionnaires, vital signs and laboratory results. Groups overlap, and what happened is
written in the order of time, as a program writes it: the records of one patient lie scattered.

A few codes, names and results are frequent and many are rare. The same count always gives the
same resources.
"""

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from uuid import UUID

from tests.support import resources as make

Resource = dict[str, Any]
T = TypeVar("T")

ICD = "http://hl7.org/fhir/sid/icd-10-cm"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
SNOMED = "http://snomed.info/sct"
LOCAL = "https://example.org/codes"
TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
VALUE_SET = "https://example.org/ValueSet/substance-use-disorders"

START = datetime(2024, 11, 4, tzinfo=UTC)  # a Monday
DAYS = 660  # over which groups begin; each then runs for ten weeks
WEEKS = 10
MEMBERS = 8
COHORT = 1550  # resources that come of one group at least
TOGETHER = 8  # groups of resources in one file: some 400 resources

PHQ9, GAD7, CRAVING = "44261-6", "70274-6", "craving"
PRESSURE, SYSTOLIC, DIASTOLIC, PULSE, WEIGHT = "85354-9", "8480-6", "8462-4", "8867-4", "29463-7"
ANALYTES = ["3349-8", "3390-2", "3427-2", "3397-7", "11235-9", "3879-4", "3773-9", "10998-3"]
RARE = [f"lab-{n:03}" for n in range(300)]
SUBSTANCE_USE = [
    f"F1{n}{end}" for n in range(10) for end in (".20", ".10", ".21", ".11", ".24", ".14", ".180")
]
OTHER_DIAGNOSES = ["F32.1", "F41.1", "F33.1", "F43.10", "I10", "E11.9", "F31.9", "G47.00", "B18.2"]
OTHER_DIAGNOSES += [f"M{n}.{m}" for n in range(10, 40) for m in range(10)]
MEDICATIONS = ["351265", "351266", "1010604", "1483744", "637213", "835726", "197623", "312940"]
MEDICATIONS += [str(number) for number in range(310000, 310150)]
STATUSES = ["final"] * 960 + ["amended"] * 25 + ["preliminary"] * 10 + ["entered-in-error"] * 5
FIRST = ["Mar", "Ro", "Hal", "Lin", "Bren", "Cas", "Dor", "El", "Fal", "Gar", "Hol", "Ing", "Jar"]
FIRST += ["Kel", "Lo", "Mel", "Nor", "Os", "Pem", "Quin", "Ral", "Sel", "Tor", "Ul", "Van", "Wel"]
LAST = ["ton", "sen", "ley", "ez", "man", "wick", "low", "ford", "ham", "by", "ski", "vale", "mont"]
LAST += ["ric", "den", "gate", "worth", "stead", "bury", "well", "field", "cott", "more", "combe"]
GIVEN = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ida", "Jon", "Kai", "Lea"]
GIVEN += ["Max", "Nia", "Otto", "Pia", "Ravi", "Sam", "Tess", "Uma", "Vik", "Wren", "Yara", "Zoe"]


def population(resources: int) -> Iterator[list[Resource]]:
    """Yield at least so many resources, in groups that are written together, in order of time."""
    cohorts = -(-resources // COHORT)
    staff = Staff(max(12, cohorts // 3))
    starts = [START + timedelta(days=n * DAYS // cohorts) for n in range(cohorts)]
    meetings = [happened(n, start, staff) for n, start in enumerate(starts)]
    yield staff.resources()
    yield from (written for _, _, written in heapq.merge(*meetings, key=lambda one: one[:2]))


def write(resources: int, directory: Path) -> list[Path]:
    """Write the population into files of one transaction Bundle each; return them in order."""
    directory.mkdir(parents=True, exist_ok=True)
    groups = population(resources)
    paths: list[Path] = []
    while some := list(chain.from_iterable(islice(groups, TOGETHER))):
        path = directory / f"{len(paths):05}.json"
        path.write_text(json.dumps(transaction(some)))
        paths.append(path)
    return paths


def transaction(resources: Iterable[Resource]) -> Resource:
    """Return the Bundle that writes resources under the ids that they have."""
    return make.transaction(*[make.put(one) for one in resources])


def skewed(random: Random, choices: Sequence[T]) -> T:
    """Return one of the choices, the first ones far more often than the last."""
    return choices[int(len(choices) * random.random() ** 3)]


def fresh(random: Random) -> str:
    """Return an id as servers give them."""
    return str(UUID(int=random.getrandbits(128), version=4))


def instant(moment: datetime) -> str:
    """Return a moment as FHIR writes it."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def name(random: Random) -> Resource:
    """Return a HumanName; a few families are large."""
    family = skewed(random, FIRST) + skewed(random, LAST)
    return {"use": "official", "family": family, "given": [random.choice(GIVEN)]}


class Staff:
    """Those who stay: a network of clinics, its practitioners, and the value set they use."""

    def __init__(self, practitioners: int) -> None:
        self.practitioners = [f"staff-{n}" for n in range(practitioners)]
        self.clinics = [f"clinic-{n}" for n in range(12)]

    def resources(self) -> list[Resource]:
        """Return all of them."""
        random = Random("staff")
        regions = [f"region-{n}" for n in range(4)]
        organizations = [
            ("network", None),
            *((region, "network") for region in regions),
            *((clinic, regions[n % 4]) for n, clinic in enumerate(self.clinics)),
        ]
        value_set = {
            "resourceType": "ValueSet",
            "id": "substance-use-disorders",
            "url": VALUE_SET,
            "status": "active",
            "compose": {
                "include": [{"system": ICD, "concept": [{"code": c} for c in SUBSTANCE_USE]}]
            },
        }
        return [
            value_set,
            *(
                make.resource(
                    "Organization",
                    {"id": id, "active": True, "name": id.title()},
                    {"partOf": make.reference(f"Organization/{above}") if above else None},
                )
                for id, above in organizations
            ),
            *(make.practitioner(id=id, name=[name(random)]) for id in self.practitioners),
        ]


@dataclass(frozen=True)
class Member:
    """A patient of a group: the reference, how ill on a scale from 0 to 1, and what they take."""

    reference: Resource
    severity: float
    substance: str
    analytes: list[str]


def happened(
    n: int, start: datetime, staff: Staff
) -> Iterator[tuple[datetime, int, list[Resource]]]:
    """Yield what the n-th group gives: (moment, n, resources), in order of time."""
    random = Random(f"group {n}")
    leaders = random.sample(staff.practitioners, 2)
    clinic = make.reference(f"Organization/{random.choice(staff.clinics)}")
    group = {"reference": f"Group/group-{n}"}
    members, admitted = [], []
    for _ in range(MEMBERS):
        member, resources = admission(random, start, staff, clinic)
        members.append(member)
        admitted += resources
    roster = {
        "resourceType": "Group",
        "id": f"group-{n}",
        "type": "person",
        "actual": True,
        "name": f"Group {n}",
        "member": [{"entity": member.reference} for member in members],
    }
    watched = {
        "resourceType": "List",
        "id": f"list-{n}",
        "status": "current",
        "mode": "working",
        "entry": [{"item": member.reference} for member in members],
    }
    yield start, n, [*admitted, roster, watched]
    for week in range(WEEKS):
        for weekday in (0, 2, 4):
            opening = start + timedelta(days=7 * week + weekday, hours=13 + n % 6)
            meeting = Meeting(random, opening, week, leaders, clinic)
            shared, session = meeting.shared(group, members)
            came = [member for member in members if random.random() < 0.87]
            own = (meeting.own(member, session, last=weekday == 4) for member in came)
            yield opening, n, [*shared, *chain.from_iterable(own)]


def admission(
    random: Random, start: datetime, staff: Staff, clinic: Resource
) -> tuple[Member, list[Resource]]:
    """Return a new patient, and what is written on the day of admission."""
    id = fresh(random)
    reference = {"reference": f"Patient/{id}"}
    substance = skewed(random, SUBSTANCE_USE)
    practitioner = make.reference(f"Practitioner/{skewed(random, staff.practitioners)}")
    patient = make.patient(
        id=id,
        identifier=[
            {"system": f"https://example.org/{kind}", "value": f"{random.getrandbits(40):x}"}
            for kind in ("mrn", "payer")
        ],
        name=[name(random)],
        gender=random.choice(["female", "male", "male", "other"]),
        birthDate=f"{random.randint(1950, 2006)}-0{random.randint(1, 9)}-{random.randint(10, 28)}",
        telecom=[{"system": "phone", "value": f"555-{random.getrandbits(20):07}", "use": "home"}],
        address=[{"city": f"Town {int(40 * random.random() ** 2)}", "state": "OH"}],
        generalPractitioner=[practitioner],
        managingOrganization=clinic,
    )
    day = f"{start:%Y-%m-%d}"
    codes = [substance, *(skewed(random, OTHER_DIAGNOSES) for _ in range(2))]
    medications = dict.fromkeys(skewed(random, MEDICATIONS) for _ in range(4))
    episode = {
        "resourceType": "EpisodeOfCare",
        "id": fresh(random),
        "status": "active",
        "patient": reference,
        "managingOrganization": clinic,
        "period": {"start": day},
    }
    orders = [
        {
            "resourceType": "ServiceRequest",
            "id": fresh(random),
            "status": random.choice(["active", "completed"]),
            "intent": "order",
            "code": make.coded(code, SNOMED),
            "subject": reference,
            "authoredOn": day,
            "requester": practitioner,
        }
        for code in ("76168009", "18512000")
    ]
    resources = [
        patient,
        episode,
        *(condition(random, code, reference, day) for code in codes),
        *orders,
        *(
            make.medication_request(
                reference["reference"],
                id=fresh(random),
                status=random.choice(["active", "active", "stopped", "completed"]),
                medicationCodeableConcept=make.coded(code, RXNORM),
                authoredOn=day,
                requester=practitioner,
            )
            for code in medications
        ),
    ]
    analytes = random.sample(ANALYTES, 3)
    return Member(reference, random.random() ** 1.5, substance, analytes), resources


def condition(random: Random, code: str, subject: Resource, day: str) -> Resource:
    """Return a diagnosis of that day."""
    return {
        "resourceType": "Condition",
        "id": fresh(random),
        "clinicalStatus": make.coded(
            skewed(random, ["active", "remission", "resolved"]), f"{TERMINOLOGY}/condition-clinical"
        ),
        "category": [make.coded("problem-list-item", f"{TERMINOLOGY}/condition-category")],
        "code": {**make.coded(code, ICD), "text": f"Diagnosis {code}"},
        "subject": subject,
        "recordedDate": day,
    }


@dataclass(frozen=True)
class Meeting:
    """One meeting of a group: when, in which week, led by whom, where."""

    random: Random
    opening: datetime
    week: int
    leaders: list[str]
    clinic: Resource

    def shared(self, group: Resource, members: list[Member]) -> tuple[list[Resource], Resource]:
        """Return the appointment of all with their leader, the session, and a reference to it."""
        actors = [*(m.reference for m in members), {"reference": f"Practitioner/{self.leaders[0]}"}]
        appointment = {
            "resourceType": "Appointment",
            "id": fresh(self.random),
            "status": "fulfilled",
            "start": instant(self.opening),
            "end": instant(self.opening + timedelta(hours=3)),
            "participant": [{"actor": actor, "status": "accepted"} for actor in actors],
        }
        session = self.encounter(group, appointment=[make.reference(appointment)])
        return [appointment, session], make.reference(session)

    def encounter(self, subject: Resource, **changes: Any) -> Resource:
        """Return an encounter of this meeting with both leaders."""
        period = {
            "start": instant(self.opening),
            "end": instant(self.opening + timedelta(hours=3)),
        }
        leaders = [{"individual": make.reference(f"Practitioner/{id}")} for id in self.leaders]
        return make.encounter(
            id=fresh(self.random),
            type=[make.coded("76168009", SNOMED)],
            subject=subject,
            period=period,
            participant=leaders,
            serviceProvider=self.clinic,
            **changes,
        )

    def own(self, member: Member, session: Resource, *, last: bool) -> Iterator[Resource]:
        """Yield what the meeting gives for one patient; more on the `last` one of a week."""
        random = self.random
        encounter = self.encounter(member.reference, partOf=session)
        about = {
            "subject": member.reference,
            "encounter": make.reference(encounter),
            "performer": [make.reference(f"Practitioner/{self.leaders[0]}")],
        }
        illness = member.severity * (1 - self.week / 15)
        yield encounter
        yield {
            "resourceType": "Procedure",
            "id": fresh(random),
            "status": "completed",
            "code": make.coded("228557008", SNOMED),
            "subject": member.reference,
            "encounter": about["encounter"],
            "performedDateTime": instant(self.opening),
        }
        yield self.survey(CRAVING, LOCAL, self.score(illness, 10), about)
        if random.random() < 0.5:
            yield self.pressure(about)
        if random.random() < 0.3:
            yield self.measured(PULSE, random.randint(52, 110), "/min", about)
        if random.random() < 0.2:
            yield self.measured(WEIGHT, random.randint(450, 1300) / 10, "kg", about)
        if last:
            for code, most in ((PHQ9, 27), (GAD7, 21)):
                survey = self.survey(code, make.LOINC, self.score(illness, most), about)
                yield survey
                yield self.provenance(survey)
            yield from self.laboratory(member, about)
            if random.random() < 0.5:
                day = f"{self.opening:%Y-%m-%d}"
                yield condition(random, member.substance, member.reference, day)

    def score(self, illness: float, most: int) -> int:
        """Return a score from 0 to `most` about where the illness is."""
        return min(max(round(illness * most + self.random.gauss(0, most / 10)), 0), most)

    def observation(self, category: str, code: Resource, about: Resource, **value: Any) -> Resource:
        """Return an observation at some second of the meeting."""
        moment = self.opening + timedelta(seconds=self.random.randrange(3 * 3600))
        return make.observation(
            id=fresh(self.random),
            status=self.random.choice(STATUSES),
            category=[make.coded(category, f"{TERMINOLOGY}/observation-category")],
            code=code,
            effectiveDateTime=instant(moment),
            **{"valueQuantity": None, **value},
            **about,
        )

    def survey(self, code: str, system: str, score: int, about: Resource) -> Resource:
        """Return the score of a questionnaire."""
        value = make.quantity(score, "{score}")
        return self.observation("survey", make.coded(code, system), about, valueQuantity=value)

    def measured(self, code: str, number: float, unit: str, about: Resource) -> Resource:
        """Return a vital sign."""
        value = make.quantity(number, unit)
        return self.observation("vital-signs", make.coded(code), about, valueQuantity=value)

    def pressure(self, about: Resource) -> Resource:
        """Return a blood pressure with its two components."""
        systolic = round(self.random.gauss(124, 16))
        numbers = ((SYSTOLIC, systolic), (DIASTOLIC, systolic * 5 // 8))
        component = [
            {"code": make.coded(code), "valueQuantity": make.quantity(number, "mm[Hg]")}
            for code, number in numbers
        ]
        return self.observation("vital-signs", make.coded(PRESSURE), about, component=component)

    def laboratory(self, member: Member, about: Resource) -> Iterator[Resource]:
        """Yield the drug screen of a week, and now and then a rare test."""
        for code in member.analytes:
            level = round(self.random.expovariate(1 / 200) * member.severity, 1)
            value = make.quantity(level, "ng/mL")
            concept = make.coded(code)
            yield self.observation("laboratory", concept, about, valueQuantity=value)
        if self.random.random() < 0.8:
            value = make.quantity(round(self.random.lognormvariate(3, 1), 2), "mg/dL")
            concept = {**make.coded(skewed(self.random, RARE), LOCAL), "text": "Laboratory test"}
            yield self.observation("laboratory", concept, about, valueQuantity=value)

    def provenance(self, target: Resource) -> Resource:
        """Return who entered a resource."""
        return {
            "resourceType": "Provenance",
            "id": fresh(self.random),
            "target": [make.reference(target)],
            "recorded": instant(self.opening + timedelta(hours=4)),
            "agent": [{"who": {"reference": f"Practitioner/{self.leaders[1]}"}}],
        }
