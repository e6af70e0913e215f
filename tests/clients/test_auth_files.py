"""The files in which real clients keep their logins, given to the mirror as they are."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.parts.mirror import MirrorProcess
from tests.parts.process import run
from tests.parts.token_server import PASSWORD, USER

if TYPE_CHECKING:
    from pathlib import Path

    from tests.images import Images
    from tests.parts.registry import DockerRegistry


@pytest.mark.needs("docker-registry", "mmdebstrap", "skopeo", "podman")
@pytest.mark.parametrize("program", ["skopeo", "podman"])
@pytest.mark.parametrize("below", ["", "/private"])
def test_a_login_of_a_real_client_opens_private_images(
    registry: DockerRegistry, pushed: Images, tmp_path: Path, program: str, below: str
) -> None:
    file = tmp_path / "auth.json"
    login = ["login", "--tls-verify=false", f"--authfile={file}", "--username", USER, "--password-stdin"]
    run(program, *login, registry.host + below, stdin=PASSWORD.encode())
    assert PASSWORD not in file.read_text()
    assert list(json.loads(file.read_text())["auths"]) == [registry.host + below]
    config = {
        "credentials_files": str(file),
        "upstreams": {"real.test": {"url": registry.url}},
        "default_upstream": "real.test",
    }
    with MirrorProcess(tmp_path, config) as mirror:
        with urllib.request.urlopen(f"{mirror.url}/v2/private/secret/manifests/v1", timeout=30) as answer:  # noqa: S310 - our own
            assert answer.headers["Docker-Content-Digest"] == pushed.secret.digest
        assert PASSWORD not in mirror.log.read_text()
