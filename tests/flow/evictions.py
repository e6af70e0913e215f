"""What the tests of eviction have in common: images of a size, what is whole with no upstream, what the disk holds."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tests.flow.fills import MIB, REPO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.oci.digest import Digest
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror

# No background eviction, so that a test sees what one request brings about.
NO_MARKS = {"high_water": "100%", "low_water": "100%"}


def image(upstream: FakeRegistry, tag: str, *sizes: int, shared: tuple[Digest, ...] = (), repo: str = REPO) -> Digest:
    """Put an image into `repo`: the `shared` layers, and new ones of so many MiB."""
    base = sum(tag.encode()) * 1000 + len(upstream.shelf(repo).blobs)
    layers = [upstream.add_pattern_blob(repo, size * MIB, base + number) for number, size in enumerate(sizes)]
    return upstream.add_image(repo, tag, layers=[*shared, *layers])


async def pull(mirror: Mirror, *tags: str, repo: str = REPO) -> None:
    """Pull images, which must succeed, one after the other."""
    for tag in tags:
        replies = await mirror.pull(repo, tag)
        assert [reply.status for reply in replies] == [200] * len(replies), tag


async def whole(mirror: Mirror, *tags: str, repo: str = REPO) -> list[str]:
    """Return those of the tags that are served. Each that is must be whole: ask while upstream is stopped."""
    served = []
    for tag in tags:
        manifest = await mirror.get(f"/v2/{repo}/manifests/{tag}")
        if manifest.status != 200:
            continue
        served.append(tag)
        await pull(mirror, tag, repo=repo)
    return served


def here(mirror: Mirror, digest: Digest) -> bool:
    """Say whether content is on disk."""
    return mirror.server.store.layout.blob(digest).exists()


def taken(root: Path) -> int:
    """Return the bytes that a directory takes with all that is in it, as du(1) counts.

    Of what comes and goes meanwhile only that counts which was there from before the end of the walk until after it:
    else a file that went would stand beside the one that came in its place.
    """
    found: list[tuple[str, os.stat_result]] = []
    pending = [os.fspath(root)]
    while pending:
        directory = pending.pop()
        with suppress(FileNotFoundError), os.scandir(directory) as entries:
            found.append((directory, os.lstat(directory)))
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        found.append((entry.path, entry.stat(follow_symlinks=False)))
    blocks: dict[int, int] = {}
    for path, before in found:
        with suppress(FileNotFoundError):
            after = os.lstat(path)
            if after.st_ino == before.st_ino:
                blocks[after.st_ino] = min(before.st_blocks, after.st_blocks)
    return 512 * sum(blocks.values())


@contextmanager
def sampled(root: Path) -> Iterator[list[int]]:
    """Measure what `root` takes as often as a thread can, until the block is left."""
    samples: list[int] = []
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            samples.append(taken(root))
            ended.wait(0.005)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()
