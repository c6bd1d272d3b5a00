"""Starting what is measured, and reading what it cost from the operating system."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.tokens import AUTHORIZED

MIB = 1024 * 1024


def cpu(pid: int | None) -> float:
    """Return the CPU seconds of a process and all its descendants, ended ones included."""
    total = 0.0
    for process in tree(pid):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def tree(pid: int | None) -> list[psutil.Process]:
    """Return a process and its living descendants; none for no process."""
    if pid is None:
        return []
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def memory(pid: int) -> float:
    """Return the resident MiB of the process tree now."""
    return sum(float(process.memory_info().rss) for process in tree(pid)) / MIB


def peak_memory(pid: int) -> float:
    """Return the most resident MiB that the process had (Linux), else what it has now."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return memory(pid)
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return float(lines["VmHWM"].split()[0]) / 1024


@dataclass(frozen=True)
class Server:
    """A process that answers on `port`, and the seconds from its start to its first answer."""

    pid: int
    port: int
    ready_seconds: float

    def get(self, path: str) -> bytes:
        """Return the body of one reply."""
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=AUTHORIZED)
        with urllib.request.urlopen(asked) as reply:
            body: bytes = reply.read()
            return body


@contextmanager
def served(arguments: list[str], port: int, environment: Mapping[str, str]) -> Iterator[Server]:
    """Yield the server `python -m ARGUMENTS`, which listens on `port`, and end it afterwards."""
    start = time.monotonic()
    command = [sys.executable, "-m", *arguments]
    popen = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        ready_seconds = answering(popen, port) - start
        yield Server(popen.pid, port, ready_seconds)
    finally:
        popen.terminate()
        popen.wait(30)


def answering(popen: subprocess.Popen[bytes], port: int) -> float:
    """Return the time at which /fhir/metadata is answered first."""
    while popen.poll() is None:
        with suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/fhir/metadata").close()
            return time.monotonic()
        time.sleep(0.01)
    raise SystemExit(f"the server ended with exit code {popen.returncode}")
