"""`mirror prefetch` beside a running mirror, from a real registry with tokens: clients then need no upstream."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.images import Images
    from tests.parts.mirror import MirrorProcess
    from tests.parts.registry import DockerRegistry

pytestmark = [
    pytest.mark.needs("docker-registry", "mmdebstrap", "skopeo"),
    pytest.mark.slow,
    pytest.mark.timeout(300),  # the first test also builds the images
]

WANTED = ("library/signed:v1", "private/secret:v1", "quay.io/org/app:v1", "library/two:v1")


def prefetch(mirror: MirrorProcess, *arguments: str) -> Any:
    ran = subprocess.run(
        [sys.executable, "-m", "mirror", "prefetch", "--config", mirror.file, "--json", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def pull(mirror: MirrorProcess, name: str, reference: str) -> int:
    """Pull everything, all platforms; return how many pieces there were."""
    with urllib.request.urlopen(f"{mirror.url}/v2/{name}/manifests/{reference}") as answer:  # noqa: S310  # our own
        document = json.load(answer)
    pieces = 1
    for child in document.get("manifests", ()):
        pieces += pull(mirror, name, child["digest"])
    for named in [document[key] for key in ("config",) if key in document] + document.get("layers", []):
        with urllib.request.urlopen(f"{mirror.url}/v2/{name}/blobs/{named['digest']}") as answer:  # noqa: S310
            assert len(answer.read()) == named["size"]
        pieces += 1
    return pieces


def test_what_was_prefetched_is_pulled_with_the_registry_stopped(
    mirror: MirrorProcess, registry: DockerRegistry, pushed: Images
) -> None:
    before = registry.content_gets()
    prefetch(mirror, *WANTED)
    cold = registry.content_gets()
    assert cold > before
    prefetch(mirror, *WANTED)
    assert registry.content_gets() == cold
    registry.terminate()
    try:
        for wanted in (*WANTED, f"library/signed:{pushed.signature.tag}"):
            name, _, tag = wanted.rpartition(":")
            assert pull(mirror, name if "." in name.split("/", 1)[0] else f"docker.io/{name}", tag) > 2
    finally:
        registry.start()
