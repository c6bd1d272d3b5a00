"""fhirclient, the SMART client with models of R4: what it reads must parse as those."""

import pytest
import requests
from fhirclient import client
from fhirclient.models.bundle import Bundle
from fhirclient.models.observation import Observation
from fhirclient.models.patient import Patient

from tests.support.process import Process
from tests.support.resources import bundle, entry, observation, patient, post, reference
from tests.support.tokens import AUTHORIZED


@pytest.fixture(scope="module")
def smart(server: Process) -> client.FHIRClient:
    """A client as its documentation makes one: it reads the CapabilityStatement first."""
    smart = client.FHIRClient(settings={"app_id": "tests", "api_base": server.base_url})
    smart.prepare()
    smart.server.session.headers.update(AUTHORIZED)
    return smart


def test_the_capability_statement_parses(smart: client.FHIRClient) -> None:
    capability = smart.server.capabilityStatement

    assert capability.fhirVersion == "4.0.1"
    assert {one.type for one in capability.rest[0].resource} >= {"Patient", "Encounter"}


def test_a_resource_is_created_read_changed_and_deleted(smart: client.FHIRClient) -> None:
    made = Patient(patient()).create(smart.server)
    read = Patient.read(made["id"], smart.server)
    read.gender = "other"
    read.update(smart.server)
    again = Patient.read(made["id"], smart.server)
    again.delete()

    assert (again.gender, again.meta.versionId) == ("other", "2")
    with pytest.raises(requests.HTTPError, match="410"):
        Patient.read(made["id"], smart.server)


def test_a_search_walks_all_pages(smart: client.FHIRClient) -> None:
    made = Patient(patient()).create(smart.server)
    subject = reference(f"Patient/{made['id']}")
    for n in range(5):
        body = observation(subject=subject, effectiveDateTime=f"2026-03-0{n + 1}")
        Observation(body).create(smart.server)
    about = {"patient": f"Patient/{made['id']}", "_sort": "date", "_count": "2"}

    pages = list(Observation.where(about).perform_iter(smart.server))
    found = [one for page in pages for one in page.entry]
    scored = list(Observation.where(about).perform_resources_iter(smart.server))

    assert [len(page.entry) for page in pages] == [2, 2, 1]
    assert [one.resource.effectiveDateTime.isostring[:10] for one in found] == [
        f"2026-03-0{n + 1}" for n in range(5)
    ]
    assert {one.valueQuantity.value for one in scored} == {11}


def test_a_bundle_of_writes_is_a_transaction(smart: client.FHIRClient) -> None:
    made = Patient(patient()).create(smart.server)
    steps = [{"name": "operation", "part": [
        {"name": "type", "valueCode": "replace"},
        {"name": "path", "valueString": "Patient.gender"},
        {"name": "value", "valueCode": "male"},
    ]}]  # fmt: skip
    change = {"resourceType": "Parameters", "parameter": steps}
    asked = bundle("transaction", post(patient()), entry("PATCH", f"Patient/{made['id']}", change))

    reply = smart.server.post_json("", Bundle(asked).as_json())

    answered = Bundle(reply.json())
    assert [one.response.status for one in answered.entry] == ["201 Created", "200 OK"]
    assert Patient.read(made["id"], smart.server).gender == "male"


def test_a_history_parses(smart: client.FHIRClient) -> None:
    made = Patient(patient()).create(smart.server)

    history = Bundle.read_from(f"Patient/{made['id']}/_history", smart.server)

    assert (history.type, history.total) == ("history", 1)
    assert history.entry[0].request.method == "POST"
