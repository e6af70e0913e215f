"""Debian's docker-registry (distribution 2.8), on plain HTTP on 127.0.0.1, with tokens or open to everybody."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.parts.process import Program, answers, free_port
from tests.parts.token_server import ISSUER, SERVICE

if TYPE_CHECKING:
    from pathlib import Path

_ACCESS = re.compile(r'"(GET|HEAD|PUT|POST|PATCH) (/v2/\S*) HTTP/1\.1" (\d+) ')


@dataclass(frozen=True)
class Access:
    """One line of the access log."""

    method: str
    path: str
    status: int


class DockerRegistry(Program):
    """`docker-registry serve`. It can be stopped and started again: port and content stay.

    Without a `realm` nobody needs a token. With `behind` it is a cache of the registry at that URL, and takes no push.
    """

    def __init__(
        self, directory: Path, *, realm: str | None = None, cert_file: Path | None = None, behind: str | None = None
    ) -> None:
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        config = directory / "registry.yml"
        token = {"realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(cert_file)}
        # JSON is YAML.
        config.write_text(
            json.dumps(
                {
                    "version": 0.1,
                    "log": {"level": "warn", "accesslog": {"disabled": False}},
                    "storage": {
                        "filesystem": {"rootdirectory": str(directory / "content")},
                        "delete": {"enabled": True},
                    },
                    "http": {"addr": self.host, "secret": "not one"},
                    **({"auth": {"token": token}} if realm is not None else {}),
                    **({"proxy": {"remoteurl": behind}} if behind is not None else {}),
                }
            )
        )
        super().__init__(
            ["docker-registry", "serve", config], directory / "registry.log", env={"OTEL_TRACES_EXPORTER": "none"}
        )

    def ready(self) -> bool:
        return answers(("127.0.0.1", self.port))

    def accesses(self) -> list[Access]:
        """Return every request so far, oldest first."""
        found = _ACCESS.findall(self.log.read_text(errors="replace"))
        return [Access(method, path, int(status)) for method, path, status in found]

    def gave(self, path: str) -> bool:
        """Say whether a GET of this path was answered with content."""
        return any(a.method == "GET" and a.path == path and a.status in (200, 206) for a in self.accesses())

    def content_gets(self) -> int:
        """Count the GETs of manifests and blobs that were answered with content so far."""
        return sum(
            access.method == "GET"
            and access.status in (200, 206)
            and re.search("/(manifests|blobs)/", access.path) is not None
            for access in self.accesses()
        )
