"""containerd, with its own socket and its own storage: by `ctr` with `hosts.toml`, and by its CRI service."""

from __future__ import annotations

import hashlib
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from tests.parts import cri
from tests.parts.client import NO_WAY_OUT
from tests.parts.etc import laid_over
from tests.parts.process import Program, ProgramError, run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.images import Image


_CERTS = Path("/etc/containerd/certs.d")


class Containerd(Program):
    """containerd as `ctr` uses it. `hosts` gives each registry, or `_default`, the text of its `hosts.toml`.

    With `root` these files are below `/etc/containerd/certs.d`, where `root/etc` is laid over `/etc`.
    """

    namespace = "tests"

    def __init__(
        self,
        directory: Path,
        *,
        hosts: Mapping[str, str] | None = None,
        cri_mirrors: Mapping[str, str] | None = None,
        root: Path | None = None,
    ) -> None:
        self.socket, self.root = directory / "sock", directory / "root"
        self._hosts = directory / "hosts" if root is None else _CERTS
        self._within = laid_over(root)
        for name, text in (hosts or {}).items():
            (self._hosts / name).mkdir(parents=True)
            (self._hosts / name / "hosts.toml").write_text(text)
        config = directory / "config.toml"
        config.write_text(
            "\n".join(
                [
                    "version = 2",
                    f'root = "{self.root}"',
                    f'state = "{directory}/state"',
                    "[grpc]",
                    f'address = "{self.socket}"',
                    '[plugins."io.containerd.internal.v1.opt"]',
                    f'path = "{directory}/opt"',
                    *(
                        f'[plugins."io.containerd.grpc.v1.cri".registry.mirrors."{name}"]\nendpoint = ["{endpoint}"]'
                        for name, endpoint in (cri_mirrors or {}).items()
                    ),
                    *([f'[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "{_CERTS}"'] if root else []),
                ]
            )
        )
        super().__init__([*self._within, "containerd", "--config", config], directory / "log", env=NO_WAY_OUT)

    def ready(self) -> bool:
        try:
            self._ctr("version")
        except ProgramError:
            return False
        return True

    def _ctr(self, *arguments: str) -> str:
        # ctr resolves and fetches by itself: it must find no way out either.
        command = ["ctr", "--address", str(self.socket), "--namespace", self.namespace, *arguments]
        return run(*self._within, *command, env=NO_WAY_OUT)

    def pull(self, reference: str, *platforms: str) -> None:
        chosen = [f"--platform={platform}" for platform in platforms]
        self._ctr("images", "pull", "--hosts-dir", str(self._hosts), *chosen, reference)

    def load(self, archive: Path, *options: str) -> str:
        """Take an archive in by `ctr images import`."""
        return self._ctr("images", "import", *options, str(archive))

    def named(self) -> dict[str, str]:
        """Return the digests of all images by their names."""
        return {line.split()[0]: line.split()[2] for line in self._ctr("images", "ls").splitlines()[1:]}

    def contents(self) -> set[str]:
        """Return the digests of all that it holds, as it lies there."""
        found = set()
        for path in (self.root / "io.containerd.content.v1.content/blobs/sha256").iterdir():
            with path.open("rb") as file:
                found.add(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
        return found

    def check(self, reference: str, image: Image) -> None:
        assert self.named()[reference] == image.digest
        for digest in image.everything():
            got = subprocess.run(
                ["ctr", "--address", self.socket, "--namespace", self.namespace, "content", "get", digest],
                check=True,
                capture_output=True,
            ).stdout
            assert f"sha256:{hashlib.sha256(got).hexdigest()}" == digest

    def forget(self) -> None:
        images = self._ctr("images", "ls", "--quiet").split()
        if images:
            self._ctr("images", "rm", "--sync", *images)
        assert self._ctr("content", "ls", "--quiet").split() == []

    def run(self, reference: str, *command: str) -> str:
        # Into a file: what a short process says may be lost where ctr passes it on (it closes the pipes when it ends).
        name = f"test-{uuid.uuid4().hex[:8]}"
        said = self.root.parent / f"{name}.out"
        self._ctr("run", "--rm", f"--log-uri=file://{said}", reference, name, *command)
        return said.read_text()


class ContainerdCri(Containerd):
    """containerd as a kubelet uses it, with the old table of mirrors (`registry.mirrors`), or with `hosts.toml`."""

    namespace = "k8s.io"

    def ready(self) -> bool:
        return super().ready() and cri.ready(self.socket)

    def pull(self, reference: str) -> None:
        cri.pull(self.socket, reference)

    def check(self, reference: str, image: Image) -> None:
        super().check(reference, image)
        config = image.configs["linux/amd64"]
        assert config in self._ctr("images", "ls", "--quiet").split()  # the CRI names an image by its config too

    def forget(self) -> None:
        super().forget()
        self.wait(lambda: cri.images(self.socket) == [])


def default_hosts(mirror_url: str) -> str:
    """Return a `hosts.toml` with which the mirror is asked for every registry, by `?ns=`."""
    return f'[host."{mirror_url}"]\n  capabilities = ["pull", "resolve"]\n'


def path_hosts(mirror_url: str, registry: str) -> str:
    """Return a `hosts.toml` with which the mirror is asked for one registry under a path, before `/v2`."""
    return f'server = "https://{registry}"\n' + default_hosts(f"{mirror_url}/{registry}")


def override_hosts(mirror_url: str, registry: str) -> str:
    """Return a `hosts.toml` with which the mirror is asked for one registry under a path, after `/v2`."""
    return f'server = "https://{registry}"\n{default_hosts(f"{mirror_url}/v2/{registry}")}  override_path = true\n'
