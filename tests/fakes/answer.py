"""How one answer of the fake upstream leaves: at which speed, and with which faults in its body."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web
from multidict import CIMultiDict

from tests.fakes import faults
from tests.fakes.shaping import Pace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.fakes.content import Content
    from tests.fakes.records import Record

_PIECE = 64 << 10  # bytes written at once when the speed is limited
_FAST = 256 << 10  # from this size on an unlimited body leaves by sendfile


@dataclass
class Answer:
    """Status, headers, and the bytes of `content` from `start` up to and without `stop`."""

    status: int
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    content: Content | None = None
    start: int = 0
    stop: int = 0


async def send(
    request: web.BaseRequest,
    answer: Answer,
    record: Record,
    troubles: Sequence[faults.Fault],
    paces: Sequence[Pace],
    *,
    fast: bool,
) -> web.StreamResponse:
    """Send `answer`. Raise ConnectionResetError where a fault, or the client, ends the connection."""
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    _change_headers(response, troubles)
    end, tail, length, chunked = _measure(answer, troubles)
    if chunked:
        response.enable_chunked_encoding()
    else:
        response.content_length = length
    record.status = answer.status
    await response.prepare(request)
    if request.method == "HEAD" or answer.content is None:
        return response
    stops = _stops(answer, end, troubles)
    slow = [(trouble, Pace(trouble.rate)) for trouble in troubles if isinstance(trouble, faults.Slow)]
    if (
        fast
        and not stops
        and not paces
        and not slow
        and not chunked
        and not tail
        and length == end - answer.start >= _FAST
    ):
        await _send_file(request, answer, record)
        return response
    await _send_pieces(request, response, record, answer, end=end, stops=stops, paces=paces, slow=slow)
    if tail:
        await response.write(b"\0" * tail)
        record.count(tail)
    if not chunked and length > end + tail - answer.start:
        _close(request)  # it has less than it said
    return response


def _change_headers(response: web.StreamResponse, troubles: Sequence[faults.Fault]) -> None:
    for trouble in troubles:
        if isinstance(trouble, faults.FalseDigest):
            response.headers["Docker-Content-Digest"] = trouble.digest
            response.headers["ETag"] = f'"{trouble.digest}"'
        if isinstance(trouble, faults.Headers):
            for name, value in trouble.headers.items():
                response.headers.pop(name, None)
                if value:
                    response.headers[name] = value


def _measure(answer: Answer, troubles: Sequence[faults.Fault]) -> tuple[int, int, int, bool]:
    """Return where the content ends, how many bytes too many follow, what length is said, and whether none is."""
    end, tail, length, chunked = answer.stop, 0, answer.stop - answer.start, False
    for trouble in troubles:
        match trouble:
            case faults.NoLength():
                chunked = True
            case faults.WrongLength(delta):
                length += delta
            case faults.Truncate(at_byte, chunked_) if answer.start <= at_byte < answer.stop:
                end, length, chunked = at_byte, at_byte - answer.start, chunked_
            case faults.Extend(extra, chunked_):
                tail, length, chunked = extra, length + extra, chunked_
    return end, tail, length, chunked


def _stops(answer: Answer, end: int, troubles: Sequence[faults.Fault]) -> list[tuple[int, faults.Fault]]:
    stops = [
        (trouble.at_byte, trouble)
        for trouble in troubles
        if isinstance(trouble, faults.Cut | faults.Stall | faults.Gate | faults.Corrupt)
        and answer.start <= trouble.at_byte <= end
    ]
    return sorted(stops, key=lambda stop: stop[0])


async def _send_pieces(
    request: web.BaseRequest,
    response: web.StreamResponse,
    record: Record,
    answer: Answer,
    *,
    end: int,
    stops: list[tuple[int, faults.Fault]],
    paces: Sequence[Pace],
    slow: Sequence[tuple[faults.Slow, Pace]],
) -> None:
    assert answer.content is not None
    offset = answer.start
    corrupt: set[int] = set()
    while True:
        while stops and stops[0][0] <= offset:
            match stops.pop(0)[1]:
                case faults.Cut():
                    _close(request)
                case faults.Stall():
                    await asyncio.Event().wait()  # until the client leaves, or the fake ends
                case faults.Gate(event):
                    await event.wait()
                case faults.Corrupt(at_byte):
                    corrupt.add(at_byte)
        if offset >= end:
            return
        upto = min(end, stops[0][0] if stops else end, offset + _PIECE if paces else end, *_steps(offset, slow))
        piece = answer.content.read(offset, upto)
        if offset in corrupt:
            piece = bytes([piece[0] ^ 0xFF]) + piece[1:]
        for pace in (*paces, *(pace for trouble, pace in slow if _is_slow(trouble, offset))):
            await pace.pass_(len(piece))
        await response.write(piece)
        offset += len(piece)
        record.count(len(piece))


def _is_slow(trouble: faults.Slow, offset: int) -> bool:
    return trouble.from_byte <= offset and (trouble.upto is None or offset < trouble.upto)


def _steps(offset: int, slow: Sequence[tuple[faults.Slow, Pace]]) -> Iterator[int]:
    """Yield where the next piece has to end: at a change of speed, and after a twentieth of a second."""
    for trouble, _ in slow:
        if _is_slow(trouble, offset):
            yield offset + max(1, int(trouble.rate / 20))
            if trouble.upto is not None:
                yield trouble.upto
        elif offset < trouble.from_byte:
            yield trouble.from_byte


async def _send_file(request: web.BaseRequest, answer: Answer, record: Record) -> None:
    assert answer.content is not None
    assert request.transport is not None
    file = await asyncio.to_thread(answer.content.file)
    offset = answer.start
    while offset < answer.stop:
        # In steps, so that what went out is known when the client leaves; a file object of its own holds the position.
        size = min(4 << 20, answer.stop - offset)
        with open(f"/proc/self/fd/{file.fileno()}", "rb") as own:  # noqa: ASYNC230, PTH123 - an open of what is open
            await asyncio.get_running_loop().sendfile(request.transport, own, offset, size, fallback=False)
        offset += size
        record.count(size)


def _close(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.close()  # what was written still goes out
    raise ConnectionResetError("the fake upstream cut the connection")
