"""The vocabulary: what is shipped is valid, complete, free to be shipped, and found by clients."""

import ast
import asyncio
import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class
from typer.testing import CliRunner

import app.domain
from app.cli import app as cli
from app.config import Settings
from app.domain import furnishing, shipped, vocabulary
from app.domain import operations as iop
from app.domain.chart import POLICIES
from app.domain.vocabulary import KINDS, LEVELS, Kind, Level, Vocabulary
from app.fhir import definitions
from app.fhir.rules import Rules
from app.fhir.validation import Validator
from app.main import ROOT, UNFURNISHED, build, furnish
from tests.domain.office import Iop, opened

BASE = Settings.model_fields["canonical_base"].default
OTHER = "https://fhir.clinic.example/names"
RESOURCES = shipped.resources(BASE)
OURS = re.compile(r"iop-[a-z0-9]+(-[a-z0-9]+)*")
INVARIANT = re.compile(r"INV-[A-Z]{2}-[0-9]+")
CPT = "http://www.ama-assn.org/go/cpt"


def named(resource: dict[str, Any]) -> str:
    return f"{resource['resourceType']}/{resource['id']}"


def of_type(type: str) -> list[dict[str, Any]]:
    return [one for one in RESOURCES if one["resourceType"] == type]


def system(id: str) -> dict[str, Any]:
    """Return a shipped CodeSystem."""
    (found,) = (one for one in of_type("CodeSystem") if one["id"] == id)
    return found


def codes(id: str) -> set[str]:
    return {concept["code"] for concept in system(id)["concept"]}


def properties(id: str, code: str) -> dict[str, Any]:
    """Return the properties of a concept by name."""
    (concept,) = (one for one in system(id)["concept"] if one["code"] == code)
    found = (dict(one) for one in concept.get("property", ()))
    return {one.pop("code"): next(iter(one.values())) for one in found}


# --- what is shipped ----------------------------------------------------------------------------


@pytest.mark.parametrize("resource", RESOURCES, ids=named)
def test_what_is_shipped_is_valid(resource: dict[str, Any]) -> None:
    assert validator().validate(resource) == []


@cache
def validator() -> Validator:
    return Validator(definitions.load())


@pytest.mark.parametrize("resource", RESOURCES, ids=named)
def test_what_is_shipped_parses_under_the_models_of_fhir_resources(
    resource: dict[str, Any],
) -> None:
    get_fhir_model_class(resource["resourceType"]).model_validate(resource)


def test_ids_and_urls_are_unique_and_below_the_base() -> None:
    urls = [one["url"] for one in RESOURCES]

    assert len({named(one) for one in RESOURCES}) == len(set(urls)) == len(RESOURCES)
    assert all(one["url"] == f"{BASE}/{named(one)}" for one in RESOURCES)


def test_under_another_base_nothing_is_left_of_the_first() -> None:
    text = json.dumps(shipped.resources(OTHER))

    assert BASE not in text
    assert shipped.PLACEHOLDER not in text
    assert text.count(OTHER) == json.dumps(RESOURCES).count(BASE)


def test_every_canonical_of_ours_that_is_named_is_shipped() -> None:
    text = json.dumps(RESOURCES)
    places = "CodeSystem|ValueSet|StructureDefinition|SearchParameter|Questionnaire"
    urls = set(re.findall(rf"{BASE}/(?:{places})/[\w-]+", text))

    assert urls - {one["url"] for one in RESOURCES} == set()


def test_the_guide_lists_all_that_is_shipped_and_has_a_version_of_it_all() -> None:
    guide = shipped.guide(BASE)
    references = [one["reference"]["reference"] for one in guide["definition"]["resource"]]

    assert references == [named(one) for one in RESOURCES[:-1]]
    assert guide["version"] != shipped.guide(OTHER)["version"]


def test_every_code_system_has_definitions_and_a_value_set_of_all_its_codes() -> None:
    for one in of_type("CodeSystem"):
        assert all(concept["display"] and concept["definition"] for concept in one["concept"])
        assert len(codes(one["id"])) == one["count"]
        (whole,) = (v for v in of_type("ValueSet") if v["id"] == one["id"])
        assert whole["compose"] == {"include": [{"system": one["url"]}]}


def test_the_kinds_say_in_code_what_they_say_as_data() -> None:
    def kind(code: str) -> Kind:
        said = properties(vocabulary.KIND, code)
        return Kind(said["counts-toward-hours"], said["wellness"], said["precedence"])

    assert {code: kind(code) for code in codes(vocabulary.KIND)} == KINDS
    assert len({kind.precedence for kind in KINDS.values()}) == len(KINDS)


def test_the_levels_say_in_code_what_they_say_as_data() -> None:
    def level(code: str) -> Level:
        said = properties(vocabulary.LEVEL, code)
        end = "most" if "adult-most" in said else "below"

        def minutes(end: str) -> tuple[int, int] | None:
            adult, adolescent = f"adult-{end}", f"adolescent-{end}"
            return (said[adult], said[adolescent]) if adult in said else None

        return Level(said["rank"], minutes("minutes"), minutes(end), reachable=end == "most")

    fourth = {code for code in codes(vocabulary.LEVEL) if not code.startswith("3rd-")}
    assert {code: level(code) for code in fourth} == LEVELS


def test_the_policy_has_the_numbers_that_the_code_knows() -> None:
    (policy,) = (one for one in of_type("StructureDefinition") if one["id"] == vocabulary.POLICY)
    elements = policy["differential"]["element"]

    assert {one["sliceName"] for one in elements if "sliceName" in one} == set(POLICIES)


# --- what the code uses -------------------------------------------------------------------------

MODULES = [
    module.name
    for module in pkgutil.walk_packages(app.domain.__path__, "app.domain.")
    if not module.name.endswith("data")
]


def tree(module: str) -> ast.Module:
    source = importlib.import_module(module).__file__
    assert source is not None
    with open(source) as file:
        return ast.parse(file.read())


def literals(module: str) -> Iterator[str]:
    """Yield the texts in a module that are no docstrings."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def meant(module: str, node: ast.expr) -> Any:
    """Return the value of a literal or of a constant of the module, None for anything else."""
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(id):
            return getattr(importlib.import_module(module), id, None)
    return None


def coded(module: str) -> Iterator[tuple[str, str]]:
    """Yield (code system, code) of the Codings that a module makes."""
    for node in ast.walk(tree(module)):
        match node:
            case ast.Call(ast.Attribute(_, "coding" | "concept"), [of, code, *_]):
                found = meant(module, of), meant(module, code)
                if all(isinstance(one, str) for one in found):
                    yield found


def judged(module: str) -> Iterator[str]:
    """Yield the codes that the findings and issues of a module have."""
    for node in ast.walk(tree(module)):
        match node:
            case ast.keyword("rule", value) if isinstance(meant(module, value), str):
                yield meant(module, value)
            case ast.Tuple([ast.Call(ast.Attribute(_, "system"), [of]), ast.Constant(str(code))]):
                if meant(module, of) == vocabulary.ISSUE:
                    yield code
            case ast.Call(ast.Attribute(_, "issue"), [ast.Constant(str(code)), *_]):
                yield code
            case ast.Call(
                ast.Name("refusal" | "_refusal" | "conflict"), [_, ast.Constant(str(code)), *_]
            ):
                yield code
    yield from (text for text in literals(module) if INVARIANT.fullmatch(text))


def parameters(definition: dict[str, Any]) -> set[str]:
    """Return the names of the parameters of an operation, and of their parts."""
    rows = definition.get("parameter", []) + definition.get("part", [])
    return {name for row in rows for name in (row["name"], *parameters(row))}


@pytest.mark.parametrize("module", MODULES)
def test_every_name_of_ours_in_the_code_is_shipped(module: str) -> None:
    known = {one["id"] for one in RESOURCES}
    known |= {code for one in of_type("CodeSystem") for code in codes(one["id"])}
    known |= {name for one in of_type("OperationDefinition") for name in parameters(one)}

    assert {text for text in literals(module) if OURS.fullmatch(text)} - known == set()


@pytest.mark.parametrize("module", MODULES)
def test_every_code_of_ours_in_the_code_is_in_its_code_system(module: str) -> None:
    known = {one["id"]: codes(one["id"]) for one in of_type("CodeSystem")}

    assert [pair for pair in coded(module) if pair[1] not in known[pair[0]]] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_rule_of_the_code_is_an_issue_that_is_shipped(module: str) -> None:
    assert set(judged(module)) - codes(vocabulary.ISSUE) == set()


def test_every_rule_that_is_kept_has_a_code_that_is_shipped() -> None:
    """A check of several rules goes by what their codes have in common: INV-EN."""
    known = codes(vocabulary.ISSUE)
    kept = {rule.code for rule in iop.rules(Vocabulary(BASE)).rows}

    assert [code for code in kept if not any(one.startswith(code) for one in known)] == []


def test_every_operation_that_writes_is_an_activity() -> None:
    writing = {one["code"] for one in of_type("OperationDefinition") if one["affectsState"]}

    assert writing - codes(vocabulary.ACTIVITY) == set()


# --- what may be shipped ------------------------------------------------------------------------


def test_numbers_of_cpt_come_without_descriptors() -> None:
    groups = [group for one in of_type("ConceptMap") for group in one["group"]]
    targets = [t for g in groups if g["target"] == CPT for e in g["element"] for t in e["target"]]

    assert targets
    assert all(set(target) == {"code", "equivalence"} for target in targets)
    for one in RESOURCES:
        if one["resourceType"] != "ConceptMap":
            assert CPT not in json.dumps(one)


def test_levels_and_dimensions_have_labels_and_no_criteria() -> None:
    for id in (vocabulary.LEVEL, vocabulary.DIMENSION, vocabulary.RATING):
        for concept in system(id)["concept"]:
            assert len(concept["definition"].split()) < 20


def test_no_instrument_of_others_is_shipped() -> None:
    assert {one["id"] for one in of_type("Questionnaire")} == {"eligibility-screen", "intake"}


def test_codes_that_nobody_verified_are_experimental_and_in_no_other_map() -> None:
    def targets(map: dict[str, Any]) -> set[tuple[str, str]]:
        return {
            (group["target"], target["code"])
            for group in map["group"]
            for element in group["element"]
            for target in element["target"]
        }

    fixed, local = (one for one in of_type("ConceptMap"))

    assert (fixed["experimental"], local["experimental"]) == (False, True)
    assert targets(fixed) & targets(local) == set()
    assert [one["id"] for one in RESOURCES if one["experimental"]] == [local["id"]]


@pytest.mark.parametrize(
    ("code", "billable"),
    [
        *[(code, False) for code in ("F10.2", "F10.9", "F10", "Z91.14", "Z91.19", "M1A.0")],
        *[(code, True) for code in ("F10.20", "F11.21", "F32.A", "F17.210", "Z91.410", "QA0.0102")],
        *[(code, None) for code in ("", "F1", "f10.20", "F10.", "F10.12345", "66590003")],
    ],
)
def test_a_heading_of_icd_10_cm_is_not_billable(code: str, billable: bool | None) -> None:
    assert shipped.is_billable(code) is billable


def test_whatever_stands_above_a_heading_is_one_too() -> None:
    headings = shipped._headings()

    assert len(headings) > 20_000
    assert all(code[:3] in headings for code in headings)


# --- what clients find --------------------------------------------------------------------------


async def test_code_systems_profiles_and_operations_are_found_by_their_addresses(iop: Iop) -> None:
    async def found(query: str) -> list[str]:
        return sorted(one["id"] for one in await iop.search(query))

    assert await found(f"CodeSystem?url={BASE}/CodeSystem/iop-service-kind") == ["iop-service-kind"]
    assert await found(f"ValueSet?url={BASE}/ValueSet/iop-stage") == ["iop-stage"]
    assert await found("CodeSystem?code=INV-GR-1") == ["iop-issue"]
    assert await found("OperationDefinition?code=admit") == ["admit"]
    profiles = await found("StructureDefinition?type=Encounter")
    assert profiles == ["iop-patient-encounter", "iop-session-encounter"]
    extensions = await found("StructureDefinition?type=Extension&_count=100")
    assert "iop-group-ref" in extensions


def extended(name: str, **value: Any) -> dict[str, Any]:
    return {"url": f"{BASE}/StructureDefinition/{name}", **value}


def concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": f"{BASE}/CodeSystem/{system}", "code": code}]}


def level_period(code: str, program: str, **period: str) -> dict[str, Any]:
    parts = [
        {"url": "code", "valueCodeableConcept": concept(vocabulary.LEVEL, code)},
        {"url": "period", "valuePeriod": period},
        {"url": "program", "valueReference": {"reference": program}},
    ]
    return extended("iop-loc-period", extension=parts)


def characteristic(kind: str, system: str, code: str) -> dict[str, Any]:
    return {
        "code": concept(vocabulary.CHARACTERISTIC, kind),
        "valueCodeableConcept": concept(system, code),
        "exclude": False,
    }


PATIENT = {"reference": "Patient/p"}
PROGRAM = extended("iop-program", valueReference={"reference": "HealthcareService/day"})
IN_SESSION = extended("iop-session", valueReference={"reference": "Appointment/session"})
LATE = extended(
    "iop-attendance",
    extension=[
        {"url": "status", "valueCode": "late"},
        {"url": "credited", "valueUnsignedInt": 155},
    ],
)
COMPLETED = extended(
    "iop-discharge-reason", valueCodeableConcept=concept("iop-discharge-reason", "completed")
)
AUTHORIZED = extended(
    "iop-authorization",
    extension=[
        {"url": "number", "valueString": "A-1"},
        {"url": "period", "valuePeriod": {"end": "2026-05-01"}},
    ],
)
STORED: tuple[dict[str, Any], ...] = (
    {
        "resourceType": "Appointment",
        "status": "fulfilled",
        "start": "2026-03-03T17:00:00Z",
        "end": "2026-03-03T20:15:00Z",
        "participant": [{"actor": PATIENT, "status": "accepted"}],
        "extension": [IN_SESSION, LATE],
    },
    {
        "resourceType": "Encounter",
        "status": "finished",
        "class": {"code": "AMB"},
        "type": [concept("iop-service-kind", "group")],
        "subject": PATIENT,
        "extension": [IN_SESSION, LATE],
    },
    {
        "resourceType": "EpisodeOfCare",
        "status": "active",
        "patient": PATIENT,
        "extension": [
            PROGRAM,
            level_period("2.5", "HealthcareService/high", start="2026-02-02", end="2026-03-02"),
            level_period("2.1", "HealthcareService/day", start="2026-03-02"),
            COMPLETED,
        ],
    },
    {
        "resourceType": "Group",
        "type": "person",
        "actual": True,
        "characteristic": [
            characteristic("track", "iop-track", "day"),
            characteristic("stage", "iop-stage", "early"),
        ],
        "extension": [PROGRAM],
    },
    {
        "resourceType": "Task",
        "status": "requested",
        "intent": "order",
        "code": concept("iop-task", "step-review"),
    },
    {
        "resourceType": "CarePlan",
        "status": "draft",
        "intent": "plan",
        "subject": PATIENT,
        "extension": [extended("iop-review-due", valueDate="2026-04-01")],
    },
    {
        "resourceType": "Coverage",
        "status": "active",
        "beneficiary": PATIENT,
        "payor": [{"reference": "Organization/payer"}],
        "extension": [AUTHORIZED],
    },
    {
        "resourceType": "Consent",
        "status": "draft",
        "scope": {"text": "privacy"},
        "category": [concept("iop-consent-class", "tpo-single")],
        "patient": PATIENT,
        "policyRule": {"text": "42 CFR Part 2"},
    },
)
SEARCHES = [
    # (what finds the resource, what does not)
    ("Appointment?iop-session=Appointment/session", "Appointment?iop-session=Appointment/other"),
    ("Appointment?iop-attendance=late", "Appointment?iop-attendance=attended"),
    ("Encounter?iop-session=Appointment/session", "Encounter?iop-session=Appointment/other"),
    ("Encounter?iop-attendance=late", "Encounter?iop-attendance=no-show"),
    ("Encounter?iop-credited-minutes=gt150", "Encounter?iop-credited-minutes=gt155"),
    ("Encounter?iop-kind=group", "Encounter?iop-kind=individual"),
    ("Encounter?iop-kind:in=ValueSet/iop-countable-kind", "Encounter?iop-kind=nutrition"),
    ("EpisodeOfCare?iop-level=2.1", "EpisodeOfCare?iop-level=2.5"),
    ("EpisodeOfCare?iop-program=HealthcareService/day", "EpisodeOfCare?iop-program=Group/day"),
    ("EpisodeOfCare?iop-program=HealthcareService/high", "EpisodeOfCare?iop-program:missing=true"),
    ("EpisodeOfCare?iop-discharge-reason=completed", "EpisodeOfCare?iop-discharge-reason=death"),
    ("Group?iop-program=HealthcareService/day", "Group?iop-program=HealthcareService/high"),
    ("Group?iop-track=day", "Group?iop-track=early"),
    ("Group?iop-stage=early", "Group?iop-stage=day"),
    (f"Task?iop-kind={BASE}/CodeSystem/iop-task|step-review", "Task?iop-kind=sign-note"),
    ("CarePlan?iop-review-due=le2026-04-01", "CarePlan?iop-review-due=gt2026-04-01"),
    ("Coverage?iop-authorization-end=lt2026-06-01", "Coverage?iop-authorization-end=gt2026-06-01"),
    ("Consent?iop-class=tpo-single", "Consent?iop-class=research"),
]


async def test_every_search_parameter_finds(iop: Iop) -> None:
    without_rules = replace(iop.app.state.server, rules=Rules())
    iop.app.state.server = without_rules
    await iop.put(*({"id": "found", **one} for one in STORED))

    for finds, misses in SEARCHES:
        assert [one["id"] for one in await iop.search(finds)] == ["found"], finds
        assert await iop.search(misses) == [], misses
    used = {(query.partition("?")[0], query.partition("?")[2]) for query, _ in SEARCHES}
    for one in of_type("SearchParameter"):
        for type in one["base"]:
            assert any(t == type and q.startswith(one["code"]) for t, q in used), named(one)


# --- furnishing ---------------------------------------------------------------------------------


@pytest.fixture
def settings(program_settings: Settings) -> Settings:
    return program_settings


async def is_furnished(settings: Settings) -> bool:
    """Return whether nothing that is shipped is missing or otherwise."""
    async with build(settings, maintaining=True) as server:
        return not await furnishing.missing(server, settings.canonical_base)


async def version(settings: Settings, reference: str) -> str:
    async with opened(settings) as iop:
        found: str = (await iop.read(reference))["meta"]["versionId"]
        return found


async def change(settings: Settings, reference: str, **values: Any) -> None:
    async with opened(settings) as iop:
        await iop.put({**await iop.read(reference), **values})


def test_migrate_furnishes(empty_database_url: str) -> None:
    migrated = CliRunner().invoke(
        cli, ["migrate"], env={"MILEPOST_DATABASE_URL": empty_database_url}
    )

    assert migrated.exit_code == 0
    assert asyncio.run(is_furnished(Settings(database_url=empty_database_url)))


def test_furnishing_again_changes_nothing(settings: Settings) -> None:
    assert asyncio.run(is_furnished(settings))

    furnish(settings)

    assert asyncio.run(version(settings, "CodeSystem/iop-stage")) == "1"


def test_furnishing_puts_back_what_somebody_changed(settings: Settings) -> None:
    asyncio.run(change(settings, "CodeSystem/iop-stage", title="Phases"))
    assert not asyncio.run(is_furnished(settings))

    furnish(settings)

    assert asyncio.run(is_furnished(settings))
    assert asyncio.run(version(settings, "CodeSystem/iop-stage")) == "3"
    assert asyncio.run(version(settings, "CodeSystem/iop-track")) == "1"


def test_furnishing_leaves_an_experimental_map_to_the_operator(settings: Settings) -> None:
    asyncio.run(change(settings, "ConceptMap/iop-service-codes-local", title="Ours"))

    furnish(settings)

    assert asyncio.run(version(settings, "ConceptMap/iop-service-codes-local")) == "2"


def test_furnishing_under_another_base_replaces_the_names(settings: Settings) -> None:
    other = settings.model_copy(update={"canonical_base": OTHER})

    furnish(other)

    assert asyncio.run(is_furnished(other))
    assert not asyncio.run(is_furnished(settings))


async def test_a_server_whose_database_has_another_vocabulary_says_so(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(settings) as iop:
        assert UNFURNISHED not in caplog.messages
        guide = await iop.read("ImplementationGuide/iop")
        await iop.put({**guide, "version": "0.9.0"})

    async with opened(settings):
        assert UNFURNISHED in caplog.messages


# --- what the document says ---------------------------------------------------------------------


def table(*rows: tuple[str, ...]) -> str:
    first, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([first, "|" + "---|" * len(rows[0]), *rest])


def described() -> Iterator[str]:
    """Yield the tables of docs/vocabulary.md, written from the data."""
    systems = of_type("CodeSystem")
    texts = [(f"`{one['id']}`", one["description"], listed(one)) for one in systems]
    yield table(("CodeSystem", "What it is about", "Codes"), *texts)
    issues = system(vocabulary.ISSUE)["concept"]
    yield table(
        ("Code", "Rule or issue"), *((f"`{one['code']}`", one["definition"]) for one in issues)
    )
    own = {one["id"] for one in systems}
    sets = [one for one in of_type("ValueSet") if one["id"] not in own]
    yield table(
        ("ValueSet", "What it is about"), *((f"`{v['id']}`", v["description"]) for v in sets)
    )
    structures = of_type("StructureDefinition")
    extensions = [one for one in structures if one["type"] == "Extension"]
    yield table(
        ("Extension", "On", "Value", "What it says"),
        *((f"`{e['id']}`", contexts(e), valued(e), e["description"]) for e in extensions),
    )
    profiles = [one for one in structures if one["type"] != "Extension"]
    yield table(
        ("Profile", "Of", "What it says"),
        *((f"`{p['id']}`", p["type"], p["description"]) for p in profiles),
    )
    yield table(
        ("Search parameter", "Of", "Type", "What it finds"),
        *(
            (f"`{p['code']}`", ", ".join(p["base"]), p["type"], p["description"])
            for p in of_type("SearchParameter")
        ),
    )


def listed(system: dict[str, Any]) -> str:
    """Return the codes of a system; those of the rules have a table of their own."""
    if system["id"] == vocabulary.ISSUE:
        return "the rules, below"
    return ", ".join(f"`{one['code']}`" for one in system["concept"])


def contexts(extension: dict[str, Any]) -> str:
    return ", ".join(one["expression"] for one in extension["context"])


def valued(extension: dict[str, Any]) -> str:
    """Return the type of an extension's value, or its parts with theirs."""
    elements = extension["differential"]["element"]
    types: dict[str, str] = {e["id"]: e["type"][0]["code"] for e in elements if "type" in e}
    if "Extension.value[x]" in types:
        return types["Extension.value[x]"]
    slices = [one["sliceName"] for one in elements if "sliceName" in one]
    return ", ".join(f"{one}: {types[f'Extension.extension:{one}.value[x]']}" for one in slices)


def test_the_document_lists_what_is_shipped() -> None:
    text = (ROOT / "docs" / "vocabulary.md").read_text()

    assert [part for part in described() if part not in text] == []
