"""What `pulls` refuses: a client that has no other registry than the mirror shows which rule, and what to do."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.parts.containerd import Containerd, ContainerdCri
from tests.parts.containers import Buildah, Podman, Skopeo
from tests.parts.docker import Dockerd
from tests.parts.mirror import MirrorProcess
from tests.parts.process import ProgramError, room
from tests.parts.token_server import PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.images import Images
    from tests.parts.client import Client
    from tests.parts.registry import DockerRegistry

    Start = Callable[[Path, MirrorProcess], AbstractContextManager[Client]]

pytestmark = [
    pytest.mark.needs("docker-registry", "mmdebstrap", "skopeo"),
    pytest.mark.slow,
    pytest.mark.timeout(300),  # the first test also builds the images
]

REASON = "only official images; ask platform@example"
PULLS = [
    {"allow": "docker.io/library/**", "min_age": "3d"},
    {"allow": "docker.io/private/**", "require_digest": True},
    {"deny": "docker.io/**", "reason": REASON},
]


@pytest.fixture(scope="module")
def mirror(registry: DockerRegistry) -> Iterator[MirrorProcess]:
    """A mirror that is its clients' only registry, with a rule of each kind."""
    config = {
        "server": {"fallback": False},
        "upstreams": {"docker.io": {"url": registry.url, "username": USER, "password": PASSWORD}},
        "pulls": PULLS,
    }
    with room("mirror") as directory, MirrorProcess(directory, config) as process:
        yield process
        print(process.said())  # noqa: T201 - pytest shows it where the test failed


@dataclass(frozen=True)
class Only:
    """One client that is set up to ask nobody but the mirror. `prefix` is what its names of images begin with."""

    programs: tuple[str, ...]
    start: Start
    by_path: bool = False  # images are called by the mirror's own name


def _dockerd(directory: Path, _: MirrorProcess) -> AbstractContextManager[Client]:
    return Dockerd(directory)


def _server(url: str) -> str:
    return f'server = "{url}"\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n'


def _containerd(directory: Path, mirror: MirrorProcess) -> AbstractContextManager[Client]:
    return Containerd(directory, hosts={"docker.io": _server(mirror.url)})


def _cri(directory: Path, mirror: MirrorProcess) -> AbstractContextManager[Client]:
    hosts = directory / "laid/etc/containerd/certs.d/docker.io/hosts.toml"
    hosts.parent.mkdir(parents=True)
    hosts.write_text(_server(mirror.url))
    return ContainerdCri(directory, root=directory / "laid")


def _location(host: str) -> str:
    return f'[[registry]]\nprefix = "docker.io"\nlocation = "{host}/docker.io"\ninsecure = true\n'


def _blocked(host: str) -> str:
    mirror = f'[[registry.mirror]]\nlocation = "{host}/docker.io"\ninsecure = true\n'
    return f'[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\nblocked = true\n{mirror}'


def _library(kind: Callable[[Path, str], Client], registries: Callable[[str], str]) -> Start:
    @contextmanager
    def start(directory: Path, mirror: MirrorProcess) -> Iterator[Client]:
        yield kind(directory, registries(mirror.host))

    return start


CLIENTS = {
    "dockerd": Only(("dockerd", "docker", "runc"), _dockerd, by_path=True),
    "containerd": Only(("containerd", "ctr", "runc"), _containerd),
    "cri": Only(("containerd", "ctr", "runc", "curl"), _cri),
    "podman": Only(("podman", "runc"), _library(Podman, _location)),
    "podman-blocked": Only(("podman", "runc"), _library(Podman, _blocked)),
    "buildah": Only(("buildah", "runc"), _library(Buildah, _location)),
    "skopeo": Only(("skopeo",), _library(Skopeo, _location)),
}


def said(client: Client, reference: str) -> str:
    """Return what a client prints that cannot pull an image, without the quotes that some put a backslash before."""
    with pytest.raises(ProgramError) as failed:
        client.pull(reference)
    return str(failed.value).replace('\\"', '"')


@pytest.mark.parametrize(
    "only", [pytest.param(only, id=name, marks=pytest.mark.needs(*only.programs)) for name, only in CLIENTS.items()]
)
def test_a_person_reads_which_rule_refuses_and_what_to_do(only: Only, mirror: MirrorProcess, pushed: Images) -> None:
    prefix = f"{mirror.host}/docker.io" if only.by_path else "docker.io"
    with ExitStack() as stack:
        client = stack.enter_context(only.start(stack.enter_context(room("client", memory=True)), mirror))
        denied = said(client, f"{prefix}/org/app:v1")
        assert f'docker.io/org/app:v1 is refused by this mirror\'s rule "deny: docker.io/**": {REASON}' in denied

        young = said(client, f"{prefix}/library/signed:v1")
        assert '"allow: docker.io/library/**, min_age: 3d": its digest ' in young
        assert pushed.signed.digest in young
        assert "mirror release docker.io/library/signed:v1" in young

        named = said(client, f"{prefix}/private/signed:v1")
        assert "name it by its digest, as docker.io/private/signed@sha256:" in named
        reference = f"{prefix}/private/signed@{pushed.signed.digest}"
        client.pull(reference)
        client.check(reference, pushed.signed)


@pytest.mark.needs("dockerd", "docker", "runc")
def test_docker_with_registry_mirrors_goes_past_the_rule_and_says_nothing_of_it(mirror: MirrorProcess) -> None:
    """As the guide says: it asks Docker Hub then, which here cannot be reached."""
    with room("client", memory=True) as directory, Dockerd(directory, mirrors=[mirror.url]) as client:
        text = said(client, "org/app:v1")
    assert "registry-1.docker.io" in text
    assert REASON not in text
