"""HTTP proxies, as the environment names them (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mirror.config.values import Proxies

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def read_proxies(environ: Mapping[str, str], problems: list[str]) -> Proxies:
    """Read the proxies; lower case wins over upper case, the protocol's own variable over `all_proxy`.

    What is wrong goes to `problems`, without the URL, which may hold a password.
    """
    return Proxies(
        http=_proxy(environ, ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), problems),
        https=_proxy(environ, ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), problems),
        no_proxy=environ.get("no_proxy", environ.get("NO_PROXY", "")).strip(),
    )


def _proxy(environ: Mapping[str, str], names: tuple[str, ...], problems: list[str]) -> str | None:
    name = next((name for name in names if name in environ), None)
    if name is None or not environ[name].strip():  # set to nothing says that there is none
        return None
    url = environ[name].strip()
    if _SCHEME.match(url) is None:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        problem = f"environment: {name}: is not an HTTP proxy; set it to http://HOST:PORT, or unset it"
        if problem not in problems:  # all_proxy is read twice
            problems.append(problem)
        return None
    return url
