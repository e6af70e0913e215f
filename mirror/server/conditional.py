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


def status(headers: Mapping[str, str], digest: Digest) -> int | None:
    """Return 412 where `If-Match` asks for other content, 304 where `If-None-Match` names this one, else None.

    Never 304 to a request without a condition: containerd fails on it, and asks nobody else.
    """
    wanted = headers.get("If-Match")
    if wanted is not None and not _names(wanted, digest):
        return 412
    return 304 if _names(headers.get("If-None-Match"), digest) else None


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
