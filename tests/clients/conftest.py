"""A server in a process of its own, which all clients ask."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import Process, serving


@pytest.fixture(scope="session")
def server(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A running server, which begins with an empty database."""
    directory = tmp_path_factory.mktemp("clients")
    file = shutil.copy(sqlite_template, directory / "milepost.db")
    with serving(f"sqlite:///{file}", directory / "server.log") as process:
        yield process
