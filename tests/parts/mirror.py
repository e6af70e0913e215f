"""The mirror as a process, as a person runs it."""

from __future__ import annotations

import json
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.parts.process import Program

if TYPE_CHECKING:
    from collections.abc import Mapping


class MirrorProcess(Program):
    """`python -m mirror serve`, on a free port of 127.0.0.1 that it keeps when it is started again.

    `config` is merged over what is needed here; its log is JSON, one file over all starts. `tls` is a certificate that
    vouches for itself, and its key: then it speaks https.
    """

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, Any],
        *,
        env: Mapping[str, str] | None = None,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self._tls = tls
        self._config = dict(config)
        self.file = directory / "mirror.yaml"
        self.store = directory / "store"
        self._address: str | None = None
        self._read_from = 0
        super().__init__(
            [sys.executable, "-m", "mirror", "serve", "--config", self.file], directory / "mirror.log", env=env
        )

    def start(self) -> None:
        tls = {"tls": {"cert_file": str(self._tls[0]), "key_file": str(self._tls[1])}} if self._tls else {}
        self.file.write_text(
            json.dumps(
                {
                    **self._config,
                    "server": {
                        "listen": self.host if self._address else "127.0.0.1:0",
                        **tls,
                        **self._config.get("server", {}),
                    },
                    "storage": {"path": str(self.store), "min_free": "0B", **self._config.get("storage", {})},
                    "log": {"level": "info", "format": "json"},
                }
            )
        )
        self._read_from = self.log.stat().st_size if self.log.exists() else 0
        super().start()

    def ready(self) -> bool:
        if self._address is None:
            self._address = next((line["address"] for line in self.lines() if line.get("event") == "listening"), None)
        if self._address is None:
            return False
        try:
            trust = ssl.create_default_context(cafile=self._tls[0]) if self._tls else None
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5, context=trust):  # noqa: S310 - our own
                return True
        except (urllib.error.URLError, ConnectionError):
            return False

    def lines(self) -> list[dict[str, Any]]:
        """Return the log's lines since the last start, as far as they are written."""
        with self.log.open("rb") as log:
            log.seek(self._read_from)
            whole, _, _ = log.read().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`."""
        assert self._address is not None, "the mirror has not been started"
        return urlsplit(self._address).netloc

    @property
    def url(self) -> str:
        """Base URL."""
        return f"{'https' if self._tls else 'http'}://{self.host}"

    @property
    def rss(self) -> int:
        """Resident memory of the process, bytes."""
        return self._status("VmRSS")

    @property
    def peak_rss(self) -> int:
        """The most resident memory that it has had, bytes."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name} of process {self.pid}")
