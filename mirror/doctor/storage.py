"""Whether the store can be used and has room. Only `stat` and small reads: nothing is made, opened or locked.

Beside a running mirror that is more than politeness. POSIX locks fall when any descriptor of the file is closed by the
process that holds them (fcntl(2)), so merely opening the index would take them from a mirror in the same process.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mirror.config.units import show_bytes
from mirror.doctor.finding import About, Finding
from mirror.doctor.holders import holders
from mirror.errors import StoreUnusable
from mirror.store.layout import VERSION, refuse_remote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.config import StorageConfig
    from mirror.doctor.case import Case

_BLOCK = 512  # bytes that st_blocks counts in (stat(2))
_LITTLE = 1024**3  # bytes of room; an image is often as large
_FEW = 4096  # inodes; a blob takes one, and an unfinished one three
_WALK = 5.0  # seconds that counting the store may take
_FILES = (
    "VERSION",
    *("index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "journal.v1", "room.v2", "recent.v2", "turns.v2"),
    *("served.log", "upstreams.v1.sqlite", "upstreams.v1.sqlite-wal", "upstreams.v1.sqlite-shm"),
    *("blobs.v1", "fills.v1", "aside.v1"),
)


def examine(case: Case) -> list[Finding]:
    """Look at `storage.path`."""
    if case.config is None or not case.here:
        return []
    storage = case.config.storage
    path = storage.path.absolute()
    about = About("storage", str(path))
    try:
        return _examine(about, storage, path)
    except PermissionError as error:
        return [
            about.failure(
                f"{error.filename} may not be looked at by user {os.geteuid()}",
                "ask as the user that the mirror runs as, or as root; and see that the mirror's user owns it",
            )
        ]


def _examine(about: About, storage: StorageConfig, path: Path) -> list[Finding]:
    ground = next(parent for parent in (path, *path.parents) if parent.exists())
    if not ground.is_dir():
        return [
            about.failure(
                f"{ground} is a file, and should be a directory",
                "move the file away, or name another directory: storage.path",
            )
        ]
    if (unusable := _unusable(about, ground)) is not None:
        return [unusable]
    if ground != path:
        return [
            about.ok(f"is not there yet; the mirror makes it in {ground} when it starts"),
            *_room(about, storage, ground),
        ]
    return [*_version(about, path), *_owners(about, path), *_room(about, storage, path), *_held(about, path)]


def _unusable(about: About, ground: Path) -> Finding | None:
    try:
        refuse_remote(ground)
    except StoreUnusable as error:
        return about.failure(str(error), "name a directory on a local disk or a block volume: storage.path")
    if os.statvfs(ground).f_flag & os.ST_RDONLY:
        return about.failure(
            f"{ground} is on a file system that is mounted read-only",
            "mount it for writing (the kernel remounts a broken disk read-only: see dmesg); in a container give the "
            "mirror a volume there, under systemd ReadWritePaths= or StateDirectory=",
        )
    if not os.access(ground, os.W_OK | os.X_OK):
        owner = ground.stat().st_uid
        return about.failure(
            f"{ground} belongs to user {owner}, and user {os.geteuid()} may not write there",
            f"chown -R {os.geteuid()} {ground}, if that is the mirror's user; else ask as the mirror's user",
        )
    return None


def _version(about: About, path: Path) -> list[Finding]:
    file = path / "VERSION"
    if not file.exists():
        return []
    text = file.read_text(encoding="ascii", errors="replace").strip()[:20]
    if text == str(VERSION):
        return []
    if text.isdigit() and 0 < int(text) < VERSION:
        return [about.ok(f"has layout {text}, and is brought up to layout {VERSION} when the mirror starts")]
    return [
        about.failure(
            f"{file} says layout {text!r}, and this program knows layout {VERSION}",
            "use the release that wrote it, or name another directory: storage.path",
        )
    ]


def _owners(about: About, path: Path) -> list[Finding]:
    """Find what somebody else's run has left, which the mirror's own user cannot write then.

    The directory itself is often not the mirror's own: a volume is root's, and lets it write by its group or its mode.
    """
    first: Path | None = None
    for file in (path / name for name in _FILES):
        try:
            found = file.lstat().st_uid
        except FileNotFoundError:
            continue
        if first is None:
            first, owner = file, found
        elif found != owner:
            return [
                about.failure(
                    f"{first.name} in it belongs to user {owner}, and {file.name} to user {found}: the mirror was run "
                    "as two users, and one of them cannot go on",
                    f"end the mirror, chown -R {owner} {path} (or the user that it shall run as), and start it again",
                )
            ]
    return []


def _room(about: About, storage: StorageConfig, ground: Path) -> list[Finding]:
    disk = os.statvfs(ground)
    total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    cap, kept = storage.max_size.of(total), storage.min_free.of(total)
    used, counted = _used(ground) if ground == storage.path.absolute() else (0, True)
    room = min(cap - used, free - kept)
    at_least = "" if counted else "at least "
    held = (
        f"{show_bytes(free)} free of {show_bytes(total)}, {show_bytes(kept)} of it to be left (storage.min_free); the "
        f"store has {at_least}{show_bytes(used)} of {show_bytes(cap)} (storage.max_size)"
    )
    findings = []
    if free - kept <= 0 and used < _LITTLE:  # there is next to nothing that could go to make room
        findings.append(
            about.failure(
                f"nothing new can be stored, the disk is too full: {held}",
                "free the disk, or lower storage.min_free; until then what is fetched is streamed and not kept",
            )
        )
    elif min(cap, used + free - kept) < _LITTLE:
        findings.append(
            about.warning(
                f"room for {show_bytes(max(0, min(cap, used + free - kept)))} of images only: {held}",
                "free the disk, lower storage.min_free, or raise storage.max_size: an image is often as large",
            )
        )
    elif room < _LITTLE:
        findings.append(about.ok(f"full, so that what was not asked for the longest makes room: {held}"))
    else:
        findings.append(about.ok(f"room for {show_bytes(room)}: {held}"))
    return findings + _inodes(about, disk)


def _inodes(about: About, disk: os.statvfs_result) -> list[Finding]:
    if disk.f_files == 0 or disk.f_favail >= _FEW:  # file systems that make them as they go (btrfs) say 0
        return []
    found = f"the file system has {disk.f_favail} inodes left of {disk.f_files}, and each blob takes one"
    cure = "delete small files there (see df -i), or make a file system with more inodes for storage.path"
    return [about.warning(found, cure) if disk.f_favail else about.failure(found, cure)]


def _used(top: Path) -> tuple[int, bool]:
    """Return the bytes that the store takes, as the mirror counts them, and whether there was time to count all."""
    until = time.monotonic() + _WALK
    total = 0
    for entry in _entries(top):
        if time.monotonic() > until:
            return total, False
        try:
            total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
        except FileNotFoundError:  # the mirror runs on meanwhile
            continue
    return total, True


def _entries(top: Path) -> Iterator[os.DirEntry[str]]:
    for directory in (top / "blobs.v1", top / "fills.v1", top / "aside.v1", top):
        pending = [str(directory)]
        while pending:
            try:
                with os.scandir(pending.pop()) as entries:
                    for entry in entries:
                        if not entry.is_dir(follow_symlinks=False):
                            yield entry
                        elif directory != top:
                            pending.append(entry.path)
            except FileNotFoundError:
                continue


def _held(about: About, path: Path) -> list[Finding]:
    """Say who has the index open: a running mirror, as it should be, or a stranger."""
    found = [holder for holder in holders(path / "index.sqlite-shm") if holder.pid != os.getpid()]
    strangers = [holder for holder in found if not holder.mirror]
    if strangers:
        who = ", ".join(f"{holder.command} (process {holder.pid})" for holder in strangers)
        return [
            about.warning(
                f"{who} has the index open, which is no mirror",
                "end it if it writes there: copies and backups are made while the mirror is stopped",
            )
        ]
    if found:
        return [about.ok(f"a running mirror has it open, process {', '.join(str(holder.pid) for holder in found)}")]
    return []
