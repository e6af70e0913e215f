"""What the rules of `pulls` refuse, and how its text reaches a terminal: containerd asks by HEAD, which has no body.

To a 403 there containerd up to 2.2 prints `403 Forbidden` and nothing else, and so does what is built with its library:
BuildKit, and Docker with the containerd image store. So they are answered as if there were a manifest, with a digest
that only a refusal has; the GET of that digest is what is refused, and its text they print. Nothing is remembered for
it but the text: the digest itself says which rule it was, to every process of the mirror and after a restart.

This is for a mirror that is its clients' only registry (`server.fallback: false`): who has another one goes to it after
a HEAD that is refused, and would not after a GET. It is for those programs only, and never for another mirror: whoever
asks by HEAD to find out which digest a tag has, or whether a digest exists, is told that this is refused.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from aiohttp import hdrs, web
from cachetools import LRUCache

from mirror import metrics
from mirror.errors import PullRefused, Quarantined
from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_INDEX
from mirror.oci.name import parse_reference
from mirror.oci.path import RouteKind
from mirror.server.answers import Kind

if TYPE_CHECKING:
    from mirror.cache.admission import Admission
    from mirror.oci.name import Reference, Repository
    from mirror.server.asked import Asked

_AGENTS = re.compile(r"(?:containerd|buildkit|docker)/")
# No content has it, by chance or on purpose: it would take 2^128 attempts.
_MARK = hashlib.sha256(b"registry-mirror: not content, but the refusal of a pull").digest()[:16]
_REMEMBERED = 1024  # texts
_NO_NUMBER = 0xFFFF  # in place of a rule's


class Refusals:
    """Asks the rules, and answers where they refuse."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._texts: LRUCache[tuple[Repository, Digest], str] = LRUCache(_REMEMBERED)

    def check(self, repository: Repository, asked: Asked) -> Reference | None:
        """Return what a request is about; None for a list of tags. Raise `PullRefused`, or as `parse_reference`."""
        reference = _reference(asked)
        if isinstance(reference, Digest) and (number := _number(reference)) is not None:
            text = self._texts.get((repository, reference))
            raise PullRefused(text) if text else self._admission.of_number(number, repository)
        self._admission.check(repository, reference)
        return reference

    def count(self, repository: Repository, asked: Asked, error: PullRefused, label: str) -> None:
        """Count a refusal; `label` is what metrics call the upstream."""
        reference = _reference(asked)
        if isinstance(reference, Digest) and _number(reference) is not None:
            return  # the HEAD before it was counted
        rule = self._admission.rule(repository, reference)
        denied = "digest required" if rule is not None and rule.allow else "denied"
        metrics.PULLS_REFUSED.labels(label, "quarantined" if isinstance(error, Quarantined) else denied).inc()

    def stand_in(
        self, request: web.BaseRequest, repository: Repository, asked: Asked, error: PullRefused
    ) -> web.Response | None:
        """Return the answer to a HEAD that leads to a GET whose refusal is shown; None where an error does better."""
        shown = "Via" not in request.headers and _AGENTS.match(request.headers.get(hdrs.USER_AGENT, ""))
        if request.method != hdrs.METH_HEAD or asked.kind is not Kind.MANIFEST or not shown:
            return None
        digest = self._digest(repository, parse_reference(asked.route.reference), str(error))
        headers = {
            "Content-Type": OCI_INDEX,
            "Docker-Content-Digest": str(digest),
            "Content-Length": str(len(str(error))),
            "Cache-Control": "no-store",
        }
        return web.Response(headers=headers)

    def _digest(self, repository: Repository, reference: Reference, text: str) -> Digest:
        if isinstance(reference, Digest):
            return reference  # the GET of it is refused as the HEAD was
        number = self._admission.number(repository, reference)
        which = _NO_NUMBER if number is None else min(number, _NO_NUMBER)
        rest = hashlib.sha256(f"{repository}:{reference}".encode()).digest()[:14]
        digest = Digest("sha256", (_MARK + which.to_bytes(2, "big") + rest).hex())
        self._texts[repository, digest] = text
        return digest


def _reference(asked: Asked) -> Reference | None:
    route = asked.route
    if route.kind is RouteKind.TAGS:
        return None
    return parse_reference(route.reference) if route.kind is RouteKind.MANIFEST else Digest.parse(route.reference)


def _number(digest: Digest) -> int | None:
    """Return the number of the rule that a digest stands for; None for the digest of content."""
    if digest.algorithm != "sha256" or not digest.hex.startswith(_MARK.hex()):
        return None
    return int(digest.hex[32:36], 16)
