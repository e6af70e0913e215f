"""Names: repositories with their namespace, tags, references (distribution specification, "Pulling manifests")."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirror.errors import NameInvalid, TagInvalid
from mirror.oci.digest import Digest

_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_MAX_NAME = 255  # what clients and registries accept; the specification says that many limit it so


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of one upstream: `namespace` is the upstream's name, `name` the path within it."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag: up to 128 characters, first a word character."""

    name: str

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Raise `TagInvalid` unless the distribution specification allows `text` as a tag."""
        if _TAG.fullmatch(text) is None:
            raise TagInvalid(f"{text[:160]!r} is not a tag: letters, digits, '_', '.', '-', at most 128 characters")
        return cls(text)

    def __str__(self) -> str:
        return self.name


Reference = Tag | Digest


def check_name(text: str) -> str:
    """Return `text` if the distribution specification allows it as a repository name, else raise `NameInvalid`."""
    if len(text) > _MAX_NAME or _NAME.fullmatch(text) is None:
        raise NameInvalid(
            f"{text[:160]!r} is not a repository name: lower-case letters and digits, separated by '.', '_', '-' or '/'"
        )
    return text


def parse_reference(text: str) -> Reference:
    """Return a `Digest` if `text` holds a colon, else a `Tag` (neither may hold the other's separator)."""
    return Digest.parse(text) if ":" in text else Tag.parse(text)
