"""The server process, or several of them: how it starts, and how it ends.

The first signal (SIGTERM, SIGINT) finishes what runs: no new connection is taken, requests under
way are answered, the writer is drained. The second one ends it at once; as after any crash, what
was acknowledged is there.
"""

import math
import os
import ssl
import tempfile
from contextlib import suppress
from types import FrameType

import uvicorn
from uvicorn.supervisors import Multiprocess

from app import logs
from app.api.metrics import DIRECTORY
from app.api.protocol import Connection
from app.config import Settings, loopback

APPLICATION = "app.main:application"
# Whose X-Forwarded-For counts where no proxy is named: who sends one through a proxy on this
# machine is not on this machine, and so does not get what only local clients get
HERE = "127.0.0.1,::1"


class Unsafe(Exception):
    """Tokens and records would travel unencrypted; the text says what to set."""


def check(settings: Settings) -> None:
    """Raise Unsafe unless what the server answers reaches clients encrypted, or on this machine."""
    if not (loopback(settings.host) or settings.tls_certificate or settings.trusted_proxies):
        raise Unsafe(
            f"Other machines could reach {settings.host}, and tokens would travel unencrypted."
            " Name a certificate and its key (MILEPOST_TLS_CERTIFICATE), or the proxies in front"
            " that end TLS (MILEPOST_TRUSTED_PROXIES); or listen on 127.0.0.1."
        )
    secure = settings.base_url.startswith("https:")
    if not secure and (settings.tls_certificate or not settings.local):
        raise Unsafe(
            f"Clients would be told to send tokens unencrypted, to {settings.base_url}."
            " MILEPOST_BASE_URL has to be the https address at which they reach the server."
        )
    if settings.tls_certificate:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                settings.tls_certificate, password=""
            )
        except (OSError, ValueError) as error:
            raise Unsafe(
                f"MILEPOST_TLS_CERTIFICATE: {settings.tls_certificate} is no PEM file with"
                " certificates and their private key, without a password."
            ) from error


def configuration(settings: Settings) -> uvicorn.Config:
    """Return how uvicorn serves with these settings."""
    return uvicorn.Config(
        APPLICATION,
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        http=Connection,
        ws="none",
        access_log=False,
        log_config=None,
        log_level=settings.log_level,
        server_header=False,
        ssl_certfile=settings.tls_certificate or None,
        forwarded_allow_ips=settings.trusted_proxies or HERE,
        # A body, and then a transaction, each have their time
        timeout_graceful_shutdown=math.ceil(2 * settings.request_timeout_seconds),
    )


def run(settings: Settings) -> None:
    """Serve until a signal ends it."""
    logs.configure(settings.log_level, settings.log_format)
    config = configuration(settings)
    with suppress(KeyboardInterrupt):
        if settings.workers == 1:
            One(config).run()
            return
        with tempfile.TemporaryDirectory(prefix="milepost-metrics-") as directory:
            os.environ[DIRECTORY] = directory
            Several(config, sockets=[config.bind_socket()]).run()


class One(uvicorn.Server):
    """A server process that is forced by any second signal, not by SIGINT alone."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish what runs, or stop doing so."""
        self.force_exit = self.force_exit or self.should_exit
        super().handle_exit(sig, frame)


class Several(Multiprocess):
    """Worker processes that are all ended by a second signal to the first."""

    def terminate_all(self) -> None:
        """Tell the workers to end, and take no connection that none of them would answer."""
        super().terminate_all()
        for listener in self.sockets:
            listener.close()

    def join_all(self) -> None:
        """Wait until the workers have finished what runs, or until another signal comes."""
        while any(worker.process.is_alive() for worker in self.processes):
            for worker in self.processes:
                worker.process.join(0.1)
                if self.signal_queue:
                    worker.kill()
