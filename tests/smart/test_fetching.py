"""What clients publish at addresses of their own: fetched, but never from inside."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.api.smart import fetching
from app.api.smart.fetching import Fetched, Unfetchable, fetch, good_for, permitted

NAME = "keys.example.org"
BODY = b'{"keys": []}'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: max-age=60\r\n\r\n"

INSIDE = (
    *("127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::"),
    *("10.0.0.5", "172.16.0.1", "192.168.1.1", "fc00::1", "fd00:ec2::254"),
    *("169.254.169.254", "fe80::1", "fe80::1%eth0"),
    *("100.64.0.1", "100.100.100.200", "168.63.129.16"),
    *("224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1"),
    *("192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:7f00:1::"),
    *("", "localhost", "1", "0x7f.1"),
)


@pytest.mark.parametrize("address", INSIDE)
def test_no_connection_leads_inside(address: str) -> None:
    assert not permitted(address, loopback=False)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1"])
def test_connections_lead_outside(address: str) -> None:
    assert permitted(address, loopback=False)
    assert permitted(address, loopback=True)


@pytest.mark.parametrize("address", ["10.0.0.5", "169.254.169.254", "::ffff:10.0.0.1", "fe80::1"])
def test_a_server_for_this_machine_alone_reaches_no_other_one_inside(address: str) -> None:
    assert permitted("127.0.0.1", loopback=True)
    assert not permitted(address, loopback=True)


ADDRESSES = (
    *("http://keys.example.org/", "ftp://keys.example.org/", "file:///etc/passwd", "keys"),
    *("https://", "https:///x", "https://a@keys.example.org/", "https://keys.example.org/#x"),
    *("https://keys.example.org:0/", "https://keys.example.org:99999/", "https://[::1/"),
    *("https://keys.example.org/a b", "https://keys.example.org/\n", "https://é.example.org/"),
    *("http://localhost.example.org/", "http://127.0.0.1@keys.example.org/"),
    f"https://keys.example.org/{'x' * 3000}",
)


@pytest.mark.parametrize("url", ADDRESSES)
async def test_what_is_no_https_address_is_not_asked(url: str) -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        raise AssertionError

    with pytest.raises(Unfetchable):
        await fetch(url, loopback=False, resolve=never)


async def test_plain_http_is_for_servers_of_this_machine_alone() -> None:
    async with answering(GOOD + BODY) as port:
        url = f"http://127.0.0.1:{port}/jwks.json"

        found = await fetch(url, loopback=True)
        with pytest.raises(Unfetchable, match="has to begin with https"):
            await fetch(url, loopback=False)

    assert found == Fetched(BODY.decode(), 60)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.5", "::ffff:127.0.0.1"])
async def test_a_name_that_leads_inside_is_not_asked(address: str) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["93.184.216.34", address]

    with pytest.raises(Unfetchable, match="not on the open network"):
        await fetch(f"https://{NAME}/", loopback=False, resolve=resolve)


async def test_a_name_that_stands_for_nothing_is_not_asked() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return []

    with pytest.raises(Unfetchable):
        await fetch(f"https://{NAME}/", loopback=False, resolve=resolve)


async def test_a_name_that_nobody_knows_is_unfetchable() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    with pytest.raises(Unfetchable):
        await fetch(f"https://{NAME}/", loopback=False, resolve=resolve)


async def test_the_connection_goes_to_the_address_that_was_looked_at(tmp_path: Path) -> None:
    """A name is asked for once: whoever changes what it means afterwards changes nothing."""
    certificate = certified(tmp_path, NAME)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    answers = [["127.0.0.1"], ["10.0.0.5"]]
    heard: list[bytes] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        assert host == NAME
        return answers.pop(0)

    async with answering(GOOD + BODY, heard, server) as port:
        trust = ssl.create_default_context(cafile=str(certificate))
        url = f"https://{NAME}:{port}/jwks.json?a=b"
        found = await fetch(url, loopback=True, resolve=resolve, trust=trust)

    assert found.text == BODY.decode()
    assert answers == [["10.0.0.5"]]
    assert heard[0].startswith(b"GET /jwks.json?a=b HTTP/1.1\r\n")
    assert f"host: {NAME}:{port}".encode() in heard[0].lower()


async def test_a_certificate_of_another_name_is_not_trusted(tmp_path: Path) -> None:
    certificate = certified(tmp_path, "other.example.org")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async with answering(GOOD + BODY, [], server) as port:
        trust = ssl.create_default_context(cafile=str(certificate))
        with pytest.raises(Unfetchable):
            await fetch(f"https://{NAME}:{port}/", loopback=True, resolve=resolve, trust=trust)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ANSWERS = {
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n",
    "an error": b"HTTP/1.1 500 Oh\r\nContent-Type: application/json\r\n\r\n{}",
    "a page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>",
    "no type": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "too much": HEAD + b"\r\n" + b"x" * (fetching.BYTES + 1),
    "too much that is announced": HEAD + b"Content-Length: 9999999\r\n\r\n" + b"x" * 70_000,
    "packed": HEAD + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b",
    "no HTTP": b"hello\r\n\r\n",
    "nothing": b"",
    "no UTF-8": HEAD + b"\r\n\xff\xfe",
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_that_is_not_as_it_should_be_is_not_used(name: str) -> None:
    async with answering(ANSWERS[name]) as port:
        with pytest.raises(Unfetchable):
            await fetch(f"http://127.0.0.1:{port}/", loopback=True)


async def test_there_is_so_much_time_for_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SECONDS", 0.05)
    async with answering(HEAD, hold=True) as port:
        with pytest.raises(Unfetchable, match="has not answered"):
            await fetch(f"http://127.0.0.1:{port}/", loopback=True)


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with answering(GOOD + BODY) as port:
        found = await fetch(f"http://127.0.0.1:{port}/", loopback=True)

    assert found.text == BODY.decode()


SAID = {
    "": 300,
    "max-age=60": 60,
    "public, Max-Age=60": 60,
    'max-age="60"': 60,
    "max-age=0": 0,
    "max-age=999999999": 86_400,
    "max-age=soon": 300,
    "no-store": 0,
    "no-cache, max-age=60": 0,
}


def test_an_answer_is_good_for_as_long_as_it_says() -> None:
    assert {said: good_for(said) for said in SAID} == SAID


@asynccontextmanager
async def answering(
    answer: bytes,
    heard: list[bytes] | None = None,
    trust: ssl.SSLContext | None = None,
    *,
    hold: bool = False,
) -> AsyncIterator[int]:
    """Yield the port of a server that says one thing, whatever it is asked."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await reader.readuntil(b"\r\n\r\n")
            if heard is not None:
                heard.append(asked)
            writer.write(answer)
            await writer.drain()
            if hold:
                await over.wait()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=trust)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        yield port
        over.set()


def certified(folder: Path, name: str) -> Path:
    """Return a PEM file with a key and a certificate for a name, which vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return file
