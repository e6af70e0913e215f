"""How far one upstream may lead: which hosts may be at addresses that are not public."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.upstream.address import is_private_host, is_public

if TYPE_CHECKING:
    from yarl import URL

    from mirror.upstream.resolver import Resolver
    from mirror.upstream.trust import Trust


class Reach:
    """Decides for one upstream which dials are guarded: those go to public addresses only.

    A registry that is configured by hand may be anywhere, and so may what it leads to (redirects, token services) if it
    is itself at a private address. One at a public address leads to public ones, apart from the hosts that its `realms`
    name: else whoever runs it could have this machine ask its neighbours, or a cloud's metadata service. Without
    `trust` nobody configured the upstream (`"*"` admits it), and every dial is guarded.
    """

    def __init__(self, trust: Trust | None, resolver: Resolver) -> None:
        self._trust = trust
        self._resolver = resolver
        self._private = trust is not None and is_private_host(trust.registry.host or "")

    def guards(self, url: URL) -> bool:
        """Say whether `url` may be dialled at a public address only."""
        if self._trust is None:
            return True
        return not (self._private or url.host == self._trust.registry.host or self._trust.names(url))

    async def widens(self) -> bool:
        """Look up whether the registry is itself at a private address, once a dial was refused; True: dial again.

        It is not looked up earlier, since for nearly every upstream nobody needs to know. Networks that give every name
        a private address (transparent proxies do) are found out by this too.
        """
        if self._trust is None or self._private:
            return False
        registry = self._trust.registry
        try:
            found = await self._resolver.look_up(registry.host or "", registry.port or 0)
        except OSError:  # it does not resolve, perhaps because a proxy does that: then it counts as public
            return False
        self._private = any(not is_public(str(address[0])) for *_, address in found)
        return self._private

    @property
    def refusal(self) -> str:
        """Why a private address was not dialled, and what to do."""
        if self._trust is None:
            return "it is a private address, which only an upstream configured by hand may have"
        return (
            "it is a private address, to which a registry at a public one may not lead; "
            "if that is right, name the host under `realms` of this upstream"
        )
