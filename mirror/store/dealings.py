"""What the mirror has learnt in its dealings with upstreams: what is left of a limit, who rests, who was in trouble.

Small facts, each with a kind and a key, kept across restarts and shared by all processes of a store in
`upstreams.v1.sqlite`. They are asked for in the midst of a request and come from memory; what another process has
written is noticed by SQLite's own count of changes, in microseconds, and only what is new is read. Writing is behind,
in one thread. To lose them is no disaster: upstream says it all again. So neither a damaged file nor a full disk fails
a request or a start; they are told in the log, once, and what is known stays in memory.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

import structlog

from mirror.store.damage import is_damage

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)

FILE = "upstreams.v1.sqlite"  # in `storage.path`
MAX_ROWS = 10_000  # of one kind; past that the oldest go, a hundredth of them at once
BEHIND = 0.2  # seconds until what was put is written

_AGAIN = 5.0  # seconds until writing is tried again that failed
_WAIT = 2.0  # seconds for another process to end its transaction
_FORGOTTEN = 3600.0  # seconds that a row which is gone tells other processes so …
_GLANCE = 1.0  # seconds between looks whether the file is still the one that is open
_UNSEEN = 1800.0  # … and after so many without a look everything is read again
_CHECKPOINT, _LOG_LIMIT = 100, 256 * 1024  # pages and bytes of the write-ahead log: it counts against the store's cap

# Every write gives a row a new number, so what has changed is what has a higher one. No value: the fact is forgotten.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS dealing (
    rev INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, key TEXT NOT NULL, written REAL NOT NULL, value TEXT,
    UNIQUE (kind, key)
)
"""

_Name = tuple[str, str]  # kind and key


class Dealings:
    """The facts, opened by one process; any thread may call. A process that was forked opens its own."""

    def __init__(self, path: Path | None) -> None:
        """Remember where the file is: it is opened, and made, when it is first needed. None: in memory only."""
        self._path = path
        self._facts: dict[str, dict[str, dict[str, Any]]] = {}
        self._pending: dict[_Name, str | None] = {}
        self._writing: dict[_Name, str | None] = {}
        self._reading: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._thread: threading.Thread | None = None
        self._opened = path is None
        self._closed = self._hurry = self._failing = False
        self._version = self._seen = -1
        self._looked = self._glanced = 0.0  # on the monotonic clock
        self._inode: int | None = None  # of the file that is open
        self._changed = threading.Condition()

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return one fact, as whoever wrote it last put it; it is the caller's to change."""
        with self._changed:
            self._look()
            found = self._facts.get(kind, {}).get(key)
            return dict(found) if found is not None else None

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return all facts of a kind by their keys, those first that were put first."""
        with self._changed:
            self._look()
            return {key: dict(value) for key, value in self._facts.get(kind, {}).items()}

    def put(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        """Note a fact, or forget it (None). `value` is what JSON can say; its `at`, if any, says how old it is.

        It is seen here at once, by other processes within some tenths of a second.
        """
        with self._changed:
            self._look()
            if self._facts.get(kind, {}).get(key) != value:
                self._keep(kind, key, value)
                self._changed.notify_all()

    def copy(self) -> Dealings:
        """Return all of it in memory, for whoever wants to try what would come of it."""
        copy = Dealings(None)
        with self._changed:
            self._look()
            copy._facts = {
                kind: {key: dict(value) for key, value in facts.items()} for kind, facts in self._facts.items()
            }
        return copy

    def flush(self) -> None:
        """Return when all that was put is written, or could not be."""
        with self._changed:
            while self._thread is not None and (self._pending or self._writing) and not self._failing:
                self._hurry = True
                self._changed.notify_all()
                self._changed.wait()

    def close(self) -> None:
        """Write what is still to be written, and let go of the file. Once is enough; what is put later is not kept."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        with self._changed:
            self._pending.clear()
            self._let_go()

    def _keep(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        facts = self._facts.setdefault(kind, {})
        facts.pop(key, None)
        if value is not None:
            facts[key] = dict(value)
        self._write(kind, key, value)
        if len(facts) > MAX_ROWS:
            by_age = sorted(facts, key=lambda each: _at(facts[each]))  # those put first go first where none says more
            for old in by_age[: len(facts) - MAX_ROWS + MAX_ROWS // 100]:
                del facts[old]
                self._write(kind, old, None)

    def _write(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        if self._reading is None or self._closed:
            return
        self._pending[kind, key] = None if value is None else json.dumps(value, separators=(",", ":"))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="dealings", daemon=True)
            self._thread.start()

    # --- reading what others have written -----------------------------------------------------------------------

    def _look(self) -> None:
        """Take over what other processes have written since. What is to be written here is newer than that."""
        if not self._opened:
            self._opened = True
            self._open()
        if self._reading is None or self._writing:  # while it is being written nobody can say which came later
            return
        now = time.monotonic()
        if now - self._glanced > _GLANCE:
            self._glanced = now
            self._follow()
            if self._reading is None:
                return
        try:
            version = self._reading.execute("PRAGMA data_version").fetchone()[0]
            if version == self._version:
                self._looked = now
                return
            if now - self._looked > _UNSEEN:
                self._seen = -1
            rows = self._reading.execute(
                "SELECT rev, kind, key, value FROM dealing WHERE rev > ? ORDER BY rev", (self._seen,)
            ).fetchall()
        except sqlite3.Error as error:
            self._complain(error)
            self._let_go()
            return
        self._version, self._looked = version, now
        self._take_over(rows)

    def _follow(self) -> None:
        """Where the file was taken away, or another one put in its place, go on with what is there, as others do."""
        assert self._path is not None  # noqa: S101  # it is open
        try:
            same = _inode(self._path) == self._inode
        except OSError:  # nobody can say; what is open goes on
            return
        if not same:
            log.warning("what is known of upstreams was taken away, and is begun anew", path=str(self._path))
            self._let_go()
            self._version = self._seen = -1
            self._open()

    def _take_over(self, rows: list[tuple[int, str, str, str | None]]) -> None:
        if self._seen < 0:  # all of them
            self._facts = {}
            for (kind, key), text in self._pending.items():
                if (value := _load(text)) is not None:
                    self._facts.setdefault(kind, {})[key] = value
        for rev, kind, key, text in rows:
            self._seen = rev
            if (kind, key) not in self._pending:
                self._facts.setdefault(kind, {}).pop(key, None)
                if (value := _load(text)) is not None:
                    self._facts[kind][key] = value

    def _open(self) -> None:
        assert self._path is not None  # noqa: S101  # else there is nothing to open
        try:
            found = _inode(self._path)
            try:
                self._connect(self._path)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                self._let_go()
                _put_aside(self._path, error, found)
                self._connect(self._path)
        except (sqlite3.Error, OSError) as error:
            self._complain(error)
            self._let_go()

    def _connect(self, path: Path) -> None:
        self._reading = _connection(path)
        self._writer = _connection(path)
        self._writer.execute(_SCHEMA)
        self._inode = _inode(path)
        # Read through once: what is damaged shows now, while it can still be put aside.
        self._reading.execute("SELECT kind, key, value FROM dealing").fetchall()

    def _let_go(self) -> None:
        for connection in (self._reading, self._writer):
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        self._reading = self._writer = None

    # --- writing behind -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed)
                if not self._pending:
                    return
                self._changed.wait_for(lambda: self._closed or self._hurry, BEHIND if not self._failing else _AGAIN)
                self._writing, self._pending = self._pending, {}
                self._hurry = False
                writer, last = self._writer, self._closed
            failed = writer is None or not self._commit(writer)
            with self._changed:
                if failed and writer is not None and not last:
                    self._pending = self._writing | self._pending
                self._writing = {}
                self._failing = failed
                self._changed.notify_all()

    def _commit(self, writer: sqlite3.Connection) -> bool:
        now = time.time()
        rows = [(kind, key, now, text) for (kind, key), text in self._writing.items()]
        try:
            writer.execute("BEGIN IMMEDIATE")
            try:
                writer.executemany(
                    "INSERT OR REPLACE INTO dealing (kind, key, written, value) VALUES (?, ?, ?, ?)", rows
                )
                writer.execute("DELETE FROM dealing WHERE value IS NULL AND written < ?", (now - _FORGOTTEN,))
                writer.execute("COMMIT")
            except BaseException:
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            self._complain(error)
            return False
        return True

    def _complain(self, error: sqlite3.Error | OSError) -> None:
        if not self._failing:
            log.warning(
                "what is known of upstreams (limits, rests) is kept in memory only, and is lost at the next start; see "
                "whether the disk is full or read-only, and who owns the file",
                path=str(self._path),
                error=str(error),
            )


def _connection(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_WAIT, check_same_thread=False, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # a power cut takes the last seconds, and leaves the file whole
        db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
        db.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
    except BaseException:
        db.close()
        raise
    return db


def _put_aside(path: Path, error: sqlite3.Error, inode: int | None) -> None:
    """Move a damaged file out of the way. May raise `OSError`. Whoever has it open goes on with it, alone.

    What has another `inode` by now is what another process, that has just done it, has begun anew.
    """
    if _inode(path) not in (None, inode):
        return
    damaged = path.with_name(path.name + ".damaged")
    log.warning(
        "what was known of upstreams (limits, rests, quarantines) is damaged; it is put aside and begun anew",
        path=str(path),
        aside=str(damaged),
        error=str(error),
    )
    with contextlib.suppress(FileNotFoundError):  # another process has just done it
        path.rename(damaged)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _inode(path: Path) -> int | None:
    """Return which file stands there, None: none. May raise `OSError`."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _load(text: str | None) -> dict[str, Any] | None:
    """Read a value; None where it was forgotten, or cannot be read."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _at(value: dict[str, Any]) -> float:
    at = value.get("at", 0.0)
    return at if isinstance(at, (int, float)) else 0.0
