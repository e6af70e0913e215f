"""What is peculiar to one kind of registry, declared: where real ones leave, or go beyond, the specification."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Refusal:
    """An answer that lets nobody in. A 401 has the registry's challenge, unless it is `bare` or brings its own."""

    status: int = 401
    code: str = "UNAUTHORIZED"
    message: str = "access to the resource is denied"
    error: str | None = None  # RFC 6750 §3.1, in the challenge
    challenge: str | None = None  # in place of the registry's own
    bare: bool = False


BAD_TOKEN = Refusal(error="invalid_token")
TOO_LITTLE = Refusal(error="insufficient_scope")
DENIED = Refusal(403, "DENIED")


@dataclass(frozen=True)
class Manner:
    """How a registry behaves. The defaults are those of a friendly one, which forgives what others refuse."""

    strict: bool = False  # a wrong `service`, scope or header is refused, and noted as a breach
    scopes: tuple[str, ...] = ()  # accepted besides `repository:NAME:pull` where it is strict (`aws`)
    stranger: Refusal = field(default_factory=Refusal)  # whoever brings no Authorization
    old_token: Refusal = BAD_TOKEN
    old_password: Refusal | None = None  # Basic that is wrong (now); None: as a stranger
    stray_basic: Refusal = field(default_factory=Refusal)  # Basic where tokens are the way
    not_yours: Refusal = DENIED  # a repository that is another's
    unknown_name: Refusal | None = None  # a repository that does not exist; None: 404
    closed_tokens: Refusal | None = None  # tokens for what one may not pull; None: a token that covers nothing
    token_post: int | None = None  # status of a POST to the token service; None: identity tokens are taken (OAuth2)
    head_blob: Refusal | None = None
    explicit_accept: bool = False  # without it, or with */*, manifests come as schema 1
    manifest_headers: Mapping[str, str] = field(default_factory=dict)
    pages: bool = False  # refusals are pages for people
    forward: str | None = None  # manifests and tags are redirected to below this address
    ping: Refusal | None = None  # what `/v2/` says to a stranger, where that is not what the rest says
