"""The container's health check finds the mirror wherever it listens, and says what is wrong."""

from __future__ import annotations

import runpy
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.parts.certificate import certificate
from tests.parts.mirror import MirrorProcess
from tests.parts.process import room

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECK = Path(__file__).parents[2] / "deploy/health.py"
LISTENER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(sys.argv[1].encode())
"""


def check(*pids: int) -> tuple[int, str]:
    """Run it; return its exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-IS", CHECK, *map(str, pids)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.removesuffix("\n")


def test_every_kind_of_address_is_found_and_asked() -> None:
    with room("health") as directory:
        cert_file, key_file = certificate(directory)
        path = f"{directory}/mirror.sock"
        server = {
            "listen": ["http://127.0.0.1:0", "https://127.0.0.1:0", "[::]:0", "0.0.0.0:0", f"unix:{path}"],
            "tls": {"cert_file": str(cert_file), "key_file": str(key_file)},
        }
        with MirrorProcess(directory, {"server": server}) as mirror:
            bound = [line["address"] for line in mirror.lines() if line["event"] == "listening"]
            ports = [address.rpartition(":")[2] for address in bound[:4]]
            code, said = check(mirror.pid)
            assert code == 0
            assert said.startswith("healthy: ")
            assert set(said.removeprefix("healthy: ").split(", ")) == {
                f"127.0.0.1 port {ports[0]}",
                f"127.0.0.1 port {ports[1]}",
                f"::1 port {ports[2]}",
                f"127.0.0.1 port {ports[3]}",
                path,
            }
            # Without a process id, as in the container, it asks every mirror that it can see; here not all are ours.
            assert mirror.pid in runpy.run_path(str(CHECK))["mirrors"]()


@contextmanager
def process(code: str, *arguments: str) -> Iterator[tuple[int, str]]:
    """Run Python beside the test; yield its process id and the first line that it says."""
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield running.pid, running.stdout.readline().strip()
        finally:
            running.kill()


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP/1.1 503 Service Unavailable"),
        ("220 mail.example\r\n", "220 mail.example"),
        ("", "EOF"),
    ],
)
def test_an_address_that_does_not_answer_as_it_should_is_named(answer: str, shown: str) -> None:
    with process(LISTENER, answer) as (pid, port):
        code, said = check(pid)
    assert code == 1
    assert said.startswith(f"127.0.0.1 port {port}: ")
    assert shown in said


def test_a_mirror_that_does_not_listen_is_not_well() -> None:
    with process("import time; print(); time.sleep(60)") as (pid, _):
        assert check(pid) == (1, "the mirror does not listen (yet)")


def test_a_mirror_that_has_just_ended_is_not_well() -> None:
    with process("print()") as (pid, _):
        pass
    assert check(pid) == (1, "the mirror does not listen (yet)")
