"""Whether Podman, Skopeo, Buildah and CRI-O name the mirror: registries.conf and what is dropped in beside it.

Sources: containers-registries.conf(5), containers-registries.conf.d(5), containers/image pkg/sysregistriesv2.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from yarl import URL

from mirror.doctor.case import shown
from mirror.doctor.files import read_toml
from mirror.doctor.finding import About, Finding
from mirror.doctor.host import unit_proxies
from mirror.doctor.named import detour, look
from mirror.oci.namespaces import canonical

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.doctor.case import Case
    from mirror.doctor.named import Named

_FILE = "/etc/containers/registries.conf"
_DROPPED = "/etc/containers/registries.conf.d"
_PROGRAMS = ("podman", "crio", "skopeo", "buildah")
_HARM = "Podman and CRI-O pull nothing with it"


async def examine(case: Case) -> list[Finding]:
    """Look at the registries of Podman and CRI-O; nothing is found where neither is installed."""
    there = [name for name in _PROGRAMS if case.has(f"/usr/bin/{name}", f"/usr/local/bin/{name}", f"/usr/sbin/{name}")]
    if not there:
        return []
    files = [case.at(_FILE), *sorted(case.at(_DROPPED).glob("*.conf"))]
    findings: list[Finding] = []
    looked = []
    for path in files:
        tree = read_toml("podman", path, _HARM)
        if isinstance(tree, Finding):
            findings.append(tree)
        elif tree is not None:
            looked += [_registry(case, path, entry) for entry in _tables(tree.get("registry"))]
    ours: dict[str, URL] = {}
    for name, url, found in await asyncio.gather(*looked):
        findings += found
        if url is not None:
            ours[name] = url
    about = About("podman", str(case.at(_DROPPED)))
    if ours:
        findings.append(about.ok(f"names the mirror for {', '.join(ours)}"))
    elif not findings:
        findings.append(
            about.warning(
                f"no file there names the mirror: {', '.join(there)} here pull past it",
                f"mirror client-config {'crio' if 'crio' in there else 'podman'} says what goes there",
            )
        )
    proxied = unit_proxies(case, "crio.service")
    for url in list(ours.values())[:1]:
        wrong = detour(About("podman", "crio.service"), url, *proxied) if proxied else None
        findings += [wrong] if wrong is not None else []
    return findings


async def _registry(case: Case, path: Path, entry: dict[str, Any]) -> tuple[str, URL | None, list[Finding]]:
    """Return the registry, the mirror's URL if one of its mirrors is ours, and what is wrong with the entry."""
    about = About("podman", str(path))
    prefix = str(entry.get("prefix") or entry.get("location") or "")
    places = _tables(entry.get("mirror"))
    if entry.get("location") not in (None, prefix):
        places.append(entry)  # another in the registry's own place: the mirror, where nobody else shall be asked
    asked = await asyncio.gather(*(_place(about, case, prefix, place) for place in places))
    findings = [finding for _, some in asked for finding in some]
    return prefix, next((url for url, _ in asked if url is not None), None), findings


async def _place(about: About, case: Case, prefix: str, place: dict[str, Any]) -> tuple[URL | None, list[Finding]]:
    """Return the mirror's URL if this location is ours, and what is wrong with it."""
    location = str(place.get("location") or "")
    if "://" in location:
        finding = about.failure(
            f"has a mirror at {_clean(location)}, with a scheme in front: {_HARM}",
            f'write location = "{_clean(location).partition("://")[2]}"'
            + (", and insecure = true" if location.startswith("http://") else ""),
        )
        return None, [finding]
    insecure = place.get("insecure") is True
    named = await _look(case, location, insecure=insecure)
    if named is None:
        return None, []
    if named.trouble:
        return None, [about.failure(f"names {location} for {prefix}: {named.trouble}", named.cure)]
    if not named.ours:
        return None, []
    return named.url, _where(about, case, prefix, location) + _safety(about, location, named, insecure=insecure)


async def _look(case: Case, location: str, *, insecure: bool) -> Named | None:
    """Find out what is at a location: https is tried, then http; whether that is allowed is another question."""
    try:
        plain, tls = URL(f"http://{location}"), URL(f"https://{location}")
    except ValueError:
        return None
    if not plain.host:
        return None
    if any(target.url.origin() == plain.origin() for target in case.targets if target.socket is None):
        return await look(case, plain)
    named = await look(case, tls)
    if named.ours or not named.trouble:
        return named
    other = await look(case, plain)
    return other if other.ours or insecure else named


def _safety(about: About, location: str, named: Named, *, insecure: bool) -> list[Finding]:
    if named.url.scheme == "http" and not insecure:
        return [
            about.failure(
                f"names {location}, which speaks http, and does not allow it: Podman asks by https and passes it over",
                "write insecure = true below that location",
            )
        ]
    return []


def _where(about: About, case: Case, prefix: str, location: str) -> list[Finding]:
    """Look at the path of a mirror: it says which registry is meant, since these clients say it in no other way."""
    registry = canonical(prefix.removeprefix("*.").partition("/")[0])
    default = case.config.default_upstream if case.config is not None and case.here else "docker.io"
    host, _, path = location.partition("/")
    named = canonical(path.partition("/")[0]) if path else default
    in_path = prefix.replace(":", "_")  # no colon may stand behind the first slash, so the mirror takes this for one
    if named == registry.replace(":", "_"):
        named = registry
    if named != registry and not path:
        return [
            about.failure(
                f"names {location} for {prefix}, with no registry behind it: the mirror gives images of {default}",
                f'write location = "{host}/{in_path}"',
            )
        ]
    if named != registry:
        return [
            about.warning(
                f"names {location} for {prefix}: images of {named} come in their place",
                f'write location = "{host}/{in_path}", unless that is meant',
            )
        ]
    if case.served is not None and registry not in case.served:
        return [
            about.failure(
                f"names the mirror for {registry}, which the mirror does not serve",
                f"add it to the mirror's configuration, upstreams: {{{registry}: {{}}}}; or take the entry out",
            )
        ]
    return []


def _tables(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _clean(location: str) -> str:
    try:
        return shown(URL(location))
    except ValueError:
        return location.rpartition("@")[2][:80]
