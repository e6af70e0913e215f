"""Whether this host's Docker names the mirror: its daemon.json, and the daemon that runs."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from yarl import URL

from mirror.config import Proxies
from mirror.config.proxies import read_proxies
from mirror.doctor.call import Reply, call
from mirror.doctor.case import shown
from mirror.doctor.files import read_json, table, texts
from mirror.doctor.finding import About, Finding
from mirror.doctor.host import unit_options, unit_proxies, version
from mirror.doctor.named import Named, detour, look

if TYPE_CHECKING:
    from mirror.doctor.case import Case

_FILE = "/etc/docker/daemon.json"
_SOCKETS = ("/run/docker.sock", "/var/run/docker.sock")
_SIGNS = ("/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd", "/snap/bin/docker", _FILE, *_SOCKETS)
_PATHS_SINCE = 25  # of Docker: a mirror's URL may have a path (moby/moby#46594)
_WRITE = "mirror client-config docker says what goes there; then systemctl reload docker"
_RELOAD = "systemctl reload docker (or restart)"


async def examine(case: Case) -> list[Finding]:
    """Look at Docker; nothing is found where it is not installed."""
    if not case.has(*_SIGNS):
        return []
    about = About("docker", str(case.at(_FILE)))
    engine = await _engine(case)
    settings = read_json("docker", case.at(_FILE), "dockerd does not start with it")
    if isinstance(settings, Finding):
        return [settings]
    options, unit = unit_options(case, "docker.service", "registry-mirror")
    if settings is None or "registry-mirrors" not in settings:
        told = texts(table(engine, "RegistryConfig").get("Mirrors")) if engine is not None else options
        if await _has(case, told):
            return [About("docker", "docker").ok("the daemon has the mirror, though not from daemon.json")]
        missing = "is not there" if settings is None else "has no registry-mirrors"
        return [about.warning(f"{missing}: Docker pulls past the mirror", _WRITE)]
    if options:
        return [
            about.failure(
                f"has registry-mirrors, and so has dockerd's command line (--registry-mirror in {unit}): dockerd does "
                "not start with both",
                "take --registry-mirror out there (systemctl edit docker), and keep it here",
            )
        ]
    return await _settings(about, case, settings, engine)


async def _settings(about: About, case: Case, settings: dict[str, Any], engine: dict[str, Any] | None) -> list[Finding]:
    mirrors = settings.get("registry-mirrors", [])
    if not isinstance(mirrors, list) or not all(isinstance(mirror, str) for mirror in mirrors):
        return [
            about.failure(
                "registry-mirrors is no list of texts: dockerd does not start with it",
                f'write "registry-mirrors": ["{_own(case)}"]',
            )
        ]
    if not mirrors:
        return [about.warning("has no registry-mirrors: Docker pulls past the mirror", _WRITE)]
    findings = []
    urls = []
    for text in mirrors:
        wrong = _form(about, case, text, engine)
        if wrong is None:
            urls.append(URL(text))
        else:
            findings.append(wrong)
    named = list(await asyncio.gather(*(look(case, url) for url in urls)))
    findings += _ruling(about, case, named, len(mirrors))
    ours = next((mirror.url for mirror in named if mirror.ours), None)
    if ours is not None:
        findings += await _in_force(case, ours, settings, engine)
    return findings


def _form(about: About, case: Case, text: str, engine: dict[str, Any] | None) -> Finding | None:
    """Return why dockerd does not take this as a mirror, or takes it otherwise than meant; None where all is well."""
    url = _url(text)
    if url is None:
        return about.failure(
            f"registry-mirrors has {_clean(text)!r}, which is no URL: dockerd does not start with it",
            f"write a whole URL: {_own(case)}",
        )
    if url.user is not None or url.query_string or url.fragment:
        return about.failure(
            f"the URL of {url.host} in registry-mirrors has a user name, a query or a fragment: dockerd does not start",
            f"leave it away: {_own(case)}",
        )
    path = url.path.strip("/")
    if path:
        return _path(about, case, url, engine)
    default = case.config.default_upstream if case.config is not None and case.here else "docker.io"
    if default != "docker.io":
        return about.failure(
            f"{shown(url)} gives Docker images of {default} (default_upstream) where it asks for docker.io",
            f"write {shown(url)}/docker.io there (Docker 25 or later), or default_upstream: docker.io in the mirror's "
            "configuration",
        )
    return None


def _url(text: str) -> URL | None:
    try:
        url = URL(text)
    except ValueError:
        return None
    return url if url.host and url.scheme in ("http", "https") else None


def _path(about: About, case: Case, url: URL, engine: dict[str, Any] | None) -> Finding | None:
    path = url.path.strip("/")
    if path.split("/")[-1] == "v2":
        return about.failure(
            f"{shown(url)} ends in /v2, which Docker adds itself", f"write {shown(url.with_path('/'))} there"
        )
    major = _major(case, engine)
    without = f"write {shown(url.with_path('/'))} there"
    if case.address is not None and case.address.path.strip("/") and case.address.origin() == url.origin():
        without = "give the mirror a host or a port of its own"  # a proxy looks for it below that path alone
    if major is None:
        return about.warning(
            f"{shown(url)} has a path, with which a Docker older than {_PATHS_SINCE} does not start",
            f"{without}, unless this Docker is newer (docker version)",
        )
    if major < _PATHS_SINCE:
        return about.failure(
            f"{shown(url)} has a path: Docker {major}, which this host has, does not start with it",
            f"{without}, or install Docker {_PATHS_SINCE} or later",
        )
    return None


def _ruling(about: About, case: Case, named: list[Named], count: int) -> list[Finding]:
    ours = [mirror for mirror in named if mirror.ours]
    silent = [mirror for mirror in named if mirror.trouble]
    foreign = [mirror for mirror in named if not mirror.ours and not mirror.trouble]
    findings = []
    for mirror in silent:
        found = f"names {mirror.text}, where nothing helps: {mirror.trouble}"
        if ours:
            findings.append(about.warning(f"{found}; Docker loses time there", f"take it out, or {mirror.cure}"))
        else:
            findings.append(about.failure(found, mirror.cure))
    if ours:
        order = f", before it {foreign[0].text}" if foreign and named.index(foreign[0]) < named.index(ours[0]) else ""
        findings.append(about.ok(f"names the mirror: {ours[0].text}{order}"))
        findings += _beyond(about, case)
    elif foreign:
        findings.append(
            about.warning(
                f"names {', '.join(mirror.text for mirror in foreign)} ({count} in all), which is not this mirror",
                f'write "registry-mirrors": ["{_own(case)}"] there; then {_RELOAD}',
            )
        )
    return findings


def _beyond(about: About, case: Case) -> list[Finding]:
    """Return what there is to say where rules bind nobody who goes on from here."""
    config = case.config
    if config is None or not case.here or config.server.fallback:
        return []  # with a fallback it is said of the configuration, for all clients
    if not any(not rule.allow or rule.require_digest or rule.min_age for rule in config.pulls):
        return []
    return [
        about.warning(
            "Docker goes on to Docker Hub where the mirror refuses, whatever server.fallback says: it gets round what "
            "pulls refuses there",
            "let nobody but the mirror out to Docker Hub, or have images called by the mirror's name: "
            "docs/guide/rules.md",
        )
    ]


async def _in_force(case: Case, ours: URL, settings: dict[str, Any], engine: dict[str, Any] | None) -> list[Finding]:
    """Look at what the running daemon has in force, and at its proxies."""
    about = About("docker", "dockerd")
    findings = []
    if engine is not None and not await _has(case, texts(table(engine, "RegistryConfig").get("Mirrors"))):
        findings.append(
            about.failure("the daemon that runs does not have what daemon.json says: it was not told", _RELOAD)
        )
    proxies, where = _proxies(case, settings, engine)
    wrong = detour(about, ours, proxies, where)
    return [*findings, wrong] if wrong is not None else findings


def _proxies(case: Case, settings: dict[str, Any], engine: dict[str, Any] | None) -> tuple[Proxies, str]:
    """Return the daemon's proxies, from whoever has the last word, and who that is."""
    if engine is not None:
        told = {"http_proxy": "HttpProxy", "https_proxy": "HttpsProxy", "no_proxy": "NoProxy"}
        return read_proxies({name: str(engine.get(key) or "") for name, key in told.items()}, []), "docker info"
    written = settings.get("proxies")
    if isinstance(written, dict):
        told = {"http_proxy": "http-proxy", "https_proxy": "https-proxy", "no_proxy": "no-proxy"}
        return read_proxies({name: str(written.get(key) or "") for name, key in told.items()}, []), _FILE
    return unit_proxies(case, "docker.service") or (Proxies(), "")


async def _engine(case: Case) -> dict[str, Any] | None:
    """Ask the daemon for `info` (docs.docker.com/reference/api/engine); None where none runs, or none may be asked."""
    for path in _SOCKETS:
        if not case.has(path):
            continue
        socket = case.at(path)
        reply = await call(URL("http://docker/info"), socket=str(socket), patience=case.patience)
        if isinstance(reply, Reply) and reply.status == 200:  # noqa: PLR2004
            try:
                told = json.loads(reply.body)
            except ValueError:
                return None
            return told if isinstance(told, dict) else None
    return None


async def _has(case: Case, mirrors: list[str]) -> bool:
    """Say whether the mirror is among those that the daemon has in force."""
    found = await asyncio.gather(*(look(case, url) for text in mirrors if (url := _url(text)) is not None))
    return any(mirror.ours for mirror in found)


def _major(case: Case, engine: dict[str, Any] | None) -> int | None:
    told = str((engine or {}).get("ServerVersion", "")).partition(".")[0]
    if told.isdigit():
        return int(told)
    found = version(case, "docker-ce", "docker.io", "moby-engine")
    return found[0] if found is not None else None


def _own(case: Case) -> str:
    return shown(case.address) if case.address is not None else "http://HOST:PORT"


def _clean(text: str) -> str:
    return text.rpartition("@")[2][:80]
