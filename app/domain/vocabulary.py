"""The names of the trade: canonical addresses and codes, and how resources carry them.

https://hl7.org/fhir/R4/extensibility.html and https://hl7.org/fhir/R4/terminologies.html

Everything local hangs below one canonical base, which an installation may choose. No logic is
here: a code means what the CodeSystems in `data` say; `KINDS` and `LEVELS` repeat their properties.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.fhir.wire import Resource

ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
EPISODE_TYPE = "http://terminology.hl7.org/CodeSystem/episodeofcare-type"
CANCELATION = "http://terminology.hl7.org/CodeSystem/appointment-cancellation-reason"
PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
SERVICE_CATEGORY = "http://terminology.hl7.org/CodeSystem/service-category"
HCPCS = "http://www.nlm.nih.gov/research/umls/hcpcs"
DIAGNOSIS_ROLE = "http://terminology.hl7.org/CodeSystem/diagnosis-role"
ICD10 = "http://hl7.org/fhir/sid/icd-10-cm"
LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
UCUM = "http://unitsofmeasure.org"
URI = "urn:ietf:rfc:3986"

# Code systems of our own, below `{base}/CodeSystem/`
LEVEL = "iop-level-of-care"
KIND = "iop-service-kind"
ATTENDANCE = "iop-attendance"
STAGE = "iop-stage"
TRACK = "iop-track"
POPULATION = "iop-group-population"
CHARACTERISTIC = "iop-group-characteristic"
ROSTER = "iop-group-roster"  # the code of this system that a roster has
ROLE = "iop-role"
TASK = "iop-task"
FLAG = "iop-flag"
ISSUE = "iop-issue"
MODALITY = "iop-modality"
CAREPLAN = "iop-careplan-category"
CRITERION = "iop-eligibility-criterion"
DISCHARGE_REASON = "iop-discharge-reason"
DIMENSION = "iop-asam-dimension"
EDITION = "iop-asam-edition"
MEASURE = "iop-measure"
RATING = "iop-asam-rating"
ACTIVITY = "iop-activity"

# Extensions, below `{base}/StructureDefinition/`
TIMEZONE = "iop-timezone"
WEEK_START = "iop-week-start"
POLICY = "iop-policy"
PROGRAM = "iop-program"
LOC_PERIOD = "iop-loc-period"
CLINICAL_MINUTES = "iop-clinical-minutes"
BREAK = "iop-break"
MODE = "iop-mode"
SESSION = "iop-session"
REPLACES = "iop-replaces"
CAPACITY = "iop-capacity"
RESTRICTION = "iop-population-restriction"
LOCATION = "iop-location"
GROUP_REF = "iop-group-ref"
ENTRY_PATH = "iop-entry-path"
OVERRIDE = "iop-override"
WAIVER = "iop-aftercare-waiver"
PRIOR_EPISODE = "iop-prior-episode"
AUTHORIZATION = "iop-authorization"
TOPIC = "iop-topic"
LOCATION_STATE = "iop-location-state"


@dataclass(frozen=True)
class Kind:
    """What holds for a kind of service where nothing else is said.

    `counts` says whether its minutes count towards the weekly hours, `wellness` whether only a
    share of them may be of it. Of two at the same time the one with the lower `precedence` gets
    the minutes.
    """

    counts: bool
    wellness: bool
    precedence: int


KINDS: Mapping[str, Kind] = {
    "individual": Kind(True, False, 1),
    "family": Kind(True, False, 2),
    "crisis": Kind(True, False, 3),
    "group": Kind(True, False, 4),
    "education": Kind(True, False, 5),
    "skills": Kind(True, False, 6),
    "wellness": Kind(True, True, 7),
    "nutrition": Kind(True, True, 8),
    "assessment": Kind(True, False, 9),
    "family-collateral": Kind(False, False, 12),
    "family-education": Kind(False, False, 13),
    "med-management": Kind(False, False, 14),
    "case-management": Kind(False, False, 15),
    "peer-support": Kind(False, False, 16),
    "mutual-support": Kind(False, False, 17),
    "drug-test": Kind(False, False, 18),
}


@dataclass(frozen=True)
class Level:
    """A level of care: its place in the order of intensity, and the minutes a week that it has.

    `minimum` and `maximum` are for (adults, adolescents), None where the level has none. A week of
    the maximum is too long already, but at a level where it is `reachable`.
    """

    rank: int
    minimum: tuple[int, int] | None = None
    maximum: tuple[int, int] | None = None
    reachable: bool = False


LEVELS: Mapping[str, Level] = {
    "1.0": Level(1, (0, 0), (540, 540)),
    "1.5": Level(2, (0, 0), (540, 360)),
    "1.7": Level(3, (0, 0), (540, 540)),
    "2.1": Level(4, (540, 360), (1200, 1200)),
    "2.5": Level(5, (1200, 1200), (1800, 1800), reachable=True),
    "2.7": Level(6),
    "3.1": Level(7),
    "3.5": Level(8),
    "3.7": Level(9),
    "4": Level(10),
}


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary below a canonical base (without a slash at its end)."""

    base: str

    def system(self, name: str) -> str:
        """Return the URL of a code system of ours."""
        return f"{self.base}/CodeSystem/{name}"

    def extension(self, name: str) -> str:
        """Return the URL of an extension or profile of ours."""
        return f"{self.base}/StructureDefinition/{name}"

    @property
    def mark(self) -> bytes:
        """Return what the bytes of every resource contain that uses this vocabulary."""
        return f"{self.base}/".encode()

    @property
    def rosters(self) -> tuple[str, str]:
        """Return the system and the code of every roster."""
        return self.system(CHARACTERISTIC), ROSTER

    def coding(self, system: str, code: str) -> Resource:
        """Return a Coding of a code system of ours."""
        return {"system": self.system(system), "code": code}

    def concept(self, system: str, code: str) -> Resource:
        """Return a CodeableConcept with a code of ours."""
        return {"coding": [self.coding(system, code)]}

    def extended(self, name: str, **value: Any) -> Resource:
        """Return an Extension of ours: `extended(TIMEZONE, valueCode="UTC")`."""
        return {"url": self.extension(name), **value}

    def complex(self, name: str, *parts: tuple[str, str, Any]) -> Resource:
        """Return a complex Extension of ours; a part is (url, "valueCode", value), not None."""
        inner = [{"url": url, key: value} for url, key, value in parts if value is not None]
        return {"url": self.extension(name), "extension": inner}

    def all(self, element: Resource, name: str) -> Iterator[Resource]:
        """Yield the Extensions of ours of this name on an element."""
        url = self.extension(name)
        return iter([one for one in element.get("extension", ()) if one.get("url") == url])

    def values(self, element: Resource, name: str) -> list[Any]:
        """Return the values of the simple extensions of this name on an element."""
        return [value(one) for one in self.all(element, name)]

    def value(self, element: Resource, name: str) -> Any:
        """Return the value of the first extension of this name, None if there is none."""
        for one in self.all(element, name):
            return value(one)
        return None

    def codes(self, concepts: Any, system: str) -> list[str]:
        """Return the codes of one of our systems in a CodeableConcept, or in a list of them."""
        found = concepts if isinstance(concepts, list) else [concepts] if concepts else []
        url = self.system(system)
        return [
            coding["code"]
            for concept in found
            for coding in concept.get("coding", ())
            if coding.get("system") == url and "code" in coding
        ]

    def code(self, concepts: Any, system: str) -> str:
        """Return the first of `codes`, "" for none."""
        return next(iter(self.codes(concepts, system)), "")


def value(extension: Resource) -> Any:
    """Return the value of an Extension, None for one without."""
    for key, held in extension.items():  # a loop is faster: this is asked of every resource
        if key.startswith("value"):
            return held
    return None


def parts(extension: Resource) -> dict[str, Any]:
    """Return the values inside a complex Extension, by url; the last one wins."""
    return {one["url"]: value(one) for one in extension.get("extension", ())}


def several(extension: Resource, url: str) -> list[Any]:
    """Return the values inside a complex Extension of one url, in their order."""
    return [value(one) for one in extension.get("extension", ()) if one["url"] == url]
