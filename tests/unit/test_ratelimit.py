"""`mirror ratelimit`, as a person runs it, against registries that say what the real ones say."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from multidict import CIMultiDict
from typer.testing import CliRunner

from mirror.cli.main import app
from mirror.config.upstreams import WELL_KNOWN
from mirror.store.dealings import FILE, Dealings
from mirror.upstream.accounts import COUNTED, Accounts
from tests.fakes.faults import Status
from tests.fakes.limit import RateLimit
from tests.fakes.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LIMITS = {
    "ratelimit-limit": "100;w=21600",
    "ratelimit-remaining": "76;w=21600",
    "docker-ratelimit-source": "192.0.2.7",
}


@pytest.fixture
async def hub() -> AsyncIterator[FakeRegistry]:
    """Docker Hub, which tells of its limit where manifests are asked for."""
    async with FakeRegistry() as up:
        up.auth.mode = "bearer"
        up.auth.users = {"ann": "canary-ann"}
        up.add_image("ratelimitpreview/test", "latest")
        up.headers = LIMITS
        yield up


@pytest.fixture
async def quiet() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as up:
        yield up


async def test_each_of_several_credentials_is_asked_for_and_named(hub: FakeRegistry, tmp_path: Path) -> None:
    hub.auth.users["bob"] = "canary-bob"
    hub.headers = {}
    hub.limit = RateLimit(100, accounts={"ann": 200, "bob": 500})
    hub.limit.use("bob", 500)
    credentials = [
        {"username": "ann", "password": "canary-ann"},
        {"name": "team", "username": "bob", "password": "canary-bob", "repositories": ["acme/**"]},
        {"username": "eve", "password": "canary-eve"},
        {"anonymous": True},
    ]
    code, printed = await run(tmp_path, {"docker.io": {"url": hub.url, "credentials": credentials}}, "--json")
    assert code == 1
    said = {one["credential"]: one for one in json.loads(printed)["upstreams"]}
    assert [(name, one["remaining"], one["limit"]) for name, one in said.items()] == [
        ("ann", 200, 200),
        ("team", 0, 500),
        ("eve", None, None),
        ("anonymous", 100, 100),
    ]
    assert list(said["team"]["rests_until"]) == [COUNTED]
    assert "refused the configured user name and password (401)" in said["eve"]["failure"]
    assert not hub.requests[0].counted


def test_what_the_mirror_was_told_last_is_shown_without_asking(tmp_path: Path) -> None:
    known = {name: False for name in WELL_KNOWN if name != "docker.io"}
    upstreams = {**known, "quiet.test": {"url": "http://127.0.0.1:9"}}
    file = tmp_path / "mirror.yaml"
    file.write_text(json.dumps({"storage": {"path": str(tmp_path)}, "upstreams": upstreams}))
    command = ["ratelimit", "--cached", "--config", str(file)]
    assert CliRunner().invoke(app, command).stdout.splitlines()[1:] == [
        "docker.io   anonymous    nothing is known yet",
        "quiet.test  anonymous    nothing is known yet",
    ]
    assert not (tmp_path / FILE).exists()

    ann, eve = ({"username": name, "password": "canary"} for name in ("ann", "eve"))
    upstreams["docker.io"] = {"credentials": [ann, eve]}
    file.write_text(json.dumps({"storage": {"path": str(tmp_path)}, "upstreams": upstreams}))
    book = Dealings(tmp_path / FILE)
    accounts = Accounts("docker.io", "docker.io", book=book, clock=time.time)
    accounts.note("ann", CIMultiDict({**LIMITS, "docker-ratelimit-source": "198.51.100.1"}), 200)
    accounts.note("ann", CIMultiDict({**LIMITS, "ratelimit-remaining": "0;w=21600"}), 200)
    accounts.set_aside("eve", "refused with 401", 300.0)
    book.close()
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    lines = [re.split(r"  +", re.sub(r"20\d\d-\S+Z", "TIME", line)) for line in done.stdout.splitlines()]
    assert lines == [
        ["UPSTREAM", "CREDENTIALS", "LIMIT", "LEFT", "WINDOW", "COUNTED FOR", "SAID", "STATE"],
        ["docker.io", "ann", "100", "0", "6h", "192.0.2.7", "now", "GETs of manifests rest until TIME"],
        ["", "100", "76", "6h", "198.51.100.1", "now", "for another address, earlier"],
        ["docker.io", "eve", "nothing is known yet; set aside until TIME: refused with 401"],
        ["quiet.test", "anonymous", "nothing is known yet"],
    ]

    # Of several, those that are configured now, as they are written, whether anything was heard of them or not.
    upstreams["docker.io"] = {"credentials": [{"name": "new", "anonymous": True}, ann]}
    file.write_text(json.dumps({"storage": {"path": str(tmp_path)}, "upstreams": upstreams}))
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["upstreams"]
    assert [(one["credential"], one["limit"], one["authenticated"]) for one in told] == [
        ("new", None, None),
        ("ann", 100, None),
        ("anonymous", None, None),
    ]


async def run(tmp_path: Path, upstreams: dict[str, Any], *arguments: str) -> tuple[int, str]:
    file = tmp_path / "mirror.yaml"
    known = {name: False for name in WELL_KNOWN if name != "docker.io"}
    file.write_text(json.dumps({"upstreams": {**known, **upstreams}}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mirror", "ratelimit", "--config", str(file), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    assert b"canary" not in printed
    return process.returncode, printed.decode()


async def test_what_is_left_is_shown_without_being_spent(
    hub: FakeRegistry, quiet: FakeRegistry, tmp_path: Path
) -> None:
    upstreams = {
        "docker.io": {"url": hub.url, "username": "ann", "password": "canary-ann"},
        "quiet.test": {"url": quiet.url},
    }
    code, printed = await run(tmp_path, upstreams)
    assert code == 0
    assert [line.split() for line in printed.splitlines()] == [
        ["UPSTREAM", "CREDENTIALS", "LIMIT", "LEFT", "WINDOW", "COUNTED", "FOR"],
        ["docker.io", "ann", "100", "76", "6h", "192.0.2.7"],
        ["quiet.test", "anonymous", "says", "nothing", "about", "limits"],
    ]
    assert [record.method for record in hub.requests if record.kind == "manifest"] == ["HEAD"]
    assert not [record for record in quiet.requests if record.kind != "ping"]


async def test_one_that_fails_is_named_with_its_cause(hub: FakeRegistry, quiet: FakeRegistry, tmp_path: Path) -> None:
    quiet.fault(then=Status(403, message="go away"))
    upstreams = {
        "docker.io": {"url": hub.url, "username": "ann", "password": "canary-wrong"},
        "quiet.test": {"url": quiet.url},
    }
    code, printed = await run(tmp_path, upstreams, "--json")
    assert code == 1
    said = {one["upstream"]: one for one in json.loads(printed)["upstreams"]}
    assert "refused the configured user name and password (401)" in said["docker.io"]["failure"]
    assert "go away" in said["quiet.test"]["failure"]


async def test_what_stands_in_for_docker_hub_need_not_have_its_image(quiet: FakeRegistry, tmp_path: Path) -> None:
    code, printed = await run(tmp_path, {"docker.io": {"url": quiet.url}})
    assert (code, printed.splitlines()[1:]) == (0, ["docker.io  anonymous    says nothing about limits"])


async def test_only_those_that_are_named_are_asked(hub: FakeRegistry, quiet: FakeRegistry, tmp_path: Path) -> None:
    upstreams = {"docker.io": {"url": hub.url}, "quiet.test": {"url": quiet.url}}
    code, printed = await run(tmp_path, upstreams, "Index.Docker.io", "--json")
    assert code == 0
    [said] = json.loads(printed)["upstreams"]
    assert said.pop("said_at") > "2026"
    assert said == {
        "upstream": "docker.io",
        "credential": "anonymous",
        "user": None,
        "authenticated": False,
        "limit": 100,
        "remaining": 76,
        "window_seconds": 21600,
        "resets_at": None,
        "source": "192.0.2.7",
        "others": [],
        "rests_until": {},
        "set_aside": None,
        "failure": None,
    }
    assert not quiet.requests
    code, printed = await run(tmp_path, upstreams, "nowhere.test")
    assert code == 2
    assert "nowhere.test is not among the configured upstreams; name one of these: docker.io, quiet.test" in printed
