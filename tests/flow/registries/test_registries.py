"""Each registry that people pull from, imitated with what is odd about it, and pulled through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.profiles import PROFILES
from tests.fakes.site import PLATFORMS, Site

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from tests.fakes.internet import Internet
    from tests.flow.conftest import Mirror, StartMirror

# How clients name the upstream: `ns` (containerd), in the path (Podman; hosts.toml), not at all (daemon.json).
FORMS = (
    "/v2/{repo}/{what}?ns={namespace}",
    "/v2/{namespace}/{repo}/{what}",
    "/{namespace}/v2/{repo}/{what}",
    "/v2/{repo}/{what}",
)
ROWS = [
    pytest.param(name, signed_in, id=f"{name} {'signed in' if signed_in else 'anonymous'}")
    for name, profile in PROFILES.items()
    for signed_in in (False, True)
    if (profile.login is not None if signed_in else not profile.private)
]


async def pull(mirror: Mirror, site: Site, form: str, digest: Digest, tag: str | None) -> None:
    """Pull an index and all that it names, and compare; by `tag`, or by digest alone."""
    repo, namespace = site.profile.repo, site.profile.namespace
    if tag is not None:
        reply = await mirror.get(form.format(repo=repo, namespace=namespace, what=f"manifests/{tag}"))
        assert (reply.status, reply.headers.get("Docker-Content-Digest")) == (200, str(digest)), reply.body
    for what, (media_type, body) in site.expected(digest).items():
        reply = await mirror.get(form.format(repo=repo, namespace=namespace, what=what))
        assert (reply.status, reply.body) == (200, body), (what, reply.body[:200])
        if media_type:
            assert reply.headers["Content-Type"] == media_type
    await mirror.settled()


@pytest.mark.parametrize(("name", "signed_in"), ROWS)
async def test_an_image_is_pulled_through(start: StartMirror, net: Internet, name: str, *, signed_in: bool) -> None:
    profile = PROFILES[name]
    site = await Site.open(profile, net, signed_in=signed_in)
    mirror = await start({profile.namespace: site.configured}, default_upstream=profile.namespace)
    for number, form in enumerate(FORMS):
        # One image for each form: by tag with one, by digest alone with the next; and halfway all tokens end.
        digest = site.add_image(f"v{number}")
        if number == len(FORMS) // 2:
            site.age()
        await pull(mirror, site, form, digest, f"v{number}" if number % 2 == 0 else None)
    # The rest is a second pull of everything, which upstream hears nothing of.
    asked = len(site.requests)
    await pull(mirror, site, FORMS[0], digest, None)
    assert len(site.requests) == asked
    assert site.breaches == []
    assert all(host in hosts(site) for host in net.looked_up)
    check_what_was_shown(site)
    check_what_was_asked(site)


@pytest.mark.parametrize("name", ["quay.io", "ghcr.io", "artifact registry", "registry.k8s.io", "azure"])
async def test_the_wildcard_admits_a_registry_with_all_that_belongs_to_it(
    start: StartMirror, net: Internet, name: str
) -> None:
    site = await Site.open(PROFILES[name], net)
    mirror = await start({"docker.io": {}, "*": True})
    for number, form in enumerate(FORMS[:-1]):
        await pull(mirror, site, form, site.add_image(f"v{number}"), f"v{number}")
    assert site.breaches == []
    assert set(net.looked_up) == hosts(site)


def hosts(site: Site) -> set[str]:
    """Return the hosts that a pull may lead to."""
    profile = site.profile
    found = {profile.host, profile.tokens, profile.storage}
    if profile.behind is not None and profile.behind_repo:  # else it is a dead end
        found.add(profile.behind.host)
    return {host for host in found if host is not None}


def check_what_was_shown(site: Site) -> None:
    """Passwords went to the token service (or the registry, where it knows no tokens), tokens to the registry."""
    profile = site.profile
    signed_in = site.login is not None and not profile.foreign_realm
    service = profile.tokens or profile.host
    assert site.shown("Basic") == ({service} if signed_in else set())
    by_token = {profile.host} if profile.auth.get("mode") in ("bearer", "both") else set()
    if profile.behind is not None and profile.behind_repo:
        by_token.add(profile.behind.host)
    assert site.shown("Bearer") == by_token
    users = {token.user for token in site.registry.tokens}
    if by_token == {profile.host}:
        assert users == {site.login[0] if site.login is not None and signed_in else None}


def check_what_was_asked(site: Site) -> None:
    """Nothing was asked twice for want of knowing how: tokens are shared, and the challenge is learnt."""
    blobs = 4 * 2 * len(PLATFORMS)  # a layer and a config of each platform are its own, one layer is shared
    fetched = [record for record in site.requests if record.kind in ("blob", "storage") and record.status == 200]
    assert len(fetched) <= blobs + 4
    assert all(record.method == "GET" for record in site.requests)
    assert site.registry.count(kind="token") <= 3
