"""No secret is told to anybody: planted in every place that holds one, and looked for in everything that comes out."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import signal
import ssl
import sys
import urllib.error
import urllib.request
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from mirror import config, log
from mirror.cache import transfer
from mirror.oci.digest import Digest
from mirror.server.run import Server
from mirror.upstream import attempts
from mirror.upstream.sessions import Sessions
from tests.fakes import auth
from tests.fakes.auth import Token
from tests.fakes.faults import Drop, Fault, Html, Redirect, Status
from tests.fakes.registry import FakeRegistry
from tests.flow.conftest import Mirror, document
from tests.parts.canaries import Canaries
from tests.parts.certificate import certificate
from tests.parts.mirror import MirrorProcess
from tests.parts.proxy import ForwardProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

REPO = "library/app"
LARGE = bytes(range(251)) * 400  # about 100 kB
HIDDEN = "***"


@dataclass
class Scene:
    """Upstreams of every kind, each with credentials of its own, and all that was heard from the mirror."""

    canaries: Canaries
    stack: AsyncExitStack
    proxy: ForwardProxy
    environment: dict[str, str] = field(default_factory=dict)
    fakes: dict[str, FakeRegistry] = field(default_factory=dict)
    upstreams: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)

    def hear(self, what: object) -> None:
        self.heard.append(what if isinstance(what, str) else repr(what))

    async def ask(self, mirror: Mirror, method: str, path: str, **headers: str) -> int:
        reply = await mirror.ask(method, path, **headers)
        self.hear(f"{reply.headers!r} {reply.body!r}")
        return reply.status

    def leaks(self) -> list[tuple[list[str], str]]:
        """Return each thing heard that holds a secret, behind the names of those that it holds."""
        for fake in self.fakes.values():
            for path in fake.signed:
                if (signature := re.search(r"X-Signature=([\w-]+)", path)) is not None:
                    self.canaries.found(f"signature of {path}", signature[1])
        if not self.canaries.told_in("\n".join(self.heard)):
            return []
        return [(told, text[:1000]) for text in self.heard if (told := self.canaries.told_in(text))]

    async def fake(self, name: str, mode: str = "bearer", *, tls: ssl.SSLContext | None = None) -> FakeRegistry:
        """Add an upstream that lets in nobody without credentials."""
        registry = await self.stack.enter_async_context(FakeRegistry(tls=tls))
        registry.auth.mode, registry.auth.anonymous = mode, False
        registry.redirect_blobs = tls is None  # storage is not shown the client's certificate, and wants it
        registry.add_image(REPO, "v1", layers=[LARGE + name.encode()])
        self.fakes[name] = registry
        self.upstreams[name] = {"url": registry.url}
        return registry

    def user(self, registry: FakeRegistry, what: str) -> str:
        """Give `alice` a password there."""
        password = registry.auth.users["alice"] = self.canaries.plant(what)
        return password


async def of_the_configuration(scene: Scene, directory: Path) -> None:
    """Upstreams whose passwords the configuration names, or a program prints."""
    hub = await scene.fake("docker.io")
    scene.environment["HUB_PASSWORD"] = scene.user(hub, "password from the environment")
    scene.upstreams["docker.io"] |= {"username": "alice", "password": "${HUB_PASSWORD}"}

    quay = await scene.fake("quay.io", "basic")
    (directory / "password").write_text(scene.user(quay, "password_file") + "\n")
    scene.upstreams["quay.io"] |= {"username": "alice", "password_file": str(directory / "password")}

    ghcr = await scene.fake("ghcr.io")
    secret = scene.user(ghcr, "exec output")
    program = directory / "program.py"
    program.write_text(
        "import json, pathlib, sys\n"
        f"path = pathlib.Path({str(directory / 'ran')!r})\n"
        "if path.exists():\n"
        f"    sys.exit('cannot use {secret}, nor ' + sys.argv[1])\n"
        "path.touch()\n"
        f"print(json.dumps({{'Username': 'alice', 'Secret': {secret!r}}}))\n"
    )
    scene.upstreams["ghcr.io"] |= {"exec": [sys.executable, str(program), scene.canaries.plant("exec argument")]}


async def of_several(scene: Scene, directory: Path) -> None:
    """Several credentials of one upstream, of which the first is refused and the second is for one repository."""
    mcr = await scene.fake("mcr.microsoft.com")
    wrong, right, bound = (scene.canaries.plant(f"{which} of several") for which in ("refused", "file", "bound"))
    mcr.auth.users |= {"alice": right, "bob": bound}
    (directory / "several").write_text(right)
    scene.upstreams["mcr.microsoft.com"] |= {
        "credentials": [
            {"username": "eve", "password": wrong},
            {"username": "alice", "password_file": str(directory / "several")},
            {"name": "team", "username": "bob", "password": bound, "repositories": [f"{REPO}/**"]},
            {"name": "vault", "exec": ["/bin/false", scene.canaries.plant("exec argument of several")]},
            {"anonymous": True},
        ]
    }


async def of_credentials_files(scene: Scene, directory: Path) -> None:
    """Upstreams whose credentials a config.json holds, or says who holds them.

    One is asked through a proxy that has its own, and the environment has another for hosts that nobody asks.
    """
    auths: dict[str, Any] = {}
    gcr = await scene.fake("gcr.io")
    auths[gcr.host] = {"username": "alice", "password": scene.user(gcr, "config.json password")}
    scene.upstreams["gcr.io"] |= {"proxy": scene.proxy.url}

    nvcr = await scene.fake("nvcr.io")
    refresh = scene.canaries.plant("identity token")
    nvcr.auth.identity_tokens[refresh] = "alice"
    auths[nvcr.host] = {"identitytoken": refresh}

    lscr = await scene.fake("lscr.io")
    given = scene.canaries.plant("registry token")
    lscr.auth.tokens.append(Token(given, "alice", (f"repository:{REPO}:pull",), float("inf"), ""))
    auths[lscr.host] = {"registrytoken": given}

    aws = await scene.fake("public.ecr.aws", "basic")
    pair = f"alice:{scene.user(aws, 'config.json auth')}"
    auths[aws.host] = {"auth": base64.b64encode(pair.encode()).decode()}

    k8s = await scene.fake("registry.k8s.io")
    secret = scene.user(k8s, "credential helper's output")
    helper = directory / "docker-credential-bird"
    helper.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\n"
        f"path = pathlib.Path({str(directory / 'helped')!r})\n"
        "if path.exists():\n"
        f"    sys.exit('cannot use {secret} for ' + sys.stdin.read())\n"
        "path.touch()\n"
        f"print(json.dumps({{'ServerURL': 'x', 'Username': 'alice', 'Secret': {secret!r}}}))\n"
    )
    helper.chmod(0o700)
    scene.environment["PATH"] = f"{directory}:{os.environ['PATH']}"
    (directory / "config.json").write_text(json.dumps({"auths": auths, "credHelpers": {k8s.host: "bird"}}))
    scene.environment["https_proxy"] = (
        f"http://me:{scene.canaries.plant('proxy password of the environment')}@127.0.0.1:1"
    )
    scene.sections["credentials_files"] = [str(directory / "config.json")]


async def over_tls(scene: Scene, directory: Path) -> None:
    """An upstream that wants a client certificate."""
    cert_file, key_file = certificate(directory)
    for number, line in enumerate(key_file.read_text().splitlines()[1:-1]):
        scene.canaries.found(f"key, line {number}", line)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(cert_file))
    context.load_cert_chain(cert_file, key_file)
    context.verify_mode = ssl.CERT_REQUIRED
    gitlab = await scene.fake("registry.gitlab.com", tls=context)
    scene.upstreams["registry.gitlab.com"] |= {
        "username": "alice", "password": scene.user(gitlab, "password over TLS"), "ca_file": str(cert_file),
        "client_cert_file": str(cert_file), "client_key_file": str(key_file),
    }  # fmt: skip


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    canaries = Canaries()

    def token(value: str, *rest: Any) -> Token:
        return Token(canaries.plant(f"bearer token {value}"), *rest)

    monkeypatch.setattr(auth, "Token", token)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(ForwardProxy(user="me", password=canaries.plant("proxy password")))
        scene = Scene(canaries, stack, proxy)
        await of_the_configuration(scene, tmp_path)
        await of_several(scene, tmp_path)
        await of_credentials_files(scene, tmp_path)
        monkeypatch.setenv("PATH", scene.environment["PATH"])
        await over_tls(scene, tmp_path)
        scene.sections["server"] = {"trusted_proxies": ["127.0.0.1"]}
        scene.sections["log"] = {"access_file": str(tmp_path / "access.log"), "level": "debug"}
        yield scene


async def begin(scene: Scene, tmp_path: Path, stack: AsyncExitStack) -> Mirror:
    text = json.dumps(document(scene.upstreams, tmp_path / "store", **scene.sections))
    (tmp_path / "mirror.yaml").write_text(text)
    read = config.parse(text, "mirror.yaml", scene.environment)
    scene.hear(read)
    server = await Server.start(read, stack)
    session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
    return Mirror(server, stack, session)


def troubles(fake: FakeRegistry, canaries: Canaries) -> Iterator[tuple[Fault, str | None]]:
    """Yield what may go wrong, and with what: upstream repeats all that it was told, and more."""
    spoken = " ".join(fake.auth.users.values())
    spoken += " ".join(token.value for token in fake.tokens) + " ".join(fake.auth.identity_tokens)
    echo = json.dumps({"errors": [{"code": "DENIED", "message": f"not for {spoken}", "detail": spoken}]}).encode()
    signed = f"{canaries.plant('signature in a Location')}&X-Amz-Credential={canaries.plant('credential')}"
    for status in (400, 401, 403, 500):
        yield Status(status, body=echo), None
    yield Status(500, message=f"see https://cdn.example/x?sig={signed}"), None
    challenge = f'Bearer realm="http://me:{canaries.plant("userinfo of a realm")}@127.0.0.1:1/token",error="{spoken}"'
    yield Status(401, headers={"WWW-Authenticate": challenge}), None
    yield Redirect(f"http://me:{canaries.plant('userinfo of a Location')}@127.0.0.1:1/x?sig={signed}"), None
    yield Redirect(f"http://127.0.0.1:1/x?sig={signed}"), None
    yield Html(500), None
    yield Drop(), None
    for status in (200, 400, 401, 500):
        yield Status(status, body=echo), "token"
    yield Status(200, body=json.dumps({"token": spoken, "expires_in": spoken}).encode()), "token"
    yield Status(500, body=echo), "storage"
    yield Drop(), "storage"
    yield Status(429, body=echo), None  # last: it asks to be left alone


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_secret_comes_out_anywhere(
    scene: Scene, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "TRIES", 1)
    monkeypatch.setattr(attempts, "LONGEST_WAIT", 0.0)
    monkeypatch.setattr(transfer, "GIVE_UP", 0.1)
    logged = io.StringIO()
    log.setup("debug", form, logged)
    canaries = scene.canaries
    async with AsyncExitStack() as stack:
        mirror = await begin(scene, tmp_path, stack)
        for name, fake in scene.fakes.items():
            replies = await mirror.pull(f"{name}/{REPO}", "v1")
            assert {reply.status for reply in replies} == {200}, name
            scene.hear([(reply.headers, reply.body[:2000]) for reply in replies])
            for number, (fault, kind) in enumerate(troubles(fake, canaries)):
                fake.heal()
                fake.fault(then=fault, **({} if kind is None else {"kind": kind}))
                if kind == "token":
                    fake.auth.revoke()
                blob = fake.add_blob(REPO, LARGE + f"{name} {number}".encode())
                for path in (f"manifests/v{number}", f"blobs/{blob}", "tags/list"):
                    await scene.ask(mirror, "GET", f"/v2/{name}/{REPO}/{path}")
            fake.heal()
            fake.auth.users = {"alice": "it was changed"}
            fake.auth.identity_tokens.clear()
            fake.auth.revoke()
            await scene.ask(mirror, "GET", f"/v2/{name}/{REPO}/referrers/{Digest.of(LARGE)}")
        await of_clients(scene, mirror)
        await of_our_own_mistakes(scene, mirror, monkeypatch)
        await scene.ask(mirror, "GET", "/metrics")
        await mirror.settled()
        await mirror.confirmed()
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file() and "blobs.v1" not in path.parts:  # those are what upstream holds, byte for byte
            scene.hear(f"{path} {path.read_bytes()!r}")
    scene.hear((tmp_path / "access.log").read_text())
    for line in logged.getvalue().splitlines():
        scene.hear(line)
    assert scene.leaks() == []
    assert len(canaries.planted) > 100
    assert len(scene.proxy.asked) > 10
    assert not scene.proxy.refused
    assert HIDDEN in logged.getvalue()
    assert logged.getvalue().count("unexpected error") >= 2


async def of_clients(scene: Scene, mirror: Mirror) -> None:
    """Send what clients hold: Docker sends its user's password to whoever asks for it, and some to those who do not."""
    plant = scene.canaries.plant
    for path in (f"/v2/{REPO}/manifests/v1", f"/v2/{REPO}/manifests/absent", "/v2/", "/other", "/v2/x/blobs/sha256:0"):
        for method in ("GET", "HEAD", "POST"):
            await scene.ask(
                mirror, method, f"{path}?token={plant('query')}&sig={plant('query')}",
                Authorization=f"Bearer {plant('Authorization')}", Cookie=f"session={plant('cookie')}",
                Proxy_Authorization=f"Basic {plant('Proxy-Authorization')}", X_Registry_Auth=plant("X-Registry-Auth"),
                X_Forwarded_For=plant("X-Forwarded-For"), X_Forwarded_Host=plant("X-Forwarded-Host"),
                Forwarded=f"for={plant('Forwarded')}", User_Agent=f"docker/28 (Bearer {plant('agent')})",
                X_Request_Id=f"token={plant('request id')}", Referer=f"http://me:{plant('referer')}@host/",
                Range=f"bytes={plant('range')}", If_None_Match=plant("condition"),
            )  # fmt: skip
    for target in (
        f"http://me:{plant('userinfo of the target')}@mirror/v2/{REPO}/manifests/absent",
        f"/v2/me:{plant('userinfo of the path')}@quay.io/{REPO}/manifests/v1",
        f"/me:{plant('userinfo of the path')}@quay.io/v2/{REPO}/manifests/v1",
        f"/me:{plant('userinfo of the path')}@quay.io/nowhere",
        f"/v2/{REPO}/manifests/v1?ns=me:{plant('userinfo of ns')}@docker.io",
        f"/v2/{REPO}/manifests/v1?ns=https://me:{plant('userinfo of ns')}@nowhere.example",
    ):
        request = f"GET {target} HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n"
        scene.hear(await mirror.raw(request.encode()))
    for noise in (
        f"GET /v2/ HTTP/1.1\r\nAuthorization Bearer {plant('bad header')}\r\n\r\n",
        plant("noise") + "\r\n\r\n",
    ):
        await mirror.raw(noise.encode())  # what is no HTTP gets its line back; nobody else hears of it


async def of_our_own_mistakes(scene: Scene, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail inside, with everything at hand in the exception's text."""

    async def fail(_: Sessions, method: str, url: object, headers: object, **rest: object) -> None:
        raise RuntimeError(f"{method} {url} {headers} {rest}")

    monkeypatch.setattr(Sessions, "request", fail)
    for name in scene.fakes:
        await scene.ask(mirror, "GET", f"/v2/{name}/{REPO}/manifests/broken")
        await scene.ask(mirror, "GET", f"/v2/{name}/{REPO}/blobs/{Digest.of(name.encode())}")


def of_a_process(scene: Scene, tmp_path: Path, mirror: MirrorProcess) -> None:
    """Start, ask, reload with another password, be given nonsense with one in it, and end."""
    path = f"{mirror.url}/v2/{REPO}/manifests"
    with urllib.request.urlopen(f"{path}/v1") as response:  # noqa: S310  # our own http
        scene.hear(f"{response.headers} {response.read()!r}")
    text = (tmp_path / "mirror.yaml").read_text()
    changed = text.replace("${HUB_PASSWORD}", scene.canaries.plant("new password"))
    wrong = changed.replace('"username": "alice"', f'"username": "alice:{scene.canaries.plant("misplaced password")}"')
    stray = changed.replace('"level": "info"', '"level": "${HUB_PASSWORD}"')
    for number, (new, event) in enumerate(((changed, "reloaded"), (wrong, "nothing was changed"), (stray, "nothing"))):
        assert new != text
        (tmp_path / "mirror.yaml").write_text(new)
        os.kill(mirror.pid, signal.SIGHUP)
        mirror.wait(lambda said=event, most=number: sum(said in line["event"] for line in mirror.lines()) > (most == 2))
    os.kill(mirror.pid, signal.SIGUSR1)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{path}/v2")  # noqa: S310  # our own http


async def test_a_process_tells_no_secret_when_it_starts_nor_when_it_is_reloaded(scene: Scene, tmp_path: Path) -> None:
    settings = document(scene.upstreams, tmp_path / "store", **scene.sections)
    settings["server"]["listen"] = "127.0.0.1:0"
    process = MirrorProcess(tmp_path, settings, env=scene.environment)
    try:
        await asyncio.to_thread(process.start)
        await asyncio.to_thread(of_a_process, scene, tmp_path, process)
        await asyncio.to_thread(process.terminate)
    finally:
        if process._process is not None and process._process.poll() is None:
            process.kill()
    scene.hear(process.log.read_text())
    assert scene.leaks() == []


@pytest.mark.parametrize(
    "command", ["check", "ratelimit", "doctor", "client-config docker --url http://mirror.example:5000"]
)
async def test_no_command_shows_a_secret(scene: Scene, tmp_path: Path, command: str) -> None:
    text = json.dumps(document(scene.upstreams, tmp_path / "store", **scene.sections))
    (tmp_path / "mirror.yaml").write_text(text)
    for options in ([], ["--json"]):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mirror", *command.split(), "--config", str(tmp_path / "mirror.yaml"), *options,
            env=scene.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode in (0, 1), err  # 1: some of what it looked at is not well
        assert out
        scene.hear((out + err).decode())
    assert scene.leaks() == []
