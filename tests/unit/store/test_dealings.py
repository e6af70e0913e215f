"""What is known of upstreams: seen at once, shared by processes, kept across restarts, and never a reason to fail."""

from __future__ import annotations

import multiprocessing
import sqlite3
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from mirror.store import dealings as module
from mirror.store.dealings import Dealings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "upstreams.v1.sqlite"


@pytest.fixture
def book(path: Path) -> Iterator[Dealings]:
    book = Dealings(path)
    yield book
    book.close()


def _put_elsewhere(path: Path) -> None:
    other = Dealings(path)
    assert other.get("rest", "docker.io a") == {"at": 1.0}
    other.put("rest", "docker.io a", {"at": 2.0, "kinds": {"manifest GET": 12.5}})
    other.put("rest", "docker.io b", None)
    other.close()


def test_another_process_sees_what_was_put_and_its_word_is_seen_here(book: Dealings, path: Path) -> None:
    book.put("rest", "docker.io a", {"at": 1.0})
    book.put("rest", "docker.io b", {"at": 1.0})
    book.flush()
    process = multiprocessing.get_context("spawn").Process(target=_put_elsewhere, args=(path,))
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert book.all("rest") == {"docker.io a": {"at": 2.0, "kinds": {"manifest GET": 12.5}}}


def test_it_is_seen_here_before_it_is_written_and_is_still_there_after_a_restart(book: Dealings, path: Path) -> None:
    book.put("quarantine", "docker.io/library/nginx:1", {"since": 5.0})
    book.put("quarantine", "docker.io/library/nginx:2", {"since": 6.0})
    book.put("quarantine", "docker.io/library/nginx:2", None)
    assert book.get("quarantine", "docker.io/library/nginx:1") == {"since": 5.0}
    assert (book.get("rest", "x"), book.all("rest")) == (None, {})
    book.close()
    again = Dealings(path)
    assert again.all("quarantine") == {"docker.io/library/nginx:1": {"since": 5.0}}
    again.close()


def test_what_is_asked_for_is_the_callers_to_change(book: Dealings) -> None:
    given = {"at": 1.0}
    book.put("tag", "x", given)
    given["at"] = 2.0
    found = book.get("tag", "x")
    assert found == {"at": 1.0}
    found["at"] = 3.0
    assert book.get("tag", "x") == {"at": 1.0}


def test_the_oldest_of_a_kind_go_where_there_are_too_many(
    book: Dealings, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 100)
    for number in range(150):
        book.put("answer", f"u{number}", {"at": 1000.0 - number})
    book.put("rest", "another kind", {"at": 0.0})
    book.flush()
    other = Dealings(path)
    assert other.all("answer") == book.all("answer")
    assert other.all("rest") == {"another kind": {"at": 0.0}}
    assert {"u0", "u1"} <= book.all("answer").keys()  # the youngest by what they say, though they were put first
    assert len(book.all("answer")) <= 100
    other.close()


def test_a_damaged_file_is_put_aside_and_begun_anew(book: Dealings, path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    with capture_logs() as logs:
        assert book.get("budget", "x") is None
    book.put("budget", "x", {"at": 1.0})
    book.close()
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert path.with_name(path.name + ".damaged").read_bytes().startswith(b"no database")
    again = Dealings(path)
    assert again.get("budget", "x") == {"at": 1.0}
    again.close()


def test_of_two_processes_that_find_it_damaged_only_one_begins_anew(path: Path) -> None:
    """Else the second puts aside what the first has just begun, and they know nothing of each other."""
    path.write_bytes(b"no database" * 1000)
    found = path.stat().st_ino
    first = Dealings(path)
    first.put("rest", "a", {"at": 1.0})
    first.flush()
    module._put_aside(path, sqlite3.DatabaseError("damaged"), found)
    second = Dealings(path)
    assert second.get("rest", "a") == {"at": 1.0}
    second.put("rest", "a", {"at": 2.0})
    second.close()
    assert first.get("rest", "a") == {"at": 2.0}
    first.close()


def test_a_file_that_is_taken_away_is_begun_anew_by_all_who_have_it_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a command, which opens it then, would talk to nobody."""
    monkeypatch.setattr(module, "_GLANCE", -1.0)
    one, other = Dealings(path), Dealings(path)
    for number in range(2):
        one.put("rest", "a", {"at": 1.0})
        one.flush()
        assert other.get("rest", "a") == {"at": 1.0}
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        with capture_logs() as logs:
            command = Dealings(path)
            command.put("rest", "b", {"at": 2.0 + number})
            command.close()
            assert one.all("rest") == other.all("rest") == {"b": {"at": 2.0 + number}}
            one.put("rest", "c", {"at": 3.0})
            one.flush()
            assert other.get("rest", "c") == {"at": 3.0}
        assert [entry["log_level"] for entry in logs] == ["warning"] * 2, "each tells it once"
    one.close()
    other.close()


def test_a_place_that_cannot_be_written_is_told_once_and_memory_serves(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    book = Dealings(tmp_path / "file" / "x.sqlite")
    with capture_logs() as logs:
        book.put("budget", "x", {"at": 1.0})
        book.flush()
        assert book.get("budget", "x") == {"at": 1.0}
        book.close()
    assert [entry["log_level"] for entry in logs] == ["warning"]


def test_a_disk_that_is_full_for_a_while_is_told_once_and_nothing_is_forgotten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AGAIN", 0.01)
    book, other = Dealings(path), Dealings(path)
    assert book.get("budget", "x") is None
    blocker = sqlite3.connect(path, isolation_level=None)
    pages = blocker.execute("PRAGMA page_count").fetchone()[0]
    assert book._writer is not None
    book._writer.execute(f"PRAGMA max_page_count = {pages}")
    with capture_logs() as logs:
        book.put("budget", "x", {"at": 1.0, "much": "x" * 100_000})
        book.flush()
        assert (book.get("budget", "x") or {})["at"] == 1.0
        assert other.get("budget", "x") is None
        book._writer.execute("PRAGMA max_page_count = 1000000")
        while other.get("budget", "x") is None:
            book.flush()
    assert [entry["log_level"] for entry in logs] == ["warning"]
    blocker.close()
    other.close()
    book.close()


def test_a_long_silence_is_made_up_for_by_reading_all_again(
    book: Dealings, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.put("rest", "a", {"at": 1.0})
    book.flush()
    assert book.get("rest", "a") is not None
    monkeypatch.setattr(module, "_FORGOTTEN", -10.0)  # a row that is gone leaves no trace for others
    other = Dealings(path)
    other.put("rest", "a", None)
    other.put("rest", "b", {"at": 2.0})
    other.close()
    monkeypatch.setattr(module, "_UNSEEN", -1.0)
    book.put("tag", "own", {"at": 3.0})
    assert book.all("rest") == {"b": {"at": 2.0}}
    assert book.get("tag", "own") == {"at": 3.0}


def test_without_a_file_it_is_kept_in_memory() -> None:
    book = Dealings(None)
    book.put("rest", "a", {"at": 1.0})
    book.flush()
    assert book.all("rest") == {"a": {"at": 1.0}}
    book.close()
