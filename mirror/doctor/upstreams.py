"""Whether each upstream can be reached, is trusted, and takes the credentials; and what its clock says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from yarl import URL

from mirror.doctor import dealings, expiry, hosted, remedies
from mirror.doctor.call import Cause, Reply, Trouble, call
from mirror.doctor.finding import About, Finding
from mirror.doctor.handshake import shown_by
from mirror.doctor.listening import under
from mirror.doctor.places import Places
from mirror.errors import ConfigError, UpstreamBroken, UpstreamDenied, UpstreamError, UpstreamLimited
from mirror.upstream.challenge import first, parse_challenges
from mirror.upstream.logins import NoCredentials
from mirror.upstream.route import Route
from mirror.upstream.tls import Tls
from mirror.upstream.trust import Trust

if TYPE_CHECKING:
    from mirror.config import UpstreamConfig
    from mirror.doctor.case import Case
    from mirror.doctor.places import Place
    from mirror.store.dealings import Dealings
    from mirror.upstream.accounts import AccountState
    from mirror.upstream.protocol import Probe
    from mirror.upstream.route import Proxy

_PATIENCE = 12.0  # seconds for one upstream, its token service and what is tried again included
_SEVERAL = 3
_LIMITED = "wait, or give {entry} credentials: those who log in may ask more often (mirror ratelimit shows the rest)"
_SLOW = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of asking one upstream. `ahead`: by how many seconds its clock is ahead of this host's, if it told."""

    finding: Finding
    ahead: float | None = None
    cause: Cause | None = None  # why nothing came, where that is so
    more: tuple[Finding, ...] = ()  # what else is to be said of it


async def probe(case: Case, book: Dealings) -> list[Probed]:
    """Ask every configured upstream at once, as the mirror itself would ask it: each endpoint, with each credential.

    `book` has what the mirror knows of them: one that is to be left alone is not asked.
    """
    config = case.config
    if config is None or not case.here:
        return []
    if config.server.offline:
        about = About("upstreams", "server.offline")
        return [Probed(about.ok("the mirror is offline by its configuration: no upstream was asked"))]
    try:
        places = Places(case, config, book)
    except ConfigError as error:
        about = About("upstreams", config.source)
        return [Probed(about.failure(problem, "correct it: mirror check")) for problem in error.problems]
    try:
        probed = await asyncio.gather(*(_probe(case, places, place) for place in places.all))
    finally:
        await places.close()
    pairs = list(zip(probed, places.all, strict=True))
    registries = _clocked([(one, place) for one, place in pairs if place.number is None])
    # A cache near by may be wrong together with this host: what its clock says is left out.
    others = [replace(one, ahead=None) for one, place in pairs if place.number is not None]
    alone = [
        Probed(finding)
        for upstream in config.upstreams.values()
        for finding in dealings.circuits(upstream, book, case.now())
    ]
    return [*_together(registries), *others, *alone]


def _clocked(pairs: list[tuple[Probed, Place]]) -> list[Probed]:
    """Count each registry's clock once, whoever asks it."""
    told: set[str] = set()
    found = []
    for one, place in pairs:
        found.append(replace(one, ahead=None) if place.upstream.name in told else one)
        told |= {place.upstream.name} if one.ahead is not None else set()
    return found


def _together(probed: list[Probed]) -> list[Probed]:
    """Say once what all upstreams suffer from: then it is this host that has the trouble."""
    causes = {one.cause for one in probed}
    if len(probed) < _SEVERAL or len(causes) > 1 or None in causes:
        return probed
    first = probed[0].finding
    about = About(first.check, ", ".join(one.finding.subject for one in probed))
    where = f"{len(probed)} of {len(probed)} upstreams fail alike, so it is this host's way out; {first.subject} says"
    return [Probed(about.failure(f"{where}: {first.found}", first.cure))]


async def _probe(case: Case, places: Places, place: Place) -> Probed:
    about = About("upstreams", place.subject)
    aside = dealings.aside(about, _state(place))  # before they are tried, and found to be good
    try:
        answer = await place.registry.probe(patience=_PATIENCE)
    except UpstreamError as error:
        return await _failed(about, case, place, error)
    ahead = answer.date - case.now() if answer.date is not None else None
    more = await hosted.examine(places, place)
    if aside is not None and answer.identity:
        more = [aside, *more]
    return Probed(await _answered(about, case, place, answer), ahead, more=tuple(more))


async def _answered(about: About, case: Case, place: Place, answer: Probe) -> Finding:
    took = f"it answers, after {answer.seconds:.1f} s"
    url = URL(place.at.url)
    if url.scheme == "https":
        certificate = await shown_by(url, case.patience, proxy=_proxy(case, place.at))
        took += f", with a certificate by {certificate.issuer}" if certificate is not None else ""
    if answer.offered and not answer.identity:
        return await _withheld(about, case, place, took)
    who = "; the credentials are good" if answer.identity else ""
    state, rules = _state(place), case.config.budget if case.config is not None else ()
    if (limited := dealings.saving(about, state, place.entry, rules, case.now())) is not None:
        return replace(limited, found=f"{took}{who}; {limited.found}")
    budget = dealings.left(state.budget, case.now()) if state is not None else None
    if budget is not None:
        who += f"; {budget.remaining} of {budget.limit or '?'} requests are left"
    if answer.seconds > _SLOW:
        return about.warning(
            f"{took}{who}: so long waits each image that is new",
            "see to the line, DNS (an IPv6 address that leads nowhere?) and the proxy between this host and it",
        )
    return about.ok(took + who)


def _state(place: Place) -> AccountState | None:
    """Return what is known of the credentials that a place is asked with."""
    return next(iter(place.registry.accounts.states()), None)


async def _withheld(about: About, case: Case, place: Place, took: str) -> Finding:
    """Return why credentials that are configured were shown to nobody."""
    url = URL(place.at.url)
    reply = await _call(case, place.at)
    challenge = None
    if isinstance(reply, Reply):
        challenge = first(parse_challenges(_all(reply, "WWW-Authenticate")), "bearer")
    if challenge is None:
        return about.ok(
            f"{took}; it let everybody in and asked for no credentials, so whether they are good was not to be seen"
        )
    realm = url.join(URL(challenge.realm))
    if Trust(url, place.at.realms).covers(realm):
        return about.ok(f"{took}; it took no credentials, and gave a token without them")
    host = realm.host if realm.is_default_port() else f"{realm.host}:{realm.port}"
    return about.failure(
        f"the credentials are shown to nobody, so private images fail: its token service {host} is outside the "
        "registry's own domain",
        f"if {host} may see them: {place.entry}.realms: [{host}]",
    )


def _refused(about: About, case: Case, place: Place, error: UpstreamError) -> Finding | None:
    """Return what there is to say where it is about who asks; None: it is not."""
    said = str(error).removeprefix(f"{place.upstream.name}: ")
    if isinstance(error, UpstreamDenied):
        ends = expiry.ends(place.password.reveal()) if place.password is not None else None
        if ends is not None and ends < case.now():
            return about.failure(
                f"{said}; what is configured ended at {dealings.shown(ends)}",
                f"have a program print what lives so shortly ({place.entry}, exec), or put what does not end there",
            )
        right = "; or give that account the right to read" if error.upstream_status == 403 else ""  # noqa: PLR2004
        return about.failure(
            said,
            f"correct the user name and the password of {place.login}; tokens expire: make a new one where they are "
            f"made{right}. If it needs none: take them away",
        )
    if isinstance(error, UpstreamLimited):
        return about.warning(said, _LIMITED.format(entry=place.entry))
    if isinstance(error, NoCredentials):
        return about.failure(
            said,
            f"run the program of {place.login} by hand, as the mirror's user and with the registry's name on its "
            "standard input: it should print a user name and a secret as JSON",
        )
    return None


async def _failed(about: About, case: Case, place: Place, error: UpstreamError) -> Probed:
    entry, url = place.entry, URL(place.at.url)
    said = str(error).removeprefix(f"{place.upstream.name}: ")
    if (refused := _refused(about, case, place, error)) is not None:
        return Probed(refused)
    reply = await _call(case, place.at)
    if isinstance(reply, Trouble):
        cure = remedies.upstream(reply.cause, entry, url, proxied=_proxy(case, place.at) is not None)
        return Probed(about.failure(said + await _by_whom(case, place.at, reply), cure), cause=reply.cause)
    if isinstance(error, UpstreamBroken):
        cure = (
            f"see whether {entry}.url is a registry's own address; a token service that may be trusted goes under "
            f"{entry}.realms"
        )
        return Probed(about.failure(said, cure))
    if reply.status == 407:  # noqa: PLR2004
        return Probed(about.failure(said, remedies.upstream(Cause.PROXY, entry, url, proxied=True)))
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
