"""What a scope is called on the page where people decide about it."""

import re

import pytest

from app.api.page import consent, words
from app.config import Settings
from app.fhir import definitions
from app.fhir.access import Scope, parse_scopes
from app.main import search_language

KNOWN = definitions.load()
TYPES = KNOWN.resource_types
OF_PATIENTS = consent.of_patients(KNOWN)
LANGUAGE = search_language(Settings(), KNOWN)
PLAIN = re.compile(r"[a-z]+( [a-z]+)*")

# scope, whose record it is ("" for the reader's own), and what is said of it
SENTENCES = [
    ("patient/MedicationRequest.rs", "", "Read and search your medication requests"),
    ("patient/MedicationRequest.read", "", "Read and search your medication requests"),
    ("patient/MedicationRequest.r", "", "Read your medication requests"),
    ("patient/Observation.s", "Ada Marsh", "Search the observations of Ada Marsh"),
    ("patient/Observation.c", "Ada Marsh", "Create the observations of Ada Marsh"),
    (
        "patient/Observation.cruds",
        "Ada Marsh",
        "Read, search, create, change and delete the observations of Ada Marsh",
    ),
    ("patient/Patient.r", "", "Read your personal data"),
    ("patient/Patient.r", "Ada Marsh", "Read the personal data of Ada Marsh"),
    ("patient/*.rs", "", "Read and search everything in your record"),
    ("patient/*.rs", "Ada Marsh", "Read and search everything in the record of Ada Marsh"),
    ("patient/Practitioner.rs", "Ada Marsh", "Read and search all practitioners that you may see"),
    ("patient/Task.rs", "Ada Marsh", "Read and search the tasks of Ada Marsh"),
    ("user/Encounter.rs", "", "Read and search all encounters that you may see"),
    ("user/*.cruds", "", "Read, search, create, change and delete everything that you may see"),
    ("system/Encounter.rs", "", "Read and search all encounters on this server"),
    (
        "patient/Observation.rs?category=survey",
        "",
        "Read and search your observations, only those with category survey",
    ),
    (
        "patient/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|survey,laboratory",
        "",
        "Read and search your observations, only those with category survey or laboratory",
    ),
    (
        "patient/Observation.rs?date=ge2026-01-01&status:not=entered-in-error",
        "",
        "Read and search your observations, only those with date from 2026-01-01 on"
        " and whose status is not entered-in-error",
    ),
    (
        "user/Condition.rs?onset-date:missing=true",
        "",
        "Read and search all conditions and diagnoses that you may see,"
        " only those without onset date",
    ),
    (
        "user/Observation.rs?subject:Patient=7",
        "",
        "Read and search all observations that you may see, only those with subject (patients) 7",
    ),
    (
        "user/Observation.rs?_lastUpdated=lt2026",
        "",
        "Read and search all observations that you may see, only those with last change below 2026",
    ),
]


def scope(text: str) -> Scope:
    """Return the one scope in a text."""
    (found,) = parse_scopes(text, LANGUAGE).granted
    return found


@pytest.mark.parametrize(("text", "whose", "said"), SENTENCES, ids=lambda value: str(value)[:40])
def test_a_scope_is_a_sentence(text: str, whose: str, said: str) -> None:
    assert words.sentence(scope(text), whose, OF_PATIENTS) == said


@pytest.mark.parametrize("type", TYPES)
def test_every_type_has_a_plural_of_plain_words(type: str) -> None:
    called = words.plural(type)

    assert PLAIN.fullmatch(called)
    assert called.endswith("s") or type in words.PLURALS


def test_no_two_types_are_called_the_same() -> None:
    assert len({words.plural(type) for type in TYPES}) == len(TYPES)


def test_only_types_of_r4_have_a_word_of_their_own() -> None:
    assert set(words.PLURALS) <= set(TYPES)


@pytest.mark.parametrize("context", ["patient", "user", "system"])
@pytest.mark.parametrize("letters", ["r", "rs", "cud", "cruds"])
def test_the_sentence_of_every_type_names_it(context: str, letters: str) -> None:
    for type in TYPES:
        said = words.sentence(scope(f"{context}/{type}.{letters}"), "Ada Marsh", OF_PATIENTS)

        named = "personal data" if (context, type) == ("patient", "Patient") else words.plural(type)
        assert named in said
        assert said[0].isupper()


@pytest.mark.parametrize(
    ("right", "verb"),
    [("c", "create"), ("r", "read"), ("u", "change"), ("d", "delete"), ("s", "search")],
)
def test_no_right_is_left_unsaid(right: str, verb: str) -> None:
    said = words.sentence(scope(f"user/Goal.{right}"), "", OF_PATIENTS)

    assert said == f"{verb.capitalize()} all goals that you may see"


@pytest.mark.parametrize(
    "name", ["openid", "fhirUser", "launch", "launch/patient", "offline_access", "online_access"]
)
def test_what_is_not_about_resources_has_words_too(name: str) -> None:
    assert words.other(name) == words.OTHERS[name]


def test_a_word_that_nobody_knows_is_shown_as_it_is() -> None:
    assert words.other("x-ray") == "Use “x-ray”"


def test_openid_and_fhir_user_are_one_choice() -> None:
    scopes = parse_scopes("openid fhirUser patient/Goal.rs launch/patient", LANGUAGE)

    found = consent.choices(scopes, "", OF_PATIENTS)

    assert [choice.value for choice in found] == ["patient/Goal.rs", "openid fhirUser"]
    assert consent.needed(scopes) == ["Know which patient you chose"]


def test_what_was_not_asked_for_cannot_be_kept() -> None:
    scopes = parse_scopes("openid patient/Goal.rs launch/patient", LANGUAGE)

    kept = consent.kept(scopes, ["patient/Goal.rs", "patient/*.cruds", "offline_access"])

    assert set(kept) == {"patient/Goal.rs", "launch/patient"}


@pytest.mark.parametrize(
    ("redirect_uri", "said"),
    [
        ("https://app.example.org/callback?x=1", "https://app.example.org"),
        ("http://127.0.0.1:9000/cb", "http://127.0.0.1:9000"),
        ("com.example.app:/cb", "the app com.example.app on this device"),
    ],
)
def test_it_is_said_where_the_browser_goes(redirect_uri: str, said: str) -> None:
    assert consent.destination(redirect_uri) == said
