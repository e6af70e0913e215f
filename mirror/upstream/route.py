"""Which proxy an upstream is asked through, and how that is asked."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from yarl import URL

from mirror.upstream.no_proxy import NoProxy

if TYPE_CHECKING:
    from mirror.config import Proxies


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy. `authorization` is the value of `Proxy-Authorization`, if it wants a password."""

    url: URL  # without the user
    authorization: str | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, address: str) -> Proxy:
        """Read `http://USER:PASSWORD@HOST:PORT`; what is special in the user and password is written as %XX."""
        url = URL(address)
        if url.user is None:
            return cls(url)
        # Not left to aiohttp, which knows Latin-1 only.
        pair = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
        return cls(url.with_user(None), f"Basic {pair}", url.password or "")


class Route:
    """The way to one upstream, its redirect targets and token services included."""

    def __init__(self, proxies: Proxies) -> None:
        self._everywhere = proxies.everywhere
        self._no_proxy = NoProxy.parse(proxies.no_proxy)
        self._http = Proxy.parse(proxies.http) if proxies.http else None
        self._https = Proxy.parse(proxies.https) if proxies.https else None

    def proxy(self, url: URL) -> Proxy | None:
        """Return the proxy for a request to `url`; None: it is dialled directly."""
        proxy = self._https if url.scheme == "https" else self._http
        return proxy if proxy is not None and (self._everywhere or not self._no_proxy.covers(url)) else None

    def secrets(self) -> tuple[str, ...]:
        """Return the proxies' passwords, plain and as they are shown: an error might repeat them."""
        proxies = [proxy for proxy in (self._http, self._https) if proxy is not None and proxy.authorization]
        shown = [(proxy.authorization or "").removeprefix("Basic ").rstrip("=") for proxy in proxies]
        return tuple(dict.fromkeys([*shown, *(proxy.password for proxy in proxies if proxy.password)]))
