"""A running server with people, and an app of somebody else beside it, on ports of this machine."""

import asyncio
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from app.config import Settings
from app.main import build
from tests.smart.people import settle
from tests.support.process import Process, serving

BACK = "<!doctype html><title>App</title><h1>Back</h1>"


@dataclass
class App:
    """An app: what its `pages` show, and what browsers brought that `came` back to it."""

    address: str = ""
    pages: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    came: list[Mapping[str, str]] = field(default_factory=list)

    @property
    def callback(self) -> str:
        """The redirect URI."""
        return f"{self.address}/callback"

    @property
    def code(self) -> str:
        """The code that the last browser brought."""
        return self.came[-1]["code"]


@contextmanager
def listening() -> Iterator[App]:
    """Yield an app that listens; a page that it has not says that the browser is back."""
    app = App()

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/callback":
                app.came.append({name: value for name, (value,) in parse_qs(query).items()})
            kind, body = app.pages.get(path, ("text/html; charset=utf-8", BACK.encode()))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as listener:
        app.address = f"http://127.0.0.1:{listener.server_port}"
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        yield app
        listener.shutdown()
        thread.join()


@contextmanager
def peopled(template: Path, directory: Path, app: App) -> Iterator[Process]:
    """Yield a server with people, patients and the app; no event loop may be running here."""
    url = f"sqlite:///{shutil.copy(template, directory / 'milepost.db')}"

    async def fill() -> None:
        async with build(Settings(database_url=url)) as engine:
            await settle(engine, app.callback)

    asyncio.run(fill())
    with serving(url, directory / "server.log") as process:
        yield process
