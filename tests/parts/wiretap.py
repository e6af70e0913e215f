"""A relay between a client and the mirror that keeps what the client sent."""

from __future__ import annotations

import socket
import threading
from typing import Self


class Wiretap:
    """Listens on a free port of 127.0.0.1 and relays every connection to `target` (`host:port`)."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"http://{self.host}"
        self._sent = bytearray()
        self._lock = threading.Lock()

    @property
    def sent(self) -> bytes:
        """All that clients have sent, over all connections."""
        with self._lock:
            return bytes(self._sent)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # the listener was shut down: the block has ended
            server = socket.create_connection(self._target)
            threading.Thread(target=self._relay, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._relay, args=(server, client, False), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, keep: bool) -> None:
        try:
            while piece := source.recv(1 << 16):
                if keep:
                    with self._lock:
                        self._sent += piece
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return  # one side has gone; the other thread of the pair hears it too
        finally:
            source.close()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
