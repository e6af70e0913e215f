"""The lock file: what each tag was when it was resolved, so that two sides, or two months, mean the same images.

One `REPOSITORY:TAG@DIGEST` a line, sorted, behind a comment: it is a list of images too, and reads well as a difference
of two months. What was asked for by digest alone stands in it as `REPOSITORY@DIGEST`, so that as a list it is complete.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from mirror.errors import ListMalformed, MirrorError
from mirror.oci.reference import ImageReference

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository, Tag

_HEADER = (
    "# What each tag is: written by `mirror prefetch --lock`, followed by `--locked`. It can be read as a list, too.\n"
)
_MOST = 10  # problems that are told; more of them say no more


@dataclass(frozen=True, slots=True)
class Lock:
    """Digests by `REPOSITORY:TAG`, and the `REPOSITORY@DIGEST` that were asked for without a tag."""

    tags: dict[str, Digest] = field(default_factory=dict)
    untagged: frozenset[str] = frozenset()

    @classmethod
    def read(cls, data: bytes, name: str) -> Self:
        """Read a lock file; `name` is what a person calls it. Raise `ListMalformed` with all that is wrong."""
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ListMalformed(f"{name} is no lock file: it is not text; --lock writes one") from None
        tags: dict[str, Digest] = {}
        untagged = set()
        problems = []
        for number, line in enumerate(text.splitlines(), 1):
            entry = line.partition("#")[0].strip()
            if not entry:
                continue
            try:
                found = ImageReference.parse(entry)
            except MirrorError as error:
                problems.append(f"{name}:{number}: {error}")
                continue
            if found.digest is None:
                problems.append(
                    f"{name}:{number}: {entry[:160]} has no digest, as every line of a lock file has; --lock writes one"
                )
            elif found.tag is None:
                untagged.add(str(found))
            elif tags.setdefault(key := f"{found.repository}:{found.tag}", found.digest) != found.digest:
                problems.append(f"{name}:{number}: {key} stands in it twice, with two digests; remove one of them")
        if problems:
            more = [f"and {len(problems) - _MOST} more"] if len(problems) > _MOST else []
            raise ListMalformed("\n".join(problems[:_MOST] + more))
        return cls(tags, frozenset(untagged))

    @classmethod
    def of(cls, resolved: Iterable[tuple[Repository, Tag | None, Digest]]) -> Self:
        """Make the lock of what was resolved; the last word on a tag counts."""
        tags: dict[str, Digest] = {}
        untagged = set()
        for repository, tag, digest in resolved:
            if tag is None:
                untagged.add(f"{repository}@{digest}")
            else:
                tags[f"{repository}:{tag}"] = digest
        return cls(tags, frozenset(untagged))

    def with_(self, newer: Lock) -> Lock:
        """Return both in one; on a tag that is in both `newer` has the word."""
        return Lock({**self.tags, **newer.tags}, self.untagged | newer.untagged)

    def __str__(self) -> str:
        """Return the file's text; the same content is the same text."""
        lines = sorted([*(f"{key}@{digest}" for key, digest in self.tags.items()), *self.untagged])
        return _HEADER + "".join(f"{line}\n" for line in lines)
