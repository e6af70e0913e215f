"""`mirror doctor` as a person runs it: what it prints, where, and with which exit code."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from mirror import config
from mirror.cli.main import main
from mirror.doctor.case import Case
from mirror.doctor.examination import examine
from mirror.doctor.finding import Level
from tests.flow.conftest import document
from tests.flow.doctoring import Host, certificate, listening
from tests.parts.mirror import MirrorProcess
from tests.parts.process import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror

CANARY = "canary-40cc"

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host, with an empty working directory and no proxies in the environment."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Host(tmp_path)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        main(["doctor", *arguments])
    assert isinstance(raised.value.code, int)
    return raised.value.code


async def doctor(host: Host, *arguments: str) -> int:
    """Run the command beside the servers of the test's own loop; return its exit code."""
    return await asyncio.to_thread(run, "--root", str(host.root), *arguments)


def configured(host: Host, upstreams: Any, listen: str, **sections: Any) -> str:
    """Write a mirror.yaml; return its path."""
    sections["server"] = {"listen": listen.partition("://")[2], **sections.get("server", {})}
    file = host.directory / "mirror.yaml"
    file.write_text(json.dumps(document(upstreams, host.store, **sections)))
    return str(file)


async def test_0_where_nothing_failed_and_1_where_something_did(
    host: Host, start: StartMirror, upstream: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = await start(upstream)
    file = configured(host, upstream, mirror.url)
    assert await doctor(host, "--config", file) == 0
    well, nothing = capsys.readouterr()
    assert f"\nok      listening: {mirror.url}: the mirror answers\n" in well
    assert ": 0 failed, 0 to be looked at, " in ": " + well.splitlines()[-1]
    assert nothing == ""
    await mirror.stop()
    assert await doctor(host, "--config", file) == 1
    ill, _ = capsys.readouterr()
    assert f"\nfailure listening: {mirror.url}: the connection is refused: nobody listens there\n        -> st" in ill
    assert "1 failed" in ill
    assert "\x1b" not in well + ill


async def test_json_is_a_list_of_findings(
    host: Host, start: StartMirror, upstream: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = await start(upstream)
    capsys.readouterr()  # what the mirror has logged
    file = configured(host, upstream, f"http://127.0.0.1:{free_port()}")
    assert await doctor(host, "--config", file, "--json") == 1
    findings = json.loads(capsys.readouterr().out)
    assert all(finding.keys() == {"check", "level", "subject", "found", "cure"} for finding in findings)
    assert [finding["check"] for finding in findings if finding["level"] == "failure"] == ["listening"]
    assert await doctor(host, "--config", file, "--url", mirror.url, "--json") == 0


async def test_a_configuration_that_does_not_load_is_named_whole(
    host: Host, start: StartMirror, upstream: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = await start(upstream)
    capsys.readouterr()  # what the mirror has logged
    file = host.directory / "mirror.yaml"
    file.write_text("server: {listen: 5}\nlog: {level: 6}\n")
    assert await doctor(host, "--config", str(file), "--url", mirror.url, "--json") == 2
    findings = json.loads(capsys.readouterr().out)
    wrong = [finding for finding in findings if finding["level"] == "failure"]
    assert [finding["check"] for finding in wrong] == ["configuration", "configuration"]
    assert "server.listen: '5'" in wrong[0]["found"]
    assert "log.level: '6'" in wrong[1]["found"]
    assert "mirror check" in wrong[0]["cure"]
    assert {"listening", "clients"} < {finding["check"] for finding in findings}  # what can be looked at, is
    assert await doctor(host, "--config", str(file)) == 2


async def test_what_the_owner_may_not_have_meant_is_a_warning(
    host: Host, start: StartMirror, upstream: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream.auth.mode, upstream.auth.users = "basic", {"me": CANARY}
    mirror = await start(upstream)
    capsys.readouterr()  # what the mirror has logged
    upstreams = {"docker.io": {"url": upstream.url, "username": "me", "password": CANARY}}
    assert await doctor(host, "--config", configured(host, upstreams, mirror.url), "--json") == 0
    out, err = capsys.readouterr()
    warned = [finding for finding in json.loads(out) if finding["level"] == "warning"]
    assert [finding["check"] for finding in warned] == ["configuration"]
    assert "travels without encryption" in warned[0]["found"]
    assert warned[0]["cure"] == "give an https:// url"
    assert CANARY not in out + err


async def test_of_a_mirror_elsewhere_only_what_a_client_needs_is_looked_at(
    host: Host, start: StartMirror, upstream: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = await start(upstream, server={"listen": "0.0.0.0:0"})  # an address that is not a loopback address
    capsys.readouterr()  # what the mirror has logged
    host.put("/etc/docker/daemon.json", {"registry-mirrors": [mirror.url]})
    assert await doctor(host, "--url", mirror.url, "--json") == 0
    findings = json.loads(capsys.readouterr().out)
    assert [finding["check"] for finding in findings] == ["configuration", "listening", "docker"]
    assert "the mirror is elsewhere" in findings[0]["found"]
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "mirror:5000"], "--url: is not an http or https URL"),
        (["--url", f"http://me:{CANARY}@mirror"], "--url: holds a user name or password"),
        (["--root", "/no/such/directory"], "--root: /no/such/directory is no directory"),
    ],
)
@pytest.mark.usefixtures("host")
def test_wrong_usage_is_2(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith(says)
    assert CANARY not in out + err


async def test_a_person_at_a_terminal_gets_a_table_with_colours(
    host: Host,
    start: StartMirror,
    upstream: FakeRegistry,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirror = await start(upstream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    host.put("/etc/docker/daemon.json", "{[bold]nothing[/bold]")  # which is not for rich to read
    assert await doctor(host, "--config", configured(host, upstream, mirror.url)) == 1
    out, err = capsys.readouterr()
    assert "\x1b[1;31mfailure" in out
    assert "\x1b[32mok" in out
    assert "is not JSON" in out
    assert "looking" in err


def installed(host: Host, client: str) -> None:
    """Have a client on the host, a new one, whose own settings are right."""
    host.put({"docker": "/usr/bin/dockerd", "k3s": "/usr/local/bin/k3s"}.get(client, f"/usr/bin/{client}"))
    if client == "docker":
        host.put("/var/lib/dpkg/status", "Package: docker-ce\nStatus: install ok installed\nVersion: 5:29.1.0\n\n")
    if client == "containerd":  # whose own file is for people to change
        plugin = '[plugins."io.containerd.grpc.v1.cri".registry]'
        host.put("/etc/containerd/config.toml", f'version = 2\n{plugin}\nconfig_path = "/etc/containerd/certs.d"\n')


async def written_is_well(
    client: str, file: str, url: str, host: Host, capsys: pytest.CaptureFixture[str], *more: str
) -> None:
    installed(host, client)
    with pytest.raises(SystemExit) as done:
        main(["client-config", client, "--config", file, "--url", url, "--write", str(host.root), *more])
    assert done.value.code == 0
    capsys.readouterr()
    assert await doctor(host, "--config", file, "--json") == 0
    findings = json.loads(capsys.readouterr().out)
    assert [finding for finding in findings if finding["level"] != "ok"] == []
    check = "podman" if client == "crio" else client
    assert "names the mirror" in next(finding["found"] for finding in findings if finding["check"] == check)


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("client", ["docker", "containerd", "podman", "crio", "k3s"])
async def test_what_client_config_writes_is_well(  # noqa: PLR0917
    client: str,
    fallback: bool,
    host: Host,
    start: StartMirror,
    upstream: FakeRegistry,
    capsys: pytest.CaptureFixture[str],
) -> None:
    upstreams: Any = {"docker.io": upstream, "quay.io": upstream, "registry.example:5443": upstream}
    mirror = await start(upstreams)
    file = configured(host, upstreams, mirror.url, server={"fallback": fallback})
    await written_is_well(client, file, mirror.url, host, capsys)


@pytest.mark.parametrize("client", ["docker", "containerd", "podman", "k3s"])
async def test_what_client_config_writes_with_an_authority_of_its_own_is_well(
    client: str, host: Host, start: StartMirror, upstream: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    cert_file, key_file, ca_file = certificate(host.directory / "tls")
    tls = {"tls": {"cert_file": str(cert_file), "key_file": str(key_file)}}
    mirror = await start(upstream, server=tls)
    file = configured(host, upstream, mirror.url, server=tls)
    await written_is_well(client, file, mirror.url, host, capsys, "--ca", str(ca_file))


@pytest.mark.parametrize("client", ["docker", "containerd", "k3s"])
async def test_what_client_config_writes_for_a_mirror_below_a_path_is_well(
    client: str, host: Host, start: StartMirror, upstream: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where nobody says so: the configuration here has no `public_url`."""

    async def below(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/mirror/v2/":
            return web.json_response({}, headers={"Cache-Status": "registry-mirror; detail=local"})
        return web.Response(status=404)

    mirror = await start(upstream)
    async with listening(below) as port:
        url = f"http://127.0.0.1:{port}/mirror"
        await written_is_well(client, configured(host, upstream, mirror.url), url, host, capsys)


@pytest.mark.parametrize("client", ["containerd", "podman", "k3s"])
async def test_a_mirror_that_never_answers_is_asked_once_for_all_registries(
    client: str, host: Host, upstream: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other, they would take longer than the whole examination may."""
    upstreams = dict.fromkeys(["docker.io", *(f"r{number}.example" for number in range(12))], upstream)
    asked = []
    hold = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        await hold.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        installed(host, client)
        file = configured(host, upstreams, "http://127.0.0.1:1")
        with pytest.raises(SystemExit) as done:
            main(["client-config", client, "--config", file, "--url", url, "--write", str(host.root)])
        assert done.value.code == 0, capsys.readouterr().err
        case = Case(root=host.root, config=None, patience=0.2)
        findings = [finding for finding in await examine(case, limit=3) if finding.check == client]
        hold.set()
    assert all("nothing came back within 0.2 s" in finding.found for finding in findings)
    assert findings
    assert len(asked) == (2 if client == "podman" else 1)  # which asks for https before


async def test_a_check_that_hangs_does_not_hold_up_the_others(host: Host, upstream: FakeRegistry) -> None:
    """A pipe that nobody writes to hangs whoever reads it, as a dead disk does."""
    host.store.mkdir()
    pipe = host.store / "VERSION"
    os.mkfifo(pipe)
    text = json.dumps(document(upstream, host.store, server={"listen": "127.0.0.1:0"}))
    heard: list[tuple[str, bool]] = []
    findings = await examine(
        Case(root=host.root, config=config.parse(text, "mirror.yaml", {})),
        limit=0.5,
        tell=lambda name, ended: heard.append((name, ended)),
    )
    with pipe.open("w"):  # the thread that nobody waits for comes free
        pass
    [hung] = [finding for finding in findings if finding.check == "storage"]
    assert hung.level is Level.FAILURE
    assert "did not come to its end within 0.5 s" in hung.found
    assert "the disk hangs" in hung.cure
    assert {"upstreams", "clock", "clients"} < {finding.check for finding in findings}
    assert {name for name, ended in heard if ended} == {name for name, ended in heard if not ended}


async def test_a_configuration_that_hangs_does_not_hold_up_the_others(host: Host) -> None:
    pipe = host.put("/etc/docker/daemon.json")
    pipe.unlink()
    os.mkfifo(pipe)
    host.put("/usr/bin/podman")
    findings = await examine(Case(root=host.root), limit=0.5)
    with pipe.open("w"):  # the thread that nobody waits for comes free
        pass
    assert [(finding.check, finding.level) for finding in findings] == [
        ("docker", Level.FAILURE),
        ("podman", Level.WARNING),
    ]
    assert "did not come to its end within 0.5 s" in findings[0].found


async def test_a_check_that_the_system_fails_does_not_take_the_others_along(host: Host, upstream: FakeRegistry) -> None:
    host.store = host.directory / ("long" * 100)  # which stat(2) refuses, as it does on a broken disk
    findings = await host.examined(upstream)
    [failed] = [finding for finding in findings if finding.check == "storage"]
    assert failed.level is Level.FAILURE
    assert f"File name too long ({host.store})" in failed.found
    assert {"upstreams", "clients"} < {finding.check for finding in findings}


async def test_a_running_mirror_is_found_and_left_alone(host: Host, upstream: FakeRegistry) -> None:
    told = document(upstream, host.store)
    del told["server"]
    mirror = MirrorProcess(host.directory, told)
    await asyncio.to_thread(mirror.start)
    try:
        file = str(host.directory / "mirror.yaml")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mirror", "doctor", "--json", "--root", str(host.root)),
            *("--config", file, "--url", mirror.url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
        found = " ".join(finding["found"] for finding in json.loads(out))
        assert f"a running mirror has it open, process {mirror.pid}" in found
        assert f"the running mirror (process {mirror.pid}) may hold " in found
    finally:
        assert await asyncio.to_thread(mirror.terminate) == 0
