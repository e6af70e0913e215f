"""The image service of the Kubernetes container runtime interface (`runtime.v1.ImageService`), as a kubelet calls it.

Debian has no `crictl`. A gRPC call is one HTTP/2 POST, and the few messages that are needed here have string fields
only, so curl carries them: no further dependency, and nothing between the test and the service.
"""

from __future__ import annotations

import re
import struct
import tempfile
from pathlib import Path

from tests.parts.process import ProgramError, run

_STATUS = re.compile(r"(?im)^grpc-status: *(\d+)")
_MESSAGE = re.compile(r"(?im)^grpc-message: *(.*)$")


def _varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _field(number: int, body: bytes) -> bytes:
    """Return one length-delimited field of a protocol buffer."""
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _fields(message: bytes) -> list[tuple[int, bytes]]:
    """Return the length-delimited fields of a message, by number; skip the varints."""
    found = []
    at = 0

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            byte = message[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            varint()
            continue
        assert key & 7 == 2, f"a field of wire type {key & 7} in a message that has none"
        size = varint()
        found.append((key >> 3, message[at : at + size]))
        at += size
    return found


def _call(socket: Path, method: str, request: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        headers, body = Path(directory) / "headers", Path(directory) / "body"
        run(
            "curl", "--silent", "--show-error", "--http2-prior-knowledge", "--unix-socket", socket,
            "--header", "Content-Type: application/grpc", "--header", "TE: trailers",
            "--data-binary", "@-", "--dump-header", headers, "--output", body,
            f"http://localhost/runtime.v1.ImageService/{method}",
            stdin=struct.pack(">BI", 0, len(request)) + request,
        )  # fmt: skip
        said = headers.read_text()
        status = _STATUS.search(said)
        if status is None or status[1] != "0":
            message = _MESSAGE.search(said)
            raise ProgramError(f"{method} failed: {message[1] if message else said}")
        return body.read_bytes()[5:]


def ready(socket: Path) -> bool:
    """Say whether the image service answers."""
    try:
        images(socket)
    except ProgramError:
        return False
    return True


def pull(socket: Path, reference: str) -> None:
    """`PullImage` (PullImageRequest.image = 1, ImageSpec.image = 1); raise `ProgramError` with its message."""
    _call(socket, "PullImage", _field(1, _field(1, reference.encode())))


def images(socket: Path) -> list[str]:
    """`ListImages`: the id of each image (ListImagesResponse.images = 1, Image.id = 1)."""
    listed = _fields(_call(socket, "ListImages", b""))
    return [body.decode() for _, image in listed for number, body in _fields(image) if number == 1]
