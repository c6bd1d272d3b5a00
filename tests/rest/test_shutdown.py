"""A server that is told to end finishes what runs; told twice, it ends at once."""

import asyncio
import json
import signal
from pathlib import Path

import httpx
import pytest

from tests.rest import integrity
from tests.support.process import Process, serving
from tests.support.resources import patient
from tests.support.tokens import AUTHORIZATION, AUTHORIZED

BODY = json.dumps(patient(id="p")).encode()


class Upload:
    """A PUT on a connection of its own whose body has begun."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def begun(cls, server: Process) -> "Upload":
        """Return an upload that the server waits for: it has asked for the body."""
        url = httpx.URL(server.base_url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(
            b"PUT /fhir/Patient/p HTTP/1.1\r\nHost: x\r\nContent-Type: application/fhir+json\r\n"
            b"%sExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (AUTHORIZATION, len(BODY))
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 100 ")
        await reader.readline()
        return cls(reader, writer)

    async def finished(self) -> bytes:
        """Send the body; return the answer, all of it."""
        self.writer.write(BODY)
        answer = await self.reader.read()
        self.writer.close()
        return answer


async def no_longer_listening(server: Process) -> None:
    """Return when the server takes no new connection."""
    url = httpx.URL(server.base_url)
    while True:
        try:
            _, writer = await asyncio.open_connection(url.host, url.port)
        except ConnectionError:
            return
        writer.close()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("engine", "workers"),
    [("sqlite", 1), ("postgresql", 1), ("postgresql", 2)],
    indirect=["engine"],
)
def test_a_request_under_way_is_answered_before_the_server_ends(
    database_url: str, tmp_path: Path, workers: int
) -> None:
    async def end_while_uploading(server: Process) -> bytes:
        upload = await Upload.begun(server)
        server.popen.send_signal(signal.SIGTERM)
        await no_longer_listening(server)
        return await upload.finished()

    with serving(database_url, tmp_path / "log", workers=workers) as server:
        answer = asyncio.run(end_while_uploading(server))
        server.popen.wait(30)
    with serving(database_url, tmp_path / "again.log") as server:
        read = httpx.get(f"{server.base_url}/Patient/p", headers=AUTHORIZED)

    assert answer.startswith(b"HTTP/1.1 201 "), answer
    assert answer.endswith(read.content)
    assert asyncio.run(integrity.broken(database_url)) == {}


def test_what_is_acknowledged_while_the_server_ends_is_there(
    database_url: str, tmp_path: Path
) -> None:
    async def write(client: httpx.AsyncClient, name: str, acknowledged: list[str]) -> None:
        for n in range(100_000):
            path = f"/Patient/{name}-{n}"
            try:
                reply = await client.put(path, json=patient(id=f"{name}-{n}"))
            except httpx.TransportError:
                return
            assert reply.status_code == 201, reply.text
            acknowledged.append(path)

    async def end_under_load(server: Process) -> list[str]:
        acknowledged: list[str] = []
        async with httpx.AsyncClient(
            base_url=server.base_url,
            timeout=30,
            headers={"Content-Type": "application/fhir+json", **AUTHORIZED},
        ) as client:
            writers = [asyncio.create_task(write(client, f"w{n}", acknowledged)) for n in range(6)]
            while len(acknowledged) < 60:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            server.popen.send_signal(signal.SIGTERM)
            await asyncio.gather(*writers)
        return acknowledged

    with serving(database_url, tmp_path / "log") as server:
        acknowledged = asyncio.run(end_under_load(server))
        server.popen.wait(30)
    with (
        serving(database_url, tmp_path / "again.log") as server,
        httpx.Client(base_url=server.base_url, headers=AUTHORIZED) as client,
    ):
        lost = [path for path in acknowledged if client.get(path).status_code != 200]

    assert lost == []
    assert asyncio.run(integrity.broken(database_url)) == {}


@pytest.mark.parametrize(
    ("engine", "workers"), [("sqlite", 1), ("postgresql", 2)], indirect=["engine"]
)
def test_a_second_signal_ends_the_server_whatever_runs(
    database_url: str, tmp_path: Path, workers: int
) -> None:
    async def end_twice(server: Process) -> None:
        upload = await Upload.begun(server)
        server.popen.send_signal(signal.SIGTERM)
        await no_longer_listening(server)
        server.popen.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.popen.wait, 30)
        upload.writer.close()

    with serving(database_url, tmp_path / "log", workers=workers) as server:
        asyncio.run(end_twice(server))

    assert server.popen.returncode is not None
    assert asyncio.run(integrity.broken(database_url)) == {}
