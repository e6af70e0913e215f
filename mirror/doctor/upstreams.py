"""Whether each upstream can be reached, is trusted, and takes the credentials; and what its clock says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yarl import URL

from mirror.doctor import remedies
from mirror.doctor.call import Cause, Reply, Trouble, call
from mirror.doctor.finding import About, Finding
from mirror.doctor.handshake import shown_by
from mirror.doctor.listening import under
from mirror.errors import ConfigError, UpstreamBroken, UpstreamDenied, UpstreamError, UpstreamLimited
from mirror.upstream.challenge import first, parse_challenges
from mirror.upstream.registries import Registries
from mirror.upstream.route import Route
from mirror.upstream.tls import Tls
from mirror.upstream.trust import Trust

if TYPE_CHECKING:
    from mirror.config import UpstreamConfig
    from mirror.doctor.case import Case
    from mirror.upstream.budget import Budget
    from mirror.upstream.protocol import Probe
    from mirror.upstream.route import Proxy

_PATIENCE = 12.0  # seconds for one upstream, its token service and what is tried again included
_SEVERAL = 3
_LIMITED = (
    "wait, or give upstreams.{name} credentials: those who log in may ask more often (mirror ratelimit shows the rest)"
)
_SLOW = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of asking one upstream. `ahead`: by how many seconds its clock is ahead of this host's, if it told."""

    finding: Finding
    ahead: float | None = None
    cause: Cause | None = None  # why nothing came, where that is so


async def probe(case: Case) -> list[Probed]:
    """Ask every configured upstream at once, as the mirror itself would ask it."""
    config = case.config
    if config is None or not case.here:
        return []
    if config.server.offline:
        about = About("upstreams", "server.offline")
        return [Probed(about.ok("the mirror is offline by its configuration: no upstream was asked"))]
    try:
        registries = Registries(config, instance="doctor", request_id=lambda: None)
    except ConfigError as error:
        about = About("upstreams", config.source)
        return [Probed(about.failure(problem, "correct it: mirror check")) for problem in error.problems]
    try:
        probed = await asyncio.gather(*(_probe(case, upstream, registries) for upstream in config.upstreams.values()))
    finally:
        await registries.close()
    return _together(probed)


def _together(probed: list[Probed]) -> list[Probed]:
    """Say once what all upstreams suffer from: then it is this host that has the trouble."""
    causes = {one.cause for one in probed}
    if len(probed) < _SEVERAL or len(causes) > 1 or None in causes:
        return probed
    first = probed[0].finding
    about = About(first.check, ", ".join(one.finding.subject for one in probed))
    where = f"{len(probed)} of {len(probed)} upstreams fail alike, so it is this host's way out; {first.subject} says"
    return [Probed(about.failure(f"{where}: {first.found}", first.cure))]


async def _probe(case: Case, upstream: UpstreamConfig, registries: Registries) -> Probed:
    about = About("upstreams", upstream.name)
    registry = registries.of(upstream.name)
    try:
        answer = await registry.probe(patience=_PATIENCE)
    except UpstreamError as error:
        return await _failed(about, case, upstream, error)
    ahead = answer.date - case.now() if answer.date is not None else None
    return Probed(await _answered(about, case, upstream, answer, registry.budget), ahead)


async def _answered(
    about: About, case: Case, upstream: UpstreamConfig, answer: Probe, budget: Budget | None
) -> Finding:
    took = f"it answers, after {answer.seconds:.1f} s"
    if URL(upstream.url).scheme == "https":
        certificate = await shown_by(URL(upstream.url), case.patience, proxy=_proxy(case, upstream))
        took += f", with a certificate by {certificate.issuer}" if certificate is not None else ""
    if answer.offered and not answer.identity:
        return await _withheld(about, case, upstream, took)
    who = "; the credentials are good" if answer.identity else ""
    if budget is not None and budget.remaining is not None:
        who += f"; {budget.remaining} of {budget.limit or '?'} requests are left"
        if budget.remaining <= 0:
            return about.warning(
                f"{took}{who}: it sends nothing new until its limit begins anew", _LIMITED.format(name=upstream.name)
            )
    if answer.seconds > _SLOW:
        return about.warning(
            f"{took}{who}: so long waits each image that is new",
            "see to the line, DNS (an IPv6 address that leads nowhere?) and the proxy between this host and it",
        )
    return about.ok(took + who)


async def _withheld(about: About, case: Case, upstream: UpstreamConfig, took: str) -> Finding:
    """Return why credentials that are configured were shown to nobody."""
    url = URL(upstream.url)
    reply = await _call(case, upstream)
    challenge = None
    if isinstance(reply, Reply):
        challenge = first(parse_challenges(_all(reply, "WWW-Authenticate")), "bearer")
    if challenge is None:
        return about.ok(
            f"{took}; it let everybody in and asked for no credentials, so whether they are good was not to be seen"
        )
    realm = url.join(URL(challenge.realm))
    if Trust(url, upstream.realms).covers(realm):
        return about.ok(f"{took}; it took no credentials, and gave a token without them")
    host = realm.host if realm.is_default_port() else f"{realm.host}:{realm.port}"
    return about.failure(
        f"the credentials are shown to nobody, so private images fail: its token service {host} is outside the "
        "registry's own domain",
        f"if {host} may see them: upstreams.{upstream.name}.realms: [{host}]",
    )


async def _failed(about: About, case: Case, upstream: UpstreamConfig, error: UpstreamError) -> Probed:
    entry, url = f"upstreams.{upstream.name}", URL(upstream.url)
    said = str(error).removeprefix(f"{upstream.name}: ")
    if isinstance(error, UpstreamDenied):
        found = about.failure(
            said,
            f"correct the user name and the password of {entry}; tokens expire: make a new one where they are made. "
            "If it needs none: take them away",
        )
        return Probed(found)
    if isinstance(error, UpstreamLimited):
        found = about.warning(said, _LIMITED.format(name=upstream.name))
        return Probed(found)
    reply = await _call(case, upstream)
    if isinstance(reply, Trouble):
        cure = remedies.upstream(reply.cause, upstream.name, url, proxied=_proxy(case, upstream) is not None)
        return Probed(about.failure(said + await _by_whom(case, upstream, reply), cure), cause=reply.cause)
    if isinstance(error, UpstreamBroken):
        cure = (
            f"see whether {entry}.url is a registry's own address; a token service that may be trusted goes under "
            f"{entry}.realms"
        )
        return Probed(about.failure(said, cure))
    if reply.status == 407:  # noqa: PLR2004
        return Probed(about.failure(said, remedies.upstream(Cause.PROXY, upstream.name, url, proxied=True)))
    cure = f"if {entry}.url is right, whoever runs it has trouble: what is cached is served meanwhile; ask again later"
    return Probed(about.failure(said, cure))


async def _by_whom(case: Case, upstream: UpstreamConfig, trouble: Trouble) -> str:
    """Name the authority that signed what is not trusted: a person knows it when a firewall stands in between."""
    if trouble.cause not in (Cause.UNTRUSTED, Cause.EXPIRED, Cause.WRONG_NAME):
        return ""
    certificate = await shown_by(URL(upstream.url), case.patience, proxy=_proxy(case, upstream))
    if certificate is None:
        return ""
    by = "itself" if certificate.own else certificate.issuer
    until = f"{certificate.ends:%Y-%m-%d}"
    return f"; the certificate is for {', '.join(certificate.names[:3]) or certificate.subject}, by {by}, until {until}"


async def _call(case: Case, upstream: UpstreamConfig) -> Reply | Trouble:
    url = under(URL(upstream.url), "/v2/")
    trusted = await Tls(upstream, Trust(URL(upstream.url), upstream.realms)).context(url, kind="ping")
    return await call(url, proxy=_proxy(case, upstream), trusted=trusted, patience=case.patience)


def _proxy(case: Case, upstream: UpstreamConfig) -> Proxy | None:
    proxies = upstream.proxies if upstream.proxies is not None else case.proxies
    return Route(proxies).proxy(URL(upstream.url))


def _all(reply: Reply, name: str) -> list[str]:
    return list(reply.headers.getall(name, []))
