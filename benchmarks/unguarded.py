"""The same server without tokens and without a trail, to be measured beside the other.

`python -m benchmarks.unguarded` serves so with the settings of the environment. Nothing else does.
"""

from fastapi import FastAPI

from app import logs
from app.api import serving
from app.config import Settings
from app.main import create_app


def application() -> FastAPI:
    """Return the application in which anybody may do anything, and nobody is told of it."""
    settings = Settings()
    logs.configure(settings.log_level, settings.log_format)
    return create_app(settings, alone=True, guarded=False)


if __name__ == "__main__":
    serving.APPLICATION = "benchmarks.unguarded:application"
    serving.run(Settings())
