#!/opt/mirror/bin/python -IS
"""The container's health check: every address that the mirror listens on has to answer `/healthz`.

It asks the kernel where that is, and not the configuration, which may have been changed and not been taken yet. So it
is right for every port, for https, for IPv6, for Unix sockets and for sockets that were handed in. Only the standard
library, without `site`: it runs every half minute, next to a mirror that may have little memory.

Usage: mirror-health [PID]. Exit code 0: all answer. 1: what does not is named on standard output, which
`docker inspect --format '{{json .State.Health}}'` shows.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import struct
import sys
from pathlib import Path

PATIENCE = 3.0  # seconds for each step with one address
PROC = Path("/proc")
LISTENS = "0A"  # TCP_LISTEN, include/net/tcp_states.h
ACCEPTS = 0x10000  # __SO_ACCEPTCON in the flags of a Unix socket, include/linux/net.h
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUser-Agent: mirror-health\r\nConnection: close\r\n\r\n"

Address = tuple[str, int] | str  # a TCP address, or the path of a Unix socket


def mirrors() -> list[int]:
    """Return the process ids of every `mirror serve` that can be seen."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:  # it has just ended, or is somebody else's
                continue
            before, serve, _ = line.partition(b"\0serve\0")
            if serve and Path(os.fsdecode(before.rpartition(b"\0")[2])).name == "mirror":
                found.append(int(entry.name))
    return found


def addresses(pid: int) -> list[Address]:
    """Return where a process listens, so that it can be dialled from here; see proc(5) for the tables."""
    inodes = set()
    try:
        links = list((PROC / str(pid) / "fd").iterdir())
    except OSError:  # it has just ended, or is somebody else's
        return []
    for link in links:
        try:
            name = str(link.readlink())
        except OSError:  # closed meanwhile
            continue
        if name.startswith("socket:["):
            inodes.add(name[8:-1])
    found: set[Address] = set()
    net = PROC / str(pid) / "net"
    for table in ("tcp", "tcp6"):
        for columns in _rows(net / table):
            if columns[3] == LISTENS and columns[9] in inodes:
                host, _, port = columns[1].partition(":")
                found.add((_host(bytes.fromhex(host)), int(port, 16)))
    for columns in _rows(net / "unix"):
        if int(columns[3], 16) & ACCEPTS and columns[6] in inodes and columns[7:]:
            found.add(columns[7])
    return sorted(found, key=str)


def _rows(table: Path) -> list[list[str]]:
    try:
        return [line.split(maxsplit=11) for line in table.read_text().splitlines()[1:]]
    except FileNotFoundError:  # a kernel without IPv6
        return []


def _host(raw: bytes) -> str:
    """Decode an address, which the table has as words of this machine's byte order; it can be dialled."""
    words = struct.unpack(f"={len(raw) // 4}I", raw)
    address = ipaddress.ip_address(struct.pack(f">{len(words)}I", *words))
    if not address.is_unspecified:
        return str(address)
    return "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004  # IPv4


def status(address: Address, *, tls: bool) -> bytes:
    """Return the first line of the answer, or nothing where what answers does not speak HTTP so; raise `OSError`."""
    if isinstance(address, str):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        connection.connect(f"\0{address[1:]}" if address.startswith("@") else address)
    else:
        connection = socket.create_connection(address, timeout=PATIENCE)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The certificate is for the name that clients use. Whether they trust it is not what is asked here.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = context.wrap_socket(connection)
    with connection:
        connection.sendall(REQUEST)
        answer = b""
        while b"\r\n" not in answer and (piece := connection.recv(1024)):
            answer += piece
    return answer.partition(b"\r\n")[0]


def shown(address: Address) -> str:
    """Return an address for a person."""
    return address if isinstance(address, str) else f"{address[0]} port {address[1]}"


def problem(address: Address) -> str | None:
    """Say what is wrong with an address, or None if it answers as it should."""
    said = b""
    cause = "no answer"
    for tls in (False, True):  # in this order, because asyncio says nothing of a handshake that fails
        try:
            said = status(address, tls=tls)
        except OSError as error:
            cause = str(error)
        if said.startswith(b"HTTP/1."):
            break
    if said.split()[1:2] == [b"200"]:
        return None
    return f"{shown(address)}: {said.decode(errors='replace') or cause}"


def main() -> int:
    """Ask every address of the mirror; return the exit code."""
    pids = [int(word) for word in sys.argv[1:]] or mirrors()
    every = [address for pid in pids for address in addresses(pid)]
    if not pids:
        wrong = ["no `mirror serve` is running here"]
    elif not every:
        wrong = ["the mirror does not listen (yet)"]
    else:
        wrong = [text for text in map(problem, every) if text is not None]
    sys.stdout.write("\n".join(wrong or [f"healthy: {', '.join(map(shown, every))}"]) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
