"""The lists of one registry: the tags of a repository, and what refers to a digest."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from mirror.oci.mediatype import OCI_INDEX, bare
from mirror.upstream import listing
from mirror.upstream.content import staleness
from mirror.upstream.protocol import ReferrersBody, TagPage

if TYPE_CHECKING:
    from collections.abc import Callable

    from yarl import URL

    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.upstream.asking import Asking
    from mirror.upstream.exchange import Ask
    from mirror.upstream.wire import Answer

_T = TypeVar("_T")

_INLINE = 64 * 1024  # bytes of a list that are read in place; a million tags would hold up everybody else


class Pages:
    """Asks for lists, page by page."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def tags(self, repository: Repository, *, n: int | None, last: str | None, patience: float) -> TagPage:
        """See `Upstream.tags`. A page without a single tag is passed over: nothing on it says where the next begins."""
        ask = self._asking.ask("tags", "GET", repository, "tags/list", {"Accept": "application/json"})
        query = {name: str(value) for name, value in (("n", n), ("last", last)) if value is not None}
        first = replace(ask, url=ask.url.update_query(query) if query else ask.url)

        async def attempt(timer: asyncio.Timeout) -> TagPage:
            ask = first
            for _ in range(listing.MAX_PAGES):
                tags, answer, following = await self._tags_page(ask, repository, timer, patience)
                if tags or following is None:
                    return TagPage(tags, more=following is not None, stale=staleness(answer.all("Warning")))
                ask = replace(first, url=following)
            raise self._asking.broken(answer, "sends pages without tags without end")

        return await self._asking.run("tags", "GET", patience, attempt)

    async def referrers(self, repository: Repository, digest: Digest, *, patience: float) -> ReferrersBody:
        """See `Upstream.referrers`. A list of one page is returned as it came."""
        first = self._asking.ask("referrers", "GET", repository, f"referrers/{digest}", {"Accept": OCI_INDEX})

        async def attempt(timer: asyncio.Timeout) -> ReferrersBody:
            pages: list[bytes] = []
            descriptors: list[object] = []
            ask, public, room = first, True, listing.MAX_REFERRERS
            stale: str | None = None
            while True:
                page, answer, following = await self._referrers_page(ask, repository, room, timer, patience)
                pages.append(page)
                room -= len(page)
                public = public and answer.public
                stale = stale or staleness(answer.all("Warning"))
                if following is None and len(pages) == 1:
                    return ReferrersBody(page, public, stale)
                descriptors += await _read(listing.parse_referrers, page)
                if following is None:
                    return ReferrersBody(listing.join_referrers(pages[0], descriptors), public, stale)
                if len(pages) == listing.MAX_PAGES:
                    raise self._asking.broken(answer, "sends pages of referrers without end")
                ask = replace(first, url=following)

        return await self._asking.run("referrers", "GET", patience, attempt)

    async def _tags_page(
        self, ask: Ask, repository: Repository, timer: asyncio.Timeout, patience: float
    ) -> tuple[tuple[str, ...], Answer, URL | None]:
        answer = await self._asking.exchange.send(ask)
        try:
            await self._asking.expect(answer, f"the tags of {repository}")
            prolong(timer, patience)
            body = await self._asking.wire.read(answer, listing.MAX_TAGS)
            try:
                return await _read(listing.parse_tags, body), answer, self._following(answer)
            except ValueError as error:
                raise self._asking.broken(answer, f"sent what is no list of tags: {error}") from None
        finally:
            answer.close()

    async def _referrers_page(
        self, ask: Ask, repository: Repository, room: int, timer: asyncio.Timeout, patience: float
    ) -> tuple[bytes, Answer, URL | None]:
        answer = await self._asking.exchange.send(ask)
        try:
            await self._asking.expect(answer, f"the referrers of {repository}")
            kind = bare(answer.headers.get("Content-Type", ""))
            if kind != OCI_INDEX:
                raise self._asking.broken(answer, f"sent {kind or 'no type'} where an index of referrers was due")
            prolong(timer, patience)
            page = await self._asking.wire.read(answer, room)
            try:
                await _read(listing.parse_referrers, page)
                return page, answer, self._following(answer)
            except ValueError as error:
                raise self._asking.broken(answer, f"sent what is no index of referrers: {error}") from None
        finally:
            answer.close()

    def _following(self, answer: Answer) -> URL | None:
        """Return the next page; of a mirror of several registries, of the same registry."""
        page = listing.next_page(answer.url, answer.all("Link"))
        return None if page is None else self._asking.named(page)


async def _read(parse: Callable[[bytes], _T], body: bytes) -> _T:
    return parse(body) if len(body) <= _INLINE else await asyncio.to_thread(parse, body)


def prolong(timer: asyncio.Timeout, patience: float) -> None:
    """Let a small body, whose headers are here, take as long again."""
    timer.reschedule(asyncio.get_running_loop().time() + patience)
