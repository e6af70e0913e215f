"""How the cache stood to a request: what `Cache-Status` (RFC 9211), the metrics and the log say of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

NAME = "registry-mirror"

Forward = Literal["uri-miss", "stale", "bypass"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`forward` is None where upstream was not asked (RFC 9211 §2.2); `status` is what it answered."""

    hit: bool = False
    forward: Forward | None = None
    status: int | None = None
    stored: bool = False
    collapsed: bool = False  # another request's fill or revalidation served this one too
    detail: str | None = None
    warning: str | None = None  # for `Warning: 299`: what is sent may be out of date, and why

    @property
    def label(self) -> str:
        """One word for metrics and log."""
        if self.warning is not None:
            return "stale"
        if self.detail == "denied":
            return "denied"
        if self.hit:
            return "hit"
        if self.forward == "stale":
            return "revalidated"
        if self.collapsed:
            return "collapsed"
        return "miss" if self.forward else "none"

    def joined(self) -> Outcome:
        """Return the same for one who only joined."""
        return replace(self, collapsed=True)

    def header(self) -> str:
        """Return the value of `Cache-Status`."""
        parts = [NAME]
        if self.hit:
            parts.append("hit")
        if self.forward is not None:
            parts.append(f"fwd={self.forward}")
        if self.status is not None:
            parts.append(f"fwd-status={self.status}")
        if self.stored:
            parts.append("stored")
        if self.collapsed:
            parts.append("collapsed")
        if self.detail is not None:
            parts.append(f"detail={self.detail}")
        return "; ".join(parts)


HIT = Outcome(hit=True)
SAVING = Outcome(hit=True, detail="saving")  # past its own ttl, and upstream's limit runs out: `mirror.cache.thrift`
LOCAL = Outcome(detail="local")
DENIED = Outcome(detail="denied")  # by a rule of `pulls`


def stale(reason: str) -> str:
    """Return a warning that says so once, through however many mirrors it has come."""
    return f"stale: {reason.removeprefix('stale: ')}"
