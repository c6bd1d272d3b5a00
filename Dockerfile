# syntax=docker/dockerfile:1
# The server without its tests. Nothing is compiled at run time and nothing runs as root.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /srv/milepost
RUN python -m venv /opt/venv
COPY pyproject.toml README.md ./
COPY .ci/constraints.txt .ci/
COPY app app
# Editable: the code stays in /srv/milepost, beside the migrations that belong to it
RUN /opt/venv/bin/pip install --constraint .ci/constraints.txt setuptools \
 && /opt/venv/bin/pip install --constraint .ci/constraints.txt --no-build-isolation --editable . \
 && /opt/venv/bin/python -m compileall -q app

FROM python:3.13-slim
LABEL org.opencontainers.image.title="Milepost" \
      org.opencontainers.image.description="A FHIR R4 server for intensive outpatient programs"
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/milepost milepost
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/milepost /srv/milepost
COPY alembic /srv/milepost/alembic
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MILEPOST_HOST=0.0.0.0 \
    MILEPOST_PORT=8000 \
    MILEPOST_DATABASE_URL=sqlite:////var/lib/milepost/milepost.db
USER milepost
WORKDIR /var/lib/milepost
VOLUME /var/lib/milepost
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "from os import environ as e; from urllib.request import urlopen as o; o('http://127.0.0.1:' + e['MILEPOST_PORT'] + '/health/ready', timeout=4)"]
ENTRYPOINT ["milepost"]
# The server refuses a schema that is not at head: run `milepost migrate` first (compose.yaml does)
CMD ["serve"]
