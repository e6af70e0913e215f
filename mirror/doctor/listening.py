"""Whether the mirror answers where it should, and from here."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING

from mirror.doctor import remedies
from mirror.doctor.authorities import authorities
from mirror.doctor.call import Cause, Reply, Trouble, call
from mirror.doctor.finding import About, Finding
from mirror.doctor.handshake import shown_by

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from yarl import URL

    from mirror.doctor.case import Case, Target

_SOON = dt.timedelta(days=14)
_OK, _FORBIDDEN, _UNAVAILABLE = 200, 403, 503


async def examine(case: Case) -> list[Finding]:
    """Ask every address that the mirror should answer at."""
    if not case.targets:
        if case.config is None:
            return []  # the finding on the configuration says what to do first
        return [
            About("listening", "server.listen").warning(
                "the configuration does not say which port it is (0, or sockets of systemd), so nobody was asked",
                "say where the mirror answers: mirror doctor --url http://HOST:PORT",
            )
        ]
    found = await asyncio.gather(*(_examine(case, target) for target in case.targets))
    return [finding for some in found for finding in some] + _scope(case)


async def _examine(case: Case, target: Target) -> list[Finding]:
    about = About("listening", str(target))
    ping = under(target.url, "/v2/")
    reply, through = await ask(case, ping, target.socket)
    detour = await _detour(case, target, ping, reply)
    if isinstance(reply, Trouble):
        return [
            about.failure(await describe(case, target.url, reply), remedies.mirror(reply.cause, target.url)),
            *detour,
        ]
    if (wrong := judge(about, target.url, reply)) is not None:
        return [wrong, *detour]
    findings = [about.ok(f"the mirror answers{through}")]
    trusted = authorities(case, target.url)[0]
    ready = await call(under(target.url, "/readyz"), socket=target.socket, trusted=trusted, patience=case.patience)
    if isinstance(ready, Reply) and ready.mirror and ready.status == _UNAVAILABLE:
        findings = [
            about.failure(
                "the mirror answers, and says on /readyz that it is not ready: it is starting, or it is stopping and "
                "only ends what is under way",
                "wait a moment and ask again; if it stays so, start it again and look at its log",
            )
        ]
    return [*findings, *await _certificate(about, case, target.url), *detour]


async def ask(
    case: Case, url: URL, socket: str | None = None, *, named: Sequence[Path] = ()
) -> tuple[Reply | Trouble, str]:
    """GET `url` as a client of this host does, trusting what the clients' own directories hold; say if that helped.

    `named` are authorities that the client's configuration names.
    """
    reply = await call(url, socket=socket, patience=case.patience)
    if isinstance(reply, Trouble) and reply.cause is Cause.UNTRUSTED:
        trusted, files = authorities(case, url, named)
        if trusted is not None:
            again = await call(url, trusted=trusted, patience=case.patience)
            if isinstance(again, Trouble):
                return (reply if again.cause is Cause.UNTRUSTED else again), ""
            return again, f"; clients here trust it through {', '.join(files)}"
    return reply, ""


def judge(about: About, url: URL, reply: Reply) -> Finding | None:
    """Return what is wrong with an answer to `/v2/`, or None where it is a mirror's, and a good one."""
    if not reply.mirror:
        server = reply.headers.get("Server", "").partition(" ")[0][:40]
        who = f" ({server})" if server.isprintable() and server else ""
        if reply.status in (502, 503, 504):
            return about.failure(
                f"a proxy{who} answers in the mirror's place, with {reply.status}: it does not reach the mirror",
                "start the mirror, and see that the proxy in front passes requests to an address of server.listen",
            )
        what = (
            "a registry that is not this mirror" if "Docker-Distribution-Api-Version" in reply.headers else "no mirror"
        )
        return about.failure(
            f"something else listens there{who}: what answers, with {reply.status}, is {what}",
            f"find out what has port {url.port} with `ss -ltnp`, and end it, or give the mirror another port "
            "(server.listen, and the clients' files)",
        )
    if reply.status == _FORBIDDEN:
        return about.failure(
            "the mirror refuses this machine (403): its address is not among those that may ask",
            "add this machine's network to server.allow_clients of the mirror's configuration, and take it out of "
            "server.deny_clients; behind a reverse proxy, name that one under server.trusted_proxies",
        )
    if reply.status != _OK:
        return about.failure(
            f"the mirror answers {reply.status} where 200 is due",
            "look at its log; 429 and 503 say that more is asked of it than its limits allow (server.max_…)",
        )
    return None


async def describe(case: Case, url: URL, trouble: Trouble) -> str:
    """Return the trouble in words, with what the certificate says where that is what it is about."""
    if trouble.cause not in (Cause.EXPIRED, Cause.NOT_YET, Cause.WRONG_NAME, Cause.UNTRUSTED):
        return trouble.detail
    certificate = await shown_by(url, case.patience)
    if certificate is None:
        return trouble.detail
    if trouble.cause is Cause.EXPIRED:
        return f"its certificate has expired, on {certificate.ends:%Y-%m-%d %H:%M} UTC"
    if trouble.cause is Cause.NOT_YET:
        return f"its certificate is not valid before {certificate.begins:%Y-%m-%d %H:%M} UTC"
    if trouble.cause is Cause.WRONG_NAME:
        names = ", ".join(certificate.names[:5]) or "no name at all"
        return f"its certificate is not for {url.host}, but for {names}"
    by = "by itself (self-signed)" if certificate.own else f"by {certificate.issuer}"
    past = "; and it has expired" if certificate.ends < dt.datetime.now(dt.UTC) else ""
    return f"its certificate is signed {by}, whom this host does not trust{past}"


async def _certificate(about: About, case: Case, url: URL) -> list[Finding]:
    """Return a warning where the certificate ends soon. It is trusted: the mirror has answered."""
    if url.scheme != "https":
        return []
    certificate = await shown_by(url, case.patience)
    if certificate is None or certificate.ends - dt.datetime.now(dt.UTC) > _SOON:
        return []
    return [
        about.warning(
            f"its certificate expires soon, on {certificate.ends:%Y-%m-%d %H:%M} UTC",
            "renew it: put the new one where server.tls.cert_file and key_file are; the mirror loads it by itself",
        )
    ]


async def _detour(case: Case, target: Target, ping: URL, direct: Reply | Trouble) -> list[Finding]:
    """Return what the environment's proxy makes of requests to the mirror."""
    proxy = case.proxy(target.url) if target.socket is None else None
    if proxy is None:
        return []
    about = About("proxy in the way", str(target))
    where, host = f"{proxy.url.host}:{proxy.url.port}", target.url.host
    cure = (
        f"add {host} to no_proxy, for the clients too: `no-proxy` below `proxies` in /etc/docker/daemon.json, or "
        "NO_PROXY in the units of docker, containerd and crio (systemctl edit docker), and start those again"
    )
    reply = await call(ping, proxy=proxy, patience=case.patience)
    if isinstance(reply, Reply) and reply.mirror:
        if isinstance(direct, Reply) and direct.mirror:
            return [about.warning(f"the environment sends requests for the mirror by way of the proxy {where}", cure)]
        return [about.ok(f"the mirror answers by way of the proxy {where}")]
    what = reply.detail if isinstance(reply, Trouble) else f"it answered {reply.status}"
    return [
        about.failure(
            f"the environment sends requests for the mirror to the proxy {where}, which fails to bring them there: "
            f"{what}",
            cure,
        )
    ]


def _scope(case: Case) -> list[Finding]:
    """Say who can reach the mirror, where nobody but this host can."""
    if case.config is None or not case.here or case.config.server.public_url or case.url is not None:
        return []
    listens = case.config.server.listen
    if not all(listen.local for listen in listens):
        return []
    return [
        About("listening", "server.listen").ok(
            f"only programs on this host reach {', '.join(map(str, listens))}",
            "to serve other hosts: server.listen: 0.0.0.0:5000",
        )
    ]


def under(url: URL, path: str) -> URL:
    """Return the URL of one of the mirror's paths."""
    return url.with_path(url.path.rstrip("/") + path)
