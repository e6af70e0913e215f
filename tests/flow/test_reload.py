"""SIGHUP: another configuration is in force as a whole or not at all, and nobody who pulls notices."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from mirror import config
from mirror.config import ConfigError
from mirror.server.reload import Reloader
from tests.fakes.faults import Await, Gate
from tests.flow.conftest import document
from tests.parts.certificate import certificate
from tests.parts.process import room

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.config import Config
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, StartMirror

REPO = "library/app"
LARGE = bytes(range(251)) * 4000  # about 1 MB


def told(mirror: Mirror, upstreams: FakeRegistry | Mapping[str, Any], **sections: Any) -> Config:
    """Return a configuration for `mirror` as `start` would make it."""
    before = mirror.server.config
    text = json.dumps(document(upstreams, before.storage.path, **sections))
    return replace(config.parse(text, "mirror.yaml", {}), refused=before.refused)


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def test_a_fill_goes_on_through_a_reload_and_its_upstream_is_closed_when_it_has_ended(
    start: StartMirror, upstream: FakeRegistry, other: FakeRegistry
) -> None:
    mirror = await start(upstream)
    blob = upstream.add_blob(REPO, LARGE)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate, at_byte=300_000))
    async with mirror.session.get(f"{mirror.url}/v2/{REPO}/blobs/{blob}") as response:
        begun = await response.content.readexactly(1000)
        await mirror.server.reconfigure(told(mirror, other))
        image = other.add_image(REPO, "v1", layers=[b"from the other one"])
        assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).headers["Docker-Content-Digest"] == str(image)
        assert mirror.server.cache._upstreams.leaving == 1
        gate.set()
        assert begun + await response.content.read() == LARGE
    (closing,) = mirror.server.cache._upstreams._leaving
    await asyncio.wait_for(closing, 5)
    assert mirror.server.cache._upstreams.leaving == 0
    assert upstream.bytes_of(blob) == len(LARGE)


async def test_what_changes_is_in_force_at_once(
    start: StartMirror, upstream: FakeRegistry, other: FakeRegistry
) -> None:
    mirror = await start(upstream)
    upstream.add_image(REPO, "v1", layers=[b"layer"])
    other.add_image("org/app", "v1", layers=[b"another layer"])
    await mirror.pull(REPO, "v1")
    assert (await mirror.get("/v2/quay.io/org/app/manifests/v1")).status == 404
    heads = len([record for record in upstream.requests if record.method == "HEAD"])
    await mirror.server.reconfigure(
        told(
            mirror,
            {"docker.io": upstream, "quay.io": other},
            freshness=[{"match": "**", "ttl": "0s"}],
            storage={"max_size": "1MiB"},
            server={"deny_clients": "192.0.2.1"},
        )
    )
    assert (await mirror.get("/v2/quay.io/org/app/manifests/v1")).status == 200
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    assert len([record for record in upstream.requests if record.method == "HEAD"]) == heads + 1
    assert mirror.server.store.room.left() < 1024 * 1024
    await mirror.server.reconfigure(told(mirror, upstream, server={"deny_clients": "127.0.0.0/8", "offline": True}))
    assert (await mirror.get("/v2/")).status == 403


async def test_upstreams_that_stay_as_they_are_keep_their_connections_and_tokens(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    upstream.auth.mode = "bearer"
    upstream.add_image(REPO, "v1", layers=[b"one"])
    upstream.add_image(REPO, "v2", layers=[b"two"])
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    tokens = len(upstream.tokens)
    await mirror.server.reconfigure(told(mirror, upstream, server={"fallback": False}))
    await mirror.pull(REPO, "v2")
    assert len(upstream.tokens) == tokens


async def test_a_manifest_is_answered_though_its_upstream_is_taken_away_meanwhile(
    start: StartMirror, upstream: FakeRegistry, other: FakeRegistry
) -> None:
    """Read-ahead, which begins when the manifest is here, has nobody to ask any more."""
    mirror = await start({"docker.io": upstream, "quay.io": {"url": other.url, "read_ahead": True}})
    other.add_image(REPO, "v1", layers=[LARGE])
    gate = asyncio.Event()
    other.fault(kind="manifest", then=Await(gate))
    asked = asyncio.create_task(mirror.get(f"/v2/quay.io/{REPO}/manifests/v1"))
    async with asyncio.timeout(5):
        while not other.count(kind="manifest"):  # noqa: ASYNC110  # the fake has no event for it
            await asyncio.sleep(0.001)
    await mirror.server.reconfigure(told(mirror, upstream))
    gate.set()
    assert (await asked).status == 200


async def test_a_socket_that_cannot_be_taken_away_keeps_no_reload_and_no_end_from_going_on(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with room("mirror-socket") as directory:
        mirror = await start(upstream, server={"listen": [f"unix:{directory / 's'}", "127.0.0.1:0"]})
        monkeypatch.setattr(Path, "unlink", refuse)
        await mirror.server.reconfigure(told(mirror, upstream, server={"listen": "127.0.0.1:0"}))
        (address,) = mirror.server.bound
        async with mirror.session.get(f"{address}/v2/") as response:
            assert response.status == 200
        assert "a socket stays behind" in capsys.readouterr().out
        monkeypatch.undo()


async def test_new_addresses_are_served_and_gone_ones_end_after_what_they_are_at(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    mirror = await start(upstream)
    blob = upstream.add_blob(REPO, LARGE)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate, at_byte=300_000))
    assert (await mirror.get("/v2/")).status == 200  # and the connection stays
    address = free_address()
    async with (
        aiohttp.ClientSession(auto_decompress=False) as slow,
        slow.get(f"{mirror.url}/v2/{REPO}/blobs/{blob}") as response,
    ):
        begun = await response.content.readexactly(1000)
        await mirror.server.reconfigure(told(mirror, upstream, server={"listen": address}))
        assert mirror.server.bound == [f"http://{address}"]
        with pytest.raises(aiohttp.ClientConnectionError):
            await mirror.get("/v2/")
        async with slow.get(f"http://{address}/v2/") as other_address:
            assert other_address.status == 200
        gate.set()
        assert begun + await response.content.read() == LARGE


async def test_an_address_may_grow_to_all_of_the_machine_and_shrink_again(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    """0.0.0.0:5000 cannot be bound beside 127.0.0.1:5000 by others; by the process that gives that up it can."""
    mirror = await start(upstream)
    port = mirror.url.rpartition(":")[2]
    for host in ("0.0.0.0", "127.0.0.1"):
        await mirror.server.reconfigure(told(mirror, upstream, server={"listen": f"{host}:{port}"}))
        assert mirror.server.bound == [f"http://{host}:{port}"]
        assert (await mirror.get("/v2/")).status == 200
        with socket.socket() as rival:
            rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                rival.bind(("127.0.0.1", int(port)))


async def test_what_cannot_be_bound_leaves_everything_as_it_was(
    start: StartMirror, upstream: FakeRegistry, other: FakeRegistry, tmp_path: Path
) -> None:
    mirror = await start(upstream)
    upstream.add_image(REPO, "v1", layers=[b"layer"])
    before, bound = mirror.server.config, mirror.server.bound
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free = free_address()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        wrong = told(
            mirror,
            other,
            server={"listen": [free, address], "deny_clients": "0.0.0.0/0", "fallback": False},
            log={"access_file": str(tmp_path / "access.log")},
        )
        with pytest.raises(ConfigError, match="in use; is another mirror running there"):
            await mirror.server.reconfigure(wrong)
    assert (mirror.server.config, mirror.server.bound) == (before, bound)
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 200
    assert other.requests == []
    with pytest.raises(ConnectionRefusedError):  # what was bound for it is given up
        await asyncio.open_connection("127.0.0.1", int(free.rpartition(":")[2]))


async def test_an_access_record_that_cannot_be_written_leaves_everything_as_it_was(
    start: StartMirror, upstream: FakeRegistry, other: FakeRegistry, tmp_path: Path
) -> None:
    mirror = await start(upstream, log={"access_file": str(tmp_path / "access.log")})
    upstream.add_image(REPO, "v1", layers=[b"layer"])
    before, bound = mirror.server.config, mirror.server.bound
    wrong = told(mirror, other, server={"listen": free_address()}, log={"access_file": str(tmp_path / "no/where")})
    with pytest.raises(ConfigError, match=r"log\.access_file"):
        await mirror.server.reconfigure(wrong)
    assert (mirror.server.config, mirror.server.bound) == (before, bound)
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 200


async def test_an_access_record_that_was_moved_away_is_made_anew_as_logrotate_wants(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    file = tmp_path / "access.log"
    mirror = await start(upstream, log={"access_file": str(file)})
    upstream.add_image(REPO, "v1", layers=[b"layer"])
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    file.rename(tmp_path / "access.log.1")
    await mirror.server.reconfigure(mirror.server.config)
    await mirror.get(f"/v2/{REPO}/manifests/v2")
    await mirror.stop()
    assert [json.loads(line)["reference"] for line in file.read_text().splitlines()][-1] == "v2"


async def test_tls_comes_and_goes_on_the_same_address(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    mirror = await start(upstream)
    host = mirror.url.removeprefix("http://")
    cert_file, key_file = certificate(tmp_path)
    tls = {"cert_file": str(cert_file), "key_file": str(key_file)}
    assert (await mirror.get("/v2/")).status == 200
    await mirror.server.reconfigure(told(mirror, upstream, server={"listen": host, "tls": tls}))
    assert mirror.server.bound == [f"https://{host}"]
    async with mirror.session.get(f"https://{host}/v2/", ssl=False) as response:
        assert response.status == 200
    with pytest.raises(aiohttp.ClientConnectionError):
        await mirror.get("/v2/")
    await mirror.server.reconfigure(told(mirror, upstream, server={"listen": host}))
    assert (await mirror.get("/v2/")).status == 200


async def test_a_unix_socket_whose_path_was_taken_away_is_made_anew(start: StartMirror, upstream: FakeRegistry) -> None:
    with room("mirror-socket") as directory:
        path = directory / "s"
        mirror = await start(upstream, server={"listen": ["127.0.0.1:0", f"unix:{path}"]})
        path.unlink()
        await mirror.server.reconfigure(mirror.server.config)
        connector = aiohttp.UnixConnector(str(path))
        async with aiohttp.ClientSession(connector=connector) as client, client.get("http://mirror/v2/") as response:
            assert response.status == 200
        await mirror.server.reconfigure(told(mirror, upstream))
        assert not path.exists()


class Applied(list["Config"]):
    """Configurations that were said to be in force."""


@pytest.mark.parametrize(
    "case",
    [
        ({"storage": {"path": "/somewhere/else"}}, "storage.path"),
        ({"server": {"listen": "nowhere"}}, "is not an address"),
        ({"servr": {}}, "did you mean server"),
        (None, "no such file"),
    ],
)
async def test_what_is_wrong_is_refused_with_every_reason_and_nothing_changes(
    start: StartMirror,
    upstream: FakeRegistry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    case: tuple[dict[str, Any] | None, str],
) -> None:
    change, said = case
    mirror = await start(upstream)
    before = mirror.server.config
    file = tmp_path / "mirror.yaml"
    if change is not None:
        file.write_text(json.dumps({**document(upstream, before.storage.path), **change}))
    applied = Applied()
    reloader = Reloader(mirror.server, lambda: config.load(file, {}), applied.append)
    assert "refused" in await reloader.reload()
    assert mirror.server.config is before
    assert applied == []
    logged = capsys.readouterr().out
    assert said in logged
    assert "nothing was changed" in logged


async def test_a_failure_to_tell_of_a_reload_ends_no_reloading(
    start: StartMirror, upstream: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be the last one, and the mirror would end without letting transfers end."""
    mirror = await start(upstream)
    new = told(mirror, upstream, server={"fallback": False})

    def fail(_: Config) -> None:
        raise ValueError("I/O operation on closed file")

    assert await Reloader(mirror.server, lambda: new, fail).reload() == "configuration reloaded, see the log"
    assert mirror.server.config is new
    assert "failed over telling so" in capsys.readouterr().out


async def test_a_default_file_that_vanished_does_not_mean_the_defaults(
    start: StartMirror, upstream: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = await start(upstream)
    defaults = config.parse(json.dumps(document(upstream, mirror.server.config.storage.path)), "defaults", {})
    reloader = Reloader(mirror.server, lambda: defaults, Applied().append)
    assert "refused" in await reloader.reload()
    assert "mirror.yaml: is gone" in capsys.readouterr().out


async def test_the_log_says_what_changed_and_shows_no_secret(
    start: StartMirror, upstream: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    def login(password: str) -> dict[str, Any]:
        return {"docker.io": {"url": upstream.url, "username": "me", "password": password}}

    mirror = await start(login("canary-one"))
    new = told(mirror, login("canary-two"), server={"fallback": False}, log={"level": "debug"})
    applied = Applied()
    assert "3 keys" in await Reloader(mirror.server, lambda: new, applied.append).reload()
    assert applied == [new]
    logged = capsys.readouterr().out
    assert "server.fallback: True, now False" in logged
    assert "upstreams.docker.io.password: another value" in logged
    assert "canary" not in logged
