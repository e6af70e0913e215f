"""Which images a person means on a command line: one by name, many by a glob, or content by its digest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.errors import DigestInvalid, NameInvalid, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.namespaces import DOCKER_HUB, canonical, looks_like_host

if TYPE_CHECKING:
    from mirror.oci.name import Repository

LEAST_HEX = 12  # digits of a digest that are taken for one

_LIBRARY = f"{DOCKER_HUB}/library/"
_GLOB = re.compile(r"\*\*|\*|\?")
_NAME = re.compile(r"[a-z0-9._:/*?\[\]-]+")
_TAG = re.compile(r"[A-Za-z0-9_.*?-]+")
_PREFIX = re.compile(rf"(?:(?:sha256|sha384|sha512):)?[a-f0-9]{{{LEAST_HEX},128}}")
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class ImagePattern:
    """What one argument means. `*` is anything within a component of a name or within a tag, `**` anything at all.

    `nginx`, `nginx:1.25`, `quay.io/org/*`, `*:v1.*`, `quay.io` (all of it), `repo@sha256:…`, or a digest alone, of
    which twelve digits or more are enough. A name without a host is one of docker.io; `*` alone is every name. Without
    a tag all tags are meant.
    """

    text: str  # as it was written
    names: re.Pattern[str] | None  # of repositories; None: any
    tags: re.Pattern[str] | None  # None: any, and what has no tag too
    digest: str | None = None  # the beginning of `ALGORITHM:HEX`, or of `HEX` where it has no colon
    exact: bool = False  # it can mean one tag, or one digest, and no other
    name: str | None = None  # of the repository, with its host, where it is no glob

    @classmethod
    def parse(cls, text: str) -> ImagePattern:
        """Read an argument; raise `NameInvalid`, `TagInvalid` or `DigestInvalid`."""
        written = text.strip()
        if _PREFIX.fullmatch(written):
            return cls(written, None, None, written, exact=True)
        name, at, digest = written.partition("@")
        if at and not _PREFIX.fullmatch(digest):
            raise DigestInvalid(
                f"{digest[:160]!r} is no digest, and no beginning of one: sha256: and {LEAST_HEX} digits or more"
            )
        name, tag = _split(name)
        if not _NAME.fullmatch(name):
            raise NameInvalid(
                f"{text[:160]!r} means no image: names are lower-case letters and digits, separated by '.', '_', '-' "
                "or '/'; * stands for anything within a component, ** for anything at all"
            )
        if tag is not None and not _TAG.fullmatch(tag):
            raise TagInvalid(f"{tag[:160]!r} is no tag: letters, digits, '_', '.', '-', and * for anything")
        glob = _full(name)
        exact = not _GLOB.search(glob + (tag or "")) and bool(tag or at)
        return cls(
            written,
            None if glob == "**" else compiled(glob),
            None if tag is None else compiled(tag),
            digest or None,
            exact,
            None if _GLOB.search(glob) else glob,
        )

    def has_repository(self, repository: Repository) -> bool:
        """Say whether it means images of `repository`. Those of Docker Hub's library go by their short names too."""
        return self.names is None or self.has_path(str(repository))

    def has_path(self, path: str) -> bool:
        """Say the same of a repository that is written out: `NAMESPACE/NAME`."""
        if self.names is None or self.names.fullmatch(path):
            return True
        return path.startswith(_LIBRARY) and bool(self.names.fullmatch(f"{DOCKER_HUB}/{path[len(_LIBRARY) :]}"))

    @property
    def paths(self) -> tuple[str, ...]:
        """The repositories that it can mean, as `NAMESPACE/NAME`, where its name is no glob; else empty."""
        if self.name is None:
            return ()
        short = self.name.removeprefix(f"{DOCKER_HUB}/")
        familiar = short != self.name and not self.name.startswith(_LIBRARY)
        return (self.name, f"{_LIBRARY}{short}") if familiar else (self.name,)

    def has_tag(self, tag: str) -> bool:
        """Say whether it means images under `tag`, as far as tags go."""
        return self.tags is None or self.tags.fullmatch(tag) is not None

    def has_digest(self, digest: Digest) -> bool:
        """Say whether it means content of `digest`, as far as digests go."""
        if self.digest is None:
            return True
        return (str(digest) if ":" in self.digest else digest.hex).startswith(self.digest)

    @property
    def bare(self) -> bool:
        """Whether it is a digest alone, in whatever repository."""
        return self.names is None and self.digest is not None

    @property
    def has_untagged(self) -> bool:
        """Whether it means images that have no tag as well."""
        return self.tags is None

    @property
    def whole_digest(self) -> Digest | None:
        """The digest, where all of it was written."""
        if self.digest is None:
            return None
        try:
            return Digest.parse(self.digest if ":" in self.digest else f"sha256:{self.digest}")
        except DigestInvalid:
            return None

    def __str__(self) -> str:
        return self.text


def _split(written: str) -> tuple[str, str | None]:
    """Return name and tag: the colon of a port is followed by a slash, or by digits behind a host alone."""
    directory, slash, last = written.rpartition("/")
    name, colon, tag = last.partition(":")
    if not colon or (not slash and "." in name and _PORT.fullmatch(tag)):
        return written, None
    return directory + slash + name, tag


def _full(name: str) -> str:
    """Return a glob for whole names, host included."""
    if name in ("*", "**"):
        return "**"
    if name.endswith("/"):
        name += "**"
    first, slash, rest = name.partition("/")
    if not slash:
        return f"{canonical(first)}/**" if looks_like_host(first) else f"{DOCKER_HUB}/{first}"
    if looks_like_host(first) or not first.strip("*?"):
        return f"{canonical(first)}/{rest}"
    return f"{DOCKER_HUB}/{name}"


def compiled(glob: str) -> re.Pattern[str]:
    """Compile a glob: `**` is anything, `*` anything but a slash, `?` one character but a slash."""
    meaning = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meaning.get(piece) or re.escape(piece) for piece in re.split(r"(\*\*|\*|\?)", glob)))
