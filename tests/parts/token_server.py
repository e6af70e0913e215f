"""A token service for Debian's docker-registry, as the distribution project's token specification describes it."""

from __future__ import annotations

import base64
import datetime as dt
import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization

if TYPE_CHECKING:
    from pathlib import Path

SERVICE = "real-registry"
ISSUER = "the tests"
USER, PASSWORD = "builder", "builder's-password"


class TokenServer:
    """Listens on 127.0.0.1. Anybody may pull what does not lie under `private/`; `USER` may pull and push all."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._key = key_file.read_bytes()
        cert = x509.load_pem_x509_certificate(cert_file.read_bytes())
        self._chain = [base64.b64encode(cert.public_bytes(serialization.Encoding.DER)).decode()]
        self.issued = 0
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = service.answer(self.path, self.headers.get("Authorization"))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                # Clients that try OAuth first go back to GET when they hear this.
                self.send_response(405)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing: a query holds no secret, but nobody reads it either."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/token"

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        """Return status and body for one request."""
        user = None
        if authorization is not None:
            given = base64.b64decode(authorization.partition(" ")[2]).decode()
            if given != f"{USER}:{PASSWORD}":
                return 401, b'{"details":"incorrect username or password"}'
            user = USER
        access = []
        for scope in parse_qs(urlsplit(path).query).get("scope", []):
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            allowed = {"pull", "push"} if user else set() if name.startswith("private/") else {"pull"}
            access.append({"type": kind, "name": name, "actions": sorted(allowed & set(actions.split(",")))})
        now = dt.datetime.now(dt.UTC)
        claims = {
            "iss": ISSUER,
            "sub": user or "",
            "aud": SERVICE,
            "exp": now + dt.timedelta(minutes=5),
            "nbf": now - dt.timedelta(seconds=30),
            "iat": now,
            "jti": uuid.uuid4().hex,
            "access": access,
        }
        token = jwt.encode(claims, self._key, algorithm="ES256", headers={"x5c": self._chain})
        self.issued += 1
        return 200, json.dumps({"token": token, "expires_in": 300}).encode()

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
