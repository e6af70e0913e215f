# A small image of the mirror, for any user id and a read-only root file system.
#
#   docker build -t registry-mirror .
#
# The base may be any image with Python 3.11 or later; the builder needs the module venv (Debian: python3-venv) and a
# shell, the base that the mirror runs on needs neither. Both have the same Python, at the same path:
#   docker build --build-arg BASE=registry.example/python:3.11-slim -t registry-mirror .
#   docker build --build-arg BUILD_BASE=debian-with-venv --build-arg BASE=debian-with-python -t registry-mirror .
#
# Packages come from PyPI, or from an index of your own (--build-arg PIP_INDEX_URL=https://index.example/simple), or,
# where there is no network or the index wants a password, from the directory wheels/ beside this file:
#   pip download --require-hashes --only-binary=:all: --python-version 3.11 -r requirements.lock -d wheels
# Wherever they come from, requirements.lock says which bytes they must be.
#
#   docker run -d --init --read-only --cap-drop ALL -p 5000:5000 -v mirror:/var/lib/mirror --stop-timeout 40 registry-mirror
#
# --init: credential helpers may leave processes behind, and somebody has to reap them. --stop-timeout: transfers that are
# under way get server.shutdown_timeout to end, and Docker kills after 10 s where it is not told otherwise.
ARG BASE=python:3.11-slim
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS build
WORKDIR /src
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# The brackets make it a pattern, and a pattern may match nothing.
COPY requirements.lock wheel[s] wheels/
# pip stays behind in an environment of its own. The bytecode is not compared with its source again at run time:
# nobody changes either, and a file system that is read-only could not keep a newer one. Pygments is not compiled: that
# would be 4 MB, and rich loads it only to colour source code. zstandard comes with its library twice, of which CPython
# loads the other one.
RUN set -e; \
    python3 -m venv /opt/pip; \
    python3 -m venv --without-pip /opt/mirror; \
    if ls wheels/*.whl >/dev/null 2>&1; then set -- --no-index --find-links wheels; fi; \
    /opt/pip/bin/pip --python /opt/mirror/bin/python install --no-compile --only-binary=:all: --require-hashes "$@" \
        -r wheels/requirements.lock; \
    find /opt/mirror -depth -type d \( -name tests -o -name __pycache__ \) -exec rm -r {} +; \
    find /opt/mirror -path '*/zstandard/_cffi.*.so' -delete
COPY mirror mirror
COPY deploy/health.py deploy/container.yaml ./
RUN set -e; \
    site="$(/opt/mirror/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
    cp -R mirror "$site/"; \
    /opt/mirror/bin/python -m compileall -q --invalidation-mode unchecked-hash -x /pygments/ "$site"; \
    install -m 0755 health.py /opt/mirror/bin/mirror-health; \
    printf '#!/opt/mirror/bin/python\nfrom mirror.cli.main import main\n\nmain()\n' > /opt/mirror/bin/mirror; \
    chmod 0755 /opt/mirror/bin/mirror; \
    /opt/mirror/bin/mirror --version; \
    install -d /root-of-image/opt /root-of-image/etc/mirror /root-of-image/var/lib; \
    install -d -m 0777 /root-of-image/var/lib/mirror; \
    install -m 0644 container.yaml /root-of-image/etc/mirror/mirror.yaml; \
    mv /opt/mirror /root-of-image/opt/mirror

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="registry-mirror" \
      org.opencontainers.image.description="A pull-through caching registry mirror for Docker, containerd, Podman, CRI-O, BuildKit and k3s" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# One layer; /var/lib/mirror in it is writable by every user id, and a fresh volume takes that over.
COPY --from=build /root-of-image/ /
ENV PATH=/opt/mirror/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# A relative storage.path, as a configuration of your own may have it, lies in the volume too.
WORKDIR /var/lib/mirror
USER 65532:0
VOLUME /var/lib/mirror
EXPOSE 5000
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s --retries=3 CMD ["/opt/mirror/bin/mirror-health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/mirror/bin/mirror"]
CMD ["serve", "--config", "/etc/mirror/mirror.yaml"]
