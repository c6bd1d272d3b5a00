"""The load generator: keep-alive connections that each send the next request when answered.

It runs in a process of its own, so that its work is never counted as the server's.
"""

import asyncio
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class Result:
    """What one run gave: latencies in seconds, how long it took, and the first refusal."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    refusal: str = ""

    def percentile(self, percent: float) -> float:
        """Return the latency in milliseconds that `percent` of the requests stayed within."""
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] * 1000


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, requests: Iterator[bytes], until: float, result: Result) -> None:
        self.requests = requests
        self.until = until
        self.result = result
        self.received = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self.transport = cast("asyncio.Transport", transport)
        self.send()

    def send(self) -> None:
        """Send the next request, or close when the time is over."""
        self.sent = time.perf_counter()
        if self.sent >= self.until or self.result.refusal:
            self.transport.close()
        else:
            self.transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        """Collect the answer; when it is whole, note how long it took and go on."""
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not separator or len(body) < (int(length[1]) if length else 0):
            return
        self.result.latencies.append(time.perf_counter() - self.sent)
        if not head.startswith(b"HTTP/1.1 2"):
            self.result.refusal = (head + separator + body[:500]).decode(errors="replace")
        self.received = b""
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        """End; that the server hung up is a refusal too."""
        if time.perf_counter() < self.until and not self.result.refusal:
            self.result.refusal = f"connection lost: {error}"
        self.done.set_result(None)


async def generated(
    port: int, requests: Sequence[bytes], connections: int, seconds: float
) -> Result:
    """Return the result of sending `requests` in a circle for that long."""
    result = Result()
    circle = itertools.cycle(requests)
    start = time.perf_counter()
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(connections):
        make = partial(Client, circle, start + seconds, result)
        clients.append((await loop.create_connection(make, "127.0.0.1", port))[1])
    await asyncio.gather(*(client.done for client in clients))
    result.seconds = time.perf_counter() - start
    return result


def run(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Result:
    """Do the same in a process that has no event loop yet."""
    return uvloop.run(generated(port, requests, connections, seconds))
