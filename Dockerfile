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
# Nobody else may look into the folder of the database: the server would not start
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/milepost milepost \
 && chmod 700 /var/lib/milepost
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
    CMD ["python", "-c", "import os, ssl, urllib.request as u; e = os.environ; s = 'https' if e.get('MILEPOST_TLS_CERTIFICATE') else 'http'; u.urlopen(s + '://127.0.0.1:' + e['MILEPOST_PORT'] + '/health/ready', timeout=4, context=ssl._create_unverified_context())"]
ENTRYPOINT ["milepost"]
# The server refuses a schema that is not at head: run `milepost migrate` first (compose.yaml does).
# And it listens on every address of the container, which it refuses without a certificate
# (MILEPOST_TLS_CERTIFICATE) or the addresses of the proxy that ends TLS (MILEPOST_TRUSTED_PROXIES):
# who starts the container knows which
CMD ["serve"]
