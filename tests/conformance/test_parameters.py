"""Every search parameter that has an expression is compiled, and indexes what it is about."""

import pytest

from app.fhir.definitions import Definitions, load
from app.fhir.index import Indexer
from app.fhir.wire import decode
from app.main import ROOT
from tests.conformance.official import selection
from tests.conformance.parameters import (
    COLUMNS,
    LISTED,
    Specimen,
    codes,
    exercised,
    indexed,
    named,
)


@pytest.fixture(scope="module")
def definitions() -> Definitions:
    return load()


@pytest.fixture(scope="module")
def indexer(definitions: Definitions) -> Indexer:
    return Indexer(definitions, "http://milepost.test/fhir")


def test_every_parameter_of_every_type_has_a_row_of_a_specimen(
    definitions: Definitions, indexer: Indexer
) -> None:
    without = [
        (kind, code)
        for kind, parameters in definitions.search_parameters.items()
        for code, parameter in parameters.items()
        if parameter.expression and code not in COLUMNS
        if not any(
            code in codes(indexer.rows(specimen))
            for specimen in Specimen(definitions, parameter, kind).variants()
        )
    ]

    assert without == []


def test_the_third_component_of_a_composite_has_rows_too(
    definitions: Definitions, indexer: Indexer
) -> None:
    for code, parameter in definitions.search_parameters["MolecularSequence"].items():
        if len(parameter.components) == 3:
            first = next(Specimen(definitions, parameter, "MolecularSequence").variants())
            assert f"{code}:3" in codes(indexer.rows(first))


def test_rows_stand_under_names_that_are_numbered(
    definitions: Definitions, indexer: Indexer
) -> None:
    for example in selection():
        resource = decode(example.raw)
        rows = indexer.rows(resource)
        assert codes(rows) <= set(indexer.numbered(resource["resourceType"]))
        assert set(rows.present) <= definitions.search_parameters[resource["resourceType"]].keys()


def test_what_is_listed_as_without_example_is_a_parameter_that_no_committed_example_has(
    definitions: Definitions, indexer: Indexer
) -> None:
    listed = set(LISTED.findall((ROOT / "docs" / "conformance.md").read_text()))
    examples = [decode(example.raw) for example in selection()]
    found = exercised(indexer, examples)

    assert listed
    assert listed <= {named(p) for p in indexed(definitions) if p.url not in found}
