"""The access record: one JSON object a line for each request of content, in a file of its own: who pulled what.

A thread writes it. The loop only puts a record into a queue, so that a slow disk slows no request, and a full one fails
none: what the queue cannot hold is lost, counted, and said in the log.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from mirror import metrics
from mirror.errors import ConfigError
from mirror.log import scrub_text

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)

QUEUE = 20_000  # records that wait to be written, about 20 MB
_BATCH = 1_000  # records that are written at once
_EVERY = 0.1  # seconds between two batches: each wakes the interpreter, and costs the loop a turn
_RETRY = 2.0  # seconds until a file that could not be written is tried again
_MODE = 0o640  # it says who pulled what
MAX_AGENT = 200  # characters of a `User-Agent`
MAX_REFERENCE = 160
_MAX_METHOD = 16
_LAST = 5.0  # seconds that the thread gets to write what is left when the mirror stops


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """One request of content. `time` is when it came, in seconds since the epoch; None is what is not known."""

    time: float
    client: str
    method: str
    namespace: str | None
    repository: str | None  # without the namespace
    reference: str  # tag or digest as it was asked for; empty for lists
    digest: str | None  # of what was answered with
    kind: str
    status: int
    sent: int  # bytes of content
    cache: str
    seconds: float
    request_id: str
    agent: str

    def line(self) -> bytes:
        """Return it as one line of JSON. What the client chose is bounded, and holds no secret."""
        document = {
            "time": datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "client": self.client,
            "method": self.method[:_MAX_METHOD],
            "namespace": self.namespace,
            "repository": self.repository,
            "reference": scrub_text(self.reference[:MAX_REFERENCE]) or None,
            "digest": self.digest,
            "kind": self.kind,
            "status": self.status,
            "bytes": self.sent,
            "cache": self.cache,
            "seconds": round(self.seconds, 4),
            "request_id": self.request_id,
            "agent": scrub_text(self.agent[:MAX_AGENT]) or None,
        }
        return _encode(document).encode() + b"\n"


_encode = json.JSONEncoder().encode  # ASCII: no line break or terminal sequence of a stranger's comes through


def access_record(path: Path | None, current: AccessRecord | None = None) -> AccessRecord | None:
    """Return the record at `path`: the current one where it is that, else a new one; None without a path.

    Raise `ConfigError` where the file cannot be opened; nothing has changed then.
    """
    if path is None or (current is not None and current.path == path):
        return None if path is None else current
    return AccessRecord(path)


class AccessRecord:
    """The file, and the thread that writes it. A file that was moved away (logrotate) is made anew by itself."""

    def __init__(self, path: Path) -> None:
        """Raise `ConfigError` where the file cannot be opened."""
        self.path = path
        self._queue: queue.SimpleQueue[AccessEntry | None] = queue.SimpleQueue()
        self._lost = 0
        self._ending = threading.Event()
        self._reopen = False
        self._file: int | None = None
        self._failed = False  # the last attempt did, and that has been said
        try:
            self._open()
        except OSError as error:
            problem = f"log.access_file: {path} cannot be opened ({error.strerror})"
            remedy = "name a file in a directory that is there and that the mirror may write to"
            raise ConfigError([f"{problem}; {remedy}"]) from None
        self._thread = threading.Thread(target=self._run, name="access record", daemon=True)
        self._thread.start()

    def write(self, entry: AccessEntry) -> None:
        """Have one record written. Neither waits nor raises."""
        if self._queue.qsize() < QUEUE:
            self._queue.put(entry)
        else:
            self._lost += 1
            metrics.ACCESS_LOST.inc()

    def reopen(self) -> None:
        """Close the file and open its path anew, before the next record: it may have been moved away."""
        self._reopen = True

    def end(self) -> None:
        """Write what is left, and close the file, without being waited for."""
        self._ending.set()
        self._queue.put(None)

    def close(self) -> None:
        """End, and wait for that, a few seconds at most."""
        self.end()
        self._thread.join(_LAST)

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            while True:
                entries, ended = self._take()
                if entries and not self._write_out(entries):
                    return
                if ended:
                    return
                self._ending.wait(_EVERY)

    def _take(self) -> tuple[list[AccessEntry], bool]:
        """Wait for a record; return it and those behind it, and whether they are the last."""
        entries = []
        entry = self._queue.get()
        while entry is not None:
            entries.append(entry)
            if len(entries) == _BATCH:
                return entries, False
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return entries, False
        return entries, True

    def _write_out(self, entries: list[AccessEntry]) -> bool:
        """Write lines, again and again until they are written; return False where the mirror stops before."""
        lines = b"".join(entry.line() for entry in entries)
        done = 0
        while True:
            last = self._ending.is_set()
            try:
                if self._see_to_file():
                    done = lines.rfind(b"\n", 0, done) + 1  # of a line whose first part is elsewhere, all is written
                assert self._file is not None  # noqa: S101  # `_see_to_file` raises where there is none
                while done < len(lines):
                    done += os.write(self._file, lines[done:])
            except OSError as error:
                self._fail(error)
                if last:
                    self._give_up(lines.count(b"\n", done))
                    return False
                self._ending.wait(_RETRY)
            else:
                self._succeed()
                return True

    def _give_up(self, lost: int) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                lost += self._queue.get_nowait() is not None
        metrics.ACCESS_LOST.inc(lost)
        log.error("the mirror stops, and access records are lost", path=str(self.path), lost=lost)

    def _see_to_file(self) -> bool:
        """See that the file is open, and the one that its path names; return whether it is another one than before."""
        if self._file is not None and not self._reopen:
            try:
                named, here = self.path.stat(), os.fstat(self._file)
                if (named.st_dev, named.st_ino) == (here.st_dev, here.st_ino):
                    return False
            except FileNotFoundError:
                pass
        self._reopen = False
        self._close()
        self._open()
        return True

    def _open(self) -> None:
        # O_NONBLOCK: opening a named pipe that nobody reads must not hang; it means nothing to a file.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        self._file = os.open(self.path, flags, _MODE)

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # on NFS: what a write of before could not keep
                os.close(file)

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            log.error(
                "the access record cannot be written; it is tried again, and records wait meanwhile",
                path=str(self.path),
                error=error.strerror,
                room=QUEUE,
            )

    def _succeed(self) -> None:
        lost, self._lost = self._lost, 0
        if self._failed:
            self._failed = False
            log.info("the access record is written again", path=str(self.path), lost=lost)
        elif lost:
            log.error("access records are lost: the disk is too slow for them", path=str(self.path), lost=lost)
