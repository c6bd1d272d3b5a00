"""valueset.html#compositions, codesystem.html: what value sets hold, and what is above a code."""

from typing import Any

import pytest

from app.fhir import terminology
from app.fhir.terminology import Library, Part, Unexpandable, definition, newest

Resource = dict[str, Any]

TREE = "http://example.org/tree"
FLAT = "http://example.org/flat"
SENSITIVE = frozenset({TREE, FLAT})

# plant > tree > (oak, fir > spruce), plant > herb; graft is a tree and a herb
PLANTS: Resource = {
    "resourceType": "CodeSystem",
    "url": TREE,
    "content": "complete",
    "hierarchyMeaning": "is-a",
    "property": [{"code": "leaf", "type": "code"}, {"code": "height", "type": "integer"}],
    "concept": [
        {
            "code": "plant",
            "concept": [
                {
                    "code": "tree",
                    "property": [{"code": "notSelectable", "valueBoolean": True}],
                    "concept": [
                        {
                            "code": "oak",
                            "property": [
                                {"code": "leaf", "valueCode": "broad"},
                                {"code": "height", "valueInteger": 40},
                            ],
                        },
                        {
                            "code": "fir",
                            "property": [{"code": "leaf", "valueCode": "needle"}],
                            "concept": [
                                {
                                    "code": "spruce",
                                    "property": [
                                        {"code": "leaf", "valueCode": "needle"},
                                        {"code": "inactive", "valueBoolean": True},
                                    ],
                                }
                            ],
                        },
                    ],
                },
                {"code": "herb"},
            ],
        },
        {
            "code": "graft",
            "property": [
                {"code": "parent", "valueCode": "tree"},
                {"code": "parent", "valueCode": "herb"},
            ],
        },
    ],
}
ALL = {"plant", "tree", "oak", "fir", "spruce", "herb", "graft"}


def system(url: str, *codes: str, **changes: Any) -> Resource:
    """Return a complete CodeSystem without a hierarchy."""
    concepts = [{"code": code} for code in codes]
    given = {"url": url, "content": "complete", "concept": concepts, **changes}
    return {"resourceType": "CodeSystem", **given}


def value_set(*include: Resource, url: str = "urn:asked", **changes: Any) -> Resource:
    """Return a ValueSet of these includes."""
    compose = {"include": list(include), **changes.pop("compose", {})}
    return {"resourceType": "ValueSet", "url": url, "compose": compose, **changes}


def chosen(*codes: str, system: str = TREE) -> Resource:
    """Return an include of single codes."""
    return {"system": system, "concept": [{"code": code} for code in codes]}


def filtered(property: str, op: str, value: str) -> Resource:
    """Return an include of the plants that a filter selects."""
    return {"system": TREE, "filter": [{"property": property, "op": op, "value": value}]}


def library(*resources: Resource) -> Library:
    """Return a library of resources, which have the keys 1, 2, 3 ..."""
    return Library({n: definition(one) for n, one in enumerate(resources, 1)}, SENSITIVE)


def expanded(asked: Resource, *others: Resource) -> set[str]:
    """Return the codes of a value set, in a library with the plants and `others`."""
    return {code for _, code in library(asked, PLANTS, *others).members(1)}


def refused(asked: Resource, *others: Resource) -> tuple[str, str]:
    """Return why a value set cannot be expanded."""
    with pytest.raises(Unexpandable) as error:
        library(asked, PLANTS, *others).members(1)
    return error.value.code, error.value.text


# --- compose -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("include", "codes"),
    [
        ({"system": TREE}, ALL),
        (chosen("oak", "fir"), {"oak", "fir"}),
        (filtered("concept", "is-a", "tree"), {"tree", "oak", "fir", "spruce", "graft"}),
        (filtered("concept", "descendent-of", "tree"), {"oak", "fir", "spruce", "graft"}),
        (filtered("concept", "is-not-a", "tree"), {"plant", "herb"}),
        (filtered("concept", "generalizes", "fir"), {"plant", "tree", "fir"}),
        (filtered("concept", "generalizes", "graft"), {"plant", "tree", "herb", "graft"}),
        (filtered("concept", "in", "oak, herb, rock"), {"oak", "herb"}),
        (filtered("concept", "=", "oak"), {"oak"}),
        (filtered("code", "regex", "(f|o).*"), {"fir", "oak"}),
        (filtered("concept", "regex", "r"), set()),
        (filtered("leaf", "=", "needle"), {"fir", "spruce"}),
        (filtered("leaf", "in", "needle,broad"), {"oak", "fir", "spruce"}),
        (filtered("leaf", "not-in", "needle"), ALL - {"fir", "spruce"}),
        (filtered("leaf", "exists", "true"), {"oak", "fir", "spruce"}),
        (filtered("leaf", "exists", "false"), ALL - {"oak", "fir", "spruce"}),
        (filtered("leaf", "regex", "n.{3,5}e"), {"fir", "spruce"}),
        (filtered("height", "=", "40"), {"oak"}),
        (filtered("parent", "=", "tree"), {"oak", "fir", "graft"}),
        (filtered("child", "=", "spruce"), {"fir"}),
        (filtered("child", "exists", "false"), {"oak", "spruce", "graft"}),
        (filtered("inactive", "=", "false"), ALL - {"spruce"}),
        (filtered("notSelectable", "=", "true"), {"tree"}),
    ],
)
def test_an_include_selects(include: Resource, codes: set[str]) -> None:
    assert expanded(value_set(include)) == codes


def test_all_filters_of_an_include_must_be_true() -> None:
    both = filtered("concept", "is-a", "fir")
    both["filter"] += filtered("inactive", "=", "true")["filter"]

    assert expanded(value_set(both)) == {"spruce"}


def test_includes_add_and_excludes_take_away() -> None:
    asked = value_set(
        filtered("concept", "is-a", "tree"),
        chosen("herb"),
        compose={"exclude": [filtered("concept", "is-a", "fir"), chosen("tree")]},
    )

    assert expanded(asked) == {"oak", "graft", "herb"}


def test_an_include_with_a_system_and_value_sets_takes_what_is_in_all_of_them() -> None:
    needles = value_set(chosen("fir", "spruce", "rock"), url="urn:needles")
    old = value_set(chosen("spruce", "oak"), url="urn:old")
    asked = value_set({"system": TREE, "valueSet": ["urn:needles", "urn:old"]})

    assert expanded(asked, needles, old) == {"spruce"}


def test_several_value_sets_of_an_include_intersect_without_a_system_too() -> None:
    one, two = value_set(chosen("fir", "oak"), url="urn:1"), value_set(chosen("oak"), url="urn:2")

    assert expanded(value_set({"valueSet": ["urn:1", "urn:2"]}), one, two) == {"oak"}
    assert expanded(value_set({"valueSet": ["urn:1"]}, {"valueSet": ["urn:2"]}), one, two) == {
        "fir",
        "oak",
    }


def test_the_same_code_of_two_systems_is_two_codes() -> None:
    asked = value_set(chosen("oak"), {"system": FLAT}, compose={"exclude": [chosen("oak")]})

    assert library(asked, PLANTS, system(FLAT, "oak")).members(1) == {(FLAT, "oak")}


def test_inactive_false_leaves_out_inactive_codes() -> None:
    compose = {"inactive": False}

    assert expanded(value_set(filtered("leaf", "=", "needle"), compose=compose)) == {"fir"}
    assert expanded(value_set(chosen("spruce", "oak"), compose=compose)) == {"oak"}
    assert expanded(value_set(filtered("leaf", "=", "needle"))) == {"fir", "spruce"}


def test_single_codes_need_no_code_system() -> None:
    asked = value_set(chosen("A", "B", system="urn:unknown"))

    assert library(asked).members(1) == {("urn:unknown", "a"), ("urn:unknown", "b")}


def test_codes_fold_where_the_system_is_not_known_to_mind_case() -> None:
    asked = value_set(
        chosen("A", system="urn:other"), compose={"exclude": [chosen("a", system="urn:other")]}
    )

    assert library(asked).members(1) == set()


def test_a_value_set_without_codes_is_empty_and_no_error() -> None:
    assert expanded(value_set(filtered("concept", "descendent-of", "oak"))) == set()


# --- what cannot be known ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "code", "text"),
    [
        (value_set({"system": "urn:none"}), "not-found", "no CodeSystem urn:none, from which"),
        (value_set({"valueSet": ["urn:none"]}), "not-found", "no ValueSet urn:none, which"),
        (
            value_set({"system": TREE, "version": "9"}),
            "not-found",
            f"no CodeSystem {TREE}|9, from which",
        ),
        (value_set(filtered("concept", "is-a", "rock")), "not-found", "has no code 'rock'"),
        (value_set(filtered("colour", "=", "red")), "not-supported", "no property 'colour'"),
        (value_set(filtered("leaf", "is-a", "x")), "not-supported", "the filter is-a is not"),
        (value_set(filtered("leaf", "regex", "(a+)+")), "not-supported", "it repeats a group"),
        (value_set(filtered("leaf", "regex", "(?=a)a")), "not-supported", "it uses more than"),
        (value_set(filtered("leaf", "regex", "(a)\\1")), "not-supported", "it uses more than"),
        (value_set(filtered("leaf", "regex", "(")), "not-supported", "is refused: "),
        (value_set(filtered("leaf", "regex", "n" + ".*" * 20)), "too-costly", "may take too long"),
        (value_set({"valueSet": ["urn:asked"]}), "processing", "it includes itself"),
        (
            value_set({"system": TREE}, compose={"lockedDate": "2020-01-01"}),
            "not-supported",
            "its lockedDate",
        ),
        ({"resourceType": "ValueSet", "url": "urn:asked"}, "not-supported", "no compose"),
    ],
)
def test_what_cannot_be_known_is_refused_with_the_reason(
    asked: Resource, code: str, text: str
) -> None:
    found = refused(asked)

    assert found[0] == code
    assert text in found[1]


@pytest.mark.parametrize("content", ["fragment", "example", "not-present", "supplement"])
def test_a_whole_system_that_is_not_complete_is_refused(content: str) -> None:
    other = system(FLAT, "a", content=content)

    code, text = refused(value_set({"system": FLAT}), other)

    assert (code, content in text) == ("not-supported", True)


def test_one_unknown_part_makes_the_whole_unknown() -> None:
    inner = value_set({"system": "urn:none"}, url="urn:inner")

    code, text = refused(value_set(chosen("oak"), {"valueSet": ["urn:inner"]}), inner)

    assert (code, text) == (
        "not-found",
        "ValueSet urn:inner, which it includes, cannot be expanded",
    )


def test_value_sets_in_a_circle_are_refused_and_so_is_what_includes_them() -> None:
    one = value_set(chosen("oak"), {"valueSet": ["urn:two"]}, url="urn:one")
    two = value_set({"valueSet": ["urn:one"]}, url="urn:two")
    outside = value_set({"valueSet": ["urn:one"]}, url="urn:outside")
    shelf = library(one, two, outside, value_set(chosen("fir"), url="urn:well"))

    assert shelf.expanded == {4: frozenset({(TREE, "fir")})}


def test_too_many_codes_are_refused() -> None:
    many = [f"c{n}" for n in range(terminology.MOST_MEMBERS + 1)]

    assert refused(value_set({"system": FLAT}), system(FLAT, *many))[0] == "too-costly"
    assert len(expanded(value_set({"system": FLAT}), system(FLAT, *many[1:]))) == len(many) - 1


# --- expansions --------------------------------------------------------------------------------

EXPANSION: Resource = {
    "total": 3,
    "contains": [
        {
            "system": TREE,
            "code": "tree",
            "abstract": True,
            "contains": [{"system": TREE, "code": "oak"}],
        },
        {"display": "others", "contains": [{"system": TREE, "code": "herb"}]},
    ],
}


def test_an_expansion_without_compose_is_taken_as_it_is() -> None:
    asked = {"resourceType": "ValueSet", "url": "urn:asked", "expansion": EXPANSION}

    assert expanded(asked) == {"tree", "oak", "herb"}


def test_a_compose_goes_before_an_expansion() -> None:
    assert expanded(value_set(chosen("fir"), expansion=EXPANSION)) == {"fir"}


def test_an_expansion_stands_in_for_a_compose_that_cannot_be_evaluated() -> None:
    asked = value_set({"system": "urn:none"}, expansion=EXPANSION)

    assert expanded(asked) == {"tree", "oak", "herb"}


@pytest.mark.parametrize(
    "cut",
    [
        {"total": 4},
        {"offset": 3},
        {"parameter": [{"name": "filter", "valueString": "tr"}]},
        {"parameter": [{"name": "activeOnly", "valueBoolean": True}]},
        {"extension": [{"url": terminology.INCOMPLETE[0], "valueBoolean": True}]},
    ],
)
def test_a_part_of_an_expansion_is_not_taken_for_the_whole(cut: Resource) -> None:
    asked = {"resourceType": "ValueSet", "url": "urn:asked", "expansion": {**EXPANSION, **cut}}

    assert refused(asked)[0] == "not-supported"


# --- hierarchies -------------------------------------------------------------------------------


def test_pairs_are_the_transitive_closure_with_every_code_itself() -> None:
    pairs = library(PLANTS).hierarchy(1).pairs()

    assert {above for above, below in pairs if below == "spruce"} == {
        "plant",
        "tree",
        "fir",
        "spruce",
    }
    assert {below for above, below in pairs if above == "herb"} == {"herb", "graft"}
    assert len(pairs) == 1 + 2 + 3 + 3 + 4 + 2 + 4


def test_child_properties_and_standard_uris_make_a_hierarchy_too() -> None:
    up = {"code": "up", "uri": f"{terminology.STANDARD}parent", "type": "code"}
    other = system(FLAT, "a", "b", "c", property=[up])
    other["concept"][0]["property"] = [{"code": "child", "valueCode": "b"}]
    other["concept"][2]["property"] = [{"code": "up", "valueCode": "b"}]

    assert library(other).hierarchy(1).above("c") == {"a", "b", "c"}


def test_codes_above_each_other_end() -> None:
    other = system(FLAT, "a", "b")
    other["concept"][0]["property"] = [{"code": "parent", "valueCode": "b"}]
    other["concept"][1]["property"] = [{"code": "parent", "valueCode": "a"}]

    assert library(other).hierarchy(1).below("a") == {"a", "b"}


@pytest.mark.parametrize("meaning", terminology.NO_SUBSUMPTION)
def test_a_hierarchy_of_parts_or_groups_subsumes_nothing(meaning: str) -> None:
    shelf = library({**PLANTS, "hierarchyMeaning": meaning})

    assert shelf.hierarchy(1).pairs() == {(code, code) for code in ALL}


def test_too_deep_a_hierarchy_is_refused() -> None:
    chain = [f"c{n}" for n in range(1100)]
    deep = system(FLAT, *chain)
    for concept, above in zip(deep["concept"][1:], chain, strict=False):
        concept["property"] = [{"code": "parent", "valueCode": above}]

    with pytest.raises(Unexpandable, match="pairs of codes"):
        library(deep).hierarchy(1).pairs()


def test_a_code_system_names_the_value_set_of_all_its_codes() -> None:
    implicit = {**PLANTS, "valueSet": "urn:plants|1"}
    explicit = value_set(chosen("oak"), url="urn:plants")
    asked = value_set({"valueSet": ["urn:plants"]})

    assert {code for _, code in library(asked, implicit).members(1)} == ALL
    assert {code for _, code in library(asked, implicit, explicit).members(1)} == {"oak"}


# --- versions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidates", "version", "key"),
    [
        ([(1, "1.9"), (2, "1.10"), (3, "1.2")], "", 2),
        ([(1, "1.9"), (2, "1.10")], "1.9", 1),
        ([(1, "2018-08-12"), (2, "2017-12-30")], "", 1),
        ([(1, "2"), (2, "2")], "", 2),
        ([(1, ""), (-7, "4.0.1")], "", 1),
        ([(1, "1"), (-7, "4.0.1")], "4.0.1", -7),
        ([(1, "1")], "2", None),
        ([], "", None),
    ],
)
def test_a_version_is_chosen(
    candidates: list[tuple[int, str]], version: str, key: int | None
) -> None:
    assert newest(candidates, version) == key


def test_an_include_picks_the_version_that_it_names() -> None:
    old, new = system(FLAT, "a", version="1"), system(FLAT, "a", "b", version="2")

    assert expanded(value_set({"system": FLAT, "version": "1"}), old, new) == {"a"}
    assert expanded(value_set({"system": FLAT}), old, new) == {"a", "b"}
    assert expanded(value_set({"system": FLAT, "version": "*"}), old, new) == {"a", "b"}


def test_a_definition_comes_back_from_its_bytes() -> None:
    for one in (PLANTS, value_set(filtered("leaf", "=", "x"), expansion=EXPANSION)):
        assert terminology.read(terminology.write(definition(one))) == definition(one)


def test_uses_are_what_an_expansion_reads() -> None:
    asked = value_set(
        {"system": "urn:whole"},
        {"valueSet": ["urn:set|2"]},
        chosen("a", system="urn:listed"),
        compose={"exclude": [{"system": "urn:out"}]},
    )

    assert terminology.uses(definition(asked)) == {"urn:whole", "urn:set", "urn:out"}


def test_a_code_that_is_only_an_extension_does_not_make_a_part_the_whole_system() -> None:
    asked = value_set({"system": TREE, "concept": [{"_code": {"extension": []}}]})

    assert terminology.definition(asked) == terminology.ValueSet(
        "urn:asked", "", include=(Part(TREE, codes=("",)),)
    )
