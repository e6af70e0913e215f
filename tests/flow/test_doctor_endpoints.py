"""`mirror doctor` on upstreams with several endpoints and credentials, and on what the mirror has learnt of them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from mirror import config
from mirror.doctor import dealings
from mirror.doctor.case import Case
from mirror.doctor.finding import Level
from mirror.store.dealings import FILE, Dealings
from tests.fakes.faults import Corrupt, Html, Status
from tests.fakes.limit import RateLimit
from tests.fakes.registry import FakeRegistry
from tests.flow.doctoring import Host, as_nobody, certificate, only, serving, wrong
from tests.flow.fills import REPO
from tests.parts.process import free_port, room

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mirror.doctor.finding import Finding
    from tests.flow.conftest import Clock, Mirror, StartMirror

pytestmark = pytest.mark.usefixtures("impatient")

CANARY = "canary-77e1"
PLAIN = "without encryption"
PUBLIC = "library/busybox"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
async def near() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as fake:
        yield fake


def user(username: str, **more: Any) -> dict[str, Any]:
    return {"username": username, "password": CANARY, **more}


def of(findings: list[Finding], check: str = "upstreams") -> dict[str, Finding]:
    """Return the findings of a check by what was looked at, of which there must be one each."""
    found = {finding.subject: finding for finding in findings if finding.check == check}
    assert len(found) == len([finding for finding in findings if finding.check == check])
    return found


def counted(*fakes: FakeRegistry) -> int:
    return sum(fake.count(kind="manifest") for fake in fakes)


async def learnt(start: StartMirror, clock: Clock, upstreams: Any, **sections: Any) -> Mirror:
    """Return a mirror whose day is today's; what it learns is on disk once it is flushed."""
    clock.now = time.time()
    return await start(upstreams, **sections)


# --- endpoints ---------------------------------------------------------------------------------------------------


async def test_each_endpoint_is_tried_and_its_own_cure_named(
    host: Host, upstream: FakeRegistry, other: FakeRegistry, near: FakeRegistry
) -> None:
    upstream.auth.mode, upstream.auth.users = "bearer", {"me": CANARY}
    other.auth.mode, other.auth.users = "basic", {"me": "something else"}
    near.fault(then=Html(404))
    cert_file, key_file, _ = certificate(host.directory / "tls", authority="Acme Firewall")
    dead = f"http://127.0.0.1:{free_port()}"
    async with FakeRegistry(tls=serving(cert_file, key_file)) as strange:
        places = [dead, {"url": other.url, **user("me")}, near.url, strange.url]
        findings = await host.examined({"docker.io": {"url": upstream.url, **user("me"), "endpoints": places}})
        subjects = [f"docker.io at 127.0.0.1:{fake.ports[0]}" for fake in (other, near, strange)]
    found = of(findings)
    assert "the credentials are good" in found["docker.io"].found
    assert [found[subject].level for subject in subjects] == [Level.FAILURE] * 3
    down = found[f"docker.io at {dead.removeprefix('http://')}"]
    assert ("no connection" in down.found, f"{dead.removeprefix('http://')} is right" in down.cure) == (True, True)
    refused, page, untrusted = (found[subject] for subject in subjects)
    assert ("401" in refused.found, "upstreams.docker.io.endpoints[1]" in refused.cure) == (True, True)
    assert ("404" in page.found, "upstreams.docker.io.endpoints[2].url" in page.cure) == (True, True)
    assert "by Acme Firewall" in untrusted.found
    assert "upstreams.docker.io.endpoints[3].ca_file" in untrusted.cure
    assert CANARY not in str(findings)
    assert near.requests, "it was asked"
    assert not any("Authorization" in record.headers for record in near.requests), "what it has no credentials for"
    assert counted(upstream, other, near) == 0


async def test_an_ns_endpoint_has_to_be_a_mirror_that_knows_the_registry(
    host: Host, start: StartMirror, upstream: FakeRegistry, other: FakeRegistry
) -> None:
    host.store = host.directory / "a store of its own"
    other.add_image(PUBLIC, "latest")
    parent = await start({"docker.io": other})

    async def examined(name: str, url: str, **more: Any) -> Finding:
        endpoint = {"url": url, "ns": True, **more}
        told = {name: {"url": upstream.url, "endpoints": [endpoint]}}
        findings = await host.examined(told, default_upstream=name)
        [found] = [finding for finding in findings if finding.subject.endswith(", ns")]
        return found

    found = await examined("docker.io", parent.url)
    assert (found.level, found.found) == (Level.OK, "it is a mirror, and knows docker.io")
    found = await examined("quay.io", parent.url)
    assert (found.level, "quay.io is not mirrored there" in found.found) == (Level.FAILURE, True)
    assert found.cure.startswith(f"add quay.io to the upstreams of the mirror at {parent.url}")
    found = await examined("docker.io", other.url)  # which looks at no `ns`
    assert (found.level, "answers alike" in found.found, "take ns away" in found.cure) == (Level.WARNING, True, True)
    found = await examined("docker.io", other.url, authoritative=True)
    assert (found.level, "its tags would be taken" in found.found) == (Level.FAILURE, True)
    found = await examined("docker.io", upstream.url.replace("127.0.0.1", "localhost"))  # nor has the image
    assert (found.level, "was not to be seen" in found.found) == (Level.OK, True)
    findings = await host.examined({"docker.io": {"url": parent.url, "ns": True}})  # a mirror in the registry's place
    assert of(findings)["docker.io, ns"].found == "it is a mirror, and knows docker.io"
    assert counted(upstream, other) == 0


async def test_a_prefix_that_is_not_there(host: Host, upstream: FakeRegistry, near: FakeRegistry) -> None:
    near.add_image(f"hub/{PUBLIC}", "latest")

    async def examined(prefix: str, name: str = "docker.io") -> Finding:
        endpoints = [{"url": near.url, "prefix": prefix}]
        told = {name: {"url": upstream.url, "endpoints": endpoints}}
        findings = await host.examined(told, default_upstream=name)
        [found] = [finding for finding in findings if finding.subject.endswith(", prefix")]
        return found

    assert (await examined("hub")).level is Level.OK
    found = await examined("hbu")
    assert (found.level, found.subject) == (Level.WARNING, f"docker.io at {near.host}, prefix")
    assert "what it says of a project that there is not" in found.found
    assert "upstreams.docker.io.endpoints[0].prefix" in found.cure
    found = await examined("hbu", "registry.example")  # of which nobody knows a repository
    assert (found.level, "was not to be seen" in found.found) == (Level.OK, True)
    assert counted(upstream, near) == 0


async def test_an_endpoint_that_the_mirror_leaves_alone_and_why(  # noqa: PLR0917
    host: Host, start: StartMirror, upstream: FakeRegistry, near: FakeRegistry, other: FakeRegistry, clock: Clock
) -> None:
    for fake in (upstream, near, other):
        fake.add_image(REPO, "v1", layers=[b"a layer"])
    near.fault(kind="blob", then=Corrupt(at_byte=0))
    told = {"docker.io": {"url": upstream.url, "endpoints": [other.url, near.url]}}
    mirror = await learnt(start, clock, told)
    await other.stop()
    await mirror.pull(REPO, "v1")
    await asyncio.to_thread(mirror.server.store.dealings.flush)
    await other.start()
    findings = await host.examined(told, mirror.url)
    lied, gone = sorted(wrong(findings), key=lambda finding: "something else" not in finding.found)
    assert {lied.level, gone.level} == {Level.WARNING}
    assert (lied.subject, gone.subject) == (f"docker.io at {near.host}", f"docker.io at {other.host}")
    assert "leaves it alone until 20" in lied.found
    assert "not what" in lied.found.partition("(")[2] or "digest" in lied.found
    assert "or take upstreams.docker.io.endpoints[1] away" in lied.cure
    assert ("no connection" in gone.found, "by itself once it answers" in gone.cure) == (True, True)


# --- credentials and limits --------------------------------------------------------------------------------------


async def test_credentials_that_do_not_open_what_they_are_meant_for(host: Host, upstream: FakeRegistry) -> None:
    upstream.auth.mode, upstream.auth.users, upstream.auth.anonymous = "bearer", {"me": CANARY, "you": CANARY}, False
    for name in ("acme/app", "acme/tool"):
        upstream.add_image(name, "v1")
        upstream.auth.private[name] = {"me"}
    bound = [
        user("me", repositories=["acme/app"]),
        user("you", name="team", repositories=["acme/*", "acme/app", "acme/tool"]),
    ]
    findings = await host.examined({"docker.io": {"url": upstream.url, "credentials": bound}})
    assert "by the Date of one upstream" in of(findings, "clock")["this host's clock"].found
    found = only([finding for finding in findings if finding.check == "upstreams"])
    assert (found.subject, found.level) == ("docker.io, as team", Level.FAILURE)
    assert "the credentials are good, and do not open acme/app, acme/tool" in found.found
    assert "upstreams.docker.io.credentials (team).repositories" in found.cure
    assert counted(upstream) == 0


def jwt(**claims: Any) -> str:
    return ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims, 0)
    )


@pytest.mark.parametrize("kind", ["JWT", "ECR"])
async def test_a_password_that_has_ended(kind: str, host: Host, upstream: FakeRegistry) -> None:
    upstream.auth.mode = "basic"
    ended = jwt(exp=1_790_000_000, canary=CANARY)
    if kind == "ECR":
        ended = base64.b64encode(json.dumps({"payload": CANARY, "expiration": 1_790_000_000}).encode()).decode()
    several = [user("me", password=ended), user("you", password=jwt(exp=4_000_000_000))]
    findings = await host.examined({"docker.io": {"url": upstream.url, "credentials": several}})
    old, wrong_ = (finding for finding in findings if finding.check == "upstreams")
    assert "what is configured ended at 2026-09-21T14:13:20Z" in old.found
    assert "exec" in old.cure
    assert ("401" in wrong_.found, "ended" in wrong_.found) == (True, False)
    assert ended not in str(findings)


async def test_a_program_that_prints_no_credentials(host: Host, upstream: FakeRegistry) -> None:
    upstream.auth.mode, upstream.auth.users, upstream.auth.anonymous = "bearer", {"me": CANARY}, False
    fails = {"name": "robot", "exec": [sys.executable, "-c", "raise SystemExit('the vault is closed')"]}
    findings = await host.examined({"docker.io": {"url": upstream.url, "credentials": [fails, user("me")]}})
    found = only([finding for finding in findings if finding.check == "upstreams"])
    assert (found.subject, found.level) == ("docker.io, as robot", Level.FAILURE)
    assert "the program of upstreams.docker.io.credentials (robot) by hand" in found.cure


async def test_what_the_mirror_was_told_of_limits_and_of_credentials(
    host: Host, start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    upstream.auth.mode, upstream.auth.anonymous = "bearer", False
    upstream.auth.users = {"ann": CANARY, "bob": CANARY}
    clock.now = time.time()
    upstream.limit = RateLimit(accounts={"ann": 20, "bob": 3}, clock=clock)
    for number in range(20):
        upstream.add_image(f"org/app{number}", "v1")
    told = {"docker.io": {"url": upstream.url, "credentials": [user("ann"), user("bob"), user("cat")]}}
    mirror = await learnt(start, clock, told)
    for number in range(20):
        assert (await mirror.get(f"/v2/org/app{number}/manifests/v1")).status == 200
    await asyncio.to_thread(mirror.server.store.dealings.flush)
    upstream.forget()
    upstream.auth.users["cat"] = CANARY
    findings = [finding for finding in await host.examined(told, mirror.url) if finding.check == "upstreams"]
    few, none, good, aside = findings
    subjects = [f"docker.io, as {name}" for name in ("ann", "bob", "cat", "cat")]
    assert [finding.subject for finding in findings] == subjects
    assert [finding.level for finding in findings] == [Level.WARNING, Level.WARNING, Level.OK, Level.WARNING]
    assert "only 3 of 20 requests are left for ann, so the mirror saves" in few.found
    assert "0 of 3 requests are left for bob: it sends nothing new until its limit begins anew, 20" in none.found
    assert "the credentials are good" in good.found
    assert "good now, and the mirror has set them aside until 20" in aside.found
    assert "401" in aside.found
    assert CANARY not in str(findings)
    assert counted(upstream) == 0


async def test_one_that_asked_to_be_left_alone_is_not_asked(
    host: Host, start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    upstream.fault(then=Status(429, retry_after=50))
    mirror = await learnt(start, clock, upstream)
    await mirror.get("/v2/org/app/manifests/v1")
    upstream.heal()
    await asyncio.to_thread(mirror.server.store.dealings.flush)
    upstream.forget()
    found = only(await host.examined(upstream, mirror.url))
    assert (found.level, "asked to be left alone for" in found.found) == (Level.WARNING, True)
    assert upstream.requests == []


async def test_what_is_damaged_of_it_is_said_and_left_where_it_is(host: Host, upstream: FakeRegistry) -> None:
    host.store.mkdir()
    file = host.store / "upstreams.v1.sqlite"
    file.write_bytes(b"SQLite format 3\0" + bytes(4000))
    found = only([f for f in await host.examined(upstream) if f.subject == str(file)])
    assert (found.level, "cannot be read" in found.found) == (Level.WARNING, True)
    assert "it puts the file aside" in found.cure
    assert [path.name for path in host.store.iterdir()] == [file.name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_is_known_is_read_where_nothing_may_be_written(host: Host) -> None:
    with room("doctor") as directory:
        book = Dealings(directory / FILE)
        book.put("circuit", "docker.io near.example", {"at": 1.0, "until": 4e9, "why": "no connection"})
        book.close()
        text = json.dumps(
            {
                "storage": {"path": str(directory)},
                "upstreams": {"docker.io": {"endpoints": ["https://near.example"]}},
            }
        )
        case = Case(root=host.root, config=config.parse(text, "mirror.yaml", {}))
        directory.chmod(0o755)

        def look() -> list[Finding]:
            known, findings = dealings.read(case)
            assert case.config is not None
            return [*findings, *dealings.circuits(case.config.upstreams["docker.io"], known, 2.0)]

        found = only(as_nobody(look))
    assert (found.subject, "no connection" in found.found) == ("docker.io at near.example", True)


# --- pulls -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fallback", [True, False])
async def test_rules_that_can_be_got_round(
    host: Host, start: StartMirror, upstream: FakeRegistry, fallback: bool
) -> None:
    mirror = await start(upstream)
    host.put("/etc/docker/daemon.json", {"registry-mirrors": [mirror.url]})
    sections = {"server": {"fallback": fallback}, "pulls": [{"deny": "docker.io/evil/**", "reason": "evil"}]}
    found = only(await host.examined(upstream, mirror.url, **sections))
    assert found.level is Level.WARNING
    if fallback:
        assert (found.check, "gets round what pulls refuses" in found.found) == ("configuration", True)
        assert "server.fallback: false" in found.cure
    else:
        assert (found.check, "goes on to Docker Hub" in found.found) == ("docker", True)
    assert "docs/guide/rules.md" in found.cure
