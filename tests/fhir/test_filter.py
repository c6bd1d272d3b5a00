"""search_filter.html: what a filter says. What it finds: tests/search/filter.yaml."""

import json
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fhir.definitions import load
from app.fhir.errors import FhirError
from app.fhir.query import All, And, Chain, Language, Match, Not, Or, Ordered, Present, Query
from app.fhir.query.filter import (
    MOST_NESTED,
    MOST_TESTS,
    OPERATIONS,
    Comparison,
    Expression,
    Logic,
    Negation,
    Step,
    parse,
)

LANGUAGE = Language(load(), "http://milepost.test/fhir", UTC, 20, 1000)
FIT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def single(name: str, value: str, operation: str = "eq") -> Comparison:
    """Return a test of one parameter."""
    return Comparison((Step(name),), operation, value)


def refusal(text: str) -> FhirError | None:
    """Return why a text is no filter, None if it is one."""
    try:
        parse(text)
    except FhirError as error:
        return error
    return None


def tree(text: str, type: str = "Patient") -> Query:
    """Return the tree of a search by a filter alone."""
    ((_, found),) = LANGUAGE.parse(type, (("_filter", text),), 0).arms
    return found.parts[0] if isinstance(found, And) and len(found.parts) == 1 else found


A, B, C = single("a", "1"), single("b", "2"), single("c", "3")

GRAMMAR: dict[str, Expression] = {
    "a eq 1": A,
    ' \t\na  eq\n"1" ': A,
    "a eq 1 and b eq 2 and c eq 3": Logic("and", (A, B, C)),
    "a eq 1 or b eq 2 and c eq 3": Logic("and", (Logic("or", (A, B)), C)),
    "a eq 1 and b eq 2 or c eq 3": Logic("or", (Logic("and", (A, B)), C)),
    "a eq 1 or (b eq 2 and c eq 3)": Logic("or", (A, Logic("and", (B, C)))),
    "not(a eq 1)": Negation(A),
    "not ( a eq 1 ) or b eq 2": Logic("or", (Negation(A), B)),
    "((a eq 1))": A,
    "a.b-c._d eq 1": Comparison((Step("a"), Step("b-c"), Step("_d")), "eq", "1"),
    "a[b eq 2].c eq 3": Comparison((Step("a", B), Step("c")), "eq", "3"),
    "a[ b eq 2 or c eq 3 ].c eq 3": Comparison(
        (Step("a", Logic("or", (B, C))), Step("c")), "eq", "3"
    ),
    "a[b[c eq 3].c eq 3].c eq 3": Comparison(
        (Step("a", Comparison((Step("b", C), Step("c")), "eq", "3")), Step("c")), "eq", "3"
    ),
    "(a eq http://x.y/z|(a,b[c)": single("a", "http://x.y/z|(a,b[c"),
    r'a eq "(]\") \\ \u00e9\n"': single("a", '(]") \\ é\n'),
    "and eq 1": single("and", "1"),
    "a eq and and b eq 2": Logic("and", (single("a", "and"), B)),
    "a pr false": single("a", "false", "pr"),
}


@pytest.mark.parametrize("text", GRAMMAR)
def test_a_filter_is_read_from_left_to_right(text: str) -> None:
    assert parse(text) == GRAMMAR[text]


@given(FIT)
def test_every_text_can_be_the_value_of_a_test(value: str) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert parse(f"(a eq {text})") == single("a", value)


PIECES = [*'aeq()[]."\\1 ', "\0", "\ud800", "not", " eq ", " and ", "\\u0000"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_what_is_no_filter_is_refused_and_nothing_worse(text: str) -> None:
    error = refusal(text)

    assert error is None or (error.status, error.issues[0].expression) == (400, "http._filter")


@pytest.mark.parametrize(
    "text",
    [
        "(" * (MOST_NESTED + 1) + "a eq 1" + ")" * (MOST_NESTED + 1),
        "not(" * 100_000,
        "a[" * (MOST_NESTED + 1) + "a eq 1" + "].a eq 1" * (MOST_NESTED + 1),
        " or ".join(["a eq 1"] * (MOST_TESTS + 1)),
    ],
    ids=["parentheses", "negations", "brackets", "tests"],
)
def test_a_filter_has_limits(text: str) -> None:
    with pytest.raises(FhirError) as raised:
        parse(text)

    assert raised.value.issues[0].code == "too-costly"


def test_the_largest_filter_is_read() -> None:
    widest = " or ".join(["gender eq male"] * MOST_TESTS)
    deepest = "not(" * MOST_NESTED + "gender eq male" + ")" * MOST_NESTED

    assert isinstance(tree(widest), Or)
    assert isinstance(tree(deepest), Not)


def test_every_operation_of_the_page_is_there() -> None:
    page = "eq ne co sw ew gt lt ge le ap sa eb pr po ss sb in ni re"

    assert list(OPERATIONS) == page.split()


TREES: dict[str, Query] = {
    'family eq "PÉTERS"': Match("family", "string", (Ordered("eq", "peters"),)),
    "family sw Pe": Match("family", "string", ("pe",)),
    "family ew Pe": Match("family", "string", ("pe",), "ends"),
    "family co Pe": Match("family", "string", ("pe",), "contains"),
    "family pr true": Present("family"),
    "family pr FALSE": Not(Present("family")),
    "not(family pr true)": Not(Present("family")),
    "_id pr true": All(),
    "organization.name pr false": Not(Chain("organization", "Organization", Present("name"))),
    "organization[name pr true].active pr true": Chain(
        "organization", "Organization", And((Present("name"), Present("active")))
    ),
}


@pytest.mark.parametrize("text", TREES)
def test_a_filter_becomes_the_tree_of_any_search(text: str) -> None:
    assert tree(text) == TREES[text]


def test_what_is_hidden_from_a_caller_is_unknown_in_a_filter() -> None:
    def hidden(type: str, code: str) -> bool:
        return (type, code) == ("Practitioner", "name")

    for text in (
        "general-practitioner[name pr true]._id pr true",
        "general-practitioner.name sw a",
    ):
        asked = (("_filter", f"not({text})"),)
        found = repr(LANGUAGE.parse("Patient", asked, 0, hidden=hidden).arms)
        assert "'Organization'" in found
        assert "'Practitioner'" not in found
