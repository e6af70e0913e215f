"""What the two origins of the fake upstream answer when nothing goes wrong: a record in, an answer out."""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from multidict import CIMultiDict

from mirror.errors import RangeInvalid
from tests.fakes.answer import Answer
from tests.fakes.auth import Auth
from tests.fakes.content import Content, Plain
from tests.fakes.library import DOCKER_SCHEMA1, OCI_INDEX, Library

if TYPE_CHECKING:
    from tests.fakes.limit import RateLimit
    from tests.fakes.manner import Manner, Refusal
    from tests.fakes.records import Record

_ACCEPTED = {"GET", "HEAD"}


class Endpoints(Library):
    """A registry, and a second origin where blobs may lie; who may ask is what `auth` says."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = Auth()
        self.redirect_blobs = False  # to the second origin
        self.redirect_status = 307
        self.signature_lifetime = 600.0  # seconds that a signed URL is good for
        self.referrers_api = True
        self.digest_header = True  # send Docker-Content-Digest
        self.page_limit = 100  # tags, referrers of one page at most
        self.authorized_storage_requests = 0  # how often the second origin was sent an Authorization
        self.signed: dict[str, tuple[float, str, str]] = {}  # raw path and query -> until when, repo, digest
        self.prefix = ""  # of every path of the API
        self.name: str | None = None  # the host of the API, where it has one
        self.token_name: str | None = None  # the host of the token service, where it is another
        self.storage_name: str | None = None  # the host of the second origin
        self.limit: RateLimit | None = None  # how often it may be asked

    @property
    def breaches(self) -> list[str]:
        """What was done to it that nobody may do who knows how."""
        return self.auth.breaches

    @property
    def manner(self) -> Manner:
        """What is peculiar to it."""
        return self.auth.manner

    @property
    def url(self) -> str:
        """Base URL of the registry."""
        raise NotImplementedError

    @property
    def storage_url(self) -> str:
        """Base URL of the second origin."""
        raise NotImplementedError

    def expire_signatures(self) -> None:
        """Make every signed URL that was given out so far worthless."""
        self.signed = {url: (0.0, repo, digest) for url, (_, repo, digest) in self.signed.items()}

    def digest_of(self, repo: str, reference: str) -> str | None:
        """Return the digest that a reference names, or None."""
        if repo not in self.shelves:
            return None
        named = self.shelves[repo].tags.get(reference, reference)
        return named if named in self.shelves[repo].manifests else None

    def answer(self, record: Record) -> Answer:
        """Answer within the limits, or with a 429."""
        abused = self.limit.abused(record) if self.limit is not None else None
        return abused or self._answer(record)

    def _answer(self, record: Record) -> Answer:
        if record.kind == "token":
            status, body = self.auth.issue(record)
            if status != 200 and self.manner.pages:
                return whole(status, _page("no token"), "text/html")
            return whole(status, body, "application/json")
        if record.kind != "nowhere" and (refusal := self._refusal(record)) is not None:
            return self._refuse(record, refusal)
        if record.method not in _ACCEPTED:
            return error_(405, "UNSUPPORTED", "this registry is read only")
        headers, refused = {}, None
        if self.limit is not None and record.kind == "manifest":
            headers, refused = self.limit.admit(record)
        answer = refused or self._answer_kind(record)
        answer.headers.update(headers)
        return answer

    def _answer_kind(self, record: Record) -> Answer:
        endpoint = {
            "ping": self._answer_ping,
            "manifest": self._answer_manifest if self.manner.forward is None else self._answer_elsewhere,
            "blob": self._answer_blob,
            "tags": self._answer_tags if self.manner.forward is None else self._answer_elsewhere,
            "referrers": self._answer_referrers,
        }.get(record.kind, self._answer_nothing)
        return endpoint(record)

    def _answer_ping(self, _: Record) -> Answer:
        return whole(200, b"{}", "application/json")

    def _answer_nothing(self, _: Record) -> Answer:
        return error_(404, "NAME_UNKNOWN", "no such thing")

    def _refusal(self, record: Record) -> Refusal | None:
        if record.kind == "blob" and record.method == "HEAD" and self.manner.head_blob is not None:
            self.breaches.append(f"{record.host} was sent a HEAD of a blob")
            return self.manner.head_blob
        refusal = self.auth.refusal(record)
        if refusal is None and record.repo is not None and record.repo not in self.shelves:
            return self.manner.unknown_name
        return refusal

    def _refuse(self, record: Record, refusal: Refusal) -> Answer:
        answer = error_(refusal.status, refusal.code, refusal.message)
        if self.manner.pages:
            answer = whole(refusal.status, _page(refusal.message), "text/html")
        if refusal.challenge is not None:
            answer.headers.add("WWW-Authenticate", refusal.challenge)
        elif refusal.status == 401 and not refusal.bare:
            for challenge in self.auth.challenges(self.url, record.repo, refusal.error):
                answer.headers.add("WWW-Authenticate", challenge)
        return answer

    def _answer_elsewhere(self, record: Record) -> Answer:
        answer = whole(307, b"", "text/html")
        answer.headers["Location"] = f"{self.manner.forward}/{record.path.removeprefix(f'{self.prefix}/v2/')}"
        return answer

    def _answer_manifest(self, record: Record) -> Answer:
        assert record.repo is not None
        assert record.reference is not None
        manifest = self.manifest(record.repo, record.reference)
        if manifest is None:
            return error_(404, "MANIFEST_UNKNOWN", "manifest unknown")
        accepted = record.headers.get("Accept", "")
        if self.manner.explicit_accept and manifest.media_type not in accepted:
            self.breaches.append(f"{record.host} was asked for a manifest as {accepted!r}")
            body = {"schemaVersion": 1, "name": record.repo, "tag": record.reference, "fsLayers": [], "history": []}
            return whole(200, json.dumps(body).encode(), DOCKER_SCHEMA1)
        answer = _content(record, manifest.content, manifest.media_type)
        answer.headers.update(self.manner.manifest_headers)
        if self.digest_header and record.digest is not None:
            answer.headers["Docker-Content-Digest"] = record.digest
            answer.headers["ETag"] = f'"{record.digest}"'
        return answer

    def _answer_blob(self, record: Record) -> Answer:
        assert record.repo is not None
        assert record.digest is not None
        content = self.shelves[record.repo].blobs.get(record.digest) if record.repo in self.shelves else None
        if content is None:
            return error_(404, "BLOB_UNKNOWN", "blob unknown to registry")
        if self.redirect_blobs:
            answer = whole(self.redirect_status, b"", "text/html")
            answer.headers["Location"] = self._sign(record.repo, record.digest)
            return answer
        answer = _content(record, content, "application/octet-stream")
        if self.digest_header:
            answer.headers["Docker-Content-Digest"] = record.digest
        return answer

    def _answer_tags(self, record: Record) -> Answer:
        if record.repo not in self.shelves:
            return error_(404, "NAME_UNKNOWN", "repository name not known to registry")
        query = parse_qs(record.query)
        tags = sorted(self.shelves[record.repo].tags)
        if "last" in query:
            tags = [tag for tag in tags if tag > query["last"][0]]
        limit = min(int(query.get("n", [str(self.page_limit)])[0]), self.page_limit)
        answer = whole(
            200, json.dumps({"name": record.repo, "tags": tags[:limit]}).encode(), "application/json; charset=utf-8"
        )
        if len(tags) > limit > 0:
            answer.headers["Link"] = f'</v2/{record.repo}/tags/list?n={limit}&last={tags[limit - 1]}>; rel="next"'
        return answer

    def _answer_referrers(self, record: Record) -> Answer:
        assert record.repo is not None
        assert record.reference is not None
        if not self.referrers_api:
            return error_(404, "UNSUPPORTED", "page not found")
        query = parse_qs(record.query)
        found = self.referrers(record.repo, record.reference)
        wanted = query.get("artifactType", [None])[0]
        if wanted is not None:
            found = [entry for entry in found if entry.get("artifactType") == wanted]
        first = int(query.get("page", ["0"])[0])
        page = found[first : first + self.page_limit]
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page}
        answer = whole(200, json.dumps(body).encode(), OCI_INDEX)
        if wanted is not None:
            answer.headers["OCI-Filters-Applied"] = "artifactType"
        if first + len(page) < len(found):
            following = f"/v2/{record.repo}/referrers/{record.reference}?page={first + len(page)}"
            if wanted is not None:
                following += f"&artifactType={wanted}"
            answer.headers["Link"] = f'<{following}>; rel="next"'
        return answer

    def _sign(self, repo: str, digest: str) -> str:
        # %7E and %3A need no escaping: whoever decodes and quotes again asks for another string, not signed.
        path = (
            f"/store/{digest.replace(':', '%3A')}?X-Name={repo.replace('/', '%2F')}%3Alayer&X-Tilde=%7Eroot%2b"
            f"&X-Signature={secrets.token_urlsafe(24)}%7E%3D"
        )
        self.signed[path] = (time.monotonic() + self.signature_lifetime, repo, digest)
        return self.storage_url + path

    def answer_storage(self, record: Record) -> Answer:
        if "Authorization" in record.headers:
            self.authorized_storage_requests += 1
            self.breaches.append(f"{record.host}, which is storage, was sent an Authorization")
            return whole(400, b"<Error><Code>InvalidArgument</Code>Only one auth mechanism allowed</Error>", "text/xml")
        if record.method not in _ACCEPTED:
            return whole(405, b"<Error><Code>MethodNotAllowed</Code></Error>", "text/xml")
        until, repo, digest = self.signed.get(f"{record.path}?{record.query}", (0.0, "", ""))
        if until < time.monotonic():
            return whole(403, b"<Error><Code>AccessDenied</Code>Request has expired</Error>", "text/xml")
        content = self.shelves[repo].blobs.get(digest)
        if content is None:
            return whole(404, b"<Error><Code>NoSuchKey</Code></Error>", "text/xml")
        return _content(record, content, "binary/octet-stream")


def whole(status: int, body: bytes, media_type: str) -> Answer:
    return Answer(status, CIMultiDict({"Content-Type": media_type}), Plain(body), 0, len(body))


def _page(text: str) -> bytes:
    return f"<html><body>{text}</body></html>".encode()


def error_(status: int, code: str, message: str) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}).encode()
    return whole(status, body, "application/json")


def _content(record: Record, content: Content, media_type: str) -> Answer:
    headers = CIMultiDict({"Content-Type": media_type, "Accept-Ranges": "bytes"})
    try:
        span = _span(record.range, content.size) if record.range is not None else None
    except RangeInvalid:
        answer = error_(416, "RANGE_INVALID", "invalid content range")
        answer.headers["Content-Range"] = f"bytes */{content.size}"
        return answer
    if span is None:
        return Answer(200, headers, content, 0, content.size)
    headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{content.size}"
    return Answer(206, headers, content, *span)


def _span(header: str, size: int) -> tuple[int, int] | None:
    """Return start and stop of a single range. Its own parser: a fake must not share the faults of what it tries."""
    unit, _, spec = header.partition("=")
    first, _, last = spec.partition("-")
    if unit != "bytes" or "," in spec or not (first or last):
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        raise RangeInvalid(size)
    return start, stop
