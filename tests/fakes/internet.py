"""Names and addresses for the fakes of one test, so that the real ones can be asked for: no packet leaves the machine.

    async with Internet(asyncio.get_running_loop()) as net:
        fake = await net.host(FakeRegistry, "quay.io")      # https://quay.io is now this fake
        net.name("rebound.test", "1.2.3.4", "127.0.0.1")     # the first look-up says the one, the next the other

The program under test looks names up and dials addresses as ever; what is done at the very end of that is
changed: a name has the (public) address that it was given here, and a connection to it ends at the fake's own port.
Names that are not given do not resolve, and addresses that nobody has cannot be reached; loopback is itself.
"""

from __future__ import annotations

import datetime as dt
import errno
import ipaddress
import socket
import ssl
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    import asyncio

    from tests.fakes.registry import FakeRegistry

_getaddrinfo = socket.getaddrinfo
_FIRST = ipaddress.IPv4Address("1.2.0.1")  # of the addresses that hosts are given; public, and nobody's here


class Internet:
    """What the test's loop sees of the world. `dialled` are the addresses that were, in order, with their ports."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._names: dict[str, list[list[str]]] = {}  # -> what each look-up in turn says; the last one stays
        self._routes: dict[tuple[str, int], int] = {}  # -> a port of 127.0.0.1
        self._next = _FIRST
        self._stack = AsyncExitStack()
        self._authority = Authority()
        self.dialled: list[tuple[str, int]] = []
        self.looked_up: list[str] = []

    async def __aenter__(self) -> Self:
        directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fake-internet-"))
        self.ca_file = Path(directory) / "ca.pem"
        self.ca_file.write_bytes(self._authority.pem)
        self._directory = Path(directory)
        loop: Any = self._loop
        self._stack.callback(loop.__dict__.pop, "sock_connect")
        self._stack.callback(setattr, socket, "getaddrinfo", _getaddrinfo)
        socket.getaddrinfo = self._getaddrinfo  # type: ignore[assignment]
        loop.sock_connect = self._sock_connect
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def host(
        self,
        fake: FakeRegistry,
        name: str,
        *,
        tokens: str | None = None,
        storage: str | None = None,
        address: str | None = None,
    ) -> None:
        """Start a fake that is not started yet, as https://`name`, its two other parts at names of their own.

        Each name has an address of its own, a public one; or all have `address`.
        """
        fake.name, fake.token_name, fake.storage_name = name, tokens, storage
        fake.serve_tls(self.certify(name, *filter(None, (tokens, storage))))
        await self._stack.enter_async_context(fake)
        for own, port in ((name, fake.ports[0]), (tokens, fake.ports[0]), (storage, fake.ports[1])):
            if own is not None:
                self.route(own, port, address)

    def route(self, name: str, port: int, address: str | None = None, *, at: int = 443) -> str:
        """Let the port `at` of `name` end at this port of 127.0.0.1; return the address that `name` has."""
        if address is None:
            address = str(self._next)
            self._next += 1
        self.name(name, address)
        # Whatever else is at one address is told apart by its name, as on a balancer.
        self._routes.setdefault((address, at), port)
        return address

    def name(self, name: str, *answers: str) -> None:
        """Let look-ups of `name` say these addresses, one look-up after the other; several at once have a comma."""
        self._names[name] = [answer.split(",") for answer in answers]

    def address(self, name: str) -> str:
        """Return the address that `name` has now."""
        return self._names[name][0][0]

    def certify(self, *names: str) -> ssl.SSLContext:
        """Return a server's context with a certificate for `names`, of the authority in `ca_file`."""
        path = self._directory / f"{names[0]}.pem"
        path.write_bytes(self._authority.certify(*names))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(path)
        return context

    def _getaddrinfo(self, host: Any, port: Any, *more: Any, **options: Any) -> list[Any]:
        options |= dict(zip(("family", "type", "proto", "flags"), more, strict=False))
        try:  # what is an address in some spelling needs nobody to be asked
            return _getaddrinfo(host, port, **{**options, "flags": socket.AI_NUMERICHOST})
        except socket.gaierror:
            pass
        self.looked_up.append(host)
        if host == "localhost":
            answers = ["127.0.0.1"]
        elif host in self._names:
            answers = self._names[host].pop(0) if len(self._names[host]) > 1 else self._names[host][0]
        else:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            entry
            for answer in answers
            for entry in _getaddrinfo(answer, port, **{**options, "flags": socket.AI_NUMERICHOST})
        ]

    async def _sock_connect(self, sock: socket.socket, address: tuple[Any, ...]) -> None:
        host, port = address[:2]
        self.dialled.append((host, port))
        routed = self._routes.get((host, port))
        if routed is not None:
            address = ("127.0.0.1", routed)
        elif not ipaddress.ip_address(host).is_loopback:
            raise OSError(errno.EHOSTUNREACH, "No route to host")
        await type(self._loop).sock_connect(self._loop, sock, address)  # type: ignore[arg-type]


class Authority:
    """An authority for certificates, made for one test."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the tests' authority")])
        self._now = dt.datetime.now(dt.UTC)
        basic = x509.BasicConstraints(ca=True, path_length=0)
        own = self._builder(self._name, self._key).add_extension(basic, critical=True)
        self.pem = own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def certify(self, *names: str) -> bytes:
        """Return a key and a certificate for `names`, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]), key)
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
        )
        signed = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return key.private_bytes(encoding, form, serialization.NoEncryption()) + signed

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - dt.timedelta(hours=1))
            .not_valid_after(self._now + dt.timedelta(days=1))
        )
