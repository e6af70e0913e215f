"""What can happen to the facts that the index keeps. The same values are the lines of the journal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mirror.oci.digest import Digest
from mirror.oci.name import Repository, parse_reference

# The `at` of a tag, or of a list of referrers, that was carried in: it is never stale, and nobody is asked for it until
# `mirror refresh` makes it an ordinary one. The last second of the year 9999: JSON and SQLite keep it exactly, and
# whatever shows times can show it.
SETTLED = 253402300799.0


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


@dataclass(frozen=True, slots=True)
class Pinned:
    """Somebody wants the image under `reference`, a tag or a digest as text, to stay whatever happens."""

    repository: Repository
    reference: str
    at: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Unpinned:
    """And does no longer."""

    repository: Repository
    reference: str


@dataclass(frozen=True, slots=True)
class Removed:
    """Content was evicted or purged: with it go all tags, links, names and lists that tell of it, everywhere."""

    digests: tuple[Digest, ...]


# The following are not in the journal. Whoever looks through the disk finds them again (`mirror.store.survey`).


@dataclass(frozen=True, slots=True)
class Stored:
    """Content is whole on disk. `names` are the manifests and blobs that a manifest needs, foreign layers left out."""

    digest: Digest
    taken: int  # bytes on disk, counted as blocks
    at: float  # seconds since the epoch; counts as a use of it
    media_type: str | None = None  # of a manifest; None: a blob
    names: tuple[Digest, ...] = ()
    subject: Digest | None = None  # what a manifest refers to


@dataclass(frozen=True, slots=True)
class Lost:
    """Content is no longer on disk, or was put aside because it is wrong. Tags and links stay: it may be healed."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class Used:
    """A client asked at `at` (seconds since the epoch) for content through a repository."""

    repository: Repository
    digest: Digest
    at: float


@dataclass(frozen=True, slots=True)
class Checked:
    """The disk was read at `at` (seconds since the epoch), and has `digest` right."""

    digest: Digest
    at: float


Journaled = Linked | TagSet | TagDropped | ListingSet | Pinned | Unpinned | Removed
Change = Journaled | Stored | Lost | Used | Checked


def journaled(change: Change) -> bool:
    """Say whether the journal has such changes."""
    return not isinstance(change, Stored | Lost | Used | Checked)


def dump(change: Change) -> str:
    """Write a change as one line of JSON, without the line's end. Raise `ValueError` for what the journal has not."""
    if isinstance(change, Removed):
        row: dict[str, Any] = {"do": "remove", "digests": [str(digest) for digest in change.digests]}
    elif isinstance(change, Stored | Lost | Used | Checked):
        raise ValueError(f"the journal does not have facts of the disk like {change}")  # noqa: TRY004  # its type is right
    else:
        row = {"ns": change.repository.namespace, "repo": change.repository.name} | _said(change)
    return json.dumps(row, separators=(",", ":"))


def load(line: str) -> Change:
    """Read what `dump` wrote; raise `ValueError`, `KeyError`, `TypeError` or `MirrorError` on anything else."""
    row = json.loads(line)
    if row["do"] == "remove":
        return Removed(tuple(Digest.parse(digest) for digest in row["digests"]))
    repository = Repository(row["ns"], row["repo"])
    match row["do"]:
        case "link":
            names = tuple(Named(Digest.parse(digest), size) for digest, size in row.get("names", ()))
            digest = Digest.parse(row["digest"])
            change: Change = Linked(repository, digest, row.get("type"), bool(row.get("public")), names)
        case "tag":
            change = TagSet(repository, row["tag"], Digest.parse(row["digest"]), float(row["at"]))
        case "untag":
            change = TagDropped(repository, row["tag"])
        case "referrers":
            body = Digest.parse(row["body"])
            change = ListingSet(repository, Digest.parse(row["digest"]), body, float(row["at"]))
        case "pin":
            change = Pinned(repository, str(parse_reference(row["ref"])), float(row["at"]))
        case "unpin":
            change = Unpinned(repository, str(parse_reference(row["ref"])))
        case other:
            raise ValueError(f"unknown change {other!r}")
    return change


def _said(change: Linked | TagSet | TagDropped | ListingSet | Pinned | Unpinned) -> dict[str, Any]:
    match change:
        case Linked():
            row: dict[str, Any] = {"do": "link", "digest": str(change.digest)}
            if change.media_type is not None:
                row["type"] = change.media_type
            if change.public:
                row["public"] = True
            if change.names:
                row["names"] = [[str(named.digest), named.size] for named in change.names]
            return row
        case TagSet():
            return {"do": "tag", "tag": change.tag, "digest": str(change.digest), "at": change.at}
        case TagDropped():
            return {"do": "untag", "tag": change.tag}
        case ListingSet():
            return {"do": "referrers", "digest": str(change.subject), "body": str(change.body), "at": change.at}
        case Pinned():
            return {"do": "pin", "ref": change.reference, "at": change.at}
        case Unpinned():
            return {"do": "unpin", "ref": change.reference}
