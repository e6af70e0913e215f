"""The unit that is deployed: systemd's own tools read it, and find little to complain about."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mirror.config import parse
from tests.parts.process import ProgramError, run

UNITS = Path(__file__).parents[2] / "deploy/systemd"
SERVICE = UNITS / "registry-mirror.service"
MOST_EXPOSED = 15  # tenths of ten; most services of Debian stand at 96
PROGRAM = "/opt/mirror/bin/mirror"


def settings(unit: Path) -> dict[str, list[str]]:
    """Return every assignment of a unit by its name, comments left away."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as they are installed, with a program that is there."""
    program = tmp_path / "mirror"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in UNITS.glob("registry-mirror.s*"):
        (tmp_path / unit.name).write_text(unit.read_text().replace(PROGRAM, str(program)))
    return tmp_path


@pytest.mark.needs("systemd-analyze")
def test_systemd_finds_no_fault_with_the_units(installed: Path) -> None:
    units = [installed / "registry-mirror.service", installed / "registry-mirror.socket"]
    assert run("sh", "-c", 'systemd-analyze verify "$@" 2>&1', "sh", *units) == ""


@pytest.mark.needs("systemd-analyze")
def test_systemd_would_find_a_misspelt_directive(installed: Path) -> None:
    service = installed / "registry-mirror.service"
    service.write_text(service.read_text().replace("ProtectHome=yes", "ProtectHouse=yes"))
    assert "ProtectHouse" in run("sh", "-c", 'systemd-analyze verify "$@" 2>&1', "sh", service)


@pytest.mark.needs("systemd-analyze")
def test_the_service_is_shut_in() -> None:
    run("systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", SERVICE)


@pytest.mark.needs("systemd-analyze")
def test_an_open_service_would_be_seen(tmp_path: Path) -> None:
    service = tmp_path / SERVICE.name
    service.write_text(re.sub(r"(?m)^(SystemCallFilter|RestrictAddressFamilies|CapabilityBoundingSet)=.*$", "",
                              SERVICE.read_text()))  # fmt: skip
    with pytest.raises(ProgramError):
        run("systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", service)


@pytest.mark.needs("systemd-sysusers")
def test_its_user_is_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", f"--root={tmp_path}", UNITS / "registry-mirror.sysusers")
    name, _, uid, _, _, home, shell = (tmp_path / "etc/passwd").read_text().strip().split(":")
    found = settings(SERVICE)
    assert [name] == found["User"] == found["Group"]
    assert int(uid) > 0
    assert [home] == found["WorkingDirectory"] == [f"/var/lib/{found['StateDirectory'][0]}"]
    assert shell.endswith("nologin")


@pytest.mark.parametrize("listen", ["5", "192.0.2.1:5000"])  # RFC 5737: this machine does not have it
def test_the_command_is_one_that_the_mirror_takes_and_is_tried_until_it_succeeds(listen: str, tmp_path: Path) -> None:
    """After a power cut the machine may get its address later than the mirror wants to listen on it."""
    found = settings(SERVICE)
    program, *arguments = shlex.split(found["ExecStart"][0])
    assert program == PROGRAM
    config = tmp_path / "mirror.yaml"
    config.write_text(f"server: {{listen: {listen}}}\nstorage: {{path: {tmp_path}/store}}\n")
    arguments[arguments.index("--config") + 1] = str(config)
    done = subprocess.run(
        [sys.executable, "-m", "mirror", *arguments], check=False, capture_output=True, text=True, timeout=30
    )
    assert "server.listen: " in done.stderr
    assert done.returncode > 0
    assert (found["Restart"], found["StartLimitIntervalSec"]) == (["on-failure"], ["0"])
    assert "RestartPreventExitStatus" not in found


def test_transfers_may_end_before_systemd_loses_patience() -> None:
    patience = int(settings(SERVICE)["TimeoutStopSec"][0].removesuffix("s"))
    assert patience > parse("", "mirror.yaml", {}).server.shutdown_timeout + 5


def test_a_socket_that_systemd_passes_can_be_named() -> None:
    said = (UNITS / "registry-mirror.socket").read_text()
    assert "server: {listen: systemd}" in said
    (listen,) = parse("server: {listen: systemd}", "mirror.yaml", {}).server.listen
    assert str(listen) == "systemd"
