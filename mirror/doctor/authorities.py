"""The authorities that this host's clients trust for one registry, beside those of the system."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from yarl import URL

    from mirror.doctor.case import Case

# docs.docker.com/engine/security/certificates, containers-certs.d(5), containerd docs/hosts.md
_DIRECTORIES = ("/etc/docker/certs.d", "/etc/containers/certs.d", "/etc/containerd/certs.d")
_OWN = ("/etc/rancher/k3s/mirror-ca.crt", "/etc/rancher/rke2/mirror-ca.crt")  # where `mirror client-config k3s` has it


def authorities(case: Case, url: URL, named: Sequence[Path] = ()) -> tuple[ssl.SSLContext | None, list[str]]:
    """Return a context that trusts what this host's clients trust for `url`, and which files that is.

    `named` are further files, which a client's configuration names. None where there is no file for it. A file that
    cannot be read, or holds no certificate, helps nobody.
    """
    if url.scheme != "https":
        return None, []
    host = f"[{url.host}]" if ":" in (url.host or "") else url.host
    names = [f"{host}:{url.port}", f"{host}_{url.port}_", *([f"{host}"] if url.is_default_port() else [])]
    looked = [path for each in _DIRECTORIES for name in names for path in sorted(_files(case.at(f"{each}/{name}")))]
    context = ssl.create_default_context()
    files = []
    for path in [*named, *looked, *map(case.at, _OWN)]:
        try:
            context.load_verify_locations(cafile=path)
        except OSError:  # ssl.SSLError is one
            continue
        files.append(str(path))
    return (context, files) if files else (None, [])


def _files(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.suffix == ".crt"]
    except OSError:
        return []
