"""FHIRPath: https://hl7.org/fhirpath/N1/ and https://hl7.org/fhir/R4/fhirpath.html."""

import contextlib
import re
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.fhir.definitions import Constraint, load
from app.fhir.errors import FhirError
from app.fhir.path import (
    Binary,
    Call,
    Index,
    Literal,
    Measure,
    Member,
    Model,
    Temporal,
    TypeTest,
    Unary,
    Variable,
    compile,  # noqa: A004
    parse,
)
from app.fhir.validation.invariants import Within, corrected, exact, predicate
from tests.fhir.specimens import TEXTS, Specimens

MODEL = Model(load())
NAME = Member(None, "name")

PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "birthDate": "2020-02",
    "_birthDate": {"extension": [{"url": "u", "valueString": "s"}]},
    "_gender": {"extension": [{"url": "g", "valueCode": "c"}]},
    "deceasedBoolean": False,
    "multipleBirthInteger": 2,
    "name": [
        {
            "given": ["a", None, "b"],
            "_given": [None, {"extension": [{"url": "z"}]}, None],
            "family": "f",
        },
        {"text": "A. Person"},
    ],
    "contained": [{"resourceType": "Organization", "id": "o", "name": "Clinic"}],
    "managingOrganization": {"reference": "#o"},
    "generalPractitioner": [{"reference": "Practitioner/1"}],
}
OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "valueQuantity": {"value": Decimal("1.50"), "unit": "mg", "code": "mg"},
    "referenceRange": [
        {"low": {"value": 1, "code": "mg"}, "high": {"value": Decimal("1.5"), "code": "mg"}},
        {"low": {"value": 1, "code": "g"}},
    ],
}


def evaluated(expression: str, resource: dict[str, Any]) -> list[Any]:
    compiled = compile(expression, resource["resourceType"], MODEL)
    return compiled(resource, resource=resource, root=resource)


@pytest.mark.parametrize(
    ("expression", "tree"),
    [
        ("name.given", Member(NAME, "given")),
        ("name[0]", Index(NAME, Literal(0))),
        ("name.exists()", Call(NAME, "exists", ())),
        ("iif(name, 1, 2)", Call(None, "iif", (NAME, Literal(1), Literal(2)))),
        ("name as string", TypeTest("as", NAME, "string")),
        ("name.as(string)", TypeTest("as", NAME, "string")),
        ("name.ofType(FHIR.string)", TypeTest("ofType", NAME, "FHIR.string")),
        ("is(Patient)", TypeTest("is", None, "Patient")),
        ("`name`", NAME),
        ("text.div", Member(Member(None, "text"), "div")),
        ("-1.5", Unary("-", Literal(Decimal("1.5")))),
        ("{}", Literal(None)),
        ("true", Literal(True)),
        (r"'it\'s \u0041'", Literal("it's A")),
        ("4 days", Literal(Measure(Decimal(4), "days"))),
        ("4 'mg'", Literal(Measure(Decimal(4), "mg"))),
        ("@2020-02", Literal(Temporal("date", "2020-02"))),
        ("@2020-02-01T10:00Z", Literal(Temporal("dateTime", "2020-02-01T10:00Z"))),
        ("@T10:30", Literal(Temporal("time", "10:30"))),
        ("%resource.name", Member(Variable("%resource"), "name")),
        ("%`vs-a b`", Variable("%vs-a b")),
        ("$this // comment", Variable("$this")),
        ("a /* ( */ & b", Binary("&", Member(None, "a"), Member(None, "b"))),
    ],
)
def test_an_expression_becomes_this_tree(expression: str, tree: object) -> None:
    assert parse(expression) == tree


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a or b and c", "a or (b and c)"),
        ("a implies b or c", "a implies (b or c)"),
        ("a and b = c", "a and (b = c)"),
        ("a = b | c", "a = (b | c)"),
        ("a | b is c", "a | (b is c)"),
        ("a in b | c", "a in (b | c)"),
        ("a + b * c", "a + (b * c)"),
        ("-a.b + c", "(-(a.b)) + c"),
        ("a - b - c", "(a - b) - c"),
        ("a < b = c", "(a < b) = c"),
        ("a contains b and c", "(a contains b) and c"),
    ],
)
def test_operators_bind_as_the_table_of_precedence_says(written: str, meant: str) -> None:
    assert parse(written) == parse(meant)


@pytest.mark.parametrize(
    ("expression", "place"),
    [
        ("", 1),
        ("a.", 3),
        ("a b", 3),
        ("'open", 1),
        ("(a", 3),
        ("a.is(3)", 6),
        ("f(a,)", 5),
        ("a + ", 5),
        ("@20", 1),
        (r"'\q'", 1),
        ("a[0", 4),
        ("name #", 6),
    ],
)
def test_a_text_that_is_no_expression_is_refused_with_its_place(
    expression: str, place: int
) -> None:
    with pytest.raises(FhirError, match=f"at character {place}:"):
        parse(expression)


@pytest.mark.parametrize("expression", ["(" * 200 + "a" + ")" * 200, ".a" * 1000, "-" * 200 + "1"])
def test_an_expression_cannot_exhaust_the_stack(expression: str) -> None:
    with pytest.raises(FhirError):
        parse(expression.removeprefix("."))


@given(st.text("ab.()[]'`%$@0123456789 +-*/|&<>=!~,{}TZ:\\\nis", max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(FhirError):
        parse(text)


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        # navigation, choices, primitive extensions
        ("Patient.name.family", ["f"]),
        ("Observation.id", []),
        ("name.given", ["a", None, "b"]),
        ("name.given.count()", [3]),
        ("name.given.where(hasValue())", ["a", "b"]),
        ("name.given[1].extension.url", ["z"]),
        ("birthDate.extension('u').value", ["s"]),
        ("gender.exists()", [True]),
        ("gender.hasValue()", [False]),
        ("gender.extension.value", ["c"]),
        ("deceased", [False]),
        ("deceased is boolean", [True]),
        ("deceased is Boolean", [True]),
        ("deceased as dateTime", []),
        ("multipleBirth.ofType(integer)", [2]),
        ("contained.name", ["Clinic"]),
        ("contained is Organization", [True]),
        ("contained.ofType(DomainResource).id", ["o"]),
        ("managingOrganization.resolve().name", ["Clinic"]),
        ("generalPractitioner.resolve()", []),
        ("children().count()", [9]),
        ("descendants().where($this is Extension).url", ["z", "g", "u"]),
        # existence, filters, subsets
        ("name.exists(family = 'f')", [True]),
        ("name.all(family.exists())", [False]),
        ("photo.all(title = 'x')", [True]),
        ("name.where(family = 'f').given.first()", ["a"]),
        ("name.select(family | text)", ["f", "A. Person"]),
        ("name.given.where($index = 2)", ["b"]),
        ("(1 | 2 | 3).tail()", [2, 3]),
        ("(1 | 2 | 3).last()", [3]),
        ("(1 | 2 | 3).skip(1).take(1)", [2]),
        ("(1 | 2).union(2 | 3)", [1, 2, 3]),
        ("(1 | 2).combine(2 | 3)", [1, 2, 2, 3]),
        ("(1 | 2).intersect(2 | 3)", [2]),
        ("(1 | 2).exclude(2 | 3)", [1]),
        ("(1 | 2).subsetOf(1 | 2 | 3)", [True]),
        ("(1).combine(1).isDistinct()", [False]),
        ("(1).combine(1.0).distinct().count()", [1]),
        ("repeat(contained).count()", [1]),
        ("(1 | 2 | 3).aggregate($this + $total, 0)", [6]),
        ("(true | false).allTrue()", [False]),
        ("(true | false).anyTrue()", [True]),
        ("(false | true).anyFalse()", [True]),
        ("{}.allFalse()", [True]),
        # emptiness and three-valued logic
        ("{} and false", [False]),
        ("{} and true", []),
        ("{} or true", [True]),
        ("false implies {}", [True]),
        ("{} xor true", []),
        ("{}.not()", []),
        ("photo.title = 'x'", []),
        ("1 + {}", []),
        ("'a' & {} & 'b'", ["ab"]),
        ("iif({}, 1, 2)", [2]),
        # equality and order
        ("name.given = ('a' | 'b')", [False]),
        ("1 = 1.0", [True]),
        ("'1' = 1", [False]),
        ("'A  b' ~ 'a B'", [True]),
        ("(1 | 2) ~ (2 | 1)", [True]),
        ("1 !~ 2", [True]),
        ("'b' in name.given", [True]),
        ("name.given contains 'x'", [False]),
        ("'a' < 'b'", [True]),
        ("birthDate < @2020-03", [True]),
        ("birthDate < @2020-02-02", []),
        ("birthDate = @2020-02", [True]),
        ("birthDate = @2020-02-01", []),
        ("@2020-01-01T10:00:00Z = @2020-01-01T12:00:00+02:00", [True]),
        ("@2020-01-01T10:00:00Z < @2020-01-01T10:00:00.5Z", [True]),
        ("@2020-01-01 < @2020-01-02T01:00:00+05:00", []),
        ("@2020-01-01 < @2020-01-03T01:00:00+05:00", [True]),
        ("@T10:30 < @T10:30:00", []),
        ("@T10:30 < @T11", [True]),
        # numbers and texts
        ("10 div 3", [3]),
        ("10 mod 3", [1]),
        ("7 / 2", [Decimal("3.5")]),
        ("1 / 0", []),
        ("-(2 - 5).abs()", [-3]),
        ("2.5.round()", [3]),
        ("2.power(3)", [8]),
        ("16.sqrt()", [4]),
        ("(-1).ln()", []),
        ("1.7.floor() + 1.2.ceiling() + 1.9.truncate()", [4]),
        ("'abc'.substring(1, 1)", ["b"]),
        ("'abc'.substring(3)", []),
        ("'abc'.indexOf('c')", [2]),
        ("'abc'.startsWith('ab') and 'abc'.endsWith('bc')", [True]),
        ("'abc'.contains('z')", [False]),
        ("'a.b'.matches('^a') and 'xab'.matches('a')", [True]),
        ("'aXb'.replace('X', '-').upper()", ["A-B"]),
        ("'a1b'.replaceMatches('([0-9])', '<$1>')", ["a<1>b"]),
        ("'ab'.toChars()", ["a", "b"]),
        ("'5'.toInteger() + 1", [6]),
        ("'5.20'.toDecimal().toString()", ["5.20"]),
        ("'yes'.toBoolean()", [True]),
        ("'x'.convertsToInteger()", [False]),
        # variables
        ("%resource.name.first().family", ["f"]),
        ("name.where($this is HumanName).count()", [2]),
        ("%ucum", ["http://unitsofmeasure.org"]),
        ("%`ext-a`", ["http://hl7.org/fhir/StructureDefinition/a"]),
    ],
)
def test_an_expression_gives_this_collection(expression: str, found: list[Any]) -> None:
    assert evaluated(expression, PATIENT) == found


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("value.unit", ["mg"]),
        ("value is Quantity", [True]),
        ("value.ofType(string)", []),
        ("value.value.toString()", ["1.50"]),
        ("value = 1.5 'mg'", [True]),
        ("value = 1.5 'g'", []),
        ("value > referenceRange[0].low", [True]),
        ("value > referenceRange[1].low", []),
    ],
)
def test_quantities_compare_when_their_units_are_the_same(
    expression: str, found: list[Any]
) -> None:
    assert evaluated(expression, OBSERVATION) == found


@pytest.mark.parametrize(
    "expression",
    ["nothing()", "today()", "name.first(1)", "name.where()", "%unknown", "'a'.memberOf('b')"],
)
def test_what_no_evaluation_could_answer_is_refused_when_compiled(expression: str) -> None:
    with pytest.raises(FhirError):
        compile(expression, "Patient", MODEL)


@pytest.mark.parametrize(
    "expression",
    ["name and true", "name.single()", "1 + 'a'", "name < 1", "'a'.matches('(')", "'a'.abs()",
     "name['a']", "-'a'", "name in name", "'a'.substring('b')", "1.toChars()"],
)  # fmt: skip
def test_what_has_no_answer_is_refused_when_evaluated(expression: str) -> None:
    with pytest.raises(FhirError):
        evaluated(expression, PATIENT)


def test_a_node_knows_where_it_was_found() -> None:
    compiled = compile("name[1].text", "Patient", MODEL)

    [node] = compiled.nodes(PATIENT, resource=PATIENT, root=PATIENT)

    assert (node.key, node.index, node.type) == ("text", None, "string")
    assert node.parent is not None
    assert (node.parent.key, node.parent.index, node.parent.type) == ("name", 1, "HumanName")
    assert node.parent.parent is not None
    assert node.parent.parent.value is PATIENT


def invariants() -> dict[tuple[str, str], Constraint]:
    found: dict[tuple[str, str], Constraint] = {}
    for structure in MODEL.definitions.structures.values():
        for one in structure.constraints:
            found.setdefault((one.key, structure.name), one)
        for element in structure.elements:
            for one in element.constraints:
                found.setdefault((one.key, element.types[0]), one)
    kinds: dict[str, set[str]] = {}
    for key, type in found:
        kinds.setdefault(key, set()).add(type)
    return {k: v for k, v in found.items() if k[1] in sorted(kinds[k[0]])[:4]}


INVARIANTS = invariants()


@pytest.mark.parametrize(("key", "type"), INVARIANTS)
@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_a_quick_invariant_says_what_the_engine_says(key: str, type: str, seed: int) -> None:
    expression = corrected(INVARIANTS[key, type])
    texts = tuple(re.findall(r"'([^'\\]+)'", expression))
    names = frozenset(re.findall(r"\w+", expression))
    specimens = Specimens(MODEL, Random(seed), texts * 2 + TEXTS, names)
    value = specimens.value(type)
    resource = value if "." not in type else specimens.value(type.split(".")[0])
    within = Within(resource)
    whole = exact(compile(expression, type, MODEL))

    assert predicate(expression, type, MODEL)(value, within) is whole(value, within)
