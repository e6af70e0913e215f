"""nginx in front, as `deploy/nginx` sets it up: clients see the mirror, and the mirror sees the clients."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.ways import REGISTRIES
from tests.fakes.faults import Gate
from tests.fakes.registry import FakeRegistry
from tests.parts.certificate import certificate
from tests.parts.containers import Skopeo, registries_conf
from tests.parts.mirror import MirrorProcess
from tests.parts.nginx import Nginx
from tests.parts.process import room, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.images import Images
    from tests.parts.registry import DockerRegistry

pytestmark = [pytest.mark.needs("nginx", "curl"), pytest.mark.timeout(300)]  # the first test also builds the images

MIB = 1 << 20
CLIENT = "127.0.0.2"  # where the client of nginx sits, told from nginx itself


@dataclass(frozen=True)
class Site:
    """nginx and the mirror behind it."""

    mirror: MirrorProcess
    nginx: Nginx
    cert_file: Path

    def curl(self, path: str) -> list[str]:
        """Return the command that gets a path; options may be added."""
        return ["curl", "--silent", "--show-error", "--interface", CLIENT, "--cacert", str(self.cert_file),
                f"{self.nginx.url}{path}"]  # fmt: skip

    def headers(self, path: str, *options: str) -> tuple[int, dict[str, str], str]:
        """Get a path; return the status, the headers in lower case, and the body as text."""
        said = run(*self.curl(path), "--include", *options)
        head, _, body = said.partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, body

    def clients(self) -> set[str]:
        """Return every client that the mirror has in its log."""
        return {line["client"] for line in self.mirror.lines() if line.get("event") == "request"}


@contextmanager
def site(upstreams: dict[str, Any], *, unix: bool = False) -> Iterator[Site]:
    """Start both, in rooms of their own."""
    with ExitStack() as stack:
        directory = stack.enter_context(room("nginx"))
        socket = f"unix:{directory}/mirror.sock"
        config = {
            "server": {"listen": ["127.0.0.1:0", socket], "trusted_proxies": ["unix" if unix else "127.0.0.1"]},
            "upstreams": upstreams,
        }
        mirror = stack.enter_context(MirrorProcess(directory, config))
        stack.callback(lambda: print(mirror.said()))  # noqa: T201 - pytest shows it where the test failed
        cert_file, key_file = certificate(directory)
        server = socket if unix else mirror.host
        nginx = stack.enter_context(Nginx(directory, server=server, cert_file=cert_file, key_file=key_file))
        stack.callback(lambda: print(nginx.said()))  # noqa: T201 - the same
        yield Site(mirror, nginx, cert_file)


@pytest.mark.slow
@pytest.mark.needs("docker-registry", "mmdebstrap", "skopeo")
@pytest.mark.parametrize("unix", [pytest.param(False, id="tcp"), pytest.param(True, id="unix")])
def test_a_client_pulls_over_https_and_the_mirror_knows_who(
    unix: bool, registry: DockerRegistry, pushed: Images
) -> None:
    with ExitStack() as stack:
        front = stack.enter_context(site({name: {"url": registry.url} for name in REGISTRIES}, unix=unix))
        client = Skopeo(
            stack.enter_context(room("client")),
            registries_conf(front.nginx.host, REGISTRIES).replace("insecure = true\n", ""),
        )
        client.env["SSL_CERT_FILE"] = str(front.cert_file)
        wanted = {
            "docker.io/library/debian:bookworm": pushed.debian,
            "docker.io/library/two:v1": pushed.two,
            "docker.io/library/forty:v1": pushed.forty,
            "quay.io/org/app:v1": pushed.app,
        }
        for _ in ("cold", "warm"):
            for reference, image in wanted.items():
                client.pull(reference)
                client.check(reference, image)
            client.forget()

        layer = pushed.debian.layers["linux/amd64"][0]
        path = f"/v2/library/debian/blobs/{layer}"
        whole = (pushed.path / "blobs/sha256" / layer.removeprefix("sha256:")).read_bytes()
        status, headers, body = front.headers(path, "--range", "4-13", "--output", "/dev/null", "--dump-header", "-")
        assert (status, body) == (206, "")
        assert headers["content-range"] == f"bytes 4-13/{len(whole)}"
        got = front.nginx.temp.parent / "got"
        run(*front.curl(path), "--range", "4-1000003", "--output", got)
        assert got.read_bytes() == whole[4:1000004]
        run(*front.curl(path), "--output", got)
        assert got.read_bytes() == whole
        assert [found for found in front.nginx.temp.rglob("*") if found.is_file()] == []

        told = ("--header", "X-Forwarded-For: 203.0.113.9")  # by a client that would like to be somebody else
        status, headers, _ = front.headers("/v2/library/two/manifests/v1", "--head", *told)
        assert status == 200
        assert headers["docker-content-digest"] == pushed.two.digest
        assert headers["etag"] == f'"{pushed.two.digest}"'
        assert front.clients() == {"127.0.0.1", CLIENT}  # skopeo and curl


@pytest.fixture
def behind() -> Iterator[Site]:
    """A mirror behind nginx whose one upstream is nowhere."""
    with site({"docker.io": {"url": "http://127.0.0.1:1"}}) as both:
        yield both


def test_what_clients_send_arrives_and_what_the_mirror_says_comes_back(behind: Site) -> None:
    token = "a" * 50_000
    assert behind.headers("/v2/", "--header", f"Authorization: Bearer {token}")[0] == 200
    assert behind.headers("/healthz")[2] == "ok\n"
    assert behind.headers("/readyz")[0] == 200
    # Neither the slash that is escaped nor the query is touched on the way.
    path = "/quay.io/v2/a%2Fb/manifests/v1?ns=quay.io"
    status, headers, body = behind.headers(path)
    assert status >= 400
    assert body == run("curl", "--silent", "--interface", CLIENT, f"{behind.mirror.url}{path}")
    assert headers["oci-namespace"] == "quay.io"
    # Nor is a status of the mirror replaced, or its reason.
    status, headers, body = behind.headers("/v2/library/app/manifests/v1")
    assert status == 503
    assert "retry-after" in headers
    assert '"errors"' in body
    assert behind.clients() == {CLIENT}


def test_metrics_are_for_this_machine_only(behind: Site) -> None:
    assert behind.headers("/metrics")[0] == 403
    assert behind.headers("/metrics", "--interface", "127.0.0.1")[0] == 200


async def test_a_layer_goes_out_while_it_is_being_fetched() -> None:
    """Nobody waits for the end of a fill, and what nginx could keep back is less than a client would notice."""
    gate = asyncio.Event()
    size, at = 12 * MIB, 8 * MIB + 100_000  # no whole number of any buffer
    async with FakeRegistry() as upstream:
        digest = upstream.add_pattern_blob("library/big", size, 1)
        upstream.fault(kind="blob", then=Gate(gate, at_byte=at))
        with site({"docker.io": {"url": upstream.url}}) as front:
            client = await asyncio.create_subprocess_exec(
                *front.curl(f"/v2/library/big/blobs/{digest}"), "--no-buffer", stdout=asyncio.subprocess.PIPE
            )
            assert client.stdout is not None
            try:
                async with asyncio.timeout(20):
                    await client.stdout.readexactly(at)
            finally:
                gate.set()
            rest = await client.stdout.read()
            assert await client.wait() == 0
            assert len(rest) == size - at
