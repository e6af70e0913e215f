"""What building and running the image of the mirror takes: a base from Debian, wheels, a daemon that builds."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests import images
from tests.parts.docker import Dockerd
from tests.parts.process import ProgramError, run

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
PYTHON = "3.11"  # of the suite


def python_base() -> Path:
    """Return a tar of a Debian system with Python, built by mmdebstrap if it is not there yet."""
    kept = images.cache_directory() / f"python-{images.SUITE}-1.tar"
    if kept.exists():
        return kept
    work = kept.with_suffix(f".{os.getpid()}.tar")
    sources = next((source for source in images._SOURCES if source.exists() and source.stat().st_size), None)
    run(
        "mmdebstrap",
        "--variant=essential",
        "--include=python3,python3-venv,ca-certificates",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in images._LEFT_OUT),
        images.SUITE,
        work,
        *([sources] if sources else []),
        within=400,
    )
    work.rename(kept)
    return kept


def wheels() -> Path:
    """Return a directory with the wheels that the lock file names, fetched once for each lock file."""
    kept = images.cache_directory() / f"wheels-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}"
    if kept.exists():
        return kept
    work = kept.with_suffix(f".{os.getpid()}")
    run(
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--only-binary=:all:", "--python-version", PYTHON, "--require-hashes", "--requirement", LOCK, "--dest", work,
        within=300,
    )  # fmt: skip
    try:
        work.rename(kept)
    except OSError:  # another worker was quicker
        if not kept.exists():
            raise
        shutil.rmtree(work)
    return kept


def context(directory: Path) -> Path:
    """Lay out what `docker build` is given: what the image is made of, the wheels, and what must stay out."""
    path = directory / "context"
    path.mkdir()
    for name in ("Dockerfile", ".dockerignore", "requirements.lock"):
        shutil.copy2(ROOT / name, path / name)
    for name in ("mirror", "deploy"):
        shutil.copytree(ROOT / name, path / name)
    shutil.copytree(wheels(), path / "wheels")
    (path / ".git").mkdir()
    (path / ".git/huge").write_bytes(os.urandom(64 << 20))
    return path


class Builder(Dockerd):
    """A daemon that builds images without network, and runs containers in the network of the host or in none."""

    def __init__(self, directory: Path, *, mirrors: Sequence[str] = ()) -> None:
        super().__init__(directory, mirrors=mirrors)
        self._client_env["DOCKER_BUILDKIT"] = "0"  # the newer builder is a package of its own

    def bring(self, tar: Path, name: str) -> None:
        """Make an image of a file system."""
        self._docker("import", str(tar), name)

    def build(self, path: Path, name: str, **arguments: str) -> str:
        """Build a Dockerfile; return what was said."""
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        return self._docker("build", "--network=none", "--force-rm", *given, "--tag", name, str(path))

    def tell(self, name: str, what: str) -> str:
        """Return one value of an image or a container, in the language of Go's templates."""
        return self._docker("inspect", "--format", f"{{{{{what}}}}}", name).strip()

    def once(self, *arguments: str) -> str:
        """Run a container to its end and return its output; raise `ProgramError` if it fails."""
        return self._docker("run", "--rm", *arguments)

    def begin(self, name: str, *arguments: str) -> None:
        """Start a container, and wait until its health check says that it is well."""
        self._docker("run", "--detach", "--name", name, "--health-interval=1s", *arguments)
        until = time.monotonic() + 20
        while self.tell(name, ".State.Health.Status") != "healthy":
            if time.monotonic() > until or self.tell(name, ".State.Running") != "true":
                raise ProgramError(f"{name}: {self.tell(name, 'json .State')}\n{self.output(name)}")
            time.sleep(0.1)

    def execute(self, name: str, *command: str) -> str:
        """Run a command in a container that runs."""
        return self._docker("exec", name, *command)

    def output(self, name: str) -> str:
        """Return what a container has written to its standard output and error."""
        log = run("sh", "-c", 'docker --host "$1" logs "$2" 2>&1', "sh", self._host, name, env=self._client_env)
        return log[-4000:]

    def end(self, name: str) -> int:
        """Stop a container as a person does; return the exit code of its process."""
        self._docker("stop", name)
        code = int(self.tell(name, ".State.ExitCode"))
        self._docker("rm", "--volumes", name)
        return code
