"""Whether this host's containerd names the mirror: its config.toml, and where that looks for hosts.toml.

Sources: containerd docs/cri/registry.md, docs/man/containerd-config.toml.5.md, internal/cri/config/config.go.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.doctor import hosts_toml
from mirror.doctor.files import read_toml, table, texts
from mirror.doctor.finding import About, Finding
from mirror.doctor.host import unit_proxies, version
from mirror.doctor.named import detour, endpoints

if TYPE_CHECKING:
    from yarl import URL

    from mirror.doctor.case import Case

_FILE = "/etc/containerd/config.toml"
_HOSTS = "/etc/containerd/certs.d"
_SIGNS = ("/usr/bin/containerd", "/usr/local/bin/containerd", "/usr/sbin/containerd", _FILE, _HOSTS)
_KUBELET = ("/usr/bin/kubelet", "/usr/local/bin/kubelet", "/etc/kubernetes", "/var/lib/kubelet")
_DOCKER = ("/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd", "/etc/docker")
_BY_DEFAULT = (2, 2)  # from this release on, config_path is a list of two unless it is set to something else
# Which plugin has the registries, by the version of the configuration's format.
_PLUGINS = {1: "cri", 2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.images"}
_WRITE = "mirror client-config containerd says what goes there"
_RESTART = "systemctl restart containerd"


async def examine(case: Case) -> list[Finding]:
    """Look at containerd; nothing is found where it is not installed, or serves nobody but Docker."""
    if not case.has(*_SIGNS):
        return []
    path = case.at(_FILE)
    settings = read_toml("containerd", path, "containerd does not start with it")
    if isinstance(settings, Finding):
        return [settings]
    settings = settings or {}
    release = version(case, "containerd.io", "containerd")
    plugin = _plugin(settings, release)
    alone = case.has(*_DOCKER) and not case.has(*_KUBELET, _HOSTS)
    if alone and not table(settings, "plugins", plugin, "registry"):
        return [About("containerd", str(path)).ok("only Docker uses it here, and that has a configuration of its own")]
    directories, findings = _directories(case, settings, release)
    ours: list[URL] = []
    for directory in directories:
        found, urls = await hosts_toml.examine(case, directory)
        findings += found
        ours += urls
    about = About("containerd", str(path))
    silent, old = await endpoints(case, about, table(settings, "plugins", plugin, "registry", "mirrors"))
    findings += silent
    if old:
        findings.append(about.ok(f"names the mirror for {', '.join(name for name, _ in old)}, in the old form"))
        ours += [one.url for _, one in old]
    proxied = unit_proxies(case, "containerd.service")
    wrong = detour(About("containerd", "containerd.service"), ours[0], *proxied) if ours and proxied else None
    return [*findings, wrong] if wrong is not None else findings


def _directories(
    case: Case, settings: dict[str, Any], release: tuple[int, int] | None
) -> tuple[list[Path], list[Finding]]:
    """Return the directories that hold hosts.toml, and what is wrong with how config.toml names them."""
    about = About("containerd", str(case.at(_FILE)))
    plugin = _plugin(settings, release)
    found = _named(case, settings, plugin)
    astray = [other for other in _PLUGINS.values() if other != plugin and _path(settings, other)]
    old = table(settings, "plugins", plugin, "registry", "mirrors")
    if astray and not found:
        return [case.at(_HOSTS)], [
            about.failure(
                f'has config_path below plugins."{astray[0]}", where this version of containerd and of its format '
                f"(version = {settings.get('version', 1)}) does not look: no hosts.toml is read for Kubernetes (CRI)",
                f'put it below [plugins."{plugin}".registry], or change version; then {_RESTART}',
            )
        ]
    if found and old:
        return [case.at(path) for path in found], [
            about.failure(
                "has both config_path and registry.mirrors: containerd does not load its CRI plugin then, and "
                "Kubernetes has no runtime",
                f"take the registry.mirrors tables out, and give each registry a hosts.toml; {_WRITE}",
            )
        ]
    several = len(found) > 1 and (release is None or release[0] > 1)
    if several or (not (found or old) and release is not None and release >= _BY_DEFAULT):
        # Its CRI hands the list to the transfer service, which takes it for one name (containerd#12636, #12808).
        return [case.at(path) for path in (found or [_HOSTS])[:1]], [
            about.warning(
                f"{'names several directories in' if found else 'leaves the default of two directories for'} "
                "config_path, which containerd 2 does not find for Kubernetes (CRI): it passes the mirror by",
                f'write version = 3, [plugins."{_PLUGINS[3]}".registry], config_path = "{_HOSTS}"; then {_RESTART}',
            )
        ]
    if found or old:
        return [case.at(path) for path in found], []
    number, plugin = (3, _PLUGINS[3]) if release is not None and release[0] > 1 else (2, _PLUGINS[2])
    return [case.at(_HOSTS)], [
        about.warning(
            "names no config_path: no hosts.toml is read for Kubernetes (CRI), only by ctr and nerdctl if told to",
            f'write version = {number}, [plugins."{plugin}".registry], config_path = "{_HOSTS}"; then {_RESTART}',
        )
    ]


def _plugin(settings: dict[str, Any], release: tuple[int, int] | None) -> str:
    """Return the plugin below which this containerd looks for registries."""
    written = settings.get("version", 1)
    if release is not None and release[0] == 1 and written != 1:
        written = 2  # containerd 1 takes whatever is higher as this
    return _PLUGINS.get(written, _PLUGINS[2]) if isinstance(written, int) else _PLUGINS[2]


def _path(settings: dict[str, Any], plugin: str) -> str:
    found = table(settings, "plugins", plugin, "registry").get("config_path")
    return found if isinstance(found, str) else ""


def _named(case: Case, settings: dict[str, Any], plugin: str) -> list[str]:
    """Return the directories of config_path, of the file itself or of those that it imports."""
    trees = [settings]
    for pattern in texts(settings.get("imports")):
        below = case.at(str(Path(_FILE).parent / pattern))
        for path in sorted(below.parent.glob(below.name)):
            tree = read_toml("containerd", path, "")
            trees += [tree] if isinstance(tree, dict) else []
    for tree in trees:
        if named := _path(tree, plugin):
            return [part for part in named.split(":") if part]
    return []
