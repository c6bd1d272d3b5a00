"""What a scope says, to the letter; and that no client gets more than it is registered for."""

from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fhir.access import Scope, Scopes, meet, parse_scopes
from app.fhir.definitions import load
from app.fhir.query import Language
from tests.conftest import BASE_URL

CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
LANGUAGE = Language(load(), BASE_URL, ZoneInfo("UTC"), 20, 100)
LETTERS = {"c": "create", "r": "read", "u": "update", "d": "delete", "s": "search"}
CRITERION = (("category", f"{CATEGORY}|laboratory"),)


def parsed(text: str) -> Scopes:
    """Return what a text grants and refuses."""
    return parse_scopes(text, LANGUAGE)


def scope(text: str) -> Scope:
    """Return the one scope that a text is."""
    (found,) = parsed(text).granted
    return found


# A scope; the context, the type, the letters and the criteria that it grants
GRANTED = [
    # version 2
    ("patient/Observation.rs", "patient", "Observation", "rs", ()),
    ("user/Observation.cruds", "user", "Observation", "cruds", ()),
    ("system/*.cruds", "system", "*", "cruds", ()),
    ("system/*.s", "system", "*", "s", ()),
    ("patient/Patient.r", "patient", "Patient", "r", ()),
    ("patient/QuestionnaireResponse.cu", "patient", "QuestionnaireResponse", "cu", ()),
    ("user/Binary.cud", "user", "Binary", "cud", ()),
    # version 1
    ("patient/Observation.read", "patient", "Observation", "rs", ()),
    ("patient/Observation.write", "patient", "Observation", "cud", ()),
    ("patient/Observation.*", "patient", "Observation", "cruds", ()),
    ("user/*.*", "user", "*", "cruds", ()),
    ("system/*.read", "system", "*", "rs", ()),
    # granular
    (f"patient/Observation.rs?category={CATEGORY}|laboratory",
     "patient", "Observation", "rs", CRITERION),
    ("patient/Observation.rs?category="
     "http%3A%2F%2Fterminology.hl7.org%2FCodeSystem%2Fobservation-category%7Claboratory",
     "patient", "Observation", "rs", CRITERION),
    ("user/Observation.s?code=a&status=final", "user", "Observation", "s",
     (("code", "a"), ("status", "final"))),
    ("user/Observation.rs?code:not=a,b", "user", "Observation", "rs", (("code:not", "a,b"),)),
    ("user/Observation.rs?patient.gender=female", "user", "Observation", "rs",
     (("patient.gender", "female"),)),
    ("user/Patient.rs?_has:Observation:patient:code=a", "user", "Patient", "rs",
     (("_has:Observation:patient:code", "a"),)),
    ("system/*.rs?_tag=urn:t|a", "system", "*", "rs", (("_tag", "urn:t|a"),)),
    ("system/Patient.rs?name=Ada%20Marsh", "system", "Patient", "rs", (("name", "Ada Marsh"),)),
    ("system/Patient.rs?name=a%26gender%3Dmale", "system", "Patient", "rs",
     (("name", "a&gender=male"),)),
    ("system/Observation.rs?date=ge2026&date=lt2027", "system", "Observation", "rs",
     (("date", "ge2026"), ("date", "lt2027"))),
]  # fmt: skip

REFUSED = [
    # the context and the type
    *("Observation.rs", "patients/Observation.rs", "Patient/Observation.rs", "/Observation.rs"),
    *("patient/Observations.rs", "patient/observation.rs", "patient/.rs", "patient/Nothing.rs"),
    *("patient/**.rs", "patient/Observation*.rs", "patient/Obs%65rvation.rs"),
    *("patient/Resource.rs", "patient/DomainResource.rs", "patient/Observation,Patient.rs"),
    # the letters, which have an order
    *("patient/Observation.", "patient/Observation", "patient/Observation.sr"),
    *("patient/Observation.dc", "patient/Observation.rr", "patient/Observation.rsx"),
    *("patient/Observation.RS", "patient/Observation.x", "patient/Observation.reads"),
    *("patient/Observation.rs.rs", "patient/Observation.read.write", "patient/Observation.**"),
    # the criteria
    *("patient/Observation.rs?", "patient/Observation.rs?category=", "patient/Observation.rs?=a"),
    *("patient/Observation.rs?nothing=a", "patient/Observation.rs?category:nothing=a"),
    *("patient/Observation.rs?_include=Observation:subject", "patient/Observation.rs?_count=1"),
    *("patient/Observation.rs?_sort=date", "patient/Observation.rs?_revinclude=List:item"),
    *("patient/Observation.rs?_elements=id", "patient/Observation.rs?_summary=true"),
    *("patient/Observation.rs?_total=none", "patient/Observation.rs?_cursor=a"),
    *("patient/Observation.rs?_include:iterate=Observation:subject", "system/*.rs?_type=Patient"),
    *("patient/Observation.rs?date=sometime", "patient/Observation.rs?value-quantity=gtx"),
    *("patient/Observation.rs?category=a&category=", "patient/Observation.rs?category"),
    *("patient/Observation.rs?code=a&nothing=b", "patient/*.rs?category=a"),
    *("patient/Observation.rs?patient.nothing=a", "patient/Observation.rs?code=%FF"),
    *("patient/Observation.rs?code=%00", "patient/Observation.rs??code=a"),
    *("patient/Observation.read?code=a", "patient/Observation.*?code=a"),
    # other words
    *("launch/*", "launch/", "launch/Patient", "OpenID", "fhiruser", "profile", "offline"),
    *("smart/orchestrate_launch", "*", "*/*.*", "patient/*", "system"),
]


@pytest.mark.parametrize(("text", "context", "type", "letters", "criteria"), GRANTED)
def test_a_scope_grants_what_it_says(
    text: str, context: str, type: str, letters: str, criteria: tuple[tuple[str, str], ...]
) -> None:
    found = parsed(text)

    rights = frozenset(LETTERS[letter] for letter in letters)
    (one,) = found.granted
    assert (one.context, one.type, one.rights, one.criteria) == (context, type, rights, criteria)
    assert (one.text, found.others, found.refused) == (text, (), ())


@pytest.mark.parametrize("text", REFUSED)
def test_a_scope_that_cannot_be_interpreted_is_refused_and_grants_nothing(text: str) -> None:
    assert parsed(text) == Scopes((), (), (text,))


def test_the_words_of_a_launch_are_no_rights() -> None:
    words = "openid fhirUser launch launch/patient launch/encounter offline_access online_access"

    assert parsed(words) == Scopes((), tuple(words.split()), ())


def test_each_scope_of_a_text_is_told_once_and_apart() -> None:
    found = parsed("  openid patient/Patient.r\tlaunch/*  patient/Patient.r openid launch/* ")

    assert [one.text for one in found.granted] == ["patient/Patient.r"]
    assert (found.others, found.refused) == (("openid",), ("launch/*",))


def test_no_text_grants_nothing() -> None:
    assert parsed("") == parsed(" \n") == Scopes((), (), ())


def test_scopes_of_both_versions_that_say_the_same_are_equal() -> None:
    assert scope("patient/Observation.read") == scope("patient/Observation.rs")
    assert scope("user/*.*") == scope("user/*.cruds")


# What is asked for, what a client is registered for, and what it gets
MET = [
    ("patient/*.rs", "patient/*.rs", "patient/*.rs"),
    ("patient/*.cruds", "patient/*.rs", "patient/*.rs"),
    ("patient/Observation.rs", "patient/*.cruds", "patient/Observation.rs"),
    ("patient/*.rs", "patient/Observation.r", "patient/Observation.r"),
    ("patient/Observation.cud", "patient/Observation.rs", ""),
    ("patient/Observation.rs", "user/Observation.rs", ""),
    ("system/Observation.rs", "patient/*.cruds user/*.cruds", ""),
    ("patient/Patient.rs", "patient/Observation.rs", ""),
    ("patient/*.cruds", "patient/Patient.r patient/Observation.rs",
     "patient/Patient.r patient/Observation.rs"),
    ("user/Observation.read", "user/Observation.rs", "user/Observation.read"),
    ("user/Observation.rs?code=a", "user/*.rs", "user/Observation.rs?code=a"),
    ("user/Observation.rs", "user/Observation.rs?code=a", "user/Observation.rs?code=a"),
    ("user/Observation.rs?code=a", "user/Observation.r?status=final",
     "user/Observation.r?code=a&status=final"),
    ("user/Observation.rs", "", ""),
    ("", "user/*.cruds", ""),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "registered", "granted"), MET)
def test_a_client_gets_what_it_asks_for_and_is_registered_for(
    asked: str, registered: str, granted: str
) -> None:
    found = meet(parsed(asked), parsed(registered))

    assert set(found.granted) == set(parsed(granted).granted)


def test_what_a_client_does_not_get_is_told() -> None:
    asked = parsed("openid offline_access patient/Patient.r user/Patient.r nonsense/Patient.r")

    found = meet(asked, parsed("openid patient/*.rs"))

    assert [one.text for one in found.granted] == ["patient/Patient.r"]
    assert found.others == ("openid",)
    assert set(found.refused) == {"offline_access", "user/Patient.r", "nonsense/Patient.r"}


# --- for any scopes ------------------------------------------------------------------------------

CRITERIA = {
    "*": ["_tag=urn:t|a", "_id=1,2", "_lastUpdated=ge2026", "_security:not=R"],
    "Observation": ["code=a", "code:not=a", "status=final", "date=ge2026", "category=a%2Cb"],
    "Patient": ["gender=female", "name:exact=Ada%20Marsh", "_has:Observation:patient:code=a"],
    "Practitioner": ["name=a%26b", "active=true"],
}


@st.composite
def scope_texts(draw: st.DrawFn) -> str:
    """Return the text of a scope that can be interpreted."""
    context = draw(st.sampled_from(["patient", "user", "system"]))
    type = draw(st.sampled_from([*CRITERIA]))
    letters = draw(st.lists(st.sampled_from("cruds"), min_size=1, unique=True))
    said = "".join(letter for letter in "cruds" if letter in letters)
    if draw(st.booleans()):
        return f"{context}/{type}.{draw(st.sampled_from(['read', 'write', '*', said]))}"
    some = st.lists(st.sampled_from(CRITERIA[type] + CRITERIA["*"]), max_size=2, unique=True)
    criteria = "&".join(draw(some))
    return f"{context}/{type}.{said}{'?' if criteria else ''}{criteria}"


texts = st.lists(scope_texts(), max_size=4).map(" ".join)


@given(text=scope_texts())
def test_the_text_of_a_scope_says_what_the_scope_is(text: str) -> None:
    one = scope(text)

    assert scope(one.text) == one


@given(text=st.text(alphabet="patienuserym/*.cdO?=&%+|:,~ \t_", max_size=30))
def test_any_text_is_understood_or_refused(text: str) -> None:
    found = parsed(text)

    words = {*(one.text for one in found.granted), *found.others, *found.refused}
    assert words == set(text.split())


def admits(scopes: Scopes, context: str, type: str, right: str, met: frozenset[str]) -> bool:
    """Return whether scopes admit a right to a resource of a type that meets these criteria."""
    return any(
        one.context == context
        and one.type in ("*", type)
        and right in one.rights
        and {"=".join(pair) for pair in one.criteria} <= met
        for one in scopes.granted
    )


@given(asked=texts, registered=texts, data=st.data())
def test_a_client_gets_exactly_what_both_sides_admit(
    asked: str, registered: str, data: st.DataObject
) -> None:
    sides = parsed(asked), parsed(registered)
    got = meet(*sides)
    pairs = {"=".join(pair) for side in sides for one in side.granted for pair in one.criteria}
    met = data.draw(st.frozensets(st.sampled_from(sorted(pairs)))) if pairs else frozenset()

    for context in ("patient", "user", "system"):
        for type in ("Observation", "Patient", "Practitioner", "Condition"):
            for right in LETTERS.values():
                question = context, type, right, met
                assert admits(got, *question) == all(admits(side, *question) for side in sides)


@given(asked=texts, registered=texts)
def test_what_a_client_gets_can_be_written_and_read_again(asked: str, registered: str) -> None:
    got = meet(parsed(asked), parsed(registered))

    again = parsed(" ".join(one.text for one in got.granted))

    assert set(again.granted) == set(got.granted)
    assert again.refused == ()


@given(asked=texts)
def test_a_client_that_asks_for_all_it_is_registered_for_gets_no_more_and_no_less(
    asked: str,
) -> None:
    once = meet(parsed(asked), parsed(asked))

    assert meet(once, parsed(asked)).granted == once.granted
