"""HTTPS: what is spoken, and how certificates are renewed under connections that stay."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import os
import shutil
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from mirror import metrics
from mirror.config import Tls
from mirror.errors import ConfigError
from mirror.oci.digest import Digest
from mirror.server import certificate as served
from mirror.server.validity import expiry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, StartMirror

REPO = "library/app"
LARGE = bytes(range(251)) * 20_000  # about 5 MB


def issue(directory: Path, *, days: float = 90, keys: str = "ec", name: str = "localhost") -> x509.Certificate:
    """Write `cert.pem` and `key.pem` into `directory`."""
    key = ec.generate_private_key(ec.SECP256R1()) if keys == "ec" else rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=400))
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    directory.mkdir(exist_ok=True)
    (directory / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "key.pem").write_bytes(private)
    return made


def tls(directory: Path) -> dict[str, dict[str, str]]:
    return {"tls": {"cert_file": str(directory / "cert.pem"), "key_file": str(directory / "key.pem")}}


async def shown(mirror: Mirror, **settings: object) -> x509.Certificate:
    """Return the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, value in settings.items():
        setattr(context, name, value)
    host, _, port = mirror.url.removeprefix("https://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return x509.load_der_x509_certificate(der)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the files a hundred times a second."""
    monkeypatch.setattr(served, "POLL", 0.01)


async def renewed(mirror: Mirror, expected: x509.Certificate) -> None:
    async with asyncio.timeout(20):
        while await shown(mirror) != expected:  # noqa: ASYNC110  # the mirror says only in its log that it has looked
            await asyncio.sleep(0.01)


@asynccontextmanager
async def kept(mirror: Mirror) -> AsyncIterator[None]:
    """Ask before and after over one connection."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = mirror.url.removeprefix("https://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    for turn in range(2):
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: mirror\r\n\r\n")
        assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 200 ")
        if turn == 0:
            yield
    writer.close()
    await writer.wait_closed()


@pytest.mark.usefixtures("looks")
@pytest.mark.parametrize("keys", ["ec", "rsa"])
async def test_a_certificate_that_is_renewed_is_shown_and_connections_stay(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path, keys: str
) -> None:
    """Another kind of key must not stand beside the old one: clients would choose the one that has expired."""
    old = issue(tmp_path / "tls")
    mirror = await start(upstream, server=tls(tmp_path / "tls"))
    assert await shown(mirror) == old
    async with kept(mirror):
        new = issue(tmp_path / "tls", keys=keys, days=60)
        await renewed(mirror, new)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert await shown(mirror, minimum_version=version, maximum_version=version) == new
    assert metrics.CERTIFICATE_EXPIRES._value.get() == new.not_valid_after_utc.timestamp()


@pytest.mark.usefixtures("looks")
async def test_a_link_that_is_turned_round_renews_it_as_kubernetes_and_certbot_do(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    issue(tmp_path / "..2026_01")
    (tmp_path / "..data").symlink_to("..2026_01")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for name in ("cert.pem", "key.pem"):
        (mounted / name).symlink_to(f"../..data/{name}")
    mirror = await start(upstream, server=tls(mounted))
    new = issue(tmp_path / "..2026_02")
    (tmp_path / "..data_tmp").symlink_to("..2026_02")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")  # noqa: PTH105  # as the kubelet does
    shutil.rmtree(tmp_path / "..2026_01")
    await renewed(mirror, new)


@pytest.mark.usefixtures("looks")
@pytest.mark.parametrize("damage", ["another key", "no certificate", "gone"])
async def test_a_pair_that_is_of_no_use_is_said_once_and_the_one_before_stays(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    old = issue(tmp_path / "tls")
    mirror = await start(upstream, server=tls(tmp_path / "tls"))
    if damage == "gone":
        (tmp_path / "tls/key.pem").unlink()
    elif damage == "no certificate":
        (tmp_path / "tls/cert.pem").write_text("-----BEGIN CERTIFICATE-----\nMII\n")
    else:
        issue(tmp_path / "other")
        shutil.copy(tmp_path / "other/key.pem", tmp_path / "tls/key.pem")
    logged = ""
    async with asyncio.timeout(20):
        while "are of no use" not in logged:
            assert await shown(mirror) == old
            logged += capsys.readouterr().out
    for _ in range(5):
        assert await shown(mirror) == old
    assert (logged + capsys.readouterr().out).count("are of no use") == 1
    await renewed(mirror, issue(tmp_path / "tls"))


async def test_what_is_old_or_asks_for_more_than_http_1_is_not_spoken(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    issue(tmp_path / "tls")
    mirror = await start(upstream, server=tls(tmp_path / "tls"))
    host, _, port = mirror.url.removeprefix("https://").partition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    writer.close()
    await writer.wait_closed()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await asyncio.open_connection(host, int(port), ssl=context)


async def test_what_goes_out_in_tls_is_whole_warm_and_in_ranges(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    issue(tmp_path / "tls")
    mirror = await start(upstream, server=tls(tmp_path / "tls"))
    blob = upstream.add_blob(REPO, LARGE)
    connector = aiohttp.TCPConnector(ssl=False)
    async with aiohttp.ClientSession(mirror.url, connector=connector, auto_decompress=False) as client:
        for _ in range(2):
            async with client.get(f"/v2/{REPO}/blobs/{blob}") as response:
                assert Digest.of(await response.read()) == blob
            await mirror.settled()
        for start_at, stop in ((1, 2), (100_000, 3_000_000), (len(LARGE) - 1, len(LARGE))):
            headers = {"Range": f"bytes={start_at}-{stop - 1}"}
            async with client.get(f"/v2/{REPO}/blobs/{blob}", headers=headers) as response:
                assert await response.read() == LARGE[start_at:stop]


async def test_a_client_that_does_not_read_makes_the_mirror_hold_little_of_a_blob(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    issue(tmp_path / "tls")
    mirror = await start(upstream, server=tls(tmp_path / "tls"))
    huge = bytes(64 * 1024 * 1024)
    blob = upstream.add_blob(REPO, huge)
    connector = aiohttp.TCPConnector(ssl=False)
    async with (
        aiohttp.ClientSession(mirror.url, connector=connector, auto_decompress=False, read_bufsize=4096) as client,
        client.get(f"/v2/{REPO}/blobs/{blob}") as response,
    ):
        await response.content.readexactly(10)
        await mirror.settled()
        (connection,) = mirror.server._http.connections
        assert connection.transport is not None
        assert connection.transport.get_write_buffer_size() < 3 * 1024 * 1024
        assert len(await response.content.read()) == len(huge) - 10


def test_the_end_of_a_certificate_is_read_from_its_file(tmp_path: Path) -> None:
    for days in (10, 365 * 40):  # UTCTime, and GeneralizedTime from 2050 on
        made = issue(tmp_path / "tls", days=days)
        pem = (tmp_path / "tls/cert.pem").read_bytes()
        assert expiry(b"subject=x\n" + (tmp_path / "tls/key.pem").read_bytes() + pem) == (
            made.not_valid_after_utc.timestamp()
        )
    for broken in (b"", b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"):
        assert expiry(broken) == math.inf


def test_a_certificate_that_ends_soon_is_warned_of_once_a_day(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for days, said in ((13, "expires soon"), (-1, "HAS EXPIRED"), (15, "")):
        made = issue(tmp_path / "tls", days=days)
        certificates = served.Certificates()
        certificates.use(served.load(Tls(tmp_path / "tls/cert.pem", tmp_path / "tls/key.pem")))
        certificates.warn(dt.datetime.now(dt.UTC).timestamp())
        logged = capsys.readouterr().out
        assert said in logged
        assert logged.count("\n") == (1 if said else 0)
        assert metrics.CERTIFICATE_EXPIRES._value.get() == made.not_valid_after_utc.timestamp()


def test_files_that_do_not_load_are_refused_with_what_to_do(tmp_path: Path) -> None:
    issue(tmp_path / "one")
    issue(tmp_path / "two")
    with pytest.raises(ConfigError, match="do not load together; they are PEM files"):
        served.load(Tls(tmp_path / "one/cert.pem", tmp_path / "two/key.pem"))
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file"):
        served.load(Tls(tmp_path / "one/cert.pem", tmp_path / "none/key.pem"))
