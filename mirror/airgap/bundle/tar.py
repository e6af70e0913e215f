"""Tar archives from strangers, read from front to back (POSIX.1-2017, "pax"; the GNU extensions that tools write).

Not by `tarfile`, which reads extension headers of any size into memory, and which passes over what it does not
understand: two readers would see two archives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from mirror.errors import BundleRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512  # bytes
CHUNK = 1024 * 1024  # bytes, of content that is given out at once
_LARGEST_EXTENSION = 64 * 1024  # bytes of an extension header: a name of 1024 characters, and some times
_EXTENSIONS = 4  # headers in a row that extend the next one
_LONGEST_NAME = 1024  # characters
_MOST = 4_000_000  # entries
_PADDING = 16 * 1024 * 1024  # bytes of zeros behind the end: archives are written in records
_LARGEST = 2**63 - 1  # bytes of one entry
SHOWN = 160  # characters of a name that a message shows

_LINKS, _DIRECTORY = {b"1": "hard link", b"2": "symbolic link"}, b"5"
_DEVICES = {b"3": "character device", b"4": "block device", b"6": "named pipe"}
_LOCAL, _GLOBAL, _GNU_NAME, _GNU_TARGET = b"x", b"g", b"L", b"K"


@dataclass(slots=True)
class Member:
    """One entry: its size in bytes, and for a link where it points to."""

    name: str
    size: int
    target: str | None = None
    hard: bool = False  # the target of a hard link counts from the top of the archive


@dataclass(slots=True)
class _Extended:
    """What extension headers say of the header behind them."""

    name: str | None = None
    target: str | None = None
    size: int | None = None


class TarReader:
    """The members of one archive. What of a member was not read is passed over when the next one is asked for.

    Raises `BundleRefused` for whatever is cut off, damaged, or could lead out of where it is read to. `links` lets
    links through, for those who never follow them on a disk; without it they are refused.
    """

    def __init__(self, file: BinaryIO, *, links: bool = False) -> None:
        self._file = file
        self._links = links
        self._seen: set[int] = set()  # of names, their hashes: there may be a million
        self._left = self._padding = 0  # bytes of the current member, and behind it
        self._count = 0
        self._name = ""

    def __iter__(self) -> Iterator[Member]:
        """Yield the members in their order; directories are left out."""
        while (member := self._next()) is not None:
            if member.name:
                yield member

    def chunks(self) -> Iterator[bytes]:
        """Yield what is left of the current member, up to 1 MiB at a time."""
        while self._left:
            piece = self._file.read(min(CHUNK, self._left))
            if not piece:
                raise self._cut()
            self._left -= len(piece)
            yield piece

    # --- headers ---------------------------------------------------------------------------------------------------

    def _next(self) -> Member | None:
        for _ in self.chunks():
            pass
        self._exactly(self._padding)
        self._padding = 0
        extended = _Extended()
        for _ in range(_EXTENSIONS + 1):
            self._count += 1
            if self._count > _MOST:
                raise BundleRefused(f"the archive has more than {_MOST} entries, which no bundle has")
            block = self._exactly(BLOCK)
            if not any(block):
                if extended != _Extended():
                    raise BundleRefused("the archive ends behind an extension header; copy it again")
                self._end()
                return None
            _check_sum(block, self._name)
            kind = block[156:157]
            if kind in (_LOCAL, _GLOBAL, _GNU_NAME, _GNU_TARGET):
                self._extend(extended, kind, _number(block[124:136], "the size of an extension header"))
            else:
                return self._member(block, kind, extended)
        raise BundleRefused(
            f"behind {self._shown()} there are more than {_EXTENSIONS} extension headers in a row, which no tool writes"
        )

    def _member(self, block: bytes, kind: bytes, extended: _Extended) -> Member:
        raw = _name(block) if extended.name is None else extended.name
        name = self._name = checked(raw, directory=kind == _DIRECTORY)
        size = _number(block[124:136], f"the size of {shown(name)}") if extended.size is None else extended.size
        if kind in _DEVICES:
            raise BundleRefused(f"{shown(name)} is a {_DEVICES[kind]}, which has no place in a bundle")
        if kind in _LINKS:
            return self._link(name, kind, block, extended)
        if kind == _DIRECTORY:
            if size:
                raise BundleRefused(f"the directory {shown(name)} has a size")
            return Member("", 0)
        if kind not in (b"0", b"\0"):
            raise BundleRefused(f"{shown(name)} is an entry of the kind {kind!r}, which has no place in a bundle")
        if raw.endswith("/"):  # what the first tar wrote for a directory; tools differ in what they make of it now
            raise BundleRefused(f"{shown(raw)} is a file and has the name of a directory")
        self._once(name)
        self._left, self._padding = size, -size % BLOCK
        return Member(name, size)

    def _link(self, name: str, kind: bytes, block: bytes, extended: _Extended) -> Member:
        target = _text(block[157:257], f"the target of {shown(name)}") if extended.target is None else extended.target
        if not self._links:
            raise BundleRefused(f"{shown(name)} is a {_LINKS[kind]}, which has no place in a bundle")
        self._once(name)
        return Member(name, 0, target, hard=kind == b"1")

    def _extend(self, extended: _Extended, kind: bytes, size: int) -> None:
        """Take in an extension header of `size` bytes."""
        if size > _LARGEST_EXTENSION:
            raise BundleRefused(
                f"behind {self._shown()} there is an extension header of {size} bytes; more than "
                f"{_LARGEST_EXTENSION} is none that a tool writes"
            )
        body = self._exactly(size)
        self._exactly(-size % BLOCK)
        if kind == _GNU_NAME:
            extended.name = _text(body, "a long name")
        elif kind == _GNU_TARGET:
            extended.target = _text(body, "a long target of a link")
        else:
            self._take_records(extended, body, everywhere=kind == _GLOBAL)

    def _take_records(self, extended: _Extended, body: bytes, *, everywhere: bool) -> None:
        for key, value in _records(body):
            if everywhere and key in ("path", "linkpath", "size"):
                raise BundleRefused(f"a global header of the archive sets {key!r} for all entries, which no tool does")
            if key.startswith("GNU.sparse."):
                raise BundleRefused(f"behind {self._shown()} there is a sparse file, which has no place in a bundle")
            if key == "path":
                extended.name = _text(value, "a long name")
            elif key == "linkpath":
                extended.target = _text(value, "a long target of a link")
            elif key == "size":
                if not value.isdigit() or int(value[:20]) > _LARGEST or len(value) > 19:  # noqa: PLR2004  # of 2^63
                    raise BundleRefused(f"an extension header behind {self._shown()} gives no size that can be right")
                extended.size = int(value)

    # --- bytes -----------------------------------------------------------------------------------------------------

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._file.read(size - len(data))
            if not piece:
                raise self._cut()
            data += piece
        return data

    def _end(self) -> None:
        """See that nothing follows the end, which is two blocks of zeros (POSIX.1-2017, "ustar Interchange Format")."""
        if any(self._exactly(BLOCK)):
            raise BundleRefused("the archive has a block of zeros in between; copy it again")
        padding = 0
        while piece := self._file.read(CHUNK):
            padding += len(piece)
            if any(piece) or padding > _PADDING:
                raise BundleRefused("something follows the end of the archive; copy it again")

    def _once(self, name: str) -> None:
        if (mark := hash(name)) in self._seen:
            raise BundleRefused(f"{shown(name)} is in the archive twice; nobody can say which one is meant")
        self._seen.add(mark)

    def _cut(self) -> BundleRefused:
        if not self._name:
            return BundleRefused("this is no tar archive, or it is cut off at its beginning")
        return BundleRefused(f"the archive is cut off in or behind {self._shown()}; copy it again")

    def _shown(self) -> str:
        return shown(self._name) if self._name else "its beginning"


def checked(name: str, *, directory: bool = False) -> str:
    """Return the name of an entry, relative and without a leading `./`; refuse what could lead elsewhere."""
    plain = name.rstrip("/") if directory else name
    while plain.startswith("./"):
        plain = plain[2:]
    if directory and plain in ("", "."):
        return ""
    if name.startswith("/"):
        raise BundleRefused(f"the entry {shown(name)} has an absolute name: this is no bundle, or a hostile one")
    if ".." in plain.split("/"):
        raise BundleRefused(f"the entry {shown(name)} leads out of the archive: this is no bundle, or a hostile one")
    if len(plain) > _LONGEST_NAME or not plain.isprintable() or "\\" in plain:
        raise BundleRefused(f"the entry {shown(name)} has a name that no bundle has")
    if not all(part not in ("", ".") for part in plain.rstrip("/").split("/")):
        raise BundleRefused(f"the entry {shown(name)} has a name that can be read in several ways")
    return plain


def shown(name: str) -> str:
    """Return a name as a message has it."""
    return repr(name if len(name) <= SHOWN else f"{name[:SHOWN]}…")


def _name(block: bytes) -> str:
    """Return the name in a header; only POSIX's has a prefix."""
    name = _text(block[:100], "the name of an entry")
    prefix = _text(block[345:500], "the name of an entry") if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes, what: str) -> str:
    try:
        return field.split(b"\0", 1)[0].decode("utf-8")
    except UnicodeDecodeError:
        raise BundleRefused(f"{what} in the archive is not UTF-8") from None


def _number(field: bytes, what: str) -> int:
    """Read a number: octal digits, or base 256 where it is too large for them (GNU tar)."""
    if field[0] == 0x80:  # noqa: PLR2004  # the mark of a positive one
        number = int.from_bytes(field[1:])
        if number <= _LARGEST:
            return number
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if all(digit in b"01234567" for digit in digits):
        return int(digits or b"0", 8)
    raise BundleRefused(f"{what} in the archive is no number that can be right")


def _check_sum(block: bytes, name: str) -> None:
    said = block[148:156].strip(b" \0")
    total = sum(block[:148]) + sum(block[156:]) + 8 * 0x20
    if not said or any(digit not in b"01234567" for digit in said) or int(said, 8) != total:
        behind = f"behind {shown(name)}" if name else "at its beginning"
        raise BundleRefused(f"this is no tar archive, or it is damaged: a header {behind} does not have its checksum")


def _records(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the records of a pax extension header: `LENGTH KEY=VALUE` and the end of a line."""
    while body.rstrip(b"\0"):
        length, blank, _ = body.partition(b" ")
        size = int(length) if blank and length.isdigit() and len(length) < 8 else 0  # noqa: PLR2004  # far too long
        record, body = body[len(length) + 1 : size], body[size:]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or len(length) + 1 + len(record) != size:
            raise BundleRefused("an extension header of the archive cannot be read")
        yield _text(key, "a key of an extension header"), value[:-1]
