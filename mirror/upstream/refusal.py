"""What upstream's status means, as an error (*What to answer* maps it on to the client's)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mirror.errors import (
    UpstreamBroken,
    UpstreamDenied,
    UpstreamError,
    UpstreamLimited,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.upstream.backoff import parse_retry_after
from mirror.upstream.wire import quote_error

if TYPE_CHECKING:
    from mirror.upstream.wire import Answer

_KINDS: dict[int, tuple[type[UpstreamError], str]] = {
    401: (UpstreamDenied, "does not let this mirror have"),
    403: (UpstreamDenied, "does not let this mirror have"),
    404: (UpstreamNotFound, "does not have"),
    407: (UpstreamUnavailable, "is behind a proxy that wants a login; nothing comes of asking it for"),
    408: (UpstreamUnavailable, "failed to send"),
    410: (UpstreamNotFound, "no longer has"),
    425: (UpstreamUnavailable, "failed to send"),
    429: (UpstreamLimited, "limits requests, and did not send"),
    451: (UpstreamDenied, "may not give out"),
    508: (UpstreamBroken, "leads back to here, and did not send"),  # asking again would go in a circle
}


def refusal(namespace: str, answer: Answer, what: str, body: bytes, secrets: tuple[str, ...]) -> UpstreamError:
    """Return the error for an answer that is not what was asked for: `what`, in words.

    What upstream itself says in `body` is quoted where it can be shown; `secrets` are never.
    """
    status = answer.status
    kind, verb = _KINDS.get(status, (UpstreamBroken, "refuses to send"))
    if status >= 500 and status not in _KINDS:  # noqa: PLR2004
        kind, verb = UpstreamUnavailable, "failed to send"
    elif status < 300:  # noqa: PLR2004
        kind, verb = UpstreamBroken, "sent something else than"
    if kind is UpstreamUnavailable and _code(body) == UpstreamLimited.code:
        # A mirror, whose own upstream limits it. This is about what was asked for: it gives what it has.
        kind, verb = UpstreamLimited, "is limited itself, and did not send"
    said = quote_error(body, secrets)
    return kind(
        f"{namespace} {verb} {what} (it answered {status}{': ' + said if said else ''})",
        namespace=namespace,
        upstream_status=status,
        retry_after=answer.rest if answer.rest is not None else parse_retry_after(answer.headers.get("Retry-After")),
    )


def _code(body: bytes) -> str | None:
    """Return the code of the first error of an OCI error body."""
    try:
        code = json.loads(body)["errors"][0]["code"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return code if isinstance(code, str) else None
