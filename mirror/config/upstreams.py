"""The `upstreams:` section: what is configured, merged over the well-known public registries."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from mirror.config.credentials import auth_hosts
from mirror.config.schema import CredentialsSection, UpstreamSection
from mirror.config.sections import kind, read_section
from mirror.config.values import UpstreamConfig
from mirror.errors import NameInvalid
from mirror.oci.namespaces import canonical, check_host

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mirror.config.document import Document, Tree

WELL_KNOWN = {
    "docker.io": "https://registry-1.docker.io",
    "quay.io": "https://quay.io",
    "ghcr.io": "https://ghcr.io",
    "gcr.io": "https://gcr.io",
    "registry.k8s.io": "https://registry.k8s.io",
    "mcr.microsoft.com": "https://mcr.microsoft.com",
    "public.ecr.aws": "https://public.ecr.aws",
    "nvcr.io": "https://nvcr.io",
    "lscr.io": "https://lscr.io",
    "registry.gitlab.com": "https://registry.gitlab.com",
}

_YES = frozenset({"true", "yes", "on"})
_NO = frozenset({"false", "no", "off"})


def read_upstreams(document: Document, tree: Tree) -> tuple[dict[str, UpstreamConfig], bool, frozenset[str]]:
    """Return every upstream by its canonical name, whether other public ones are admitted, and which never are.

    Those are written `"*": true` and `NAME: false`.
    """
    upstreams = {name: UpstreamConfig(name=name, url=url) for name, url in WELL_KNOWN.items()}
    wildcard, refused = False, set[str]()
    if tree is None:
        return upstreams, wildcard, frozenset()
    if not isinstance(tree, dict):
        document.blame(("upstreams",), f"is {kind(tree)}, and should hold names of registries; write quay.io: {{}}")
        return upstreams, wildcard, frozenset()

    spelled: dict[str, str] = {}
    for key, entry in tree.items():
        location = ("upstreams", key)
        if key == "*":
            wildcard = _wildcard(document, entry)
            continue
        name = canonical(key)
        try:
            check_host(name)
        except NameInvalid:
            document.blame(location, _no_host(key))
            continue
        if name in spelled:
            document.blame(location, f"is the same registry as {spelled[name]}; write both in one entry")
            continue
        spelled[name] = key
        if isinstance(entry, str) and entry.lower() in _NO:
            upstreams.pop(name, None)
            refused.add(name)
        else:
            upstreams[name] = _upstream(document, key, name, None if _is_yes(entry) else entry)
    return upstreams, wildcard, frozenset(refused)


def _is_yes(entry: Tree) -> bool:
    return isinstance(entry, str) and entry.lower() in _YES


def _wildcard(document: Document, entry: Tree) -> bool:
    if isinstance(entry, str) and entry.lower() in _YES | _NO:
        return entry.lower() in _YES
    document.blame(("upstreams", "*"), 'has no settings of its own; write "*": true to admit every public registry')
    return False


def _no_host(key: str) -> str:
    if "://" in key:
        return "is a URL; write the registry's name here, and the URL below it as url:"
    if "*" in key:
        return 'is not a registry; "*" alone admits every public one'
    return "is not a registry; write its host, as images name it: quay.io or registry.example:5000"


def _upstream(document: Document, key: str, name: str, entry: Tree) -> UpstreamConfig:
    """Return one upstream; where it has problems, what is left of it serves to find more of them elsewhere."""
    location = ("upstreams", key)
    url = WELL_KNOWN.get(name, f"https://{name}")
    if isinstance(entry, str):
        document.blame(location, 'is a single value; write {url: "https://…"}, or false')
        return UpstreamConfig(name=name, url=url)
    if isinstance(entry, dict):
        _check_credentials(document, entry, key)
    section = read_section(UpstreamSection, document, entry, location, "upstreams.NAME")
    if section is None:
        return UpstreamConfig(name=name, url=url)
    _check_client_certificate(document, section, key, section.url or url)
    return UpstreamConfig(
        name=name,
        url=section.url or url,
        endpoints=section.endpoints,
        username=section.username,
        password=section.password or (section.password_file[1] if section.password_file else None),
        password_file=section.password_file[0] if section.password_file else None,
        exec=section.exec,
        read_ahead=section.read_ahead,
        realms=tuple(section.realms),
        ca_file=section.ca_file,
        client_cert_file=section.client_cert_file,
        client_key_file=section.client_key_file,
        proxies=section.proxy,
    )


def read_credentials_files(
    document: Document, tree: dict[str, Tree], upstreams: Mapping[str, UpstreamConfig]
) -> tuple[tuple[Path, ...], frozenset[str]]:
    """Return the files of `credentials_files:`, and the upstreams that they have credentials for."""
    own = {key: value for key, value in tree.items() if key == "credentials_files"}
    section = read_section(CredentialsSection, document, own, (), "")
    if section is None:
        return (), frozenset()
    named = frozenset(
        name
        for name, upstream in upstreams.items()
        if any(file.covers(auth_hosts(name, upstream.url)) for _, file in section.credentials_files)
    )
    return tuple(path for path, _ in section.credentials_files), named


def _check_credentials(document: Document, entry: dict[str, Tree], key: str) -> None:
    """Look at which keys are there, so that a wrong value beside them hides nothing."""
    passwords = [name for name in ("password", "password_file") if name in entry]
    if len(passwords) > 1:
        document.blame(("upstreams", key, "password_file"), "stands beside password; keep one of them")
    if "exec" in entry and (beside := next((name for name in ("username", *passwords) if name in entry), None)):
        document.blame(("upstreams", key, "exec"), f"stands beside {beside}; keep one of them")
    if passwords and "username" not in entry:
        document.blame(("upstreams", key, passwords[0]), "has no username beside it; write one")
    if "username" in entry and not passwords:
        document.blame(("upstreams", key, "username"), "has no password beside it; write password_file")


def _check_client_certificate(document: Document, section: UpstreamSection, key: str, url: str) -> None:
    files = {"client_cert_file": section.client_cert_file, "client_key_file": section.client_key_file}
    given = [name for name, path in files.items() if path is not None]
    if not given:
        return
    where = ("upstreams", key, given[0])
    cert_file, key_file = files.values()
    if cert_file is None or key_file is None:
        missing = next(name for name, path in files.items() if path is None)
        document.blame(where, f"has no {missing} beside it; write both")
        return
    if url.startswith("http://"):
        document.blame(where, "is shown to nobody over http://; give an https:// url")
    if section.proxy is not None and (section.proxy.https or "").startswith("https://"):
        document.blame(where, "would be shown to a proxy that is spoken to over https:// too; use its http:// address")
    try:
        # The empty password keeps OpenSSL from asking for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert_file, key_file, password="")
    except (ssl.SSLError, OSError, ValueError):
        document.blame(
            where,
            "and client_key_file do not load together; they are PEM files, the key is not encrypted and is the "
            "certificate's own",
        )
