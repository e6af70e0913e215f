"""Lists that upstream sends in pages: tags, and referrers."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from mirror.errors import TagInvalid
from mirror.oci.name import Tag
from mirror.upstream.redirect import next_hop

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yarl import URL

MAX_TAGS = 4 * 1024 * 1024  # bytes of one page of tags
MAX_REFERRERS = 8 * 1024 * 1024  # bytes of all pages of referrers
MAX_PAGES = 256  # of one list

_MAX_LINK = 16 * 1024  # characters of one header
# Whatever a header holds, none of it is read more than once or twice: the event loop waits meanwhile.
_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s;,"]+))', re.IGNORECASE)


def next_page(url: URL, links: Iterable[str]) -> URL | None:
    """Return the address of the page that follows `url` by its `Link` headers (RFC 8288), or None.

    Raise `ValueError` where it is on another origin: a list's next page is the registry's own.
    """
    for header in links:
        for target, parameters in _LINK.findall(header[:_MAX_LINK]):
            if any("next" in (quoted or bare).lower().split() for quoted, bare in _REL.findall(parameters)):
                page = next_hop(url, target)
                if page.origin() != url.origin():
                    raise ValueError("a next page on another host")
                return page
    return None


def parse_tags(body: bytes) -> tuple[str, ...]:
    """Return the tags of one page; raise `ValueError` where it is no such page. `"tags": null` is an empty list.

    A text that is not a tag by the specification is left out: nobody could ask for it, and not every such text (half of
    a surrogate pair) can even be sent on.
    """
    tags = _object(body).get("tags")
    if tags is None:
        return ()
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError("its tags are not a list of texts")
    return tuple(tag for tag in tags if _is_tag(tag))


def parse_referrers(body: bytes) -> list[object]:
    """Return the descriptors of one page, as they stand; raise `ValueError` where it is not an index."""
    manifests = _object(body).get("manifests")
    if not isinstance(manifests, list) or not all(isinstance(entry, dict) for entry in manifests):
        raise ValueError("its manifests are not a list of descriptors")
    return manifests


def join_referrers(first: bytes, descriptors: list[object]) -> bytes:
    """Return the first page's index with all descriptors in it."""
    return json.dumps({**_object(first), "manifests": descriptors}, separators=(",", ":")).encode()


def _is_tag(text: str) -> bool:
    try:
        Tag.parse(text)
    except TagInvalid:
        return False
    return True


def _object(body: bytes) -> dict[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  one kind of error for all
    return document
