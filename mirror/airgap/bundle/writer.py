"""Writing a bundle: reading, hashing and writing at once, in a few megabytes of memory.

What is read is compared with its digest while it goes by. What turns out wrong ends the export, with nothing finished.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from mirror.airgap.bundle.forms import header
from mirror.airgap.bundle.layout import layout_files, path_of
from mirror.airgap.bundle.manifest import NAME, SIGNATURE
from mirror.errors import ContentBroken, MirrorError, StoreError
from mirror.oci.digest import Digest
from mirror.store.inspection import DAMAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from mirror.airgap.bundle.constituents import Runnable
    from mirror.airgap.bundle.forms import Form
    from mirror.airgap.bundle.manifest import BundleManifest, Content

    Open = Callable[[Digest], tuple[BinaryIO, int] | None]

_PIECE = 1024 * 1024  # bytes
_PIECES = 8  # on their way
_BLOCK = 512  # bytes; an archive's files begin at multiples of it
_RECORD = 10240  # bytes; an archive ends at a multiple of it


class Damaged(ContentBroken):
    """Content of the store is not what its digest says; `seen` is the file."""

    def __init__(self, digest: Digest, seen: os.stat_result) -> None:
        super().__init__(
            f"{digest} was damaged on disk and is put aside; mirror verify --repair fetches it again, then export again"
        )
        self.digest = digest
        self.seen = seen


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be written: documents in memory, then contents, from `bodies` or from the store."""

    documents: tuple[tuple[str, bytes], ...]
    contents: tuple[Content, ...]
    bodies: Mapping[Digest, bytes]

    @property
    def content_size(self) -> int:
        """Bytes of all contents."""
        return sum(content.size for content in self.contents)

    @property
    def archive_size(self) -> int:
        """Bytes of the whole as a tar archive."""
        size = sum(_padded(name, len(body)) for name, body in self.documents)
        size += sum(_padded(path_of(content.digest), content.size) for content in self.contents)
        return size + 2 * _BLOCK + -(size + 2 * _BLOCK) % _RECORD


def plan(
    manifest: BundleManifest,
    runnable: Mapping[str, Runnable],
    bodies: Mapping[Digest, bytes],
    *,
    signature: bytes | None = None,
) -> Plan:
    """Return the files of a bundle in their order: the documents, all manifests, then the rest, each by its digest."""
    documents = [(NAME, manifest.dump()), *([(SIGNATURE, signature)] if signature is not None else [])]
    contents = sorted(manifest.carried, key=lambda content: (not content.media_type, content.digest))
    return Plan((*documents, *layout_files(manifest, runnable)), tuple(contents), bodies)


def write(
    plan: Plan,
    form: Form,
    open_: Open,
    advance: Callable[[int], None] = lambda _: None,
    written: Callable[[], None] = lambda: None,
) -> tuple[Path, ...]:
    """Write a bundle and return what there is now; `advance` hears how many bytes of content were read.

    `written` is called when all is written, before the bundle gets its name.

    Raise `Damaged`, and `MirrorError` where content went meanwhile or the target cannot be written. Then nothing is
    left of it.
    """
    try:
        with _Pipeline(form) as pipeline:
            for name, body in plan.documents:
                pipeline.put(name, body)
            for content in plan.contents:
                digest = Digest.parse(content.digest)
                body_ = plan.bodies.get(digest)
                if body_ is not None:
                    pipeline.put(path_of(content.digest), body_)
                    advance(len(body_))
                    continue
                opened = open_(digest)
                if opened is None or opened[1] != content.size:
                    raise MirrorError(f"{digest} went from the store while the bundle was written; export again")
                with opened[0] as file:
                    for count in pipeline.copy(path_of(content.digest), file, content.size, digest):
                        advance(count)
        written()
        return form.finish()
    finally:
        form.close()


class _Pipeline:
    """Three stages: the caller reads, one thread hashes, one writes. Each waits only when all buffers are on their way.

    What a stage raises comes out where its buffer is used again, or at the end.
    """

    def __init__(self, form: Form) -> None:
        self._form = form
        self._hashing = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._free = [memoryview(bytearray(_PIECE)) for _ in range(_PIECES)]
        self._used: deque[tuple[memoryview | None, tuple[Future[None], ...]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while error is None and self._used:
                self._wait()
        finally:
            self._hashing.shutdown(cancel_futures=True)
            self._writing.shutdown(cancel_futures=True)

    def put(self, name: str, body: bytes) -> None:
        """Write a small file."""
        self._submit(None, self._writing.submit(self._whole, name, body))

    def copy(self, name: str, file: BinaryIO, size: int, digest: Digest) -> Iterator[int]:
        """Write a file from an open one; yield the bytes of each piece that was read."""
        hasher = digest.hasher()
        self._submit(None, self._writing.submit(self._form.begin, name, size))
        left = size
        while left:
            buffer = self._buffer()
            count = _read(file, buffer[: min(left, _PIECE)], digest)
            if not count:
                break
            left -= count
            piece = buffer[:count]
            self._submit(
                buffer, self._hashing.submit(hasher.update, piece), self._writing.submit(self._form.write, piece)
            )
            yield count
        seen = os.fstat(file.fileno())

        def compare() -> None:
            if left or hasher.hexdigest() != digest.hex:
                raise Damaged(digest, seen)

        self._submit(None, self._hashing.submit(compare), self._writing.submit(self._form.end))

    def _whole(self, name: str, body: bytes) -> None:
        self._form.begin(name, len(body))
        self._form.write(memoryview(body))
        self._form.end()

    def _submit(self, buffer: memoryview | None, *stages: Future[None]) -> None:
        self._used.append((buffer, stages))
        if len(self._used) > 4 * _PIECES:  # many small files
            self._wait()

    def _buffer(self) -> memoryview:
        while not self._free:
            self._wait()
        return self._free.pop()

    def _wait(self) -> None:
        """Wait for what began first."""
        buffer, stages = self._used.popleft()
        for stage in stages:
            stage.result()
        if buffer is not None:
            self._free.append(buffer)


def _read(file: BinaryIO, buffer: memoryview, digest: Digest) -> int:
    """Read some of a file; raise `Damaged` where the disk does not give it."""
    try:
        return file.readinto(buffer)  # type: ignore[attr-defined,no-any-return]  # a raw file has it
    except OSError as error:
        if error.errno in DAMAGE:
            raise Damaged(digest, os.fstat(file.fileno())) from error
        raise StoreError(f"{digest} cannot be read from the store: {error.strerror or error}") from error


def _padded(name: str, size: int) -> int:
    return len(header(name, size)) + size + -size % _BLOCK
