"""HTTP proxies: those of the environment (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`), and one by itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mirror.config.values import Proxies

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NETLOC = re.compile(
    r"(?:[^\s\\/?#]*@)?(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?)(?::[0-9]{1,5})?"
)


def read_proxies(environ: Mapping[str, str], problems: list[str]) -> Proxies:
    """Read the proxies; lower case wins over upper case, the protocol's own variable over `all_proxy`.

    What is wrong goes to `problems`, without the URL, which may hold a password.
    """
    return Proxies(
        http=_proxy(environ, ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), problems),
        https=_proxy(environ, ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), problems),
        no_proxy=environ.get("no_proxy", environ.get("NO_PROXY", "")).strip(),
    )


def parse_proxy(text: str) -> Proxies:
    """Read the proxy of one upstream; `none` is to dial directly. Raise `ValueError`, without the URL in it."""
    if text.lower() == "none":
        return Proxies()
    url = _usable(text.strip())
    if url is None:
        raise ValueError("is not an HTTP proxy; write http://HOST:PORT, or none to dial directly")
    return Proxies(http=url, https=url, everywhere=True)


def show_proxy(proxies: Proxies) -> str:
    """Write the proxy of one upstream back, without its user and password."""
    if proxies.https is None:
        return "none"
    return re.sub(r"(?<=://).*@", "***@", proxies.https)


def _proxy(environ: Mapping[str, str], names: tuple[str, ...], problems: list[str]) -> str | None:
    name = next((name for name in names if name in environ), None)
    if name is None or not environ[name].strip():  # set to nothing says that there is none
        return None
    url = _usable(environ[name].strip())
    if url is None:
        problem = f"environment: {name}: is not an HTTP proxy; set it to http://HOST:PORT, or unset it"
        if problem not in problems:  # all_proxy is read twice
            problems.append(problem)
        return None
    return url


def _usable(url: str) -> str | None:
    """Return the URL of a proxy, or None if it is none."""
    if _SCHEME.match(url) is None:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in ("http", "https")
            and parts.port != 0
            and _NETLOC.fullmatch(parts.netloc) is not None
            and (parts.path, parts.query, parts.fragment) in (("", "", ""), ("/", "", ""))
        )
    except ValueError:
        usable = False
    return url if usable else None
