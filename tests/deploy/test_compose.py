"""The compose file: Compose takes it, and it keeps the container as shut in as the image allows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mirror import __version__
from mirror.config import Config, parse
from tests.parts.process import ProgramError, run

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy/compose.yaml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture
def service() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]["mirror"]
    return found


@pytest.fixture
def shipped() -> Config:
    return parse((ROOT / "deploy/container.yaml").read_text(), "container.yaml", {})


@pytest.mark.needs("docker-compose")
def test_compose_takes_it(tmp_path: Path) -> None:
    said = yaml.safe_load(run("docker-compose", "--file", COMPOSE, "config"))
    mirror = said["services"]["mirror"]
    assert mirror["read_only"] is mirror["init"] is True
    assert (mirror["cap_drop"], mirror["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert (Path(mirror["build"]["context"]) / "Dockerfile").is_file()

    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("read_only: true", "read_onyl: true"))
    with pytest.raises(ProgramError, match="read_onyl"):
        run("docker-compose", "--file", wrong, "config")


@pytest.mark.needs("docker-compose")
def test_what_is_commented_out_is_right_too(tmp_path: Path) -> None:
    keys = r"(?m)^(\s*)# (?=(user|secrets|  hub-password|    file): ?)"
    text = re.sub(keys, r"\1", COMPOSE.read_text())
    everything = tmp_path / "compose.yaml"
    everything.write_text(text)
    said = yaml.safe_load(run("docker-compose", "--file", everything, "config"))
    assert said["services"]["mirror"]["user"] == "12345:0"
    assert [secret["source"] for secret in said["services"]["mirror"]["secrets"]] == ["hub-password"]
    assert said["secrets"]["hub-password"]["file"].endswith("/hub-password")


def test_what_it_mounts_is_what_the_image_and_its_configuration_expect(
    service: dict[str, Any], shipped: Config
) -> None:
    mounts = [volume.split(":") for volume in service["volumes"]]
    assert ["./container.yaml", "/etc/mirror/mirror.yaml", "ro"] in mounts
    assert ["cache", str(shipped.storage.path)] in mounts
    assert f"VOLUME {shipped.storage.path}" in DOCKERFILE
    assert '"/etc/mirror/mirror.yaml"]' in DOCKERFILE
    assert [str(listen) for listen in shipped.server.listen] == ["0.0.0.0:5000"]
    assert service["ports"] == ["127.0.0.1:5000:5000"]
    assert "EXPOSE 5000" in DOCKERFILE


def test_its_health_check_is_that_of_the_image(service: dict[str, Any]) -> None:
    check = service["healthcheck"]
    stated = re.search(r"HEALTHCHECK (.*) CMD \[\"(.*)\"\]", DOCKERFILE)
    assert stated is not None
    options = dict(option.removeprefix("--").split("=") for option in stated[1].split())
    assert check.pop("test") == ["CMD", stated[2]]
    assert {name.replace("_", "-"): str(value) for name, value in check.items()} == options


def test_transfers_may_end_before_it_is_killed(service: dict[str, Any], shipped: Config) -> None:
    assert int(service["stop_grace_period"].removesuffix("s")) > shipped.server.shutdown_timeout + 5


def test_the_image_has_the_version_of_the_mirror() -> None:
    assert f"ARG VERSION={__version__}\n" in DOCKERFILE
