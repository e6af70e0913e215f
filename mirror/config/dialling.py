"""What an upstream and each of its endpoints have alike: an address, how it is dialled, and who asks there."""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.config.document import Document, Location, Tree
    from mirror.config.schema import DialSection, LoginSection
    from mirror.config.values import Secret, UpstreamConfig

LOGIN_KEYS = ("username", "password", "password_file", "exec")


def dialled(base: UpstreamConfig, section: DialSection, url: str) -> UpstreamConfig:
    """Return `base` at another address, dialled as `section` says."""
    return replace(
        base,
        url=url,
        ns=section.ns,
        prefix=section.prefix,
        username=section.username,
        password=password_of(section),
        password_file=section.password_file[0] if section.password_file else None,
        exec=section.exec,
        realms=tuple(section.realms),
        ca_file=section.ca_file,
        client_cert_file=section.client_cert_file,
        client_key_file=section.client_key_file,
        proxies=section.proxy,
    )


def password_of(section: LoginSection) -> Secret | None:
    """Return the password, wherever it stands."""
    return section.password or (section.password_file[1] if section.password_file else None)


def check_login(document: Document, entry: dict[str, Tree], location: Location) -> None:
    """Look at which keys are there, so that a wrong value beside them hides nothing."""
    passwords = [name for name in ("password", "password_file") if name in entry]
    if len(passwords) > 1:
        document.blame((*location, "password_file"), "stands beside password; keep one of them")
    if "exec" in entry and (beside := next((name for name in ("username", *passwords) if name in entry), None)):
        document.blame((*location, "exec"), f"stands beside {beside}; keep one of them")
    if passwords and "username" not in entry:
        document.blame((*location, passwords[0]), "has no username beside it; write one")
    if "username" in entry and not passwords:
        document.blame((*location, "username"), "has no password beside it; write password_file")


def check_client_certificate(document: Document, section: DialSection, location: Location, url: str) -> None:
    """Blame a certificate to show that is not whole, does not load, or that nobody at `url` would see."""
    files = {"client_cert_file": section.client_cert_file, "client_key_file": section.client_key_file}
    given = [name for name, path in files.items() if path is not None]
    if not given:
        return
    where = (*location, given[0])
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
