"""However much is asked at once, however slowly: a client is told, and the server goes on."""

import asyncio
import gc
import gzip
import shutil
import socket
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import psutil
import pytest
import uvicorn
from fastapi import FastAPI

from app import db
from app.api.protocol import HEADER_BYTES, Connection
from app.config import Settings
from app.fhir.rest import Server
from app.main import create_app
from tests.support.application import JSON, connected, started
from tests.support.migrations import upgrade
from tests.support.postgresql import PostgreSQL
from tests.support.process import Process, serving
from tests.support.replies import issue
from tests.support.resources import Resource, batch, patient, post
from tests.support.tokens import AUTHORIZATION, AUTHORIZED, admit

LIMIT = 0.2  # seconds that work may take in the database
ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i)"
    " FROM n",
    "postgresql": "SELECT pg_sleep(600)",
}


def changed(settings: Settings, **changes: Any) -> Settings:
    """Return the settings with changes."""
    return Settings(**{**settings.model_dump(), **changes})


async def endless(begun: asyncio.Event, until: asyncio.Event, first: bytes = b"{") -> Any:
    """Yield the beginning of a body, and its end only when it is wanted."""
    yield first
    begun.set()
    await until.wait()
    yield b"}"


@asynccontextmanager
async def uploading(client: httpx.AsyncClient, path: str, first: bytes) -> AsyncIterator[None]:
    """Keep a request under way whose body has begun."""
    begun, until = asyncio.Event(), asyncio.Event()
    request = asyncio.create_task(client.post(path, content=endless(begun, until, first)))
    await begun.wait()
    try:
        yield
    finally:
        until.set()
        await request


async def test_a_request_beyond_those_that_may_be_under_way_is_told_to_come_again(
    settings: Settings,
) -> None:
    async with connected(changed(settings, max_concurrent_requests=1)) as client:
        async with uploading(client, "/Patient", b"{"):
            refused = await client.get("/Patient")
            live = await client.get("http://milepost.test/health/live")
            ready = await client.get("http://milepost.test/health/ready")
        afterwards = await client.get("/Patient")

    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "1"
    assert issue(refused) == (
        "throttled",
        "The server has as many requests under way as it may have; try again",
    )
    assert refused.headers["X-Request-Id"]
    assert (live.status_code, ready.status_code) == (200, 200)
    assert afterwards.status_code == 200


async def test_bodies_that_fill_the_memory_together_are_told_to_come_again(
    settings: Settings,
) -> None:
    small = changed(settings, max_resource_bytes=1024, max_bundle_bytes=1024)
    async with connected(small) as client:
        async with (
            uploading(client, "/", b" " * 1000),
            uploading(client, "/", b" " * 1000),
            uploading(client, "/", b" " * 1000),
            uploading(client, "/", b" " * 1000),
        ):
            refused = await client.post("/", content=b" " * 1000)
        afterwards = await client.post("/Patient", json=patient())

    assert (refused.status_code, issue(refused)[0]) == (503, "throttled")
    assert afterwards.status_code == 201


async def test_packed_bodies_count_as_what_they_become(settings: Settings) -> None:
    small = changed(settings, max_resource_bytes=1024, max_bundle_bytes=1024)
    body = b'{"resourceType":"Patient","id":"a"}'.ljust(1000)
    packed = {"Content-Encoding": "gzip"}
    async with served(small) as (client, _):
        async with (
            uploading(client, "/", b" " * 1000),
            uploading(client, "/", b" " * 1000),
            uploading(client, "/", b" " * 1000),
            uploading(client, "/", b" " * 500),
        ):
            refused = await client.put("/Patient/a", content=gzip.compress(body), headers=packed)
        afterwards = await client.put("/Patient/a", content=gzip.compress(body), headers=packed)

    assert (refused.status_code, issue(refused)[0]) == (503, "throttled")
    assert afterwards.status_code == 201


async def test_a_body_that_does_not_arrive_in_time_is_a_408(settings: Settings) -> None:
    never = asyncio.Event()
    async with connected(changed(settings, request_timeout_seconds=0.05)) as client:
        reply = await client.post("/Patient", content=endless(asyncio.Event(), never))

    assert reply.status_code == 408
    assert issue(reply) == ("timeout", "The body did not arrive within 0.05 s")
    assert reply.headers["Connection"] == "close"


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, Server]]:
    """Yield a client of a server, and what the server knows."""
    app: FastAPI = create_app(settings)
    async with (
        started(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url=settings.base_url,
            headers={"Content-Type": JSON, **AUTHORIZED},
        ) as client,
    ):
        yield client, app.state.server


@asynccontextmanager
async def writers_held_up(server: Server, database_url: str) -> AsyncIterator[None]:
    """Let no transaction of the server go on."""
    if server.database.dialect == "postgresql":
        connection = await asyncpg.connect(database_url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE resource, resource_version IN EXCLUSIVE MODE")
            yield
        await connection.close()
        return
    begun, until = threading.Event(), threading.Event()

    async def wait(_: db.Connection) -> None:
        begun.set()
        until.wait()

    async def let_go_too_late() -> None:
        while server.database.load().records < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await asyncio.sleep(2 * LIMIT)  # from here on nobody who waits is in time
        until.set()

    blocker = asyncio.create_task(server.database.write(wait))
    await asyncio.to_thread(begun.wait)
    release = asyncio.create_task(let_go_too_late())
    yield
    await release
    await blocker


async def test_a_write_that_does_not_end_in_time_is_refused_and_not_done(
    settings: Settings, database_url: str
) -> None:
    async with served(settings) as (client, server):
        await server.database.limit(LIMIT)
        async with writers_held_up(server, database_url):
            late = await client.put("/Patient/late", json=patient(id="late"))
        await server.database.limit(60)
        read = await client.get("/Patient/late")
        again = await client.put("/Patient/late", json=patient(id="late"))

    assert late.status_code == 503
    assert issue(late) == (
        "too-costly",
        "The request was stopped after 0.2 s; ask for less at once",
    )
    assert late.headers["Retry-After"]
    assert read.status_code == 404
    assert again.status_code == 201


async def test_what_a_transaction_wrote_before_its_time_was_over_is_undone(
    settings: Settings, engine: str
) -> None:
    slow = db.Statement(ENDLESS[engine], ())
    row = {"name": "half", "value": b"done"}
    half = db.Change("insert", db.secret, tuple(row), [tuple(row.values())])

    async def write_and_wait(connection: db.Connection) -> None:
        await connection.change([half])
        await connection.rows(slow, {})

    async def found(connection: db.Connection) -> list[Any]:
        text = "SELECT value FROM secret WHERE name = 'half'"
        return list(await connection.rows(db.Statement(text, ()), {}))

    async with served(settings) as (client, server):
        await server.database.limit(LIMIT)
        late, other = await asyncio.gather(
            server.database.write(write_and_wait),
            client.put("/Patient/other", json=patient(id="other")),
            return_exceptions=True,
        )
        await server.database.limit(60)
        left = await server.database.read(found)

    assert isinstance(late, db.TooSlow)
    assert left == []
    # On SQLite it may have waited in the same queue longer than it may
    assert isinstance(other, httpx.Response)
    assert other.status_code in {201, 503}


def test_a_database_that_says_nothing_is_given_up_until_it_answers_again(
    durable_postgresql_server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.postgresql.GRACE_SECONDS", 0.2)
    monkeypatch.setattr("app.db.postgresql.ACQUIRE_SECONDS", 1.0)
    name = f"milepost_{uuid4().hex}"
    url = durable_postgresql_server.create(name)
    upgrade(url)
    admit(url)
    postmaster = psutil.Process(durable_postgresql_server.pid)

    async def ask() -> tuple[list[int], int]:
        async with served(Settings(database_url=url)) as (client, server):
            await client.put("/Patient/a", json=patient(id="a"))
            await server.database.limit(LIMIT)
            while (await client.get("/Patient/a")).status_code != 200:
                pass  # a new connection may be slow to come
            stopped = [postmaster, *postmaster.children(recursive=True)]
            for process in stopped:
                process.suspend()
            try:
                silent = [
                    await client.put("/Patient/a", json=patient(id="a", gender="other")),
                    await client.get("/Patient/a"),
                    await client.get("http://127.0.0.1:8000/health/ready"),
                ]
            finally:
                for process in stopped:
                    process.resume()
            await server.database.limit(60)
            monkeypatch.undo()
            again = await client.put("/Patient/a", json=patient(id="a", gender="male"))
        return [reply.status_code for reply in silent], again.status_code

    silent, again = asyncio.run(ask())
    durable_postgresql_server.drop(name)

    assert silent == [503, 503, 503]
    assert again == 200


async def test_a_batch_past_its_time_answers_what_it_did_and_refuses_the_rest(
    settings: Settings,
) -> None:
    steps = iter(range(1, 1_000_000))
    async with served(settings) as (client, server):
        # A clock on which each look takes a second
        ticking = replace(server, now=lambda: next(steps) * 1_000_000, batch_seconds=7)
        client._transport.app.state.server = ticking  # type: ignore[attr-defined]
        reply = await client.post("/", json=batch(*(post(patient()) for _ in range(8))))
        stored = await client.get("/Patient?_summary=count&_total=accurate")

    statuses = [entry["response"]["status"][:3] for entry in reply.json()["entry"]]
    done = statuses.count("201")
    assert 0 < done < 8
    assert statuses == ["201"] * done + ["503"] * (8 - done)
    assert stored.json()["total"] == done
    told: Resource = reply.json()["entry"][-1]["response"]["outcome"]
    assert told["issue"][0]["code"] == "timeout"


# What comes before there is a request: the connections of a real server


@pytest.fixture(scope="module")
def process(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server in a process of its own."""
    directory = tmp_path_factory.mktemp("limits")
    file = directory / "milepost.db"
    shutil.copy(sqlite_template, file)
    with serving(f"sqlite:///{file}", directory / "log") as server:
        yield server


async def told(base_url: str, *parts: bytes) -> bytes:
    """Return all that a server answers to these bytes until it hangs up.

    The first part is sent before the server has a chance to notice the connection.
    """
    url = httpx.URL(base_url)
    connection = socket.create_connection((url.host, url.port))
    if parts:
        connection.sendall(parts[0])
    connection.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=connection)
    for part in parts[1:]:
        writer.write(part)
    answer = await reader.read()
    writer.close()
    return answer


def get(path: bytes = b"/fhir/Patient", headers: bytes = b"") -> bytes:
    head = b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s%s\r\n"
    return head % (path, AUTHORIZATION, headers)


LONG = b"x" * HEADER_BYTES
REFUSED = {
    "no http": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, "structure"),
    "a url that is none": (get(b"http://["), 400, "structure"),
    "a url with raw bytes": (get(b"/fhir/\xff\xfe"), 400, "structure"),
    "a header without a colon": (get(headers=b"nonsense\r\n"), 400, "structure"),
    "two lengths": (get(headers=b"Content-Length: 1\r\nContent-Length: 2\r\n"), 400, "structure"),
    "a length that is none": (get(headers=b"Content-Length: many\r\n"), 400, "structure"),
    "a header that is too long": (get(headers=b"X: " + LONG + b"\r\n"), 431, "too-long"),
    "too many headers": (get(headers=b"X: y\r\n" * 16_000), 431, "too-long"),
    "a header without an end": (get()[:-2] + b"X: " + LONG + LONG, 431, "too-long"),
    "a url that is too long": (get(b"/fhir/Patient?name=" + b"x" * 20_000), 414, "too-long"),
    "a url without an end": (b"GET /" + LONG + LONG, 414, "too-long"),
}


@pytest.mark.parametrize(("sent", "status", "code"), REFUSED.values(), ids=REFUSED)
async def test_what_is_no_request_is_refused_with_an_outcome(
    process: Process, sent: bytes, status: int, code: str
) -> None:
    answer = await told(process.base_url, sent)
    afterwards = await told(process.base_url, get())

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert httpx.Response(200, content=body).json()["issue"][0]["code"] == code
    assert afterwards.startswith(b"HTTP/1.1 200 ")


async def test_headers_below_the_limit_and_requests_in_a_row_are_answered(
    process: Process,
) -> None:
    lines = AUTHORIZATION + b"X: " + b"y" * 30_000
    many = b"GET /fhir/Patient HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n" % lines

    answer = await told(process.base_url, many * 5, get())

    assert answer.count(b"HTTP/1.1 200 ") == 6


CHUNKED = (
    b"POST /fhir/Patient HTTP/1.1\r\nHost: x\r\nContent-Type: application/fhir+json\r\n"
    b"%sTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n" % AUTHORIZATION
)


@pytest.mark.parametrize(
    "endless", [b"0\r\n" + b"X: y\r\n" * 120_000, b"1;" + LONG * 10], ids=["trailers", "a chunk"]
)
async def test_what_is_no_body_may_not_be_longer_after_the_headers_than_in_them(
    process: Process, endless: bytes
) -> None:
    with suppress(ConnectionError):
        assert await told(process.base_url, CHUNKED, endless) == b""
    afterwards = await told(process.base_url, get())

    assert afterwards.startswith(b"HTTP/1.1 200 ")


async def test_a_body_may_come_in_the_smallest_chunks(process: Process) -> None:
    body = b"{" + b" " * HEADER_BYTES + b"}"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body[1:])
    end = b"0\r\n\r\n"

    answer = await told(process.base_url, CHUNKED, chunks, end, get())

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"resourceType" in answer


class Impatient(Connection):
    header_seconds = 0.05
    silent_seconds = 0.1


@asynccontextmanager
async def listening(
    app: Any, connection: type[Connection] = Impatient, lifespan: Any = "off"
) -> AsyncIterator[str]:
    """Yield the address of a server, by default one whose connections wait for nobody."""
    config = uvicorn.Config(
        app, port=0, http=connection, log_config=None, lifespan=lifespan, access_log=False
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Answer with more than a connection takes at once."""
    body = b"x" * 32_000_000
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def test_a_connection_on_which_nothing_is_asked_is_closed() -> None:
    async with listening(hello) as address:
        assert await told(address) == b""


async def short(scope: Any, receive: Any, send: Any) -> None:
    """Answer at once, whatever else is still to come."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
    )
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("asked", "more"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", b"x"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n"),
    ],
    ids=["the rest of a body", "another request"],
)
async def test_a_connection_on_which_all_is_answered_is_closed_though_a_byte_comes_now_and_then(
    asked: bytes, more: bytes
) -> None:
    async with listening(short) as address:
        url = httpx.URL(address)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(asked)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(more)
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()


async def test_nothing_is_left_of_a_connection_that_has_ended() -> None:
    known: list[weakref.ref[Connection]] = []

    class Known(Connection):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            known.append(weakref.ref(self))

    async with listening(short, Known) as address:
        await told(address, get())
        while any(one() for one in known):
            gc.collect()
            await asyncio.sleep(0.01)

    assert len(known) == 1


async def test_headers_that_do_not_arrive_in_time_are_a_408() -> None:
    async with listening(hello) as address:
        answer = await told(address, b"GET / HTTP/1.1\r\nHost: x\r\n")

    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_does_not_take_its_answer_is_let_go() -> None:
    async with listening(hello) as address:
        url = httpx.URL(address)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        while not writer.is_closing():
            try:
                writer.write(b" ")
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(0.01)
        writer.close()
