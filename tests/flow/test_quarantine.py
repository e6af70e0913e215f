"""`min_age`: a tag means what it meant until the new digest has been known for a while, or somebody releases it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from mirror import metrics
from mirror.cli.main import main
from mirror.oci.digest import Digest
from mirror.store.changes import Removed
from tests.flow.conftest import document
from tests.flow.prefetching import site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Mirror, Reply, StartMirror

REPO = "library/app"
TAG = f"/v2/{REPO}/manifests/v1"
NAME = f"docker.io/{REPO}:v1"
DAY = 86400.0
PULLS: list[dict[str, Any]] = [{"allow": "docker.io/library/**", "min_age": "3d"}]
TTL_0: list[dict[str, Any]] = [{"match": "**", "ttl": "0s"}]


def digest_of(reply: Reply) -> str:
    return reply.headers["Docker-Content-Digest"]


async def known(start: StartMirror, upstream: FakeRegistry, **sections: Any) -> tuple[Mirror, str]:
    """Start a mirror that has had an image in its cache since before there was a rule; return it with its digest."""
    image = upstream.add_image(REPO, "v1", layers=[b"the former"])
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    await mirror.stop()
    return await start(upstream, pulls=PULLS, freshness=TTL_0, **sections), str(image)


async def test_the_former_image_is_served_until_the_new_one_has_been_known_for_min_age(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    mirror, former = await known(start, upstream)
    counted = metrics.QUARANTINE_HELD.labels("docker.io")._value.get()
    new = upstream.add_image(REPO, "v1", layers=[b"the new one"])
    upstream.forget()
    for method in (mirror.get, mirror.head):
        reply = await method(TAG)
        assert (reply.status, digest_of(reply)) == (200, former)
        assert "Warning" not in reply.headers
    assert upstream.count(method="GET", kind="manifest") == 0
    assert metrics.QUARANTINE_HELD.labels("docker.io")._value.get() == counted + 2
    clock.advance(3 * DAY)
    assert [reply.status for reply in await mirror.pull(REPO, "v1")] == [200, 200, 200]
    assert digest_of(await mirror.get(TAG)) == str(new)


async def test_a_tag_that_nobody_knows_yet_is_refused_until_then_and_by_digest_it_is_not(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    image = upstream.add_image(REPO, "v1")
    mirror = await start(upstream, pulls=PULLS)
    counted = metrics.PULLS_REFUSED.labels("docker.io", "quarantined")._value.get()
    reply = await mirror.get(TAG)
    assert (reply.status, reply.code) == (403, "DENIED")
    for part in ('rule "allow: docker.io/library/**, min_age: 3d"', str(image), f"mirror release {NAME}"):
        assert part in reply.message
    assert upstream.count(method="GET", kind="manifest") == 0  # a refusal takes nothing of a limit
    assert metrics.PULLS_REFUSED.labels("docker.io", "quarantined")._value.get() == counted + 1
    assert [reply.status for reply in await mirror.pull(REPO, image)] == [200, 200, 200]
    assert (await mirror.get(TAG)).status == 403
    clock.advance(3 * DAY)
    assert digest_of(await mirror.get(TAG)) == str(image)


async def test_what_is_held_is_still_held_after_a_restart_and_an_eviction_makes_nothing_new(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    mirror, former = await known(start, upstream)
    await mirror.get(TAG)
    upstream.add_image(REPO, "v1", layers=[b"the new one"])
    assert digest_of(await mirror.get(TAG)) == former
    await mirror.stop()
    clock.advance(2 * DAY)
    mirror = await start(upstream, pulls=PULLS, freshness=TTL_0)
    (held,) = mirror.server.cache.quarantine.all()
    assert str(held.former) == former
    assert held.former is not None
    await mirror.server.store.index.apply(Removed((held.former,)))
    assert mirror.server.store.index.tag(held.repository, "v1") is None
    assert digest_of(await mirror.get(TAG)) == former
    clock.advance(DAY)
    assert digest_of(await mirror.get(TAG)) != former


async def test_a_cluster_at_a_tag_that_waits_costs_upstream_one_head_in_a_while(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    """Each node asks again soon when it is refused, and Docker Hub limits who asks too often for anything."""
    image = upstream.add_image(REPO, "v1")
    mirror = await start(upstream, pulls=PULLS)
    for _ in range(3):
        replies = await asyncio.gather(*(mirror.head(TAG) for _ in range(20)))
        assert {reply.status for reply in replies} == {403}
    assert upstream.count(kind="manifest") == 1
    clock.advance(3 * DAY)
    upstream.forget()
    replies = await asyncio.gather(*(mirror.get(TAG) for _ in range(20)))
    assert {(reply.status, digest_of(reply)) for reply in replies} == {(200, str(image))}
    assert upstream.count(method="GET", kind="manifest") == 1


async def test_where_what_a_tag_was_is_nowhere_any_more_a_pull_is_refused_and_the_tag_not_denied(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    """A 404 would send clients to look for the new image elsewhere, and tell nobody why."""
    mirror, former = await known(start, upstream)
    assert digest_of(await mirror.get(TAG)) == former
    upstream.remove_manifest(REPO, Digest.parse(former))
    new = upstream.add_image(REPO, "v1", layers=[b"the new one"])
    assert digest_of(await mirror.get(TAG)) == former
    await mirror.server.store.index.apply(Removed((Digest.parse(former),)))
    for method in (mirror.head, mirror.get, mirror.get):
        assert (reply := await method(TAG)).status == 403
    assert f"its digest {new} was first seen" in reply.message


async def test_containerd_is_told_until_when(start: StartMirror, upstream: FakeRegistry) -> None:
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream, pulls=PULLS, server={"fallback": False})
    head = await mirror.head(TAG, User_Agent="containerd/1.6.20~ds1")
    assert head.status == 200
    where = f"/v2/{REPO}/manifests/{digest_of(head)}"
    assert "may be pulled from" in (await mirror.get(where)).message
    await mirror.stop()
    mirror = await start(upstream, pulls=PULLS, server={"fallback": False})
    assert "mirror quarantine says until when" in (await mirror.get(where)).message


async def test_a_prefetch_starts_the_clock_and_takes_nothing_of_a_tag_before_its_time(
    upstream: FakeRegistry, tmp_path: Path, clock: Clock
) -> None:
    image = upstream.add_image(REPO, "v1", layers=[b"one"])
    async with site(upstream, tmp_path / "store", clock, pulls=PULLS, freshness=TTL_0) as here:
        (fetched,) = await here.fetch(NAME)
        assert "may be pulled from" in str(fetched.failure)
        clock.advance(3 * DAY)
        (fetched,) = await here.fetch(NAME)
        assert (fetched.failure, fetched.planned.digest) == (None, image)
        upstream.add_image(REPO, "v1", layers=[b"two"])
        (fetched,) = await here.fetch(NAME)
        assert (fetched.failure, fetched.planned.digest) == (None, image)
        tag = here.store.index.tag(fetched.wanted.repository, "v1")
        assert tag is not None
        assert tag.digest == image


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str], upstream: FakeRegistry) -> Callable[..., Any]:
    """Run a command beside the mirror, as somebody else; return its code, and what it said."""

    async def call(*arguments: str) -> tuple[int, str]:
        file = tmp_path / "mirror.yaml"
        file.write_text(json.dumps(document(upstream, tmp_path / "store", pulls=PULLS)))

        def run() -> int:
            with pytest.raises(SystemExit) as raised:
                main([*arguments, "--config", str(file)])
            return int(raised.value.code or 0)

        capsys.readouterr()
        code = await asyncio.to_thread(run)
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


async def test_an_operator_sees_what_is_held_and_releases_it_while_the_mirror_runs(
    start: StartMirror, upstream: FakeRegistry, clock: Clock, command: Callable[..., Any]
) -> None:
    clock.now = time.time()
    mirror, former = await known(start, upstream)
    new = str(upstream.add_image(REPO, "v1", layers=[b"the new one"]))
    assert digest_of(await mirror.get(TAG)) == former
    mirror.server.store.dealings.flush()
    code, said = await command("quarantine", "--json")
    (held,) = json.loads(said)["held"]
    assert (code, held["tag"], held["former"], held["digest"]) == (0, "v1", former, new)
    assert NAME in (await command("quarantine"))[1]
    assert (await command("release", "--dry-run", "app:v1"))[0] == 0
    assert digest_of(await mirror.get(TAG)) == former
    code, said = await command("release", "app:v1")
    assert code == 0
    assert f"released: {NAME}@{new}" in said
    assert digest_of(await mirror.get(TAG)) == new
    code, said = await command("release", "app:v1")
    assert code == 1
    assert "nothing that is held back matches app:v1" in said
    checked = upstream.add_image(REPO, "v1", layers=[b"what a pipeline has checked"])
    code, said = await command("release", f"docker.io/{REPO}@{checked}")
    assert code == 0
    assert "it is served as soon as one means it" in said
    assert digest_of(await mirror.get(TAG)) == str(checked)


async def test_a_release_counts_though_the_former_digest_is_fresh_for_hours(
    start: StartMirror, upstream: FakeRegistry, clock: Clock, command: Callable[..., Any]
) -> None:
    clock.now = time.time()
    upstream.add_image(REPO, "v1", layers=[b"the former"])
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    await mirror.stop()
    clock.advance(7 * 3600)
    mirror = await start(upstream, pulls=PULLS, freshness=[{"match": "**", "ttl": "6h"}])
    new = str(upstream.add_image(REPO, "v1", layers=[b"the new one"]))
    assert digest_of(await mirror.get(TAG)) != new
    mirror.server.store.dealings.flush()
    assert (await command("release", f"docker.io/{REPO}:v1@{new}"))[0] == 0
    assert digest_of(await mirror.get(TAG)) == new
