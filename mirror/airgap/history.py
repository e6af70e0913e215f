"""The mirror's own history as a list of images: everything that it has served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.wanted import Wanted
from mirror.store.history import History

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository, Tag
    from mirror.store.layout import Layout

PLACE = "the history of this mirror"
_ONE_PULL = 2 * 3600.0  # seconds; a tag that is asked for again and again is written down once an hour


def served(layout: Layout, since: float) -> list[Wanted]:
    """Return what clients were given at or after `since` (seconds since the epoch), in order of names.

    What they asked for by a tag is wanted under that tag, whatever it is now, and what they asked for by a digest alone
    under that digest. Blocks on the disk; raise `StoreError`.
    """
    tags: dict[tuple[Repository, Tag], None] = {}
    digests: dict[tuple[Repository, Digest], float] = {}
    tagged: dict[tuple[Repository, Digest], list[float]] = {}
    for entry in History(layout).read(since - _ONE_PULL):
        key = entry.repository, entry.digest
        if entry.tag is None:
            digests[key] = max(entry.at, digests.get(key, 0.0))
            continue
        tagged.setdefault(key, []).append(entry.at)
        if entry.at >= since:
            tags[entry.repository, entry.tag] = None
    wanted = [Wanted(repository, tag=tag, place=PLACE) for repository, tag in tags]
    # A client may resolve a tag by one process of the mirror, and fetch its digest from another: that is one pull.
    wanted += [
        Wanted(repository, digest=digest, place=PLACE)
        for (repository, digest), at in digests.items()
        if at >= since and not any(abs(at - one) <= _ONE_PULL for one in tagged.get((repository, digest), ()))
    ]
    return sorted(wanted, key=str)


def begun(layout: Layout) -> float | None:
    """Return since when what is served is written down, in seconds since the epoch; None: nothing was served yet.

    What was served before that, by an older release for one, is not known. Raise `StoreError`.
    """
    return History(layout).begun()
