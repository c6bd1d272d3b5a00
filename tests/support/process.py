"""A real `milepost serve` in a process of its own, to be killed."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from app.main import ROOT


@dataclass(frozen=True)
class Process:
    """A running server, its FHIR base, and what it has printed so far."""

    base_url: str
    popen: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """End it as a power cut would: no handler runs, nothing is flushed."""
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


def command(*arguments: str | Path) -> list[str]:
    """Return the command line `milepost ARGUMENTS`."""
    return [sys.executable, "-m", "app.cli", *map(str, arguments)]


def environment(database_url: str, **settings: object) -> dict[str, str]:
    """Return the environment in which Milepost has these settings and defaults for all others."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MILEPOST_")}
    given = {"database_url": database_url, **settings}
    return inherited | {f"MILEPOST_{name.upper()}": str(value) for name, value in given.items()}


def milepost(
    *arguments: str | Path, database_url: str, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Return the finished command `milepost ARGUMENTS`, with what it printed."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment(database_url, **settings),
        capture_output=True,
        text=True,
        timeout=120,
    )


@contextmanager
def serving(database_url: str, log: Path, **settings: object) -> Iterator[Process]:
    """Yield a server that answers, and kill it afterwards if it still runs.

    It listens on a port of its own; whoever gives a `base_url` gives its `port`, too.
    """
    port = settings.get("port") or free_port()
    given = {"base_url": f"http://127.0.0.1:{port}/fhir", "port": port, **settings}
    env = environment(database_url, **given)
    # By itself, or through a proxy that is not there: what it is asked at here
    scheme = "https" if "tls_certificate" in settings else "http"
    base_url = f"{scheme}://127.0.0.1:{port}/fhir"
    with log.open("wb") as output:
        popen = subprocess.Popen(
            command("serve"),
            cwd=ROOT,
            env=env,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    process = Process(base_url, popen, log)
    try:
        wait_until_answering(process)
        yield process
    finally:
        if popen.poll() is None:
            process.kill()


def free_port() -> int:
    """Return a port on which nobody listened a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_until_answering(process: Process, seconds: float = 120) -> None:
    """Return when /metadata answers; a server that does not is an error with its log."""
    until = time.monotonic() + seconds
    address, unverified = f"{process.base_url}/metadata", ssl._create_unverified_context()
    while time.monotonic() < until and process.popen.poll() is None:
        with suppress(OSError), urllib.request.urlopen(address, context=unverified) as reply:
            reply.read()
            return
        time.sleep(0.05)
    raise RuntimeError(f"milepost serve did not answer:\n{process.log.read_text()[-2000:]}")
