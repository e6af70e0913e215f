"""`pulls`: what a rule refuses is refused in every way to ask for it, with the rule, its reason, and what to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mirror import config, metrics
from tests.flow.conftest import document
from tests.flow.prefetching import site

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Mirror, Reply, StartMirror

REPO = "acme/tool"
DENY: list[dict[str, Any]] = [
    {"allow": "docker.io/library/**"},
    {"deny": "docker.io/**", "reason": "only official images; ask platform@example"},
]
DIGESTS: list[dict[str, Any]] = [{"allow": "docker.io/acme/**", "require_digest": True}]
ONLY = {"fallback": False}
CONTAINERD = {"User_Agent": "containerd/1.6.20~ds1"}


def refused(rule: str) -> float:
    value: float = metrics.PULLS_REFUSED.labels("docker.io", rule)._value.get()
    return value


async def ask_all(mirror: Mirror, upstream: FakeRegistry) -> list[Reply]:
    """Ask for an image in every way that there is."""
    image = upstream.add_image(REPO, "v1")
    blob = upstream.blobs_of(REPO, image)[0]
    base = f"/v2/{REPO}"
    paths = (
        *(f"{base}/manifests/v1", f"{base}/manifests/{image}", f"{base}/blobs/{blob}", f"{base}/tags/list"),
        *(f"{base}/referrers/{image}", f"{base}/manifests/sha256-{image.hex}.sig"),
    )
    return [await mirror.get(path) for path in paths]


async def test_what_is_denied_is_refused_in_every_way_and_upstream_hears_nothing_of_it(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    record = tmp_path / "access"
    mirror = await start(upstream, pulls=DENY, log={"access_file": str(record)})
    before = refused("denied")
    for reply in await ask_all(mirror, upstream):
        assert (reply.status, reply.code) == (403, "DENIED")
        assert reply.message.endswith('rule "deny: docker.io/**": only official images; ask platform@example')
        assert "WWW-Authenticate" not in reply.headers
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.cache == "registry-mirror; detail=denied"
    assert upstream.requests == []
    assert refused("denied") == before + 6
    upstream.add_image("library/nginx", "v1")
    assert [reply.status for reply in await mirror.pull("library/nginx", "v1")] == [200, 200, 200]
    await mirror.stop()
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert {(line["status"], line["cache"]) for line in lines[:6]} == {(403, "denied")}


async def test_an_image_that_is_cached_is_refused_as_soon_as_a_rule_says_so(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream)
    assert [reply.status for reply in await mirror.pull(REPO, "v1")] == [200, 200, 200]
    before = mirror.server.config
    text = json.dumps(document(upstream, before.storage.path, pulls=DENY))
    await mirror.server.reconfigure(config.parse(text, "mirror.yaml", {}))
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 403
    await mirror.server.reconfigure(before)
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 200


async def test_where_a_digest_is_required_the_text_names_the_one_that_the_tag_has(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    image = upstream.add_image(REPO, "v1")
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    await mirror.stop()
    mirror = await start(upstream, pulls=DIGESTS)
    reply = await mirror.get(f"/v2/{REPO}/manifests/v1")
    assert (reply.status, reply.code) == (403, "DENIED")
    assert f"name it by its digest, as docker.io/{REPO}@{image}, which is what this tag meant" in reply.message
    assert (
        "name it by its digest, as docker.io/acme/other@sha256:…"
        in (await mirror.get("/v2/acme/other/manifests/v1")).message
    )
    assert [reply.status for reply in await mirror.pull(REPO, image)] == [200, 200, 200]
    assert (await mirror.get(f"/v2/{REPO}/tags/list")).status == 200


@pytest.mark.parametrize(
    ("server", "headers"),
    [({}, CONTAINERD), (ONLY, {}), (ONLY, {**CONTAINERD, "Via": "1.1 registry-mirror-0123456789abcdef"})],
    ids=["there is another registry", "not containerd", "a mirror"],
)
async def test_a_head_is_refused_plainly_where_it_would_mislead(
    start: StartMirror, upstream: FakeRegistry, server: dict[str, Any], headers: dict[str, str]
) -> None:
    image = upstream.add_image(REPO, "v1")
    mirror = await start(upstream, pulls=DENY, server=server)
    for reference in ("v1", image):
        assert (await mirror.head(f"/v2/{REPO}/manifests/{reference}", **headers)).status == 403


@pytest.mark.parametrize(("pulls", "rule"), [(DENY, "denied"), (DIGESTS, "digest required")])
async def test_containerd_is_led_from_its_head_to_a_get_that_tells_why(
    start: StartMirror, upstream: FakeRegistry, pulls: list[dict[str, Any]], rule: str
) -> None:
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream, pulls=pulls, server=ONLY)
    by_tag = (await mirror.get(f"/v2/{REPO}/manifests/v1")).message
    counted = refused(rule)
    head = await mirror.head(f"/v2/{REPO}/manifests/v1", **CONTAINERD)
    assert (head.status, head.headers["Content-Type"]) == (200, "application/vnd.oci.image.index.v1+json")
    assert int(head.headers["Content-Length"]) > 0
    where = f"/v2/{REPO}/manifests/{head.headers['Docker-Content-Digest']}"
    reply = await mirror.get(where, **CONTAINERD)
    assert (reply.status, reply.code, reply.message) == (403, "DENIED", by_tag)
    assert refused(rule) == counted + 1
    # Another process, or the same one after a restart, knows the digest for what it is.
    await mirror.stop()
    mirror = await start(upstream, pulls=pulls, server=ONLY)
    reply = await mirror.get(where, **CONTAINERD)
    assert (reply.status, reply.code) == (403, "DENIED")
    assert f"docker.io/{REPO}" in reply.message
    assert "this mirror's rule \"" in reply.message
    assert upstream.requests == []


async def test_a_digest_that_is_refused_is_its_own_way_to_the_text(start: StartMirror, upstream: FakeRegistry) -> None:
    image = upstream.add_image(REPO, "v1")
    mirror = await start(upstream, pulls=DENY, server=ONLY)
    head = await mirror.head(f"/v2/{REPO}/manifests/{image}", **CONTAINERD)
    assert (head.status, head.headers["Docker-Content-Digest"]) == (200, str(image))
    assert (await mirror.get(f"/v2/{REPO}/manifests/{image}", **CONTAINERD)).status == 403
    blob = upstream.blobs_of(REPO, image)[0]
    assert (await mirror.head(f"/v2/{REPO}/blobs/{blob}", **CONTAINERD)).status == 403


async def test_a_prefetch_fetches_nothing_that_the_mirror_would_give_to_nobody(
    upstream: FakeRegistry, tmp_path: Path, clock: Clock
) -> None:
    image = upstream.add_image(REPO, "v1")
    async with site(upstream, tmp_path / "store", clock, pulls=DENY) as here:
        for name in (f"docker.io/{REPO}:v1", f"docker.io/{REPO}@{image}"):
            (fetched,) = await here.fetch(name)
            assert "ask platform@example (the mirror would give it to nobody" in str(fetched.failure)
    assert upstream.requests == []
    async with site(upstream, tmp_path / "store", clock, pulls=DIGESTS) as here:
        (fetched,) = await here.fetch(f"docker.io/{REPO}:v1")
        assert fetched.failure is None  # by its digest, which the tag is asked for here, clients may pull it


async def test_signatures_and_attestations_travel_whatever_a_rule_says_of_tags_and_stay_when_upstream_is_gone(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    child = upstream.add_image(REPO, None)
    attestation = upstream.add_image(REPO, None, layers=[b"in-toto"], platform="unknown/unknown")
    image = upstream.add_index(REPO, "v1", manifests=[child, attestation])
    listed = upstream.add_artifact(REPO, image, b"an sbom", artifact_type="application/spdx+json")
    upstream.add_image(REPO, f"sha256-{image.hex}.sig", layers=[b"a signature"])
    upstream.add_image(REPO, f"sha256-{image.hex}.att", layers=[b"an attestation"])
    pulls = [{"allow": "docker.io/acme/**", "require_digest": True, "min_age": "3d"}]
    mirror = await start(upstream, pulls=pulls)

    async def everything() -> list[bytes]:
        replies = await mirror.pull(REPO, image)
        replies.append(await mirror.get(f"/v2/{REPO}/referrers/{image}"))
        assert [entry["digest"] for entry in replies[-1].json["manifests"]] == [str(listed)]
        replies += await mirror.pull(REPO, listed)
        for suffix in ("sig", "att"):
            replies += await mirror.pull(REPO, f"sha256-{image.hex}.{suffix}")
        assert {reply.status for reply in replies} == {200}
        return [reply.body for reply in replies]

    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 403
    before = await everything()
    assert b"in-toto" in before
    await upstream.stop()
    assert await everything() == before
