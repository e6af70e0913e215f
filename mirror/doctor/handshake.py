"""TLS with a server that need not be trusted: to see whether it speaks TLS, and what certificate it shows."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from mirror.doctor.certificate import Certificate, read

if TYPE_CHECKING:
    from yarl import URL

    from mirror.upstream.route import Proxy


async def speaks_tls(host: str, port: int, patience: float) -> bool:
    """Say whether a TLS handshake comes to its end there, whatever certificate is shown."""
    try:
        async with asyncio.timeout(patience):
            _, writer = await asyncio.open_connection(host, port, ssl=_believing())
    except (OSError, ValueError):
        return False
    await _end(writer)
    return True


async def shown_by(url: URL, patience: float, *, proxy: Proxy | None = None) -> Certificate | None:
    """Return the certificate that the server of `url` shows; None where there is none to be had."""
    if proxy is not None and proxy.url.scheme != "http":
        return None  # TLS within TLS, for a detail of a text
    try:
        async with asyncio.timeout(patience):
            writer = await _connect(url, proxy)
    except (OSError, EOFError, ValueError):
        return None
    try:
        tls = writer.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True) if tls is not None else None
        return read(der) if der else None
    except ValueError:
        return None  # what is shown is no certificate; the one who asks knows already that TLS fails
    finally:
        await _end(writer)


async def _connect(url: URL, proxy: Proxy | None) -> asyncio.StreamWriter:
    host, port = url.raw_host or "", url.port or 443
    if proxy is None:
        _, writer = await asyncio.open_connection(host, port, ssl=_believing())
        return writer
    reader, writer = await asyncio.open_connection(proxy.url.raw_host or "", proxy.url.port or 80)
    try:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        if proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = await reader.readuntil(b"\r\n\r\n")  # RFC 9110 §9.3.6
        granted = head.split(maxsplit=2)[1:2] == [b"200"]
        if granted:
            await writer.start_tls(_believing(), server_hostname=host)
    except BaseException:
        writer.close()
        raise
    return writer  # without TLS where the proxy refuses


def _believing() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: the certificate itself is what is asked for
    return context


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            await writer.wait_closed()
