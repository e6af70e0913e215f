"""What stands on the stage: the upstream, the mirror, a peer, and the client, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.parts.mirror import MirrorProcess
from tests.parts.process import Program, answers, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
# The children find these packages from anywhere, and never take loopback through somebody's proxy.
_ENV = {"PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"}


class BenchError(Exception):
    """A bench could not be run, or got a wrong answer; then it has no figures."""


class Upstream(Program):
    """The fake upstream (`tests.fakes.process`). `spec` says what it holds and how fast it is."""

    def __init__(self, room: Path, name: str = "upstream", **spec: Any) -> None:
        config = room / f"{name}.json"
        config.write_text(json.dumps(spec))
        self._said: dict[str, Any] = {}
        super().__init__(
            [sys.executable, "-m", "tests.fakes.registry", "--config", config], room / f"{name}.log", env=_ENV
        )

    def ready(self) -> bool:
        """Say whether it has said where it listens."""
        lines = self.log.read_text().splitlines(keepends=True)
        line = next((line for line in lines if line.startswith("{") and line.endswith("\n")), None)
        self._said = json.loads(line) if line else {}
        return bool(self._said)

    @property
    def url(self) -> str:
        """Base URL."""
        return str(self._said["url"])

    def blob(self, number: int, repo: str = "library/one") -> str:
        """Return the digest of a blob, by its place in the specification."""
        return str(self._said["digests"][f"{repo}#{number}"])

    def stats(self, *, reset: bool = False) -> Stats:
        """Return what it was asked so far; `reset` begins to count anew."""
        with urllib.request.urlopen(f"{self.url}/_stats{'?reset' if reset else ''}", timeout=30) as answer:  # noqa: S310 - our own http
            said = json.load(answer)
        return Stats(said["requests"], said["bytes"], said["connections_peak"], said["tokens"], said["in_flight"])


@dataclass(frozen=True)
class Stats:
    """What an upstream was asked: requests by `KIND METHOD`, bytes of bodies by digest, tokens issued ever."""

    requests: Mapping[str, int]
    bytes: Mapping[str, int]
    connections_peak: int
    tokens: int
    in_flight: int

    def copies(self, digest: str, size: int) -> float:
        """Say how often a content of `size` bytes left the upstream."""
        return self.bytes.get(digest, 0) / size


class Mirror(MirrorProcess):
    """The mirror, with `upstream` as docker.io; `config` is merged over that. It keeps its store between starts."""

    def __init__(self, room: Path, upstream: Upstream, name: str = "mirror", **config: Any) -> None:
        directory = room / name
        directory.mkdir()
        super().__init__(directory, {"upstreams": {"docker.io": {"url": upstream.url}}, **config}, env=_ENV)


class Peer(Program):
    """Debian's docker-registry (distribution 2.8) in front of `upstream`, for comparison."""

    def __init__(self, room: Path, upstream: Upstream, name: str = "peer") -> None:
        directory = room / name
        directory.mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = directory / "registry.yml"
        config.write_text(
            json.dumps(
                {
                    "version": 0.1,
                    "log": {"level": "warn"},
                    "storage": {"filesystem": {"rootdirectory": str(directory / "content")}},
                    "http": {"addr": f"127.0.0.1:{self.port}", "secret": "not one"},
                    "proxy": {"remoteurl": upstream.url},
                }
            )
        )
        super().__init__(
            ["docker-registry", "serve", config],
            directory / "registry.log",
            env={**_ENV, "OTEL_TRACES_EXPORTER": "none"},
        )

    def ready(self) -> bool:
        """Say whether it listens."""
        return answers(("127.0.0.1", self.port))


@dataclass(frozen=True)
class Outcome:
    """What the client saw; see `bench.client`."""

    answers: Sequence[Mapping[str, Any]]
    seconds: float

    @property
    def slowest(self) -> float:
        """Seconds of the request that took longest."""
        return float(max(answer["seconds"] for answer in self.answers))

    def checked(self, *, size: int | None = None, sha256: str | None = None) -> Outcome:
        """Return itself if every answer was 200 or 206, whole, and `size` bytes and `sha256` where those are given."""
        for answer in self.answers:
            wrong = (
                answer["error"]
                or (answer["status"] not in (200, 206) and f"status {answer['status']}")
                or (size is not None and answer["bytes"] != size and f"{answer['bytes']} bytes, not {size}")
                or (sha256 is not None and answer["sha256"] != sha256.removeprefix("sha256:") and "wrong content")
            )
            if wrong:
                raise BenchError(f"{answer['method']} {answer['path']}: {wrong}")
        return self


class Client:
    """A client that is under way."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ENV},
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(plan).encode())
        self._process.stdin.close()
        self._process.stdin = None

    def outcome(self) -> Outcome:
        """Wait until it is done."""
        said, _ = self._process.communicate(timeout=600)
        if self._process.returncode != 0:
            raise BenchError(f"the client ended with {self._process.returncode}")
        return Outcome(**json.loads(said))


def write(room: Path, size: int) -> float:
    """Write a file of `size` bytes twice, and take it away; return the seconds of the second time.

    A virtual machine whose free memory has gone back to its host gets it again page by page, at a tenth of the speed.
    What is measured after this finds memory that is there; and the figure says what the file system gives at best.
    """
    block = bytes(MIB)
    path = room / "written"
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for _ in range(size // MIB):
                file.write(block)
        seconds = time.perf_counter() - began
        path.unlink()
    return seconds


def fetch(*urls: str, **plan: Any) -> Outcome:
    """Fetch URLs, all at once; `plan` as in `bench.client`."""
    return Client({"do": "fetch", "urls": urls, **plan}).outcome()


def pull(url: str, repo: str, tag: str, **plan: Any) -> Outcome:
    """Pull an image."""
    return Client({"do": "pull", "url": url, "repo": repo, "tag": tag, **plan}).outcome().checked()


def blob_url(base: str, digest: str, repo: str = "library/one") -> str:
    """Return where a blob is."""
    return f"{base}/v2/{repo}/blobs/{digest}"
