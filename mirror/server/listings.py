"""Tags, referrers and the catalog (distribution specification, end-8a, end-8b, end-12a, end-12b)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from aiohttp import web

from mirror.errors import PaginationInvalid
from mirror.oci.mediatype import OCI_INDEX

if TYPE_CHECKING:
    from mirror.cache.cache import Cache
    from mirror.cache.listings import Page
    from mirror.cache.outcome import Outcome
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository

_MAX_DIGITS = 9


async def respond_tags(
    request: web.BaseRequest, cache: Cache, repository: Repository, name: str
) -> tuple[web.StreamResponse, Outcome]:
    """List tags; `name` is the repository as the client calls it."""
    n, last = _paging(request)
    page = await cache.listings.tags(repository, n=n, last=last)
    headers = _page_headers(request, page, n)
    return _json({"name": name, "tags": list(page.names)}, headers), page.outcome


def respond_catalog(request: web.BaseRequest, cache: Cache) -> tuple[web.StreamResponse, Outcome]:
    """List the repositories of which something is cached, by their full names."""
    n, last = _paging(request)
    page = cache.listings.catalog(n=n, last=last or "")
    return _json({"repositories": list(page.names)}, _page_headers(request, page, n)), page.outcome


async def respond_referrers(
    request: web.BaseRequest, cache: Cache, repository: Repository, subject: Digest
) -> tuple[web.StreamResponse, Outcome]:
    """List what refers to `subject`, filtered by `artifactType` where that is asked for."""
    found = await cache.listings.referrers(repository, subject)
    index = found.index
    headers = {"Content-Type": OCI_INDEX}
    wanted = request.query.get("artifactType")
    if wanted:
        manifests = index["manifests"]
        assert isinstance(manifests, list)  # noqa: S101  # the cache has seen to it
        kept = [one for one in manifests if isinstance(one, dict) and one.get("artifactType") == wanted]
        index = {**index, "manifests": kept}
        headers["OCI-Filters-Applied"] = "artifactType"
    if found.outcome.warning is not None:
        headers["Warning"] = '299 - "stale: upstream cannot be asked now"'
    return _json(index, headers), found.outcome


def _paging(request: web.BaseRequest) -> tuple[int | None, str | None]:
    text = request.query.get("n")
    last = request.query.get("last")
    if text is None or text == "":
        return None, last
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise PaginationInvalid(f"n={text[:40]!r} is not a whole number of entries")
    return int(text), last


def _page_headers(request: web.BaseRequest, page: Page, n: int | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if page.more and page.names:
        query = {key: value for key, value in request.query.items() if key not in ("n", "last")}
        if n is not None:
            query["n"] = str(n)
        query["last"] = page.names[-1]
        path = request.raw_path.partition("?")[0]
        headers["Link"] = f'<{quote(path, safe="/:%")}?{urlencode(query)}>; rel="next"'
    if page.outcome.warning is not None:
        headers["Warning"] = '299 - "only tags that are cached: upstream cannot be asked now"'
    return headers


def _json(document: object, headers: dict[str, str]) -> web.Response:
    return web.Response(body=json.dumps(document, separators=(",", ":")).encode(), headers=headers)
