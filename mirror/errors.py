"""Every error that the mirror raises on purpose.

    MirrorError
    ├── ConfigError             the configuration is wrong (exit code 2)
    ├── RequestError            the client asked for something that cannot be answered as asked
    │   ├── NameInvalid         400 NAME_INVALID
    │   ├── DigestInvalid       400 DIGEST_INVALID
    │   ├── TagInvalid          400 TAG_INVALID
    │   ├── PaginationInvalid   400 PAGINATION_NUMBER_INVALID
    │   ├── Unsupported         405 UNSUPPORTED
    │   ├── RangeInvalid        416 SIZE_INVALID, with the size that would have been right
    │   ├── ClientDenied        403 DENIED, the configuration keeps this client out
    │   ├── PullRefused         403 DENIED, a rule of `pulls` keeps this image from everybody
    │   │   └── Quarantined     403 DENIED, what a tag means is too new (`min_age`)
    │   └── LoopDetected        508 DENIED, the mirror was asked to ask itself
    ├── NotFound
    │   ├── NameUnknown         404 NAME_UNKNOWN
    │   ├── ManifestUnknown     404 MANIFEST_UNKNOWN
    │   └── BlobUnknown         404 BLOB_UNKNOWN
    ├── UpstreamError           upstream cannot help now; rendered by *What to answer*
    │   ├── UpstreamNotFound    upstream said 404
    │   ├── UpstreamDenied      upstream said 401 or 403 after the token dance
    │   ├── UpstreamLimited     upstream said 429; `retry_after` says for how long
    │   ├── UpstreamUnavailable no connection, no answer in time, 5xx, a broken transfer
    │   ├── UpstreamBroken      an answer that cannot be right: wrong digest, wrong length, too large
    │   └── UpstreamAway        `server.offline`: the mirror does not dial out
    ├── Overloaded              503, more is under way than the mirror takes on at once
    │   └── ClientLimited       the same for one client; 429 for a blob
    ├── StoreError              the disk cannot help
    │   ├── NoSpace             the cap, or the disk, has no room
    │   ├── StoreUnusable       the store cannot be opened: locked, read-only, on NFS, of a newer version
    │   └── ContentBroken       what is on disk is not what its digest says
    ├── ListMalformed           an input of `prefetch` that is no list of images in any known form (exit code 2)
    └── BundleRefused           a bundle that is damaged, cut, hostile, or not signed as it has to be

An error knows its OCI code, its status when it reaches a client as it is, and whether asking again helps. Its text
tells the person what to do. `server.answers` renders them, in one place.
"""

from __future__ import annotations

from typing import ClassVar


class MirrorError(Exception):
    """Base of all. `str(error)` is a sentence for a person and never holds a secret."""

    code: ClassVar[str] = "UNKNOWN"
    status: ClassVar[int] = 500
    retriable: ClassVar[bool] = False


class ConfigError(MirrorError):
    """The configuration is wrong. `problems` has one sentence each, all of them at once."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class RequestError(MirrorError):
    """The request itself is at fault; the same request will fail again."""

    code = "UNSUPPORTED"
    status = 400


class NameInvalid(RequestError):
    """A repository name that the distribution specification does not allow."""

    code = "NAME_INVALID"


class DigestInvalid(RequestError):
    """A digest that does not parse."""

    code = "DIGEST_INVALID"


class TagInvalid(RequestError):
    """A tag that the distribution specification does not allow."""

    code = "TAG_INVALID"


class PaginationInvalid(RequestError):
    """`n` is not a whole number."""

    code = "PAGINATION_NUMBER_INVALID"


class Unsupported(RequestError):
    """A method that a mirror does not answer."""

    code = "UNSUPPORTED"
    status = 405


class RangeInvalid(RequestError):
    """No byte of the requested range exists. `size` is the size of the whole, in bytes (RFC 9110 §15.5.17)."""

    code = "SIZE_INVALID"
    status = 416

    def __init__(self, size: int) -> None:
        super().__init__(f"the requested range lies beyond the end of the content, which has {size} bytes")
        self.size = size


class ClientDenied(RequestError):
    """A client that `server.allow_clients` or `server.deny_clients` keeps out."""

    code = "DENIED"
    status = 403


class PullRefused(RequestError):
    """A rule of `pulls` refuses this image, or this way to name it. The text says which rule, and what to do."""

    code = "DENIED"
    status = 403


class Quarantined(PullRefused):
    """What a tag means now is newer than `min_age`, and nothing older is here. `until`: seconds since the epoch."""

    def __init__(self, message: str, *, until: float) -> None:
        super().__init__(message)
        self.until = until


class LoopDetected(RequestError):
    """The request came from this very mirror."""

    code = "DENIED"
    status = 508


class NotFound(MirrorError):
    """It does not exist, as far as anyone who would know has said."""

    status = 404


class NameUnknown(NotFound):
    """No such repository, or a namespace that is not mirrored."""

    code = "NAME_UNKNOWN"


class ManifestUnknown(NotFound):
    """No such manifest in this repository."""

    code = "MANIFEST_UNKNOWN"


class BlobUnknown(NotFound):
    """No such blob in this repository."""

    code = "BLOB_UNKNOWN"


class UpstreamError(MirrorError):
    """Upstream cannot help now. `namespace` says which one; `upstream_status` is what it answered, if it did."""

    code = "UNAVAILABLE"
    status = 503
    retriable = True

    def __init__(
        self, message: str, *, namespace: str, upstream_status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.namespace = namespace
        self.upstream_status = upstream_status
        self.retry_after = retry_after  # seconds


class UpstreamNotFound(UpstreamError):
    """Upstream said 404."""

    retriable = False


class UpstreamDenied(UpstreamError):
    """Upstream said 401 or 403 after the token dance: private, or absent on a registry that does not say so."""

    retriable = False


class UpstreamLimited(UpstreamError):
    """Upstream said 429."""

    code = "TOOMANYREQUESTS"


class UpstreamUnavailable(UpstreamError):
    """No connection, no answer in time, a 5xx, or a transfer that broke."""


class UpstreamBroken(UpstreamError):
    """An answer that cannot be right: a wrong digest, a wrong length, a body past its limit, a forbidden redirect."""


class UpstreamAway(UpstreamError):
    """The mirror is told not to dial out (`server.offline`)."""

    retriable = False


class Overloaded(MirrorError):
    """More is under way than the mirror takes on at once."""

    code = "TOOMANYREQUESTS"
    status = 503
    retriable = True


class ClientLimited(Overloaded):
    """One client has as many requests under way as it may (`server.max_requests_per_client`)."""


class StoreError(MirrorError):
    """The disk cannot help."""

    code = "UNAVAILABLE"
    status = 503


class NoSpace(StoreError):
    """The cap of the cache, or the disk itself, has no room for this; `passing` says that it may have in a moment."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class StoreUnusable(StoreError):
    """The store cannot be opened."""


class ContentBroken(StoreError):
    """What is on disk is not what its digest says."""


class ListMalformed(MirrorError):
    """An input that holds no list of images in any form that is known."""


class BundleRefused(MirrorError):
    """A bundle that must not be taken in: it is damaged, cut off, hostile, or not signed as it has to be."""
