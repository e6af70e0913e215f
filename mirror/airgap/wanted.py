"""What a list asks for: one image, or the tags of a repository that a person selects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository, Tag
    from mirror.oci.platform import Platform


class Selection(Protocol):
    """Which tags of a repository are meant: those that a glob or a range of versions admits, or a list."""

    def choose(self, tags: Iterable[str]) -> list[str]:
        """Return those of `tags` that are meant, each once, in a stable order."""
        ...

    def __str__(self) -> str:
        """Return it as it is written behind the colon of a reference."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """One thing that a list asks for.

    Either `selection` is given, or at least one of `tag` and `digest`. Where both are, the content of `digest` is
    wanted, under the name `tag`.
    """

    repository: Repository
    tag: Tag | None = None
    digest: Digest | None = None
    selection: Selection | None = None
    platforms: tuple[Platform, ...] = ()  # that the list asks for itself; empty: those of the command
    place: str = ""  # where it stands, for a person: `images.txt:12`

    def __str__(self) -> str:
        """Return it as a line of a list that can be read again."""
        if self.selection is not None:
            return f"{self.repository}:{self.selection}"
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


@dataclass(frozen=True, slots=True)
class Unread:
    """Something in a list that names an image, and cannot be read as one."""

    text: str
    place: str
    reason: str  # a sentence: what is wrong, and what would be right


@dataclass(frozen=True, slots=True)
class ImageList:
    """What one input holds. `form` says for a person as what it was read: `Kubernetes objects`."""

    form: str
    wanted: tuple[Wanted, ...]  # as they stand, repeated ones once
    unread: tuple[Unread, ...] = ()
