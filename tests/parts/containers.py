"""podman, buildah and skopeo: one library underneath, one `registries.conf`, a storage of their own."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

from tests.parts.client import NO_WAY_OUT
from tests.parts.etc import laid_over
from tests.parts.process import run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.images import Image

_PLATFORM = "linux/amd64"


def registries_conf(mirror_host: str, registries: Iterable[str]) -> str:
    """Return a `registries.conf` that asks the mirror for each registry, the way Podman and CRI-O are set up."""
    return "\n".join(
        f'[[registry]]\nprefix = "{name}"\nlocation = "{name}"\n'
        f'[[registry.mirror]]\nlocation = "{mirror_host}/{name}"\ninsecure = true\n'
        for name in registries
    )


class _Library:
    """What the three have in common. `registries` is all that they are told; or `root/etc` is laid over `/etc`."""

    def __init__(self, directory: Path, registries: str | None = None, *, root: Path | None = None) -> None:
        self._directory = directory
        self._within = laid_over(root)
        if registries is not None:
            (directory / "registries.conf").write_text(registries)
        (directory / "auth.json").write_text("{}")
        (directory / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        # The built-in limits may be above what is allowed here.
        (directory / "containers.conf").write_text(
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nruntime = "runc"\n'
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n'
        )
        self.env = {
            **NO_WAY_OUT,
            **({"CONTAINERS_REGISTRIES_CONF": str(directory / "registries.conf")} if registries is not None else {}),
            "CONTAINERS_CONF": str(directory / "containers.conf"),
            "REGISTRY_AUTH_FILE": str(directory / "auth.json"),
            "TMPDIR": str(directory),
        }
        self.storage = [f"--root={directory}/root", f"--runroot={directory}/runroot", "--storage-driver=overlay"]


class Podman(_Library):
    """podman as root; containers without network."""

    def _podman(self, *arguments: str) -> str:
        return run(
            *self._within, "podman", *self.storage, f"--tmpdir={self._directory}/podman", *arguments, env=self.env
        )

    def pull(self, *references: str, platform: str | None = None) -> None:
        chosen = [f"--platform={platform}"] if platform else []
        self._podman("pull", "--quiet", f"--signature-policy={self._directory}/policy.json", *chosen, *references)

    def load(self, archive: Path) -> str:
        """Take an archive in by `podman load`."""
        policy = f"--signature-policy={self._directory}/policy.json"
        return self._podman("load", policy, "--input", str(archive))

    def save(self, archive: Path, reference: str, form: str) -> None:
        """Write an image by `podman save`, as `docker-archive` or `oci-archive`."""
        self._podman("save", "--quiet", "--format", form, "--output", str(archive), reference)

    def inspect(self, reference: str) -> dict[str, Any]:
        (got,) = json.loads(self._podman("image", "inspect", reference))
        return dict(got)

    def check(self, reference: str, image: Image, platform: str = _PLATFORM) -> None:
        got = self.inspect(reference)
        assert f"sha256:{got['Id']}" == image.configs[platform]
        assert image.manifests[platform] in [name.partition("@")[2] for name in got["RepoDigests"]]
        assert tuple(got["RootFS"]["Layers"]) == image.diff_ids[platform]

    def forget(self) -> None:
        self._podman("rmi", "--all", "--force")

    def run(self, reference: str, *command: str) -> str:
        return self._podman(
            "run", "--rm", "--network=none", "--pull=never", reference, *command
        )  # fmt: skip


class Buildah(_Library):
    """buildah; it runs a command in a working container, isolated by chroot."""

    def _buildah(self, *arguments: str) -> str:
        return run(*self._within, "buildah", *self.storage, *arguments, env=self.env)

    def pull(self, reference: str) -> None:
        policy = f"--signature-policy={self._directory}/policy.json"
        self._buildah("pull", "--quiet", policy, reference)

    def check(self, reference: str, image: Image) -> None:
        got = json.loads(self._buildah("inspect", "--type=image", reference))
        assert f"sha256:{got['FromImageID']}" == image.configs[_PLATFORM]
        assert got["FromImageDigest"] == image.manifests[_PLATFORM]
        assert tuple(got["OCIv1"]["rootfs"]["diff_ids"]) == image.diff_ids[_PLATFORM]

    def forget(self) -> None:
        self._buildah("rm", "--all")
        self._buildah("rmi", "--all", "--force")

    def run(self, reference: str, *command: str) -> str:
        container = self._buildah("from", "--pull-never", reference).strip()
        return self._buildah("run", "--isolation=oci", "--runtime=runc", "--network=none", container, "--", *command)


class Skopeo(_Library):
    """skopeo, which copies and runs nothing: everything that it got lies in an OCI layout, and is read again."""

    def __init__(self, directory: Path, registries: str | None = None, *, root: Path | None = None) -> None:
        super().__init__(directory, registries, root=root)
        # It does not look at CONTAINERS_REGISTRIES_CONF.
        self._told = ["--registries-conf", directory / "registries.conf"] if registries is not None else []

    def _layout(self, reference: str) -> Path:
        return self._directory / "pulled" / hashlib.sha256(reference.encode()).hexdigest()[:12]

    def pull(self, reference: str) -> None:
        layout = self._layout(reference)
        layout.mkdir(parents=True)
        run(
            *self._within, "skopeo", *self._told,
            "--policy", self._directory / "policy.json", "copy", "--quiet", "--preserve-digests",
            *(["--all"] if ".sig" not in reference else []),
            f"docker://{reference}", f"oci:{layout}:pulled", env=self.env,
        )  # fmt: skip

    def copy(self, source: str, *options: str) -> None:
        """Copy from anywhere; `check` then knows it by `source`."""
        layout = self._layout(source)
        layout.mkdir(parents=True)
        policy = ["--policy", self._directory / "policy.json"]
        run(*self._within, "skopeo", *policy, "copy", "--quiet", *options, source, f"oci:{layout}:pulled", env=self.env)

    def copy_with_signatures(self, reference: str, to: Path) -> None:
        """Copy from a registry to `dir:`, where signatures lie beside what they are of."""
        run(
            *self._within, "skopeo", *self._told, "--policy", self._directory / "policy.json",
            "copy", "--quiet", "--preserve-digests", "--all", f"docker://{reference}", f"dir:{to}", env=self.env,
        )  # fmt: skip

    def check(self, reference: str, image: Image) -> None:
        layout = self._layout(reference)
        got = set()
        for blob in (layout / "blobs/sha256").iterdir():
            with blob.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            assert digest == blob.name
            got.add(f"sha256:{digest}")
        for platform in image.manifests:
            assert image.everything(platform) <= got

    def forget(self) -> None:
        shutil.rmtree(self._directory / "pulled", ignore_errors=False)

    def run(self, reference: str, *command: str) -> str:
        raise NotImplementedError(f"skopeo starts no container: {reference} {command}")
