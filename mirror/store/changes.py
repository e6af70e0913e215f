"""What can happen to the facts that the index keeps. The same values are the lines of the journal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mirror.oci.digest import Digest
from mirror.oci.name import Repository


@dataclass(frozen=True, slots=True)
class Named:
    """A descriptor as some manifest gives it: an expected size, not a link (promise 10). `size` in bytes, if known."""

    digest: Digest
    size: int | None


@dataclass(frozen=True, slots=True)
class Linked:
    """Upstream served or confirmed `digest` for `repository`; `names` is what it names, if it is a manifest."""

    repository: Repository
    digest: Digest
    media_type: str | None = None  # None: a blob
    public: bool = False  # it was obtained without credentials
    names: tuple[Named, ...] = ()


@dataclass(frozen=True, slots=True)
class TagSet:
    """Upstream said at `at` (seconds since the epoch) that `tag` is `digest`."""

    repository: Repository
    tag: str
    digest: Digest
    at: float


@dataclass(frozen=True, slots=True)
class TagDropped:
    """Upstream said that there is no such tag."""

    repository: Repository
    tag: str


@dataclass(frozen=True, slots=True)
class ListingSet:
    """Upstream said at `at` that the referrers of `subject` are those in the index `body`, which is stored content."""

    repository: Repository
    subject: Digest
    body: Digest
    at: float


Change = Linked | TagSet | TagDropped | ListingSet


def dump(change: Change) -> str:
    """Write a change as one line of JSON, without the line's end."""
    row: dict[str, Any] = {"ns": change.repository.namespace, "repo": change.repository.name}
    match change:
        case Linked():
            row |= {"do": "link", "digest": str(change.digest)}
            if change.media_type is not None:
                row["type"] = change.media_type
            if change.public:
                row["public"] = True
            if change.names:
                row["names"] = [[str(named.digest), named.size] for named in change.names]
        case TagSet():
            row |= {"do": "tag", "tag": change.tag, "digest": str(change.digest), "at": change.at}
        case TagDropped():
            row |= {"do": "untag", "tag": change.tag}
        case ListingSet():
            row |= {"do": "referrers", "digest": str(change.subject), "body": str(change.body), "at": change.at}
    return json.dumps(row, separators=(",", ":"))


def load(line: str) -> Change:
    """Read what `dump` wrote; raise `ValueError`, `KeyError`, `TypeError` or `MirrorError` on anything else."""
    row = json.loads(line)
    repository = Repository(row["ns"], row["repo"])
    match row["do"]:
        case "link":
            names = tuple(Named(Digest.parse(digest), size) for digest, size in row.get("names", ()))
            digest = Digest.parse(row["digest"])
            return Linked(repository, digest, row.get("type"), bool(row.get("public")), names)
        case "tag":
            return TagSet(repository, row["tag"], Digest.parse(row["digest"]), float(row["at"]))
        case "untag":
            return TagDropped(repository, row["tag"])
        case "referrers":
            body = Digest.parse(row["body"])
            return ListingSet(repository, Digest.parse(row["digest"]), body, float(row["at"]))
        case other:
            raise ValueError(f"unknown change {other!r}")
