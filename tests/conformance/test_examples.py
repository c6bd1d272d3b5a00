"""Each committed official example is accepted and comes back as it was."""

import httpx

from app.fhir.definitions import load
from tests.conformance.official import SELECTION, put_through, selection


async def test_every_committed_example_comes_back_exactly(client: httpx.AsyncClient) -> None:
    found = {example.name: await put_through(client, example) for example in selection()}

    refused = {name: what for name, what in found.items() if what}
    assert refused.keys() == {"AuditEvent-example.json", "AuditEvent-example-error.json"}
    assert {what[:3] for what in refused.values()} == {"405"}  # the server alone writes these


def test_the_committed_examples_cover_every_type_that_has_one() -> None:
    types = {example.content["resourceType"] for example in selection()}

    assert set(load().resource_types) - types == NO_VALID_EXAMPLE


def test_the_committed_examples_are_at_most_2_mb() -> None:
    assert SELECTION.stat().st_size <= 2_000_000


# Types of which the official package has no example that is valid R4 (docs/validation.md)
NO_VALID_EXAMPLE = {
    "DeviceMetric",
    "DeviceUseStatement",
    "EventDefinition",
    "Parameters",
    "SubstanceNucleicAcid",
    "SubstancePolymer",
    "SubstanceProtein",
    "SubstanceReferenceInformation",
    "SubstanceSourceMaterial",
}
