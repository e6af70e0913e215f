"""Which status makes each client do the right thing: the table *What to answer*, in one place.

Docker stalls for 50 s on a 5xx of a layer, and goes on at once after a 404; containerd hammers a 429; a 401 makes
Docker send its user's Hub password; a 404 on a signature means "not signed". The comments name the client that forces
each line.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import Enum

from mirror.errors import (
    BlobUnknown,
    ClientLimited,
    LoopDetected,
    ManifestUnknown,
    MirrorError,
    NameUnknown,
    Overloaded,
    RangeInvalid,
    StoreError,
    UpstreamDenied,
    UpstreamError,
    UpstreamNotFound,
)
from mirror.log import scrub_text

_RETRY_AFTER = 5  # seconds, where nobody has said anything else
_LONGEST_RETRY_AFTER = 3600


class Kind(Enum):
    """What is asked for, as far as the answer to trouble depends on it."""

    MANIFEST = "manifest"
    SIGNATURE = "signature"  # a `sha256-…` tag: a manifest whose absence means something
    BLOB = "blob"
    REFERRERS = "referrers"
    TAGS = "tags"
    CATALOG = "catalog"
    PING = "ping"
    OTHER = "other"


_UNKNOWN = {
    Kind.BLOB: BlobUnknown.code,
    Kind.TAGS: NameUnknown.code,
    Kind.CATALOG: NameUnknown.code,
}


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error as it goes out."""

    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """Return the JSON that the distribution specification gives errors. What looks like a secret is hidden."""
        message = scrub_text(self.message)
        return json.dumps({"errors": [{"code": self.code, "message": message, "detail": None}]}).encode()


def answer(error: MirrorError, kind: Kind, *, fallback: bool) -> ErrorAnswer:
    """Render an error. `fallback` says that clients have another registry to go to."""
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, RangeInvalid):
        headers["Content-Range"] = f"bytes */{error.size}"
    if not isinstance(error, UpstreamError | StoreError | Overloaded | LoopDetected):
        if error.status == 405:  # noqa: PLR2004  # RFC 9110 §15.5.6 wants the header
            headers["Allow"] = "GET, HEAD"
        return ErrorAnswer(error.status, error.code, str(error), headers)
    if isinstance(error, UpstreamNotFound):
        return ErrorAnswer(404, _UNKNOWN.get(kind, ManifestUnknown.code), str(error), headers)
    if isinstance(error, UpstreamDenied) and kind not in (Kind.SIGNATURE, Kind.REFERRERS):
        # Never 401: Docker would hand over its user's password. Hub says 401 for what does not exist, too.
        return ErrorAnswer(404, _UNKNOWN.get(kind, ManifestUnknown.code), str(error), headers)
    limited = kind is Kind.BLOB and isinstance(error, ClientLimited)
    if kind is Kind.BLOB and fallback and not limited:
        # Docker retries a 5xx for 50 s, and goes on to the next registry at once after this.
        return ErrorAnswer(404, BlobUnknown.code, str(error), headers)
    if isinstance(error, LoopDetected):
        return ErrorAnswer(error.status, error.code, str(error), headers)
    # Everyone moves on after a 503. Never 429 for upstream's: containerd repeats it at once, five times an object. But
    # a client over its own limit gets one for a blob: a 5xx would stall Docker for 50 s, a 404 ends Podman's pull.
    # Docker then goes on at once, Podman waits and asks again, and containerd's haste is slowed by the queue that each
    # of its requests stands in.
    headers["Retry-After"] = str(_retry_after(error))
    return ErrorAnswer(429 if limited else 503, error.code, str(error), headers)


def _retry_after(error: MirrorError) -> int:
    seconds = error.retry_after if isinstance(error, UpstreamError) else None
    if seconds is None or not math.isfinite(seconds):
        return _RETRY_AFTER
    return min(max(1, math.ceil(seconds)), _LONGEST_RETRY_AFTER)
