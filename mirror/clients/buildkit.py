"""BuildKit with a daemon of its own: `buildkitd.toml`.

Sources: moby/buildkit, docs/buildkitd.toml.md and util/resolver/resolver.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.clients.setup import ClientFile, ClientSetup, Role, mirrored, no_catch_all, quoted, refuse_path

if TYPE_CHECKING:
    from mirror.clients.address import MirrorAddress
    from mirror.config import Config

_CONFIG = "/etc/buildkit/buildkitd.toml"
_CA = "/etc/buildkit/mirror-ca.crt"
_BUILDX = (
    "a builder in a container takes the file when it is made, and the CA with it: docker buildx create --use "
    "--config buildkitd.toml; without root buildkitd reads ~/.config/buildkit/buildkitd.toml"
)
_DOCKER_BUILD = (
    "docker build without a builder of its own uses the Docker daemon's mirrors: mirror client-config docker"
)
_LOCAL = "in a builder in a container 127.0.0.1 is the container itself: add --driver-opt network=host"
_FALLBACK = "BuildKit goes on to the registry itself when the mirror cannot help; nothing ends that"


def setup(config: Config, mirror: MirrorAddress) -> ClientSetup:
    """Return `buildkitd.toml`, and the mirror's CA."""
    refuse_path(mirror, "buildkit")
    head = f"# {_CONFIG}, by `mirror client-config buildkit`.\n# BuildKit reads it when it starts.\n"
    # The registry's name reaches the mirror as `?ns=`, so the mirror's host is all that is needed.
    tables = [f"[registry.{quoted(name)}]\n  mirrors = [{quoted(mirror.host)}]\n" for name in mirrored(config)]
    files = [ClientFile(_CONFIG, "\n".join([head, *tables, _transport(mirror)]))]
    if mirror.ca is not None:
        files.append(ClientFile(_CA, mirror.ca, Role.COPY))
    notes = [*mirror.notes, *no_catch_all(config, "BuildKit"), _BUILDX, _DOCKER_BUILD]
    if mirror.local:
        notes.append(_LOCAL)
    if not config.server.fallback:
        notes.append(_FALLBACK)
    return ClientSetup(tuple(files), ("systemctl restart buildkit",), tuple(notes))


def _transport(mirror: MirrorAddress) -> str:
    """Return the table that says how the mirror itself is spoken to."""
    lines = [f"[registry.{quoted(mirror.host)}]"]
    # Said in both cases: what is not said is http on this machine, and https elsewhere.
    lines.append(f"  http = {'true' if mirror.plain else 'false'}")
    if mirror.ca is not None:
        lines.append(f"  ca = [{quoted(_CA)}]")
    return "\n".join(lines) + "\n"
