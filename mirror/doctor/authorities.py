"""The authorities that this host's clients trust for one registry, beside those of the system."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yarl import URL

    from mirror.doctor.case import Case

# docs.docker.com/engine/security/certificates, containers-certs.d(5), containerd docs/hosts.md
_DIRECTORIES = ("/etc/docker/certs.d", "/etc/containers/certs.d", "/etc/containerd/certs.d")


def authorities(case: Case, url: URL) -> tuple[ssl.SSLContext | None, list[str]]:
    """Return a context that trusts what Docker, containerd or Podman trust for `url` here, and which files that is.

    None where they have no file for it. A file that cannot be read, or holds no certificate, helps nobody.
    """
    if url.scheme != "https":
        return None, []
    context = ssl.create_default_context()
    files = []
    for directory in _DIRECTORIES:
        for path in sorted(case.at(f"{directory}/{url.host}:{url.port}").glob("*.crt")):
            try:
                context.load_verify_locations(cafile=path)
            except OSError:  # ssl.SSLError is one
                continue
            files.append(str(path))
    return (context, files) if files else (None, [])
