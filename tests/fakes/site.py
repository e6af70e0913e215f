"""A registry of `profiles`, running under its own names, with all the hosts that belong to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

from tests.fakes.auth import Auth
from tests.fakes.registry import FakeRegistry

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from tests.fakes.internet import Internet
    from tests.fakes.profiles import Profile
    from tests.fakes.records import Record

PLATFORMS = ("linux/amd64", "linux/arm64/v8")


class Site:
    """`registry` is the one that is asked; `behind` the one that it leads to, if there is one."""

    def __init__(self, profile: Profile, net: Internet, *, signed_in: bool = False) -> None:
        self.profile = profile
        self._net = net
        self.registry = _furnish(profile)
        self.behind = _furnish(profile.behind) if profile.behind is not None else None
        self.login = profile.login if signed_in else None
        if signed_in:
            assert profile.login is not None
            user, password = profile.login
            self.registry.auth.users[user] = password
            if not profile.foreign_realm:
                self.registry.auth.private[profile.repo] = {user}

    @classmethod
    async def open(cls, profile: Profile, net: Internet, *, signed_in: bool = False) -> Self:
        """Return a registry that runs, on `net`. `signed_in`: its content is for its user only."""
        site = cls(profile, net, signed_in=signed_in)
        await net.host(site.registry, profile.host, tokens=profile.tokens, storage=profile.storage)
        if site.behind is not None and profile.behind is not None:
            await net.host(site.behind, profile.behind.host)
        return site

    @property
    def configured(self) -> dict[str, Any]:
        """What a person writes under `upstreams` for it."""
        told: dict[str, Any] = {"ca_file": str(self._net.ca_file)}
        if self.profile.prefix:
            told["url"] = f"https://{self.profile.host}{self.profile.prefix}"
        if self.login is not None:
            told["username"], told["password"] = self.login
        return told

    def add_image(self, tag: str) -> Digest:
        """Put an index of two platforms into it, with blobs of their own, small and large."""
        held = [(self.registry, self.profile.repo)]
        if self.behind is not None and self.profile.behind_repo:
            held.append((self.behind, self.profile.behind_repo))
        for registry, repo in held:
            images = [
                registry.add_image(
                    repo, layers=[f"{tag} {platform}".encode(), tag.encode() * 50_000], platform=platform
                )
                for platform in PLATFORMS
            ]
            index = registry.add_index(repo, tag, manifests=images)
        return index

    def age(self) -> None:
        """Let every token and every signature that was given out so far have ended."""
        for registry in filter(None, (self.registry, self.behind)):
            registry.auth.revoke()
            registry.expire_signatures()

    @property
    def requests(self) -> list[Record]:
        """Every request to each of its hosts."""
        return [record for registry in filter(None, (self.registry, self.behind)) for record in registry.requests]

    @property
    def breaches(self) -> list[str]:
        """What was done that nobody may do who knows how."""
        return [breach for registry in filter(None, (self.registry, self.behind)) for breach in registry.breaches]

    def shown(self, scheme: str) -> set[str]:
        """Return the hosts that were sent an Authorization of this scheme."""
        return {
            record.host
            for record in self.requests
            if record.headers.get("Authorization", "").lower().startswith(scheme.lower() + " ")
        }

    def expected(self, digest: Digest) -> dict[str, tuple[str, bytes]]:
        """Return what a pull of an index gets: path below the repository -> media type (of manifests) and bytes."""
        shelf = self.registry.shelf(self.profile.repo)
        found: dict[str, tuple[str, bytes]] = {}
        manifests = [str(digest)]
        while manifests:
            held = shelf.manifests[manifests.pop()]
            found[f"manifests/{held.content.digest}"] = held.media_type, held.content.body
            manifests += [entry["digest"] for entry in json.loads(held.content.body).get("manifests", ())]
        for blob in self.registry.blobs_of(self.profile.repo, digest):
            found[f"blobs/{blob}"] = "", self.registry.content(self.profile.repo, blob)
        return found


def _furnish(profile: Profile) -> FakeRegistry:
    registry = FakeRegistry()
    registry.prefix = profile.prefix
    registry.redirect_blobs = profile.storage is not None
    registry.redirect_status = profile.redirect_status
    registry.auth = Auth(manner=profile.manner, **profile.auth)
    return registry
