"""Whether the hosts.toml of each registry names the mirror.

Sources: containerd docs/hosts.md, core/remotes/docker/config/hosts.go.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.doctor.case import there
from mirror.doctor.files import read_toml, table, texts
from mirror.doctor.finding import About, Finding
from mirror.doctor.named import look, url_of
from mirror.errors import NameInvalid
from mirror.oci.namespaces import canonical, check_host

if TYPE_CHECKING:
    from yarl import URL

    from mirror.doctor.case import Case
    from mirror.doctor.named import Named

_PORT = re.compile(r"(.+)_([0-9]+)_")
_WRITE = "mirror client-config containerd says what goes there"
_HARM = "containerd pulls nothing from this registry"
_DEFAULT = "_default"  # the directory for every registry that has none of its own


async def examine(case: Case, directory: Path) -> tuple[list[Finding], list[URL]]:
    """Look at the hosts.toml of each registry below `directory`; return the mirror's URLs that are named there, too."""
    about = About("containerd", str(directory))
    try:
        trees = [(path, read_toml("containerd", path, _HARM)) for path in _files(directory)]
    except OSError as error:
        return [about.warning(f"cannot be read ({error.strerror}), so no registry has a mirror", _WRITE)], []
    findings = [tree for _, tree in trees if isinstance(tree, Finding)]
    looked = [_registry(case, path, tree) for path, tree in trees if isinstance(tree, dict)]
    mirrored: dict[str, URL] = {}
    for name, url, found in await asyncio.gather(*looked):
        findings += found
        if url is not None:
            mirrored[name] = url
    if mirrored:
        findings.append(about.ok(f"names the mirror for {', '.join(mirrored)}"))
    elif not findings:
        findings.append(about.warning("no hosts.toml in it names the mirror", f"{_WRITE}; nothing has to be restarted"))
    return findings, list(mirrored.values())


def _files(directory: Path) -> list[Path]:
    return [entry / "hosts.toml" for entry in sorted(directory.iterdir()) if entry.is_dir()]


async def _registry(case: Case, path: Path, tree: dict[str, Any]) -> tuple[str, URL | None, list[Finding]]:
    """Return the registry, the mirror's URL if it is named for it, and what is wrong with the file."""
    about = About("containerd", str(path))
    registry = _name(path.parent.name)
    hosts = table(tree, "host")
    urls = {text: url for text in hosts if (url := url_of(text)) is not None}
    looks = (look(case, url, _authorities(case, path, table(hosts, text))) for text, url in urls.items())
    named = dict(zip(urls, await asyncio.gather(*looks), strict=True))
    findings: list[Finding] = []
    ours = None
    for text, one in named.items():
        if one.trouble:
            meant = "" if "://" in text else " (without http:// in front, https is meant)"
            findings.append(about.failure(f"names {one.text}{meant}, where nothing helps: {one.trouble}", one.cure))
        elif one.ours:
            ours = ours or one.url
            findings += _settings(about, case, registry, table(hosts, text), one)
    return registry, ours, findings


def _settings(about: About, case: Case, registry: str, host: dict[str, Any], one: Named) -> list[Finding]:
    findings = []
    if registry != _DEFAULT and case.served is not None and canonical(registry) not in case.served:
        findings.append(
            about.failure(
                f"names the mirror for {registry}, which the mirror does not serve: each pull asks it in vain",
                f"add it to the mirror's configuration, upstreams: {{{registry}: {{}}}}; or delete {about.subject}",
            )
        )
    capabilities = host.get("capabilities")
    if isinstance(capabilities, list) and "resolve" not in capabilities:
        findings.append(
            about.warning(
                f"lets {one.text} answer for digests only: without the capability resolve each tag is asked of "
                f"{registry} itself",
                'write capabilities = ["pull", "resolve"]',
            )
        )
    findings += [
        about.failure(f"names the authority {file}, and there is no such file", "put the certificate there")
        for file in _authorities(case, Path(about.subject), host)
        if not there(file)
    ]
    return findings


def _authorities(case: Case, path: Path, host: dict[str, Any]) -> tuple[Path, ...]:
    """Return the files that `ca` names; what is not absolute lies beside the hosts.toml."""
    ca = host.get("ca")
    files = texts(ca) if isinstance(ca, list) else texts([ca])
    return tuple(case.at(file) if Path(file).is_absolute() else path.parent / file for file in files)


def _name(directory: str) -> str:
    """Return the registry that a directory is for: `host_5000_` stands for host:5000."""
    match = _PORT.fullmatch(directory)
    name = f"{match[1]}:{match[2]}" if match else directory
    try:
        return check_host(canonical(name))
    except NameInvalid:
        return name
