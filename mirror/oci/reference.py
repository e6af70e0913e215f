"""Image references as people write them, on command lines and in lists of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.oci.digest import Digest
from mirror.oci.name import Repository, Tag
from mirror.oci.namespaces import DOCKER_HUB, canonical, looks_like_host, repository_of

if TYPE_CHECKING:
    from mirror.oci.name import Reference


@dataclass(frozen=True, slots=True)
class ImageReference:
    """`[HOST[:PORT]/]NAME[:TAG][@DIGEST]`. Where neither tag nor digest is written the tag is `latest`."""

    repository: Repository
    tag: Tag | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str, default: str = DOCKER_HUB) -> ImageReference:
        """Read a reference by the rules of distribution/reference; `default` is the namespace where no host is written.

        Raise `NameInvalid`, `TagInvalid` or `DigestInvalid`.
        """
        rest, at, digest = text.strip().partition("@")
        directory, slash, last = rest.rpartition("/")  # a colon further left is a port's
        last, colon, tag = last.partition(":")
        host, first_slash, name = (directory + slash + last).partition("/")
        if not (first_slash and looks_like_host(host)):
            host, name = default, directory + slash + last
        repository = repository_of(canonical(host), name)
        if not colon and not at:
            return cls(repository, Tag("latest"), None)
        return cls(repository, Tag.parse(tag) if colon else None, Digest.parse(digest) if at else None)

    @property
    def reference(self) -> Reference:
        """What to ask a registry for: the digest if there is one, since it says more than the tag."""
        found = self.digest or self.tag
        if found is None:
            raise ValueError(f"a reference to {self.repository} has neither a tag nor a digest")
        return found

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"
