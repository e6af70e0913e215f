"""One warm 512 MiB blob over TLS: the mirror beside nginx, which serves the same file with the same cipher, in turn."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING

from bench.figures import Figure, median
from bench.stage import MIB, BenchError, Mirror, Upstream, blob_url, fetch
from tests.parts.certificate import certificate
from tests.parts.process import Program, answers, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from bench.options import Options

SIZE = 512 * MIB
ROUNDS = 5  # at least: a machine that does something else for a moment must not decide
CIPHER = "TLS_AES_256_GCM_SHA384"
_TICKS = os.sysconf("SC_CLK_TCK")


class Nginx(Program):
    """Debian's nginx, with one worker, as it is configured by default but for the file that it serves."""

    def __init__(self, room: Path, file: Path, cert_file: Path, key_file: Path) -> None:
        self._port = free_port()
        self.url = f"https://127.0.0.1:{self._port}/blob"
        self._pid_file = room / "nginx.pid"
        config = room / "nginx.conf"
        config.write_text(
            f"daemon off; user root; worker_processes 1; pid {self._pid_file}; error_log {room}/nginx.log;\n"
            "events {}\n"
            "http { access_log off; sendfile on; tcp_nopush on;\n"
            f"  server {{ listen 127.0.0.1:{self._port} ssl; ssl_protocols TLSv1.2 TLSv1.3;\n"
            f"    ssl_certificate {cert_file}; ssl_certificate_key {key_file};\n"
            f"    location /blob {{ alias {file}; }} }} }}\n"
        )
        program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise BenchError("it needs nginx (Debian: apt install nginx)")
        super().__init__([program, "-p", room, "-c", config], room / "nginx.out")

    def ready(self) -> bool:
        """Say whether it listens."""
        return answers(("127.0.0.1", self._port))

    @property
    def worker(self) -> int:
        """The process that serves."""
        children = subprocess.run(["pgrep", "-P", str(self.pid)], capture_output=True, text=True, check=True)
        return int(children.stdout.split()[0])


def run(room: Path, options: Options) -> list[Figure]:
    """Fetch by curl, which is light, and the same for both."""
    if shutil.which("curl") is None:
        raise BenchError("it needs curl")
    cert_file, key_file = certificate(room)
    server = {
        "listen": ["http://127.0.0.1:0", "https://127.0.0.1:0"],
        "tls": {"cert_file": str(cert_file), "key_file": str(key_file)},
    }
    mirrored, nginx_took, mirror_busy, nginx_busy = [], [], [], []
    blobs = [{"repo": "library/one", "size": SIZE, "seed": 1}]
    with Upstream(room, blobs=blobs, fast=True) as upstream, Mirror(room, upstream, server=server) as mirror:
        digest = upstream.blob(0)
        fetch(blob_url(mirror.url, digest), hash=True).checked(sha256=digest)
        name = digest.removeprefix("sha256:")
        mirror.wait(lambda: any(mirror.store.rglob(name)))
        (file,) = mirror.store.rglob(name)
        secure = [str(line["address"]) for line in mirror.lines() if line.get("event") == "listening"][1]
        url = blob_url(secure, digest)
        with Nginx(room, file, cert_file, key_file) as nginx:
            for address in (url, nginx.url):
                _check_cipher(address)
                _fetch(address, cert_file)  # what comes first pays for what is loaded late
            for number in range(max(ROUNDS, options.rounds)):
                order = [(url, mirror.pid, mirrored, mirror_busy), (nginx.url, nginx.worker, nginx_took, nginx_busy)]
                for address, pid, took, busy in order if number % 2 else reversed(order):
                    before = _cpu(pid)
                    took.append(_fetch(address, cert_file))
                    busy.append(_cpu(pid) - before)
    return [
        median("nginx", [SIZE / MIB / seconds for seconds in nginx_took], "MiB/s"),
        median("the mirror", [SIZE / MIB / seconds for seconds in mirrored], "MiB/s"),
        median(
            "the mirror's speed, of nginx's",
            [one / other for one, other in zip(nginx_took, mirrored, strict=True)],
            "x",
            0.7,
            at_least=True,
        ),
        median("processor time of nginx", nginx_busy, "s"),
        median("processor time of the mirror", mirror_busy, "s"),
    ]


def _fetch(url: str, cert_file: Path) -> float:
    """Fetch once; return the seconds."""
    command = ["curl", "--silent", "--show-error", "--fail", "--http1.1", "--noproxy", "*", "--cacert", str(cert_file)]
    command += ["--tls13-ciphers", CIPHER, "--output", "/dev/null"]
    command += ["--write-out", "%{size_download} %{time_total}", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"curl {url}: {done.stderr}")
    size, seconds = done.stdout.split()
    if int(size) != SIZE:
        raise BenchError(f"{url}: {size} bytes, not {SIZE}")
    return float(seconds)


def _check_cipher(url: str) -> None:
    """See that this server, too, would take the cipher if it were asked for nothing particular."""
    host, _, port = url.removeprefix("https://").partition("/")[0].partition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain) as secure:
        found = secure.cipher()
    if found is None or found[0] != CIPHER:
        raise BenchError(f"{url} speaks {found}, not {CIPHER}")


def _cpu(pid: int) -> float:
    """Return the processor time that a process has taken, seconds."""
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123  # no file of ours
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
