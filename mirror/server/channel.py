"""What the supervisor and a worker tell each other: small messages over a pair of sockets, with open sockets in them.

A message is a header of eight bytes (two lengths), a JSON object whose `kind` says what it is, and a body of bytes.
Sockets travel beside the first byte (`SCM_RIGHTS`, unix(7)). Nothing here waits.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_SOCKETS = 200  # that one message carries; the kernel allows 253 (SCM_MAX_FD)
_HEADER = struct.Struct("!II")
_AT_ONCE = 256 * 1024  # bytes read at one time


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `told` is what its JSON object holds beside its kind."""

    kind: str
    told: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""
    sockets: tuple[socket.socket, ...] = ()
    lost: bool = False  # it had sockets that did not come: this process has too many files open


class Channel:
    """One end of it. Messages come in the order in which they were sent, whole or not at all."""

    def __init__(self, sock: socket.socket) -> None:
        """`sock` is one of a connected pair of stream sockets."""
        sock.setblocking(False)
        self._socket = sock
        self._in = bytearray()
        self._sockets: deque[int] = deque()  # file descriptors that came, and whose message is not whole yet
        self._out: deque[tuple[memoryview, tuple[socket.socket, ...]]] = deque()

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Return both ends."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def fileno(self) -> int:
        """Return the file descriptor, for whoever waits until there is something to read or room to write."""
        return self._socket.fileno()

    @property
    def waits(self) -> bool:
        """Whether something waits until the other end has read: `flush` when there is room to write."""
        return bool(self._out)

    def send(self, kind: str, *, body: bytes = b"", sockets: Sequence[socket.socket] = (), **told: Any) -> None:
        """Send a message, or as much of it as goes now. What is sent to nobody is lost: `receive` says that."""
        text = json.dumps({**told, "kind": kind, "sockets": len(sockets)}).encode()
        # The sender may close its sockets at once, and the message may wait.
        copies = tuple(sock.dup() for sock in sockets)
        self._out.append((memoryview(_HEADER.pack(len(text), len(body)) + text + body), copies))
        self.flush()

    def flush(self) -> None:
        """Send as much as goes of what waits."""
        while self._out:
            data, sockets = self._out[0]
            try:
                if sockets:
                    sent = socket.send_fds(self._socket, [data], [sock.fileno() for sock in sockets])
                else:
                    sent = self._socket.send(data)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self._out.clear()
                return
            _close(sockets)
            if sent == len(data):
                self._out.popleft()
            else:
                self._out[0] = (data[sent:], ())

    def receive(self) -> tuple[list[Message], bool]:
        """Return the messages that have come, and whether there will be no more: the other process has ended."""
        ended = False
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, _AT_ONCE, MOST_SOCKETS)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data, descriptors = b"", []
            self._sockets.extend(descriptors)
            if not data:
                ended = True
                break
            self._in += data
        return self._whole(), ended

    def finish(self, patience: float) -> None:
        """Send what waits, and take at most `patience` seconds for each piece: the last that this process does."""
        self._socket.settimeout(patience)
        with contextlib.suppress(TimeoutError):
            self.flush()

    def close(self) -> None:
        """Close this end, and what came or waits to go."""
        for _, sockets in self._out:
            _close(sockets)
        self._out.clear()
        while self._sockets:
            socket.close(self._sockets.popleft())
        self._socket.close()

    def _whole(self) -> list[Message]:
        messages = []
        while len(self._in) >= _HEADER.size:
            text, body = _HEADER.unpack_from(self._in)
            end = _HEADER.size + text + body
            if len(self._in) < end:
                break
            told = json.loads(self._in[_HEADER.size : _HEADER.size + text])
            kind, count = told.pop("kind"), told.pop("sockets")
            lost = count > len(self._sockets)  # the kernel cuts them off where there is no descriptor free
            sockets = tuple(socket.socket(fileno=self._sockets.popleft()) for _ in range(0 if lost else count))
            while lost and self._sockets:
                socket.close(self._sockets.popleft())
            messages.append(Message(kind, told, bytes(self._in[_HEADER.size + text : end]), sockets, lost))
            del self._in[:end]
        return messages


def _close(sockets: tuple[socket.socket, ...]) -> None:
    for sock in sockets:
        sock.close()
