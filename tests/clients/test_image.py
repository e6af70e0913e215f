"""The image is built from the Dockerfile on a local base, without network, and run as carefully as it can be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from mirror import __version__
from tests.parts.builder import Builder, context, python_base
from tests.parts.process import ProgramError, free_port, room
from tests.parts.token_server import PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.images import Images
    from tests.parts.registry import DockerRegistry

pytestmark = [
    pytest.mark.needs("dockerd", "docker", "runc", "mmdebstrap"),
    pytest.mark.slow,
    pytest.mark.timeout(600),  # the first test also makes the base and fetches the wheels, once for a machine
]

IMAGE, BASE = "registry-mirror", "python-base"
PORT = free_port()  # of the mirror that the daemon is told to use before there is one
MB = 10**6
LAYER = 75 * MB  # what the mirror may add to its base: 73 when this was written, 30 of them for signatures and zstd
CAREFUL = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")


@pytest.fixture(scope="module")
def docker() -> Iterator[Builder]:
    """A daemon that has built the image, and uses port `PORT` as its mirror."""
    base = python_base()
    with (
        room("image") as directory,
        room("dockerd", memory=True) as store,
        Builder(store, mirrors=[f"http://127.0.0.1:{PORT}"]) as daemon,
    ):
        daemon.bring(base, BASE)
        said = daemon.build(context(directory), IMAGE, BASE=BASE, VERSION=__version__)
        assert f"mirror {__version__}" in said
        yield daemon


def test_the_image_is_small_and_says_what_it_is(docker: Builder) -> None:
    whole, base = (int(docker.tell(name, ".Size")) for name in (IMAGE, BASE))
    print(f"image {whole / MB:.0f} MB: base {base / MB:.0f} MB, mirror {(whole - base) / MB:.0f} MB")  # noqa: T201
    assert whole - base < LAYER
    labels = json.loads(docker.tell(IMAGE, "json .Config.Labels"))
    assert labels["org.opencontainers.image.title"] == "registry-mirror"
    assert labels["org.opencontainers.image.version"] == __version__
    assert docker.once("--network=none", IMAGE, "--version") == f"mirror {__version__}\n"
    # No way to install more, and nothing that its user could change, the cache excepted.
    modules = "import importlib.util as u; print([m for m in ('pip', 'setuptools', 'wheel') if u.find_spec(m)])"
    assert docker.once("--network=none", "--entrypoint=/opt/mirror/bin/python", IMAGE, "-c", modules) == "[]\n"
    find = 'find / -xdev -writable ! -type l ! -path "/proc/*" ! -path "/dev/*" ! -path "/sys/*" 2>/dev/null; true'
    found = docker.once("--network=none", "--user=12345:0", "--entrypoint=sh", IMAGE, "-c", find).split()
    assert set(found) <= {"/var/lib/mirror", "/tmp", "/var/tmp", "/run/lock"}  # noqa: S108 - what every Debian has


def test_dockerd_pulls_through_it_run_read_only_by_any_user(
    docker: Builder, tmp_path: Path, registry: DockerRegistry, pushed: Images
) -> None:
    config = tmp_path / "mirror.yaml"
    upstream = {"url": registry.url, "username": USER, "password": PASSWORD}
    config.write_text(
        json.dumps(
            {
                "server": {"listen": f"127.0.0.1:{PORT}"},
                "storage": {"path": "/var/lib/mirror", "min_free": "0B"},
                "upstreams": {"docker.io": upstream},
            }
        )
    )
    mounts = (f"--volume={config}:/etc/mirror/mirror.yaml:ro", "--volume=cache:/var/lib/mirror")
    docker.begin("mirror", *CAREFUL, "--user=12345:0", "--network=host", *mounts, IMAGE)
    before = registry.content_gets()
    for reference, image in {
        "docker.io/library/debian:bookworm": pushed.debian,
        "docker.io/library/signed:v1": pushed.signed,
        "docker.io/private/secret:v1": pushed.secret,
    }.items():
        docker.pull(reference)  # it has no way to the registry but through its mirror
        docker.check(reference, image)
    assert registry.content_gets() > before
    ask = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{PORT}/metrics').read().decode())"
    assert "mirror_requests_total" in docker.execute("mirror", "python", "-c", ask)
    assert docker.execute("mirror", "id", "-u").strip() == "12345"
    said = docker.output("mirror")
    assert docker.end("mirror") == 0, said
    assert "Traceback" not in said

    # What it had is there for the next one, and the registry is not needed.
    registry.terminate()
    try:
        docker.begin("mirror", *CAREFUL, "--init", "--user=12345:0", "--network=host", *mounts, IMAGE)
        docker._docker("image", "rm", "docker.io/library/signed:v1")
        docker.pull("docker.io/library/signed:v1")
        docker.check("docker.io/library/signed:v1", pushed.signed)
        assert docker.end("mirror") == 0
    finally:
        registry.start()


def test_it_serves_on_a_fresh_volume_with_what_it_ships(docker: Builder) -> None:
    shipped = yaml.safe_load(docker.once("--network=none", IMAGE, "check", "--config", "/etc/mirror/mirror.yaml"))
    assert shipped["server"]["listen"] == ["0.0.0.0:5000"]
    assert shipped["storage"]["path"] == "/var/lib/mirror"
    assert "5000/tcp" in docker.tell(IMAGE, "json .Config.ExposedPorts")
    docker.begin("fresh", *CAREFUL, "--user=23456:23456", "--network=none", "--volume=fresh:/var/lib/mirror", IMAGE)
    assert docker.execute("fresh", "mirror-health") == "healthy: 127.0.0.1 port 5000\n"
    assert docker.end("fresh") == 0


def test_a_volume_that_its_user_cannot_write_is_named(docker: Builder, tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"(?s)ended with 1:.*storage\.path /var/lib/mirror .*write access"):
        docker.once(*CAREFUL, "--user=12345:0", "--network=none", f"--volume={tmp_path}:/var/lib/mirror", IMAGE)
