"""Scopes in words that people understand: from `patient/Observation.rs` to a sentence.

https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html

Rule: words never say less than the scope does. Where a value means nothing to people (a system, a
code), the exact scope is shown beside the sentence.
"""

import re
from collections.abc import Container, Iterable

from app.fhir.access import Right, Scope

# What stands for a type where its name, split into words, with an s, would not do
PLURALS = {
    "AllergyIntolerance": "allergies and intolerances",
    "Basic": "basic records",
    "Binary": "files",
    "CareTeam": "care teams",
    "Condition": "conditions and diagnoses",
    "Coverage": "insurance coverages",
    "DocumentReference": "documents",
    "EpisodeOfCare": "episodes of care",
    "Evidence": "pieces of evidence",
    "ExplanationOfBenefit": "explanations of benefits",
    "Flag": "warning flags",
    "Media": "pictures and recordings",
    "MedicationKnowledge": "knowledge about medications",
    "MedicinalProductManufactured": "manufactured medicinal products",
    "MedicinalProductPackaged": "packaged medicinal products",
    "MedicinalProductPharmaceutical": "pharmaceutical medicinal products",
    "OperationOutcome": "outcomes of operations",
    "Parameters": "parameters",
    "Person": "persons",
    "Provenance": "records of provenance",
    "SubstanceReferenceInformation": "reference information about substances",
    "TerminologyCapabilities": "terminology capabilities",
}
VERBS: dict[Right, str] = {
    "read": "read",
    "search": "search",
    "create": "create",
    "update": "change",
    "delete": "delete",
}
# Search parameters whose names are no words
NAMES = {
    "_id": "id",
    "_lastUpdated": "last change",
    "_profile": "profile",
    "_security": "security label",
    "_source": "source",
    "_tag": "tag",
}
# What a modifier makes of "only those {...}"; {name} is the parameter, {value} its values
MODIFIERS = {
    "": "with {name} {value}",
    "above": "with {name} {value} or what is above it",
    "below": "with {name} {value} or what is below it",
    "contains": "whose {name} contains {value}",
    "exact": "whose {name} is exactly {value}",
    "identifier": "whose {name} is known by {value}",
    "in": "whose {name} is in the list {value}",
    "not": "whose {name} is not {value}",
    "not-in": "whose {name} is not in the list {value}",
    "of-type": "whose {name} is {value}",
    "text": "whose {name} reads {value}",
}
# search.html#prefix: what stands before a date, a number or a quantity
PREFIXES = {
    "ap": "about ",
    "eb": "ending before ",
    "eq": "",
    "ge": "from {} on",
    "gt": "above ",
    "le": "up to ",
    "lt": "below ",
    "ne": "other than ",
    "sa": "starting after ",
}
PREFIXED = re.compile(r"(ap|eb|eq|ge|gt|le|lt|ne|sa)(-?[0-9].*)")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z][a-z]+|[a-z]+")

OTHERS = {
    "openid": "Know that it is you who signed in",
    "fhirUser": "Know who you are: your own entry in the record system",
    "profile": "Know who you are",
    "launch": "Know what you were working on when you opened it",
    "launch/patient": "Know which patient you chose",
    "launch/encounter": "Know which visit you chose",
    "offline_access": "Stay connected when you are away, until somebody here ends it",
    "online_access": "Stay connected as long as you are signed in here",
}


def sentence(scope: Scope, whose: str, of_patients: Container[str]) -> str:
    """Return what a clinical scope allows, as a sentence without a full stop.

    `whose` is the patient of a `patient/` scope: "" for the reader's own data, else a name.
    `of_patients` are the types that are about one patient: all others are the same for everybody.
    """
    things = _things(scope, whose, of_patients)
    only = " and ".join(criterion(name, value) for name, value in scope.criteria)
    said = f"{_listed(VERBS[right] for right in VERBS if right in scope.rights)} {things}"
    return _capital(f"{said}, only those {only}" if only else said)


def other(name: str) -> str:
    """Return what a scope that is not about resources allows; the scope itself if unknown."""
    return OTHERS.get(name, f"Use “{name}”")


def plural(type: str) -> str:
    """Return what several resources of a type are called: "medication requests"."""
    if type in PLURALS:
        return PLURALS[type]
    *first, last = [word.lower() for word in WORD.findall(type)]
    return " ".join([*first, _several(last)])


def criterion(name: str, value: str) -> str:
    """Return what a search parameter asks for: "with category survey"."""
    code, _, modifier = name.partition(":")
    called = NAMES.get(code, code.replace("-", " ").replace(".", " "))
    if modifier == "missing":
        return f"{'without' if value == 'true' else 'with some'} {called}"
    values = " or ".join(_value(one) for one in re.split(r"(?<!\\),", value))
    if modifier not in MODIFIERS:  # `subject:Patient`: the modifier is a type
        called, modifier = f"{called} ({plural(modifier.partition('.')[0])})", ""
    return MODIFIERS[modifier].format(name=called, value=values)


def _things(scope: Scope, whose: str, of_patients: Container[str]) -> str:
    if scope.type == "*":
        return _everything(scope.context, whose)
    if scope.context == "patient" and scope.type == "Patient":
        return f"the personal data of {whose}" if whose else "your personal data"
    things = plural(scope.type)
    if scope.context == "system":
        return f"all {things} on this server"
    if scope.context == "user" or scope.type not in of_patients:
        return f"all {things} that you may see"
    return f"the {things} of {whose}" if whose else f"your {things}"


def _everything(context: str, whose: str) -> str:
    if context == "patient":
        return f"everything in the record of {whose}" if whose else "everything in your record"
    return "everything on this server" if context == "system" else "everything that you may see"


def _several(noun: str) -> str:
    if noun.endswith(("sis", "xis")):
        return f"{noun[:-2]}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def _value(text: str) -> str:
    """Return a value without its system and escapes, and its prefix as a word."""
    bare = re.sub(r"\\(.)", r"\1", text.rpartition("|")[2] or text)
    if not (found := PREFIXED.fullmatch(bare)):
        return bare
    word = PREFIXES[found[1]]
    return word.format(found[2]) if "{" in word else f"{word}{found[2]}"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
