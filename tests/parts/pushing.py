"""A push of everything, by the protocol itself: tools that push stumble over artifacts, and start anew each time."""

from __future__ import annotations

import base64
import json
import re
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

from tests.parts.token_server import PASSWORD, SERVICE, USER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from http.client import HTTPResponse
    from pathlib import Path

    from tests.parts.registry import DockerRegistry


class Pusher:
    """Pushes from an OCI image layout to the real registry (distribution-spec 1.1, "Push")."""

    def __init__(self, layout: Path, registry: DockerRegistry, repositories: Iterable[str]) -> None:
        self._blobs = layout / "blobs/sha256"
        self._connection = HTTPConnection(registry.host, timeout=60)
        self._token = self._fetch_token(repositories)
        self._holder: dict[str, str] = {}  # the repository that has a blob already
        self._pushed: set[tuple[str, str]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def push(self, repository: str, digest: str, tag: str | None = None) -> set[str]:
        """Push a manifest with all that it lists, under its tag or its digest; return all digests."""
        body = (self._blobs / digest.removeprefix("sha256:")).read_bytes()
        document = json.loads(body)
        there = {digest}
        for child in document.get("manifests", ()):
            there |= self.push(repository, child["digest"])
        for blob in [document["config"], *document["layers"]] if "config" in document else []:
            self._push_blob(repository, blob["digest"])
            there.add(blob["digest"])
        if tag or (repository, digest) not in self._pushed:
            target = f"/v2/{repository}/manifests/{tag or digest}"
            self._ask("PUT", target, 201, body, {"Content-Type": document["mediaType"]})
            self._pushed.add((repository, digest))
        return there

    def _push_blob(self, repository: str, digest: str) -> None:
        if (repository, digest) in self._pushed:
            return
        self._pushed.add((repository, digest))
        source = self._holder.setdefault(digest, repository)
        mount = f"?mount={digest}&from={quote(source, safe='')}" if source != repository else ""
        response = self._ask("POST", f"/v2/{repository}/blobs/uploads/{mount}", 201 if mount else 202)
        if not mount:
            target = f"{response.headers['Location']}&digest={digest}"
            body = (self._blobs / digest.removeprefix("sha256:")).read_bytes()
            self._ask("PUT", target, 201, body, {"Content-Type": "application/octet-stream"})

    def _ask(
        self, method: str, target: str, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> HTTPResponse:
        self._connection.request(method, target, body, {"Authorization": f"Bearer {self._token}", **(headers or {})})
        response = self._connection.getresponse()
        said = response.read()
        assert response.status == status, f"{method} {target}: {response.status} {said.decode(errors='replace')}"
        return response

    def _fetch_token(self, repositories: Iterable[str]) -> str:
        self._connection.request("GET", "/v2/")
        response = self._connection.getresponse()
        response.read()
        found = re.search(r'realm="([^"]+)"', response.headers["WWW-Authenticate"])
        assert found, "the registry says where its tokens come from"
        realm = urlsplit(found[1])
        scopes = "&".join(f"scope=repository:{name}:pull,push" for name in repositories)
        connection = HTTPConnection(realm.netloc, timeout=60)
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        connection.request(
            "GET", f"{realm.path}?service={SERVICE}&{scopes}", headers={"Authorization": f"Basic {login}"}
        )
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return str(answer["token"])
