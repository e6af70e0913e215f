"""Byte ranges (RFC 9110 §14). Here every range is half-open, (start, stop), in bytes; on the wire it is closed."""

from __future__ import annotations

import re

from mirror.errors import RangeInvalid

_MAX_RANGES = 256  # zstd:chunked pulls ask for dozens; more than this is cheaper sent whole
_MAX_DIGITS = 19  # of an int64; a longer number is larger than anything that is

_SPEC = re.compile(r"([0-9]*)-([0-9]*)")
_CONTENT_RANGE = re.compile(r"bytes[ \t]+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.IGNORECASE)

_Spec = tuple[
    int | None, int | None
]  # first and last byte as written; without a first one, the last is a suffix's length


def parse_range(header: str | None, size: int) -> list[tuple[int, int]] | None:
    """Return the satisfiable ranges of a `Range` header, in the client's order, or None where the whole is to be sent.

    `size` is that of the whole, in bytes. The whole is sent where there is no header, its unit is not bytes, it is
    malformed, has more than 256 ranges, or its ranges ask in all for more bytes than there are (§14.2 lets a server
    ignore those). Of empty content a range from its beginning is the whole: containerd 2.1 asks every blob for
    `bytes=0-`.

    Raise `RangeInvalid` if no range is satisfiable. An inverted one (`500-0`) counts as such, as the conformance suite
    of the distribution specification wants it; beside satisfiable ones it makes the header malformed.
    """
    specs = _specs(header)
    if specs is None:
        return None
    ranges = [found for spec in specs if (found := _satisfy(spec, size)) is not None]
    if not ranges:
        raise RangeInvalid(size)
    if size == 0 or any(map(_inverted, specs)):
        return None
    if len(ranges) > 1 and sum(stop - start for start, stop in ranges) > size:
        return None
    return ranges


def parse_open_range(header: str | None) -> tuple[int, int | None] | None:
    """Return (start, stop) of a single range that counts from the beginning, while the size is not known.

    `stop` is None for an open one (`bytes=8388608-`), and may lie beyond the end. None stands for every other header:
    several ranges and suffixes need the size.
    """
    specs = _specs(header)
    if specs is None or len(specs) > 1 or _inverted(specs[0]):
        return None
    first, last = specs[0]
    if first is None:
        return None
    return first, None if last is None else last + 1


def content_range(start: int, stop: int, size: int | None) -> str:
    """Return the `Content-Range` of the bytes from `start` up to and without `stop`; `size` None: not known (§14.4)."""
    return f"bytes {start}-{stop - 1}/{'*' if size is None else size}"


def parse_content_range(header: str) -> tuple[int, int, int | None]:
    """Return (start, stop, size) of a 206's `Content-Range`; raise `ValueError` where it makes no sense."""
    match = _CONTENT_RANGE.fullmatch(header.strip(" \t"))
    if match is None:
        raise ValueError(f"{header[:160]!r} is not the Content-Range of a partial answer")
    start, stop = int(match[1]), int(match[2]) + 1
    size = None if match[3] == "*" else int(match[3])
    if start >= stop or (size is not None and stop > size):
        raise ValueError(f"Content-Range {header[:160]!r} contradicts itself")
    return start, stop, size


def _specs(header: str | None) -> list[_Spec] | None:
    if header is None:
        return None
    unit, equals, listed = header.strip(" \t").partition("=")
    if not equals or unit.lower() != "bytes":
        return None
    written = [item for element in listed.split(",") if (item := element.strip(" \t"))]  # §5.6.1: elements may be empty
    matches = [_SPEC.fullmatch(item) for item in written[: _MAX_RANGES + 1]]
    if not 0 < len(matches) <= _MAX_RANGES:
        return None
    specs = [(_number(match[1]), _number(match[2])) for match in matches if match and len(match[0]) > 1]
    return specs if len(specs) == len(matches) else None


def _number(digits: str) -> int | None:
    significant = digits.lstrip("0")
    if len(significant) > _MAX_DIGITS:
        return int(10**_MAX_DIGITS)
    return int(significant or "0") if digits else None


def _satisfy(spec: _Spec, size: int) -> tuple[int, int] | None:
    """Return the bytes that there are of one range, None if there are none (§14.1.2)."""
    first, last = spec
    if first is None:
        return (max(0, size - last), size) if last else None
    if _inverted(spec) or (first >= size and first > 0):
        return None
    return first, size if last is None else min(last + 1, size)


def _inverted(spec: _Spec) -> bool:
    first, last = spec
    return first is not None and last is not None and last < first
