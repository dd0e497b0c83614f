# The base may be replaced where no registry is reached: any image with Python 3.11 or newer.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
# Nothing but what the lock files name, to the byte: first what meterd runs with, then what builds it.
COPY requirements.lock requirements-build.lock ./
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-build.lock \
 && python3 -m venv --without-pip /opt/meterd \
 && /opt/build/bin/pip --python /opt/meterd/bin/python install --no-cache-dir --no-compile --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY packaging/build_hook.py packaging/
COPY meterd meterd
# Git is not here to be asked; `make image` asks it.
ARG VERSION=0.0
ARG COMMIT
RUN export SETUPTOOLS_SCM_PRETEND_VERSION="$VERSION" METERD_COMMIT="$COMMIT" \
 && /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /src/wheels . \
 && /opt/build/bin/pip --python /opt/meterd/bin/python install --no-cache-dir --no-compile --no-deps --no-index /src/wheels/*.whl \
 && /opt/meterd/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/meterd/lib

FROM ${BASE}
COPY --from=build /opt/meterd /opt/meterd
COPY systemconfig.toml /etc/meterd/systemconfig.toml
# Events and keys are readable to their owner only; nobody is that owner.
RUN mkdir -m 0700 /data && chown 65534:65534 /data
USER 65534:65534
ENV METERD_CONFIG=/etc/meterd/systemconfig.toml \
    METERD_BIND=0.0.0.0:8080 \
    METERD_DATA_DIR=/data \
    PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --retries=3 CMD ["/opt/meterd/bin/meterd", "healthcheck"]
ENTRYPOINT ["/opt/meterd/bin/meterd"]
CMD ["serve"]
