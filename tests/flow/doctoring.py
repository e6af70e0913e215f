"""What the tests of `mirror doctor` share: a host to examine, and certificates of every kind of wrong."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mirror import config
from mirror.cli import banner
from mirror.config.proxies import read_proxies
from mirror.doctor.case import Case
from mirror.doctor.examination import examine
from mirror.doctor.finding import Finding, Level
from tests.flow.conftest import document

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry


NOBODY = 65534  # a user id without rights
PATIENCE = 2.0  # seconds for one request


class Host:
    """A host with a file system of its own, below `root`, and an environment of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "root"
        self.store = directory / "store"
        self.environ: dict[str, str] = {}
        self.root.mkdir()

    def put(self, path: str, content: str | Mapping[str, Any] = "") -> Path:
        """Write a file of the host."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    async def examined(
        self,
        upstreams: FakeRegistry | Mapping[str, Any],
        listen: str = "127.0.0.1:0",
        *,
        url: str | None = None,
        files: int | None = None,
        **sections: Any,
    ) -> list[Finding]:
        """Examine the mirror that this configuration is of; `listen` is where it really listens."""
        sections["server"] = {"listen": listen.partition("://")[2] or listen, **sections.get("server", {})}
        settings = config.parse(json.dumps(document(upstreams, self.store, **sections)), "mirror.yaml", self.environ)
        return await examine(
            Case(
                root=self.root,
                config=settings,
                cautions=tuple(banner.warnings(settings)),
                url=url,
                proxies=read_proxies(self.environ, []),
                files=files,
                patience=PATIENCE,
            )
        )


def as_nobody(examine: Callable[[], list[Finding]]) -> list[Finding]:
    """Examine as a user without rights: in a process of its own, since that change is for good."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writer, json.dumps([finding.plain() for finding in examine()]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        found = json.loads(told.read())
    os.waitpid(child, 0)
    return [Finding(**{**one, "level": Level(one["level"])}) for one in found]


def wrong(findings: list[Finding]) -> list[Finding]:
    """Return what is not well."""
    return [finding for finding in findings if finding.level is not Level.OK]


def only(findings: list[Finding]) -> Finding:
    """Return the one thing that is wrong; nothing else may be."""
    found = wrong(findings)
    assert len(found) == 1, "\n".join(map(str, found)) or "nothing was found to be wrong"
    return found[0]


def one(findings: list[Finding], check: str, level: Level) -> Finding:
    """Return the one finding of a check and a level; that on who is served is not counted."""
    found = [f for f in findings if (f.check, f.level) == (check, level) and f.subject != "server.listen"]
    assert len(found) == 1, "\n".join(map(str, findings))
    return found[0]


@asynccontextmanager
async def listening(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    *,
    tls: ssl.SSLContext | None = None,
    path: Path | None = None,
) -> AsyncIterator[int]:
    """Serve HTTP on 127.0.0.1, or on a Unix socket; yield the port."""
    runner = web.ServerRunner(web.Server(handler, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.UnixSite(runner, path) if path else web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        yield 0 if path else runner.addresses[0][1]
    finally:
        await runner.cleanup()


def certificate(
    directory: Path,
    *,
    name: str | None = None,
    days: float = 365,
    since: float = -365,
    authority: str = "Acme Root",
) -> tuple[Path, Path, Path]:
    """Write a certificate that an authority of its own has signed; return it, its key, and the authority's.

    It is for `name`, or else for localhost and 127.0.0.1, from `since` to `days` from now.
    """
    now = dt.datetime.now(dt.UTC)

    def named(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

    def begun(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named(authority))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
        )

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = (
        begun(authority, ca_key)
        .not_valid_before(now - dt.timedelta(days=3650))
        .not_valid_after(now + dt.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names: list[x509.GeneralName] = [x509.DNSName(name or "localhost")]
    if name is None:
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    leaf = (
        begun(name or "localhost", key)
        .not_valid_before(now + dt.timedelta(days=since))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    directory.mkdir(parents=True, exist_ok=True)
    cert_file, key_file, ca_file = directory / "cert.pem", directory / "key.pem", directory / "ca.pem"
    cert_file.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file, ca_file


def serving(cert_file: Path, key_file: Path) -> ssl.SSLContext:
    """Return the context of a server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    return context
