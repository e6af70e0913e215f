"""Whether this host's k3s or RKE2 names the mirror: its registries.yaml (docs.k3s.io/installation/private-registry)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirror.doctor.files import read_yaml, table
from mirror.doctor.finding import About, Finding
from mirror.doctor.named import endpoints
from mirror.oci.namespaces import canonical

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.doctor.case import Case

_PROGRAMS = {
    "k3s": ("/usr/local/bin/k3s", "/usr/bin/k3s", "/etc/rancher/k3s"),
    "rke2": ("/usr/local/bin/rke2", "/usr/bin/rke2", "/etc/rancher/rke2"),
}


async def examine(case: Case) -> list[Finding]:
    """Look at registries.yaml; nothing is found where neither is installed."""
    findings: list[Finding] = []
    for program, signs in _PROGRAMS.items():
        if not case.has(*signs):
            continue
        path = case.at(f"/etc/rancher/{program}/registries.yaml")
        tree = read_yaml(program, path, f"{program} does not start with it")
        restart = f"systemctl restart {program} (on agents {program}-agent)"
        if isinstance(tree, Finding):
            findings.append(tree)
        elif tree is None:
            findings.append(
                About(program, str(path)).warning(
                    f"is not there: {program} pulls past the mirror",
                    f"mirror client-config k3s says what goes there; then {restart}",
                )
            )
        else:
            findings += await _mirrors(case, program, path, table(tree, "mirrors"), restart)
    return findings


async def _mirrors(case: Case, program: str, path: Path, mirrors: dict[str, Any], restart: str) -> list[Finding]:
    about = About(program, str(path))
    findings, named = await endpoints(case, about, mirrors)
    ours = []
    for name, one in named:
        below = one.url.path.strip("/").split("/")
        if below != [""] and "v2" not in below:
            findings.append(
                about.warning(
                    f"names {one.text} for {name}: with a path, {program} leaves /v2 to whoever writes it",
                    f"write {one.url.origin()} or {one.url.origin()}/v2/{'/'.join(below)} there; then {restart}",
                )
            )
            continue
        ours.append(name)
        if name != "*" and case.served is not None and canonical(name) not in case.served:
            findings.append(
                about.failure(
                    f"names the mirror for {name}, which the mirror does not serve",
                    f"add it to the mirror's configuration, upstreams: {{{name}: {{}}}}; or take it out there",
                )
            )
    if ours:
        findings.append(about.ok(f"names the mirror for {', '.join(ours)}"))
    elif not findings:
        findings.append(
            about.warning(
                "names the mirror for no registry", f"mirror client-config k3s says what goes there; {restart}"
            )
        )
    return findings
