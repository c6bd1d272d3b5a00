"""HTTP/1.1 connections: what has to be refused before there is a request.

https://www.rfc-editor.org/rfc/rfc9112
https://www.rfc-editor.org/rfc/rfc6585#section-5

uvicorn's protocol on httptools takes headers of any length and waits for them for ever. Here the
headers of a request have a size and a time, and a client that stops taking its answer is let go.
Whatever is refused here is told as an OperationOutcome too.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.fhir.errors import outcome, refused
from app.fhir.wire import encode

HEADER_BYTES = 64 * 1024  # of all that is no body; httptools hands on headers and trailers whole
HEADER_SECONDS = 20.0
LINGER_SECONDS = 2.0
SILENT_SECONDS = 60.0  # in which a client may take nothing of what waits for it


class Connection(HttpToolsProtocol):
    """One connection, which a client cannot hold for nothing."""

    header_seconds = HEADER_SECONDS
    silent_seconds = SILENT_SECONDS

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the headers of the first request."""
        super().connection_made(transport)
        self.refused, self.silent = False, True
        self.url = b""
        self.headers = []
        self.header_bytes = 0
        self.since: float | None = self.loop.time()  # that headers are waited for
        self.untaken = 0
        self.untaken_since = 0.0
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.look.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin to wait for the headers of one more request."""
        super().on_message_begin()
        self.since, self.silent = self.loop.time(), False

    def on_headers_complete(self) -> None:
        """Hand on a request; its body is waited for elsewhere."""
        if self.header_bytes > HEADER_BYTES and self._length() > HEADER_BYTES:
            self._refuse_headers()
            raise ValueError("too long")  # which ends the parser
        self.since, self.header_bytes = None, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand on a part of a body; trailers and extensions of chunks are no part of it."""
        self.header_bytes = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Begin to wait for what comes next: another request, or a body that nobody wants."""
        super().on_response_complete()
        if self.since is None and self.cycle.response_complete:
            self.since, self.silent = self.loop.time(), True

    def data_received(self, data: bytes) -> None:
        """Take what has come, unless it is more than headers may be."""
        if self.refused:
            return
        self.header_bytes += len(data)
        super().data_received(data)
        if self.header_bytes > HEADER_BYTES:
            self._refuse_headers()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse what is no HTTP."""
        self._refuse(400, "structure", "The request is not HTTP/1.1")

    def _length(self) -> int:
        return len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers)

    def _refuse_headers(self) -> None:
        """Refuse what is longer than a URL and headers may be together."""
        if len(self.url) > HEADER_BYTES // 2:
            self._refuse(414, "too-long", "The URL is too long; POST to _search instead")
        else:
            self._refuse(431, "too-long", f"The headers are longer than {HEADER_BYTES} bytes")

    def _refuse(self, status: int, code: str, text: str) -> None:
        """Answer what is no request, and hang up."""
        if self.refused:
            return
        self.refused = True
        if self.cycle is None or self.cycle.response_complete:
            body = encode(outcome(refused(code, text).issues))
            headers = [
                *self.server_state.default_headers,
                (b"content-type", b"application/fhir+json"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            ]
            lines = b"".join(b"%s: %s\r\n" % header for header in headers)
            self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + body)
            # To close at once resets the connection of a client that is still sending, and the
            # answer is lost with it (RFC 9112, 9.6)
            self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()

    def _look_again(self) -> None:
        """Hang up on a client that has kept the connection waiting too long, else look later."""
        now = self.loop.time()
        untaken = self.transport.get_write_buffer_size()
        if untaken != self.untaken or not untaken:
            self.untaken, self.untaken_since = untaken, now
        if untaken and now - self.untaken_since >= self.silent_seconds:
            self.transport.abort()
        elif self.since is not None and now - self.since >= self.header_seconds:
            if self.silent:
                self.transport.close()  # nothing was asked, so nothing is answered
            else:
                text = f"The headers did not arrive within {self.header_seconds:g} s"
                self._refuse(408, "timeout", text)
        pause = min(self.header_seconds, self.silent_seconds)
        self.look = self.loop.call_later(pause, self._look_again)
