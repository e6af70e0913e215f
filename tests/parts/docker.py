"""dockerd, with its own socket and its own storage."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.parts.client import NO_WAY_OUT
from tests.parts.etc import laid_over
from tests.parts.process import Program, ProgramError, run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.images import Image


class Dockerd(Program):
    """A Docker daemon without a bridge: containers that it starts have no network.

    With `root` it finds its configuration below `/etc`, over which `root/etc` is laid; else it is told `mirrors`.
    """

    def __init__(
        self, directory: Path, *, mirrors: Sequence[str] = (), login: str | None = None, root: Path | None = None
    ) -> None:
        self._host = f"unix://{directory}/docker.sock"
        self._client_env = {"DOCKER_CONFIG": str(directory / "client")}
        if login is not None:  # to Docker Hub, as `docker login` leaves it: base64 of user:password
            (directory / "client").mkdir()
            (directory / "client/config.json").write_text(
                json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": login}}})
            )
        told: list[str | Path] = []
        if root is None:
            told = ["--config-file", directory / "daemon.json"]
            (directory / "daemon.json").write_text(json.dumps({"registry-mirrors": list(mirrors)}))
        super().__init__(
            [
                *laid_over(root, written=True), "dockerd", *told, "--host", self._host, "--pidfile", directory / "pid",
                "--data-root", directory / "data", "--exec-root", directory / "exec",
                "--bridge=none", "--iptables=false", "--ip6tables=false", "--shutdown-timeout=5",
            ],
            directory / "log",
            env=NO_WAY_OUT,
        )  # fmt: skip

    def ready(self) -> bool:
        try:
            self._docker("version")
        except ProgramError:
            return False
        return True

    def _docker(self, *arguments: str) -> str:
        return run("docker", "--host", self._host, *arguments, env=self._client_env)

    def pull(self, reference: str, platform: str | None = None) -> None:
        self._docker("pull", "--quiet", *([f"--platform={platform}"] if platform else []), reference)

    def load(self, archive: Path) -> str:
        """Take an archive in by `docker load`."""
        return self._docker("load", "--input", str(archive))

    def save(self, archive: Path, *references: str) -> None:
        """Write images by `docker save`."""
        self._docker("save", "--output", str(archive), *references)

    def inspect(self, reference: str) -> dict[str, Any]:
        (got,) = json.loads(self._docker("image", "inspect", reference))
        return dict(got)

    def check(self, reference: str, image: Image, platform: str = "linux/amd64") -> None:
        got = self.inspect(reference)
        assert got["Id"] == image.configs[platform]
        assert image.digest in [name.partition("@")[2] for name in got["RepoDigests"]]
        assert tuple(got["RootFS"]["Layers"]) == image.diff_ids[platform]

    def forget(self) -> None:
        images = set(self._docker("image", "ls", "--all", "--quiet").split())
        if images:
            self._docker("image", "rm", "--force", *images)

    def run(self, reference: str, *command: str) -> str:
        return self._docker("run", "--rm", "--network=none", "--pull=never", reference, *command)
