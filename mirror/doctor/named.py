"""URLs that this host's clients have been given: whether they lead to the mirror."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yarl import URL

from mirror.doctor import remedies
from mirror.doctor.call import Reply
from mirror.doctor.case import shown
from mirror.doctor.files import table, texts
from mirror.doctor.listening import ask, describe, under
from mirror.upstream.route import Route

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.config import Proxies
    from mirror.doctor.call import Trouble
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


async def look(case: Case, url: URL, named: tuple[Path, ...] = ()) -> Named:
    """Find out what is at `url`: by its looks, where it is where the mirror is said to be, or by asking.

    `named` are the authorities that the client's configuration names for it.
    """
    if any(target.socket is None and _below(url, target.url) for target in case.targets):
        return Named(url, ours=True)  # whether it answers is a finding of its own
    reply = await _asked(case, under(url.origin(), "/v2/"), named)
    if isinstance(reply, Reply) and not reply.mirror and url.path.strip("/"):
        # Behind a proxy the mirror may have a path of its own.
        reply = await _asked(case, under(url.with_path(url.path.rstrip("/").removesuffix("/v2")), "/v2/"), named)
    if isinstance(reply, Reply):
        return Named(url, ours=reply.mirror)
    mirror = case.address
    cure = remedies.mirror(reply.cause, url)
    if mirror is not None and shown(mirror) != shown(url):
        cure = f"write {shown(mirror)} there, where the mirror is said to be; or {cure}"
    return Named(url, ours=False, trouble=await describe(case, url, reply), cure=cure)


async def endpoints(case: Case, about: About, mirrors: dict[str, Any]) -> tuple[list[Finding], list[tuple[str, Named]]]:
    """Look at a table of registries, each with a list `endpoint`, as k3s and old containerd have it.

    Return what is wrong with those that do not answer, each said once, and for which registries the mirror is named.
    """
    named = [
        (str(name), url)
        for name, entry in mirrors.items()
        for text in texts(table(entry).get("endpoint"))
        if (url := url_of(text)) is not None
    ]
    silent: dict[Named, list[str]] = {}
    ours = []
    for (name, _), one in zip(named, await asyncio.gather(*(look(case, url) for _, url in named)), strict=True):
        if one.trouble:
            silent.setdefault(one, []).append(name)
        elif one.ours:
            ours.append((name, one))
    findings = [
        about.failure(f"names {one.text} for {', '.join(names)}: {one.trouble}", one.cure)
        for one, names in silent.items()
    ]
    return findings, ours


def url_of(text: str) -> URL | None:
    """Return the URL of a host as containerd and k3s read it: https, where it does not say."""
    try:
        url = URL(text if "://" in text else f"https://{text}")
    except ValueError:
        return None
    return url if url.host and url.scheme in ("http", "https") else None


def _below(url: URL, target: URL) -> bool:
    """Say whether `url` is what the mirror is said to have, or a path of it."""
    return url.origin() == target.origin() and f"{url.path.rstrip('/')}/".startswith(f"{target.path.rstrip('/')}/")


async def _asked(case: Case, url: URL, named: tuple[Path, ...]) -> Reply | Trouble:
    task = case.asked.get((url, named))
    if task is None:
        task = case.asked[url, named] = asyncio.create_task(ask(case, url, named=named))
    return (await task)[0]


def detour(about: About, url: URL, proxies: Proxies, where: str) -> Finding | None:
    """Return what is wrong where a client that has these proxies sends requests for the mirror to one of them."""
    if Route(proxies).proxy(url) is None:
        return None
    return about.failure(
        f"sends its requests for the mirror {shown(url)} to its proxy, because {where} does not except {url.host}",
        f"add {url.host} to no_proxy there, and restart it",
    )
