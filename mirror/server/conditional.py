"""Conditional requests (RFC 9110 §13). Content is named by its digest, so its `ETag` is that, and strong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.oci.digest import Digest

_TAG = re.compile(r'(?:W/)?"([^"]*)"')


def etag(digest: Digest) -> str:
    """Return the entity tag of a digest's content."""
    return f'"{digest}"'


def not_modified(headers: Mapping[str, str], digest: Digest) -> bool:
    """Say whether `If-None-Match` names the content: then 304. Without that header never (containerd fails on it)."""
    return _names(headers.get("If-None-Match"), digest)


def failed(headers: Mapping[str, str], digest: Digest) -> bool:
    """Say whether `If-Match` asks for other content: then 412."""
    wanted = headers.get("If-Match")
    return wanted is not None and not _names(wanted, digest)


def range_holds(headers: Mapping[str, str], digest: Digest) -> bool:
    """Say whether a `Range` counts: `If-Range`, where it is given, must name this content (§13.1.5)."""
    condition = headers.get("If-Range")
    return condition is None or condition.strip() == etag(digest)


def _names(value: str | None, digest: Digest) -> bool:
    if value is None:
        return False
    if value.strip() == "*":
        return True
    wanted = str(digest)
    # Some clients leave out the quotes, and mean it all the same.
    return wanted in _TAG.findall(value) or value.strip() == wanted
