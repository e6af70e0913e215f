"""Docker gives its user's Hub password to a mirror that asks for one. This one never asks."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from tests.parts.docker import Dockerd
from tests.parts.process import ProgramError, room
from tests.parts.wiretap import Wiretap

if TYPE_CHECKING:
    from tests.images import Images
    from tests.parts.mirror import MirrorProcess

HUB_LOGIN = base64.b64encode(b"hub-user:hub-password").decode()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.needs("docker-registry", "mmdebstrap", "skopeo", "dockerd", "docker")
def test_docker_sends_the_mirror_no_credentials(mirror: MirrorProcess, pushed: Images) -> None:
    with (
        Wiretap(mirror.host) as tap,
        room("client", memory=True) as directory,
        Dockerd(directory, mirrors=[tap.url], login=HUB_LOGIN) as docker,
    ):
        docker.pull("docker.io/library/signed:v1")
        docker.check("docker.io/library/signed:v1", pushed.signed)
        with pytest.raises(ProgramError):
            docker.pull("docker.io/library/absent:v1")
        assert b"/v2/library/absent/manifests/v1" in tap.sent
        assert b"authorization" not in tap.sent.lower()
        assert HUB_LOGIN.encode() not in tap.sent
