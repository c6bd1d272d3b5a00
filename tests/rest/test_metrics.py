"""What Prometheus reads: requests, times, and what the database does."""

import os
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.config import Settings
from app.main import create_app
from tests.support.application import connected, started
from tests.support.process import serving
from tests.support.resources import batch, patient, post
from tests.support.tokens import AUTHORIZED

METRICS = "http://milepost.test/metrics"


def numbers(text: str) -> dict[tuple[str, ...], float]:
    """Return the samples by name and labels."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_requests_are_counted_by_interaction_and_status(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    for _ in range(3):
        await client.get("/Patient/a")
    await client.get("/Patient/none")
    await client.get("/Nonsense")
    await client.post("/", json=batch(post(patient())))

    found = numbers((await client.get(METRICS)).text)

    counted = {
        key[1:]: value for key, value in found.items() if key[0] == "milepost_requests_total"
    }
    assert counted == {
        ("update", "201"): 1,
        ("read", "200"): 3,
        ("read", "404"): 1,
        ("none", "404"): 1,
        ("batch", "200"): 1,
    }
    assert found["milepost_request_seconds_count", "read"] == 4
    assert found["milepost_request_seconds_sum", "read"] > 0
    assert found["milepost_requests_running",] == 0


async def test_the_database_is_measured(client: httpx.AsyncClient) -> None:
    before = numbers((await client.get(METRICS)).text)
    await client.post("/Patient", json=patient())
    await client.get("/Patient?name=marsh")
    after = numbers((await client.get(METRICS)).text)

    for name in ("milepost_database_statements_total", "milepost_database_seconds_total"):
        assert after[name,] > before[name,]
    assert after["milepost_database_busy", "records"] == 0
    assert after["milepost_database_busy", "searches"] == 0
    assert after["milepost_database_places", "records"] >= 1
    assert after["milepost_search_parameters_building",] == 0


async def test_nothing_that_a_client_writes_becomes_a_label(client: httpx.AsyncClient) -> None:
    await client.get("/Patient/secret-id?name=secret-name")
    await client.request("SECRET", "/Patient")
    await client.get("/Secret/$secret")

    assert "secret" not in (await client.get(METRICS)).text.lower()


async def test_numbers_are_told_to_this_machine_alone(settings: Settings) -> None:
    app = create_app(settings)
    far = httpx.ASGITransport(app, client=("192.0.2.7", 123))
    async with started(app), httpx.AsyncClient(transport=far) as client:
        reply = await client.get(METRICS)

    assert reply.status_code == 401
    assert "milepost_" not in reply.text


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_any_worker_tells_the_numbers_of_all(database_url: str, tmp_path: Path) -> None:
    with serving(database_url, tmp_path / "log", workers=2) as server:
        for _ in range(40):  # each on a connection of its own, so that both workers have some
            none = httpx.get(f"{server.base_url}/Patient/none", headers=AUTHORIZED)
            assert none.status_code == 404
        address = server.base_url.replace("/fhir", "/metrics")
        # A worker counts what it has answered a moment after the client has the answer
        while (
            numbers(httpx.get(address).text).get(("milepost_requests_total", "read", "404")) != 40
        ):
            time.sleep(0.01)
        told = [numbers(httpx.get(address).text) for _ in range(8)]

    assert {one["milepost_requests_total", "read", "404"] for one in told} == {40}
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


async def test_two_servers_in_a_process_count_for_themselves(settings: Settings) -> None:
    async with connected(settings) as one, connected(settings) as other:
        await one.get("/Patient")
        found = numbers((await other.get(METRICS)).text)

    assert not [key for key in found if key[0] == "milepost_requests_total"]
