"""A URL that one of this host's clients has been given: whether it leads to the mirror."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.doctor import remedies
from mirror.doctor.call import Reply
from mirror.doctor.case import shown
from mirror.doctor.listening import ask, describe, under
from mirror.upstream.route import Route

if TYPE_CHECKING:
    from yarl import URL

    from mirror.config import Proxies
    from mirror.doctor.case import Case
    from mirror.doctor.finding import About, Finding


@dataclass(frozen=True, slots=True)
class Named:
    """What is at a URL. `ours`: the mirror, or another of its kind; `trouble` and `cure` say why nobody answers."""

    url: URL
    ours: bool
    trouble: str = ""
    cure: str = ""

    @property
    def text(self) -> str:
        """The URL, fit to be shown."""
        return shown(self.url)


async def look(case: Case, url: URL) -> Named:
    """Find out what is at `url`: by its looks, where it is where the mirror is said to be, or by asking."""
    if any(target.socket is None and target.url.origin() == url.origin() for target in case.targets):
        return Named(url, ours=True)  # whether it answers is a finding of its own
    reply, _ = await ask(case, under(url.origin(), "/v2/"))
    if isinstance(reply, Reply):
        return Named(url, ours=reply.mirror)
    mirror = case.address
    cure = remedies.mirror(reply.cause, url)
    if mirror is not None and shown(mirror) != shown(url):
        cure = f"write {shown(mirror)} there, where the mirror is said to be; or {cure}"
    return Named(url, ours=False, trouble=await describe(case, url, reply), cure=cure)


def detour(about: About, url: URL, proxies: Proxies, where: str) -> Finding | None:
    """Return what is wrong where a client that has these proxies sends requests for the mirror to one of them."""
    if Route(proxies).proxy(url) is None:
        return None
    return about.failure(
        f"sends its requests for the mirror {shown(url)} to its proxy, because {where} does not except {url.host}",
        f"add {url.host} to no_proxy there, and restart it",
    )
