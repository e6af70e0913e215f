# A small image of the mirror. The base may be any image with Python 3.11 or later and pip:
#   docker build --build-arg BASE=registry.example/python:3.11-slim -t registry-mirror .
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /src
COPY requirements.lock ./
RUN python3 -m venv /opt/mirror \
 && /opt/mirror/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY mirror ./mirror
RUN /opt/mirror/bin/pip install --no-cache-dir --no-deps . \
 && /opt/mirror/bin/pip uninstall --yes pip

FROM ${BASE}
COPY --from=build /opt/mirror /opt/mirror
COPY deploy/container.yaml /etc/mirror/mirror.yaml
# Any user will do, as long as it may write here.
RUN mkdir -p /var/lib/mirror && chmod 0777 /var/lib/mirror
USER 65532:65532
VOLUME /var/lib/mirror
EXPOSE 5000
ENV PYTHONUNBUFFERED=1
HEALTHCHECK --interval=30s --timeout=5s CMD ["/opt/mirror/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/healthz', timeout=4)"]
ENTRYPOINT ["/opt/mirror/bin/mirror"]
CMD ["serve", "--config", "/etc/mirror/mirror.yaml"]
