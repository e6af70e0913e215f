"""What a configuration allows that its owner may not have meant: upstreams, credentials, rules of pulls.

Each is a sentence; what to do stands behind "; ".
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.config import Config, UpstreamConfig

_GUIDE = "docs/guide/rules.md"


def private(config: Config) -> list[str]:
    """Name the upstreams that this mirror logs in to, as far as the configuration and its files show it."""
    return sorted(
        name
        for name, upstream in config.upstreams.items()
        if name in config.named_in_files or any(_logs_in(at) for _, at in _addresses(upstream))
    )


def of_upstreams(config: Config) -> list[str]:
    """Return what is to be said of how upstreams are asked."""
    sentences = []
    plain = [
        shown
        for name, upstream in sorted(config.upstreams.items())
        for shown, at in _addresses(upstream)
        if urlsplit(at.url).scheme == "http" and (_logs_in(at) or (at is upstream and name in config.named_in_files))
    ]
    if plain:
        sentences.append(f"the password for {', '.join(plain)} travels without encryption; give an https:// url")
    bound = [
        name
        for name, upstream in sorted(config.upstreams.items())
        if upstream.credentials and all(credential.repositories for credential in upstream.credentials)
    ]
    if bound:
        sentences.append(
            f"each of the credentials for {', '.join(bound)} is bound to repositories, and all others there are asked "
            "for without any; add one that has no repositories, or - {anonymous: true} to say that you mean it"
        )
    return sentences


def of_pulls(config: Config) -> list[str]:
    """Return what is to be said of the rules of what may be pulled."""
    sentences = []
    refusing = [rule for rule in config.pulls if not rule.allow or rule.require_digest or rule.min_age]
    if refusing and config.server.fallback:
        sentences.append(
            "a client that has another registry gets round what pulls refuses, and server.fallback says that clients "
            f"have one; leave them none as {_GUIDE} shows, and then write server.fallback: false"
        )
    if config.pulls and not refusing:
        sentences.append(
            "pulls refuses nothing, because what none of its rules matches is allowed; end it with "
            '{deny: "**", reason: "…"}'
        )
    return sentences


def _addresses(upstream: UpstreamConfig) -> Iterator[tuple[str, UpstreamConfig]]:
    """Yield where an upstream is asked, each as a person would name it; its own address is the upstream itself."""
    yield upstream.name, upstream
    for endpoint in upstream.endpoints:
        if not endpoint.itself:
            yield f"{upstream.name} at {endpoint.label}", endpoint.at


def _logs_in(at: UpstreamConfig) -> bool:
    return at.password is not None or bool(at.exec) or any(not credential.anonymous for credential in at.credentials)
